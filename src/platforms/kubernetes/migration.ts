/** The custom resource `Migration`: what a person asks for, how far it has come, and the journal. deploy/kubernetes/crd.yml is its definition. */
import { createHash, randomBytes } from "node:crypto";
import { type Static, type TSchema, Type } from "typebox";
import { UmsError } from "../../errors.ts";
import { isEnd, type Phase, phases } from "../../engine/progress.ts";
import { addressPattern, podNamePattern, siteNamePattern, snapshotPathPattern } from "../../protocol/names.ts";
import { kind, type Metadata } from "./kinds.ts";

// Structural schemas of Kubernetes know neither anyOf with types nor patternProperties, which TypeBox would write.
const OneOf = <const V extends string>(values: readonly V[], options: object = {}) =>
  Type.Unsafe<V>({ type: "string", enum: [...values], ...options });
const MapOf = <T extends TSchema>(value: T, description: string) =>
  Type.Unsafe<{ [key: string]: Static<T> }>({ type: "object", additionalProperties: value, description });
const FreeForm = (description: string) =>
  Type.Unsafe<{ [key: string]: unknown }>({ type: "object", "x-kubernetes-preserve-unknown-fields": true, description });
const Time = (description: string) => Type.String({ format: "date-time", description });
const Milliseconds = (description: string) => Type.Number({ description });
const fixed = (name: string) => ({ "x-kubernetes-validations": [{ rule: "self == oldSelf", message: `${name} can't be changed` }] });

const Spec = Type.Object(
  {
    role: OneOf(["Source", "Destination"], {
      default: "Source",
      description: "Source: the pod moves away from here. Destination is written by the coordinator for a pod that comes",
      ...fixed("role"),
    }),
    pod: Type.String({
      pattern: podNamePattern,
      description: "The pod to move, in this object's namespace; with snapshot, the pod to make",
      ...fixed("pod"),
    }),
    snapshot: Type.Optional(
      Type.Object(
        {
          node: Type.String({ pattern: podNamePattern, description: "The node on which it lies" }),
          path: Type.String({ pattern: snapshotPathPattern, maxLength: 1024, description: "Where it lies there" }),
          labels: Type.Optional(
            Type.Unsafe<{ [key: string]: string }>({
              type: "object",
              additionalProperties: { type: "string", maxLength: 63 },
              maxProperties: 64,
              description: "Labels of the pod to make; default: those of the pod that it was taken of, if no controller owned that",
            }),
          ),
          temporary: Type.Optional(Type.Boolean({ description: "Remove the snapshot once the pod has been made of it" })),
        },
        {
          description:
            "Nothing moves: the pod is made of a snapshot of one, which a Podmigration's checkpoint, or the undoing of a Migration, has written",
          ...fixed("snapshot"),
        },
      ),
    ),
    destination: Type.String({
      pattern: `(${siteNamePattern})|(${addressPattern})`,
      maxLength: 300,
      description: "The site it goes to: its name, or an address under which it is paired",
      ...fixed("destination"),
    }),
    node: Type.Optional(
      Type.String({
        pattern: podNamePattern,
        description: "The node on which it is to run there; default: the scheduler's choice",
        ...fixed("node"),
      }),
    ),
    rename: Type.Optional(
      Type.String({
        pattern: podNamePattern,
        description: "The pod's name at its destination; default: the same. Within one cluster it needs another",
        ...fixed("rename"),
      }),
    ),
    keep: Type.Optional(Type.Boolean({ description: "Keep the source's pod as an address of the service, once it has moved" })),
    redirect: Type.Optional(Type.String({ maxLength: 2048, description: "URL to which clients are sent after the move" })),
    cancel: Type.Optional(Type.Boolean({ description: "Undo the migration, unless it has been committed" })),
    peer: Type.Optional(Type.String({ pattern: siteNamePattern, description: "Role Destination: the site that sends", ...fixed("peer") })),
    id: Type.Optional(
      Type.String({
        pattern: "^[0-9a-f]{12}$",
        description: "The migration's id, which UMS alone may choose; default: it follows from the object",
        ...fixed("id"),
      }),
    ),
  },
  {
    "x-kubernetes-validations": [
      { rule: "self.role == 'Source' || (has(self.peer) && has(self.id))", message: "role Destination needs peer and id" },
      {
        rule: "!has(self.snapshot) || (self.role == 'Source' && !has(self.rename) && !has(self.keep) && !has(self.redirect))",
        message: "a snapshot has no clients and no name of its own: neither rename, keep nor redirect",
      },
      { rule: "has(self.snapshot) == has(oldSelf.snapshot)", message: "snapshot can't be changed" },
      {
        rule: "has(self.node) == has(oldSelf.node) && has(self.rename) == has(oldSelf.rename)",
        message: "node and rename can't be changed",
      },
      { rule: "has(self.peer) == has(oldSelf.peer) && has(self.id) == has(oldSelf.id)", message: "peer and id can't be changed" },
    ],
  },
);

const Step = Type.Object({
  startedAt: Type.Optional(Time("When it was started")),
  doneAt: Type.Optional(Time("When it was done")),
  undoneAt: Type.Optional(Time("When it had been undone")),
});
export type Step = Static<typeof Step>;

/** metav1.Condition, so that `kubectl wait --for=condition=Succeeded` works. */
const Condition = Type.Object({
  type: Type.String({ maxLength: 316 }),
  status: OneOf(["True", "False", "Unknown"]),
  reason: Type.String({ minLength: 1, maxLength: 1024, pattern: "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" }),
  message: Type.String({ maxLength: 32768 }),
  lastTransitionTime: Type.String({ format: "date-time" }),
  observedGeneration: Type.Optional(Type.Integer({ minimum: 0 })),
});
export type Condition = Static<typeof Condition>;

const Status = Type.Object({
  id: Type.Optional(Type.String({ description: "The migration's id" })),
  phase: Type.Optional(OneOf(phases, { description: "How far it is" })),
  waiting: Type.Optional(Type.String({ description: "What it waits for and can't bring about" })),
  message: Type.Optional(Type.String({ description: "One sentence for people" })),
  startedAt: Type.Optional(Time("When work on it began")),
  endedAt: Type.Optional(Time("When it had ended")),
  memoryBytes: Type.Optional(Type.Integer({ description: "Memory of the service" })),
  bytesSent: Type.Optional(Type.Integer({ description: "Bytes sent to the destination" })),
  heldMs: Type.Optional(Milliseconds("Milliseconds for which a client has waited at worst, as the source saw it")),
  totalMs: Type.Optional(Milliseconds("Milliseconds from beginning to end")),
  phases: Type.Optional(MapOf(Type.Number(), "Milliseconds by phase")),
  stepsMs: Type.Optional(MapOf(Type.Number(), "Milliseconds by step")),
  error: Type.Optional(
    Type.Object({ code: Type.String(), message: Type.String(), cure: Type.String() }, { description: "Why it failed or waits" }),
  ),
  notes: Type.Optional(
    Type.Array(
      Type.Object({
        site: Type.String({ description: "The site whose check found it" }),
        detail: Type.String({ description: "One sentence for people" }),
      }),
      { description: "What is different after the move, though the service can move" },
    ),
  ),
  journal: Type.Optional(
    Type.Object(
      {
        steps: MapOf(Step, "By step"),
        failure: Type.Optional(Type.Object({ code: Type.String(), message: Type.String() }, { description: "Why it is undone" })),
      },
      { description: "What a crashed operator's successor goes by; not for editing" },
    ),
  ),
  facts: Type.Optional(FreeForm("What the sites must remember of this migration; not for editing")),
  owner: Type.Optional(Type.String({ description: "Which instance runs it; any other one's writes are refused" })),
  destinationPod: Type.Optional(FreeForm("The pod at the destination")),
  conditions: Type.Optional(
    Type.Unsafe<Condition[]>({
      type: "array",
      items: Condition,
      "x-kubernetes-list-type": "map",
      "x-kubernetes-list-map-keys": ["type"],
      description: "Succeeded and Progressing",
    }),
  ),
});

/** `spec` and `status` as the definition's schema has them. */
export const migrationSchema = Type.Object({
  spec: Spec,
  status: Type.Optional(Status),
});

export type MigrationSpec = Omit<Static<typeof Spec>, "role"> & {
  /** Kubernetes fills it in. */
  role?: "Source" | "Destination";
};
export type MigrationStatus = Static<typeof Status>;
export type MigrationObject = {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: MigrationSpec;
  status?: MigrationStatus;
};

export const migrations = kind<MigrationObject>("ums.dev/v1", "Migration", "migrations");

/** What `kubectl wait` can wait for. A condition keeps the time at which it came to be what it is. */
export function conditionsOf({
  phase,
  message,
  before = [],
  now,
}: {
  phase: Phase;
  message: string;
  before?: readonly Condition[] | undefined;
  now: Date;
}): Condition[] {
  const succeeded = phase === "Succeeded" ? "True" : isEnd(phase) ? "False" : "Unknown";
  const states = { Succeeded: succeeded, Progressing: isEnd(phase) ? "False" : "True" } as const;
  return Object.entries(states).map(([type, status]) => {
    const same = before.find((condition) => condition.type === type && condition.status === status);
    return { type, status, reason: phase, message, lastTransitionTime: same?.lastTransitionTime ?? now.toISOString() };
  });
}

/** A person's word, and when it was given, that the destination of a stuck migration never comes back. */
export const destinationIsGone = "ums.dev/destination-is-gone";

/** Whether the pod moves away from here; otherwise the object is what the destination remembers. */
export const isSource = ({ spec }: MigrationObject) => (spec.role ?? "Source") === "Source";

/** What no other object has at the same time. */
export const keyOf = ({ metadata }: MigrationObject) => `${metadata.namespace}/${metadata.name}`;

/** Keeps the object until its migration has been undone or has ended. */
export const migrationFinalizer = "ums.dev/migration";

/** An id that no other migration has. */
export function newMigrationId(): string {
  return randomBytes(6).toString("hex");
}

/** Follows from the object alone: whoever may write a status or a spec chooses none. */
const idFrom = ({ metadata: { uid = "" } }: MigrationObject, what: string) =>
  createHash("sha256").update(`${uid} ${what}`).digest("hex").slice(0, 12);

/** A migration's id: the one that UMS has made the object with, else one that no status tells. */
export const migrationIdOf = (object: MigrationObject): string => object.spec.id ?? idFrom(object, "id");

/** The id of the migration that makes the pod again of this one's dump, or is this one's next attempt at that. */
export const heirIdOf = (object: MigrationObject): string => idFrom(object, "heir");

/** What a fact says of a pod. */
type SaidOfPod = Readonly<{ namespace?: string; name?: string }> | undefined;

/** Whether a fact is about the pod that its object names, in the object's own namespace. */
export const isOwnPod = ({ metadata, spec }: MigrationObject, said: SaidOfPod, pod = spec.pod): boolean =>
  said?.namespace === metadata.namespace && said?.name === pod;

/**
 * Facts in a status are data, never a right: what a Migration does, it does in its own namespace, to the pod that it names.
 * @throws UmsError JOURNAL_CONTRADICTS
 */
export function expectOwnPod(object: MigrationObject, said: SaidOfPod, pod = object.spec.pod): void {
  if (isOwnPod(object, said, pod)) return;
  const { namespace, name } = object.metadata;
  const about = `pod ${said?.namespace}/${said?.name}, not ${namespace}/${pod}`;
  throw new UmsError("JOURNAL_CONTRADICTS", `The status of Migration ${namespace}/${name} is about ${about}.`);
}

/** How the object is called that UMS makes for a migration away from here. */
export function migrationName(id: string): string {
  return `mig-${id}`;
}

/** How that of the same migration is called where it arrives, which may be the same namespace. */
export function arrivalName(id: string): string {
  return `arrival-${id}`;
}
