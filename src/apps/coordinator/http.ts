/** The API for the people of a site, on a unix socket: whoever can open the socket may do everything. */
import swagger from "@fastify/swagger";
import type { FastifyPluginCallbackTypebox } from "@fastify/type-provider-typebox";
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from "fastify";
import { chmodSync, chownSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { Type } from "typebox";
import { Accept } from "../../accept-form.ts";
import { accepting } from "../../accept.ts";
import { UmsError } from "../../errors.ts";
import { Check } from "../../preflight/check.ts";
import { parseAddress } from "../../protocol/address.ts";
import { closed } from "../../protocol/forms.ts";
import { addressPattern } from "../../protocol/names.ts";
import { asUmsError, sendProblem, strictValidation } from "../../server/problems.ts";
import { fingerprintOf, readAuthority } from "../../trust/identity.ts";
import type { Pairing } from "../../trust/pairing.ts";
import { createPeerClient } from "../../trust/peer-client.ts";
import type { Peer, Trust } from "../../trust/trust.ts";
import type { Coordinator } from "./coordinator.ts";
import type { Metrics } from "./metrics.ts";
import { originalApi, type OriginalSettings } from "./original.ts";
import { Forward, Migration, MigrationId, MigrationRequest, PlanReport, Problem, Site, SiteName } from "./schema.ts";

export type LocalApiParts = Readonly<{
  coordinator: Coordinator;
  trust: Trust;
  pairing: Pairing;
  /** Under which other sites may call this one; may be empty. */
  addresses: readonly string[];
  /** What any other site may send here. */
  accept?: Accept;
  metrics: Metrics;
  log: FastifyBaseLogger;
  original?: OriginalSettings;
}>;

const bodyLimitBytes = 1024 * 1024;
const heartbeatMs = 15_000;
const siteCheckMs = 3_000;
const pairingCallMs = 20_000;

const ById = Type.Object({ id: MigrationId }, closed);
const PairingCode = Type.Object(
  {
    code: Type.String(),
    expiresAt: Type.String(),
    site: SiteName,
    fingerprint: Type.String({ description: "SHA-256 of this site's authority" }),
    addresses: Type.Array(Type.String()),
  },
  closed,
);
/** Absent: what any site may send; the site that is paired may. */
const MaySend = { accept: Type.Optional(Accept) };
const PairWith = Type.Object(
  { address: Type.String({ pattern: addressPattern, maxLength: 300 }), code: Type.String({ maxLength: 64 }), ...MaySend },
  closed,
);
const problems = { "4xx": Problem, "5xx": Problem };

/** Builds the API; {@link listenOnSocket} opens it. */
export function createLocalApi(parts: LocalApiParts): FastifyInstance {
  const { app, stopped } = createApi(parts.log);
  app.register(swagger, { openapi: { openapi: "3.1.0", info: { title: "UMS", version: "1" } } });
  app.register(originalApi({ original: { approach: "pind" }, ...parts, stopped }));
  app.register(ownApi({ ...parts, stopped }));
  return app;
}

/** The original's endpoints and nothing else, for whoever may not pair sites or end migrations. */
export function createOriginalApi(parts: LocalApiParts & { original: OriginalSettings }): FastifyInstance {
  const { app, stopped } = createApi(parts.log);
  app.register(originalApi({ ...parts, stopped }));
  return app;
}

/** @returns with it what aborts when it closes */
function createApi(log: FastifyBaseLogger): { app: FastifyInstance; stopped: AbortSignal } {
  const app = fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: bodyLimitBytes,
    ajv: strictValidation,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
  });
  const stopping = new AbortController();
  app.addHook("preClose", (done) => {
    stopping.abort(new UmsError("INTERRUPTED", "`ums serve` is stopping."));
    done();
  });
  // The schemas describe the answers; they don't shape them, so a key too many is never lost in silence.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler(sendProblem);
  app.setNotFoundHandler((request, reply) =>
    sendProblem(new UmsError("BAD_REQUEST", `There is no ${request.method} ${request.url}.`), request, reply.code(404)),
  );
  return { app, stopped: stopping.signal };
}

function ownApi({
  coordinator,
  trust,
  pairing,
  addresses,
  accept,
  metrics,
  stopped,
}: LocalApiParts & { stopped: AbortSignal }): FastifyPluginCallbackTypebox {
  return (app, _options, ready) => {
    const asSite = (peer: Peer) => ({
      name: peer.name,
      addresses: [...peer.addresses],
      fingerprint: fingerprintOf(readAuthority(peer.certificate)),
      pairedAt: peer.pairedAt,
      accept: accepting(accept, peer.accept),
    });
    const knownSite = (name: string) => {
      const peer = trust.peer(name);
      if (!peer) throw new UmsError("SITE_NOT_FOUND", `No site called “${name}” is paired.`);
      return peer;
    };

    app.post("/plan", { schema: { body: MigrationRequest, response: { 200: PlanReport, ...problems } } }, async (request) => {
      knownSite(request.body.to);
      return await coordinator.plan(request.body, stopped);
    });

    app.get("/migrations", { schema: { response: { 200: Type.Array(Migration) } } }, () => coordinator.migrations());
    app.post("/migrations", { schema: { body: MigrationRequest, response: { 202: Migration, ...problems } } }, async (request, reply) => {
      knownSite(request.body.to);
      const migration = await coordinator.migrate(request.body);
      return await reply.code(202).header("location", `/migrations/${migration.id}`).send(migration);
    });
    app.get("/migrations/:id", { schema: { params: ById, response: { 200: Migration, ...problems } } }, (request) =>
      coordinator.migration(request.params.id),
    );
    app.delete(
      "/migrations/:id",
      { schema: { params: ById, response: { 200: Migration, ...problems } } },
      async (request) => await coordinator.cancel(request.params.id),
    );
    app.post(
      "/migrations/:id/resolve",
      { schema: { params: ById, response: { 200: Migration, ...problems } } },
      async (request) => await coordinator.resolve(request.params.id),
    );

    app.get(
      "/migrations/:id/events",
      {
        schema: {
          params: ById,
          produces: ["text/event-stream"],
          description: "Server-sent events `migration`: now, and at each change until it has ended",
        },
      },
      async (request, reply) => {
        const { id } = request.params;
        coordinator.migration(id);
        reply.hijack();
        const response = reply.raw;
        const gone = new AbortController();
        response.on("close", () => gone.abort());
        const signal = AbortSignal.any([gone.signal, stopped]);
        response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
        const heartbeat = setInterval(() => response.write(": still here\n\n"), heartbeatMs);
        try {
          for await (const migration of coordinator.watch(id, signal)) {
            if (signal.aborted) break;
            if (!response.write(`event: migration\ndata: ${JSON.stringify(migration)}\n\n`)) await drained(response, signal);
          }
        } catch (error) {
          if (!signal.aborted) {
            const { code, message, cure } = asUmsError(error, request.log);
            response.write(`event: problem\ndata: ${JSON.stringify({ code, message, cure })}\n\n`);
          }
        } finally {
          clearInterval(heartbeat);
          response.end();
        }
      },
    );

    app.get("/forwards", { schema: { response: { 200: Type.Array(Forward) } } }, () => coordinator.forwards());
    app.delete("/forwards/:id", { schema: { params: ById, response: { 204: Type.Null(), ...problems } } }, async (request, reply) => {
      await coordinator.release(request.params.id);
      return await reply.code(204).send(null);
    });

    app.get(
      "/sites",
      { schema: { response: { 200: Type.Array(Site) } } },
      async () =>
        await Promise.all(trust.peers().map(async (peer) => ({ ...asSite(peer), reachable: await answers(trust, peer.name, stopped) }))),
    );
    app.post(
      "/sites/pairing-code",
      {
        schema: { body: Type.Object(MaySend, closed), response: { 200: PairingCode, ...problems } },
        preValidation: async (request) => void (request.body = (request.body as typeof request.body | undefined) ?? {}),
      },
      async (request) => ({
        ...(await pairing.issueCode(request.body.accept)),
        site: trust.siteName,
        fingerprint: trust.fingerprint,
        addresses: [...addresses],
      }),
    );
    app.post("/sites/pair", { schema: { body: PairWith, response: { 200: Site, ...problems } } }, async (request) => {
      parseAddress(request.body.address);
      const signal = AbortSignal.any([stopped, AbortSignal.timeout(pairingCallMs)]);
      return { ...asSite(await pairing.pairWith({ ...request.body, signal })), reachable: true };
    });
    app.post(
      "/sites/:name/accept",
      {
        schema: {
          params: Type.Object({ name: SiteName }, closed),
          body: Type.Object(MaySend, closed),
          response: { 200: Site, ...problems },
          description: "Says what the site may send here from now on",
        },
      },
      async (request) => asSite(await trust.acceptFrom(knownSite(request.params.name).name, request.body.accept)),
    );
    app.delete(
      "/sites/:name",
      { schema: { params: Type.Object({ name: SiteName }, closed), response: { 204: Type.Null(), ...problems } } },
      async (request, reply) => {
        const { name } = knownSite(request.params.name);
        const open = coordinator
          .migrations()
          .find((each) => each.endedAt === undefined && (each.source === name || each.destination === name));
        if (open) throw new UmsError("SITE_BUSY", `The migration ${open.id} with site “${name}” has not ended.`);
        await trust.removePeer(name);
        return await reply.code(204).send(null);
      },
    );

    app.get(
      "/doctor",
      {
        schema: {
          querystring: Type.Object({ containers: Type.Optional(Type.Enum(["true", "false"])) }, closed),
          response: { 200: Type.Array(Check), ...problems },
        },
      },
      async ({ query: { containers } }) => await coordinator.doctor({ containers: containers === "true" }, stopped),
    );
    app.get(
      "/metrics",
      { schema: { hide: true } },
      async (_request, reply) => await reply.type(metrics.contentType).send(await metrics.text()),
    );
    app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
    ready();
  };
}

/** Whether the site answers, with its own certificate, and still knows this one. */
async function answers(trust: Trust, name: string, signal: AbortSignal): Promise<boolean> {
  const client = createPeerClient(trust, name);
  try {
    await client.request({ method: "GET", path: "/peer/healthcheck", timeoutMs: siteCheckMs, signal });
    return true;
  } catch {
    return false;
  } finally {
    client.close();
  }
}

async function drained(response: NodeJS.WritableStream, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  response.once("drain", resolve);
  signal.addEventListener("abort", () => resolve());
  if (signal.aborted) resolve();
  await promise;
}

/**
 * Opens the socket for root and, where one is given, a group; replaces one that a killed `ums serve` left.
 * @throws UmsError SERVE_RUNNING, BAD_CONFIGURATION
 */
export async function listenOnSocket(app: FastifyInstance, { path, group }: { path: string; group?: string | undefined }): Promise<void> {
  const gid = group === undefined ? undefined : groupId(group);
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  if (await isServed(path)) throw new UmsError("SERVE_RUNNING", `Another \`ums serve\` has the socket ${path}.`);
  rmSync(path, { force: true });
  // From its first moment on the socket is closed to others, not only once chmod has run.
  const umask = process.umask(0o177);
  try {
    await app.listen({ path });
  } finally {
    process.umask(umask);
  }
  if (gid !== undefined) chownSync(path, -1, gid);
  chmodSync(path, 0o660);
}

async function isServed(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(path, () => resolve(true));
  socket.on("error", () => resolve(false));
  const served = await promise;
  socket.destroy();
  return served;
}

function groupId(group: string): number {
  if (/^[0-9]+$/.test(group)) return Number(group);
  const line = readFileSync("/etc/group", "utf8")
    .split("\n")
    .find((each) => each.startsWith(`${group}:`));
  if (line === undefined) throw new UmsError("BAD_CONFIGURATION", `There is no group “${group}” for the socket.`);
  return Number(line.split(":")[2]);
}
