/** The endpoints of the original UMS, answered as its users' scripts expect them. */
import type { FastifyPluginCallbackTypebox } from "@fastify/type-provider-typebox";
import { type } from "node:os";
import { Type } from "typebox";
import { errorTable, type ErrorCode, UmsError } from "../../errors.ts";
import type { Peer, Trust } from "../../trust/trust.ts";
import type { Coordinator } from "./coordinator.ts";
import { asUmsError } from "./problems.ts";
import { MigrateRequest, type Migration, Service } from "./schema.ts";

const closed = { additionalProperties: false } as const;
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
function originalAnswer(migration: Migration) {
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
    migration_interface: "pind",
    des_pod: null,
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

/** @param options.stopped aborts the waits when the server closes */
export function originalApi({
  coordinator,
  trust,
  stopped,
}: {
  coordinator: Coordinator;
  trust: Pick<Trust, "peers">;
  stopped: AbortSignal;
}): FastifyPluginCallbackTypebox {
  return (app, _options, ready) => {
    app.setErrorHandler((error, request, reply) => {
      const problem = asUmsError(error, request.log);
      return reply.code(originalStatus(problem.code)).type("text/plain; charset=utf-8").send(`${problem.message} ${problem.cure}`);
    });

    app.get("/", { schema: { response: { 200: Type.Object({ url: Type.String(), os: Type.String() }, closed) } } }, (request) => ({
      url: `http://${request.host}`,
      os: type().toLowerCase(),
    }));

    app.get("/healthcheck", { schema: { response: { 200: Type.String() } } }, (_request, reply) => {
      void reply.type("text/plain");
      return "OK";
    });

    app.get("/list", { schema: { response: { 200: Type.Array(Service) } } }, async () => await coordinator.services(stopped));

    app.post("/migrate", { schema: { body: MigrateRequest, response: { 200: MigrateAnswer, ...plainErrors } } }, async (request) => {
      const { name, destinationUrl, redirect } = request.body;
      if (redirect !== undefined) {
        throw new UmsError("BAD_REQUEST", "A host forwards its clients to the destination by itself; it takes no redirect.");
      }
      // Waits for the end whether or not the client still listens: hanging up ends no migration.
      const started = await coordinator.migrate({ name, to: siteAt(destinationUrl, trust.peers()).name });
      const ended = (await lastOf(coordinator.watch(started.id, stopped))) ?? started;
      if (ended.phase === "Succeeded") return originalAnswer(ended);
      const { code, message } = ended.error ?? { code: "INTERRUPTED", message: `The migration ${ended.id} has not ended.` };
      throw new UmsError(Object.hasOwn(errorTable, code) ? (code as ErrorCode) : "PEER_FAILED", message);
    });
    ready();
  };
}

/** The site that an original's `destinationUrl` means: an address given at the pairing, or the site's name. */
function siteAt(destinationUrl: string, peers: readonly Peer[]): Peer {
  const wanted = destinationUrl.toLowerCase();
  const found = peers.find((peer) => peer.name === wanted || peer.addresses.some((address) => address.toLowerCase() === wanted));
  if (!found) throw new UmsError("SITE_NOT_FOUND", `No paired site has the address ${destinationUrl}.`);
  return found;
}

async function lastOf<T>(values: AsyncIterable<T>): Promise<T | undefined> {
  let last: T | undefined;
  for await (const value of values) last = value;
  return last;
}
