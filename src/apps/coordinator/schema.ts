/** What crosses the coordinator's API, validated where it comes in and shown in the OpenAPI document. */
import { type Static, Type } from "typebox";
import { Accept } from "../../accept-form.ts";
import { phases } from "../../engine/progress.ts";
import { AbsolutePath, closed } from "../../protocol/forms.ts";
import { verdicts } from "../../protocol/measures.ts";
import { migrationIdPattern, namespacePattern, podNamePattern, serviceNamePattern, siteNamePattern } from "../../protocol/names.ts";

/** Names that Podman accepts: nothing that a shell or a path would read otherwise. */
const ServiceName = Type.String({ pattern: serviceNamePattern, description: "The container's name" });
export const SiteName = Type.String({ pattern: siteNamePattern, description: "A site's name" });
export const MigrationId = Type.String({ pattern: migrationIdPattern });
/** An absolute path without `..`. */

const Namespace = Type.String({ pattern: namespacePattern, description: "The pod's namespace in a cluster; default: default" });

/** A site's name or address, a node's name. */
const destinationPattern = "^[a-zA-Z0-9.:\\[\\]-]+$";

/** Body of `POST /migrations` and `POST /plan`. */
export const MigrationRequest = Type.Object(
  {
    name: ServiceName,
    namespace: Type.Optional(Namespace),
    to: SiteName,
    bindMounts: Type.Optional(
      Type.Array(AbsolutePath, {
        maxItems: 64,
        description: "Bind mounts whose source path exists at the destination too, with whatever lies there",
      }),
    ),
  },
  closed,
);
export type MigrationRequest = Static<typeof MigrationRequest>;

/** Body of the original's `POST /migrate`. */
export const MigrateRequest = Type.Object(
  {
    name: ServiceName,
    // A host has none, and takes an empty one, or the one of the original's scripts: `default`.
    namespace: Type.Optional(Type.Union([Type.Literal(""), Namespace])),
    destinationUrl: Type.String({ minLength: 1, maxLength: 300, pattern: destinationPattern }),
    keep: Type.Optional(Type.String({ maxLength: 5 })),
    redirect: Type.Optional(Type.String({ maxLength: 2000 })),
  },
  closed,
);
export type MigrateRequest = Static<typeof MigrateRequest>;

const PodName = Type.String({ pattern: podNamePattern });
/** Body of the original's `POST /Podmigrations`. */
export const PodmigrationRequest = Type.Object(
  {
    name: PodName,
    namespace: Type.Optional(Namespace),
    action: Type.Enum(["checkpoint", "restore", "live-migration"]),
    sourcePod: Type.Optional(PodName),
    destHost: Type.Optional(Type.String({ maxLength: 300, pattern: destinationPattern })),
    replicas: Type.Optional(Type.Integer({ minimum: 0, maximum: 1000 })),
    snapshotPath: Type.Optional(AbsolutePath),
    selector: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
    template: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  },
  closed,
);
export type PodmigrationRequest = Static<typeof PodmigrationRequest>;

export const Refusal = Type.Object(
  { code: Type.String(), site: Type.String(), detail: Type.String(), cause: Type.String(), cure: Type.String() },
  closed,
);
export type Refusal = Static<typeof Refusal>;

export const Note = Type.Object({ site: Type.String(), detail: Type.String() }, closed);

/** What `ums plan` answers: every check made, each refusal, and each note. */
export const PlanReport = Type.Object(
  {
    service: Type.String(),
    source: Type.String(),
    destination: Type.String(),
    checks: Type.Array(
      Type.Object({ site: Type.String(), name: Type.String(), ok: Type.Boolean(), verdict: Type.Enum([...verdicts]) }, closed),
    ),
    refusals: Type.Array(Refusal),
    notes: Type.Array(Note, { description: "What will be different after the move, though the service can move" }),
    memoryBytes: Type.Integer(),
    fileBytes: Type.Integer(),
    imageBytes: Type.Integer({ description: "Bytes of image layers that the destination lacks" }),
  },
  closed,
);
export type PlanReport = Static<typeof PlanReport>;

export const Problem = Type.Object({ code: Type.String(), message: Type.String(), cure: Type.String() }, closed);

/** One migration, as `GET /migrations/:id` shows it. */
export const Migration = Type.Object(
  {
    id: MigrationId,
    role: Type.Union([Type.Literal("source"), Type.Literal("destination")]),
    service: Type.String(),
    namespace: Type.Optional(Namespace),
    source: Type.String(),
    destination: Type.String(),
    phase: Type.Enum([...phases]),
    /** Set while the migration waits for something that it can't bring about: one sentence. */
    waiting: Type.Optional(Type.String()),
    startedAt: Type.String({ format: "date-time" }),
    endedAt: Type.Optional(Type.String({ format: "date-time" })),
    memoryBytes: Type.Integer(),
    bytesSent: Type.Integer(),
    /** Milliseconds for which a client has waited at worst: from the hold to the forward. */
    heldMs: Type.Optional(Type.Number()),
    totalMs: Type.Optional(Type.Number()),
    phases: Type.Record(Type.String(), Type.Number(), { description: "Milliseconds by phase; `remainder` is what none explains" }),
    steps: Type.Record(Type.String(), Type.Number(), { description: "Milliseconds by step" }),
    error: Type.Optional(Problem),
    notes: Type.Optional(Type.Array(Note, { description: "What is different after the move; at the source alone" })),
    /** In a cluster, once it has moved. */
    destinationPod: Type.Optional(Type.Unknown()),
  },
  closed,
);
export type Migration = Static<typeof Migration>;

export const Service = Type.Object(
  {
    name: Type.String(),
    namespace: Type.String({ description: "Empty on a host" }),
    migratable: Type.Boolean(),
    status: Type.String(),
    image: Type.String(),
    ports: Type.Array(Type.String()),
    migration: Type.Optional(MigrationId),
  },
  closed,
);
export type Service = Static<typeof Service>;

export const Site = Type.Object(
  {
    name: SiteName,
    addresses: Type.Array(Type.String()),
    fingerprint: Type.String(),
    pairedAt: Type.String(),
    accept: Type.Required(Accept, { ...closed, description: "What it may send here" }),
    reachable: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type Site = Static<typeof Site>;

/** A forward that is kept for a service which has gone. */
export const Forward = Type.Object(
  {
    migration: MigrationId,
    service: Type.String(),
    namespace: Type.Optional(Namespace),
    ports: Type.Array(Type.String()),
    to: Type.String(),
  },
  closed,
);
export type Forward = Static<typeof Forward>;
