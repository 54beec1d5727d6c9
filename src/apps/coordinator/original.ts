/** The endpoints of the original UMS, answered as its users' scripts expect them. */
import type { FastifyPluginCallbackTypebox } from "@fastify/type-provider-typebox";
import { type } from "node:os";
import { Type } from "typebox";
import { type Phase, phases } from "../../engine/progress.ts";
import { errorTable, type ErrorCode, UmsError } from "../../errors.ts";
import { closed } from "../../protocol/forms.ts";
import { asUmsError } from "../../server/problems.ts";
import { peerCalled, type Trust } from "../../trust/trust.ts";
import type { Coordinator } from "./coordinator.ts";
import { MigrateRequest, type Migration, PodmigrationRequest, Service } from "./schema.ts";

const heartbeatMs = 15_000;
const Seconds = Type.Union([Type.Number(), Type.Null()]);
const parts = [
  "checkpoint",
  "pre_checkpoint",
  "checkpoint_files_transfer",
  "checkpoint_files_delay",
  "file_system_transfer",
  "file_system_delay",
  "volume_transfer",
  "volume_delay",
  "save_image",
  "image_layers_transfer",
  "image_layers_delay",
  "load_image",
] as const;
type Part = (typeof parts)[number];

/** What the original's `POST /migrate` answers. Seconds; a part which the approach has not is null. */
const MigrateAnswer = Type.Object(
  {
    message: Type.String(),
    migration_id: Type.String(),
    migration_interface: Type.String(),
    des_pod: Type.Unknown({ description: "The destination's Pod; null on a host" }),
    overhead: Type.Object(
      {
        creation: Seconds,
        checkpoint_and_transfer: Type.Object(Object.fromEntries(parts.map((part) => [part, Seconds])), closed),
        checkpoint_and_transfer_total: Seconds,
        restoration: Seconds,
        total: Seconds,
      },
      closed,
    ),
  },
  closed,
);

const PlainError = Type.String();
const plainErrors = { 400: PlainError, 404: PlainError, 409: PlainError, 502: PlainError, 504: PlainError };

/** What an ended migration has to say in the original's words. */
function originalAnswer(migration: Migration, approach: string) {
  const seconds = (milliseconds: number | undefined) => (milliseconds === undefined ? null : milliseconds / 1000);
  const step = (name: string) => seconds(migration.steps[name]);
  const phase = (name: string) => seconds(migration.phases[name]);
  const sum = (...values: (number | null)[]) =>
    values.every((value) => value === null) ? null : values.reduce<number>((a, b) => a + (b ?? 0), 0);
  const known: Partial<Record<Part, number | null>> = {
    checkpoint: phase("Frozen") ?? step("freeze"),
    pre_checkpoint: phase("PreCopy") ?? step("preCopy"),
    // The dump streams into the transfer, so the two can't be told apart: both stand here.
    checkpoint_files_transfer: phase("Transferring") ?? step("transfer"),
  };
  return {
    message: `${migration.service} has moved to ${migration.destination}`,
    migration_id: migration.id,
    migration_interface: approach,
    des_pod: migration.destinationPod ?? null,
    overhead: {
      creation: step("reserve"),
      checkpoint_and_transfer: Object.fromEntries(parts.map((part) => [part, known[part] ?? null])),
      checkpoint_and_transfer_total: sum(known.checkpoint ?? null, known.checkpoint_files_transfer ?? null),
      restoration: phase("Restoring") ?? step("restore"),
      total: seconds(migration.totalMs),
    },
  };
}

/** The original answers errors with these statuses and no others. */
function originalStatus(code: ErrorCode): number {
  const status: number = errorTable[code].http;
  if (status in plainErrors) return status;
  return status < 500 ? 400 : 502;
}

/** The original's `GET /demo` tells a migration in these words; each once it has come to the phase. */
const demoWords = [
  { word: "RESERVED", from: "PreCopy" },
  // The dump streams into the transfer: the checkpoint is complete when that is.
  { word: "CHECKPOINTED", from: "Restoring" },
  { word: "RESTORED", from: "CuttingOver" },
  { word: "DONE", from: "Succeeded" },
] as const satisfies readonly { word: string; from: Phase }[];

/** The words that a migration has come to; none that goes back says any more. */
function demoWordsOf({ phase }: Migration): readonly string[] {
  const reached = phases.indexOf(phase);
  if (reached > phases.indexOf("Succeeded")) return [];
  return demoWords.filter(({ from }) => reached >= phases.indexOf(from)).map(({ word }) => word);
}

/** What the original's answers tell of this site. */
export type OriginalSettings = Readonly<{
  approach: "pind" | "ssu";
  /** Where the orchestrator-level approach's interfaces are, if the site has any. */
  ssu?: Readonly<{ host: string | undefined; port: number }>;
  /** The objects behind `/Podmigrations`, where the site has any. */
  podmigrations?: Readonly<{ create(request: PodmigrationRequest): Promise<object>; list(signal: AbortSignal): Promise<object[]> }>;
}>;

/** @param options.stopped aborts the waits when the server closes */
export function originalApi({
  coordinator,
  trust,
  original: { approach, ssu, podmigrations },
  stopped,
}: {
  coordinator: Coordinator;
  trust: Pick<Trust, "peers">;
  original: OriginalSettings;
  stopped: AbortSignal;
}): FastifyPluginCallbackTypebox {
  return (app, _options, ready) => {
    app.setErrorHandler((error, request, reply) => {
      const problem = asUmsError(error, request.log);
      return reply.code(originalStatus(problem.code)).type("text/plain; charset=utf-8").send(`${problem.message} ${problem.cure}`);
    });

    const Root = Type.Object(
      { url: Type.String(), os: Type.String(), ssu_host: Type.Optional(Type.String()), ssu_port: Type.Optional(Type.Integer()) },
      closed,
    );
    app.get("/", { schema: { response: { 200: Root } } }, (request) => ({
      url: `${request.protocol}://${request.host}`,
      os: type().toLowerCase(),
      ...(ssu ? { ssu_host: ssu.host ?? request.hostname, ssu_port: ssu.port } : {}),
    }));

    app.get("/healthcheck", { schema: { response: { 200: Type.String() } } }, (_request, reply) => {
      void reply.type("text/plain");
      return "OK";
    });

    app.get("/list", { schema: { response: { 200: Type.Array(Service) } } }, async () => await coordinator.services(stopped));

    app.post("/migrate", { schema: { body: MigrateRequest, response: { 200: MigrateAnswer, ...plainErrors } } }, async (request) => {
      const { name, namespace = "", destinationUrl, keep = "", redirect = "" } = request.body;
      if (redirect !== "")
        throw new UmsError("BAD_REQUEST", "The site leads clients to the destination by itself, at the old address; it takes no redirect.");
      if (approach === "ssu" && keep !== "" && keep !== "false")
        throw new UmsError(
          "BAD_REQUEST",
          "A cluster can't keep the pod that has moved; leave `keep` out. Its clients are led on without it.",
        );
      // The original's scripts name `default` wherever they are; a host has no other place.
      const none = namespace === "" || (approach === "pind" && namespace === "default");
      // Waits for the end whether or not the client still listens: hanging up ends no migration.
      const started = await coordinator.migrate({
        name,
        ...(none ? {} : { namespace }),
        to: peerCalled(trust.peers(), destinationUrl).name,
      });
      const ended = (await lastOf(coordinator.watch(started.id, stopped))) ?? started;
      if (ended.phase === "Succeeded") return originalAnswer(ended, approach);
      const { code, message } = ended.error ?? { code: "INTERRUPTED", message: `The migration ${ended.id} has not ended.` };
      throw new UmsError(Object.hasOwn(errorTable, code) ? (code as ErrorCode) : "PEER_FAILED", message);
    });

    app.get(
      "/demo",
      {
        schema: {
          produces: ["text/event-stream"],
          description: "Server-sent events RESERVED, CHECKPOINTED, RESTORED, DONE of each migration from here, with its id",
        },
      },
      async (_request, reply) => {
        const response = reply.hijack().raw;
        const gone = new AbortController();
        response.on("close", () => gone.abort());
        const signal = AbortSignal.any([gone.signal, stopped]);
        response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
        response.write(": listening\n\n");
        const heartbeat = setInterval(() => response.write(": still here\n\n"), heartbeatMs);
        // Whoever comes later hears nothing of what had been said before.
        const said = new Map(coordinator.migrations().map((migration) => [migration.id, demoWordsOf(migration).length]));
        try {
          for await (const _ of coordinator.changes(signal)) {
            for (const migration of coordinator.migrations().filter(({ role }) => role === "source")) {
              const words = demoWordsOf(migration);
              for (const word of words.slice(said.get(migration.id) ?? 0)) response.write(`id: ${migration.id}\ndata: ${word}\n\n`);
              said.set(migration.id, Math.max(words.length, said.get(migration.id) ?? 0));
            }
          }
        } finally {
          clearInterval(heartbeat);
          response.end();
        }
      },
    );

    if (podmigrations) {
      app.post("/Podmigrations", { schema: { body: PodmigrationRequest } }, (request) => podmigrations.create(request.body));
      app.get("/Podmigrations", () => podmigrations.list(stopped));
    }
    ready();
  };
}

async function lastOf<T>(values: AsyncIterable<T>): Promise<T | undefined> {
  let last: T | undefined;
  for await (const value of values) last = value;
  return last;
}
