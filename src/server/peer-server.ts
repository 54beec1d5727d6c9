/** The server for other sites: TLS 1.3, where only a paired site gets further than the health check. */
import fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyReply, type FastifyRequest, LogController } from "fastify";
import type { IncomingMessage } from "node:http";
import type { Server } from "node:https";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { UmsError } from "../errors.ts";
import { migrationIdPattern } from "../protocol/names.ts";
import { type Pairing, PairRequest } from "../trust/pairing.ts";
import type { Trust } from "../trust/trust.ts";
import { sendProblem, strictValidation } from "./problems.ts";
import { boundRequests } from "./stranger-requests.ts";
import { type ConnectionLimits, defaultLimits, guardConnections } from "./strangers.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** The paired site that calls; undefined on a stranger's connection, which gets to no route under `/peer`. */
    peer: string | undefined;
    /** Whether another part of this very site calls. */
    self: boolean;
  }
}

/** The server as it is passed to whoever registers routes on it. */
export type PeerApp = FastifyInstance<Server>;

/** Who opened a data connection, and for which migration. That the migration is theirs is the receiver's to check. */
export type DataConnection = Readonly<{
  peer: string;
  /** Opened by another part of this very site. */
  self: boolean;
  migrationId: string;
  url: string;
  headers: Readonly<Record<string, string | undefined>>;
}>;

/** What answers callers that are neither a site nor a part of this one. */
export type People = Readonly<{
  /** @throws UmsError NOT_AUTHORISED, NOT_ALLOWED */
  admit(request: FastifyRequest): Promise<void>;
  /** Answers, in place of this server, a request that was admitted. */
  answer(request: FastifyRequest, reply: FastifyReply): void;
}>;

export type PeerServerParts = Readonly<{
  trust: Trust;
  /** Absent: nobody pairs here. */
  pairing?: Pairing;
  /** Adds routes under `/peer/`; their requests have {@link FastifyRequest.peer}. */
  registerPeerRoutes(app: PeerApp): void | Promise<void>;
  /** Adds routes under `/node/`, for other parts of this very site alone. */
  registerOwnRoutes?(app: PeerApp): void | Promise<void>;
  people?: People;
  /**
   * Answers whoever speaks plain HTTP on the same port, and nobody asks who that is. Without it, such connections end.
   * Unsafe: docs/kubernetes.md, UNSAFE_HTTP.
   */
  unsafeHttp?: FastifyInstance;
  /** Gets each data connection after `101` has been answered on it, and owns it from then on. */
  onData(socket: TLSSocket, head: Buffer, connection: DataConnection): void;
  log: FastifyBaseLogger;
  limits?: Partial<ConnectionLimits>;
}>;

const bodyLimitBytes = 1024 * 1024;
/** A queue that is full drops whoever knocks, who tries again after a second; the kernel's own bound is as high (somaxconn). */
const backlog = 4096;
/** Longer than any pause between two requests of one migration, so that its connection stays warm. */
const keepAliveMs = 120_000;
const openToStrangers = new Set(["GET /healthcheck", "POST /pair"]);
const dataPath = new RegExp(`^/peer/migrations/(${migrationIdPattern.slice(1, -1)})/data$`);

/** Builds the server; {@link listenForPeers} opens it, `app.close()` ends every connection, data connections too. */
export function createPeerServer({
  trust,
  pairing,
  registerPeerRoutes,
  registerOwnRoutes,
  people,
  unsafeHttp,
  onData,
  log,
  limits = {},
}: PeerServerParts): PeerApp {
  const bounds = { ...defaultLimits, ...limits };
  const app = fastify({
    https: { ...trust.serverOptions(), handshakeTimeout: bounds.handshakeMs, headersTimeout: 10_000, connectionsCheckingInterval: 5_000 },
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: bodyLimitBytes,
    requestTimeout: 30_000,
    keepAliveTimeout: keepAliveMs,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
    ajv: strictValidation,
  }) as unknown as PeerApp;
  const connections = guardConnections({
    server: app.server,
    trust,
    limits: bounds,
    log,
    ...(unsafeHttp ? { takePlain: (socket) => void unsafeHttp.server.emit("connection", socket) } : {}),
  });

  const letAskAgain = boundRequests(app.server, connections.isPeers);

  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler(sendProblem);
  app.setNotFoundHandler((request, reply) =>
    sendProblem(new UmsError("BAD_REQUEST", `There is no ${request.method} ${request.url}.`), request, reply.code(404)),
  );
  app.decorateRequest("peer", undefined);
  app.decorateRequest("self", false);
  // Judged anew at each request: a site that was removed loses its open connections' rights at once.
  app.addHook("onRequest", async (request, reply) => {
    const socket = request.raw.socket as TLSSocket;
    const route = request.routeOptions.url ?? "";
    const caller = trust.identify(socket);
    // Nodes carry data, and ask for nothing.
    const asking = caller?.role === "site" ? caller : undefined;
    if (route.startsWith("/node/")) {
      request.self = asking?.isSelf === true;
      if (request.self) return;
    } else {
      // A pod may move within one cluster: then the site is its own peer.
      request.peer = asking?.site;
      if (request.peer !== undefined || openToStrangers.has(`${request.method} ${route}`)) return;
      if (people && !route.startsWith("/peer/")) {
        await people.admit(request);
        connections.vouchFor(socket);
        letAskAgain(socket, reply.raw);
        reply.hijack();
        people.answer(request, reply);
        return;
      }
    }
    reply.header("connection", "close"); // also a node's, whose connection is no stranger's
    throw new UmsError("NOT_AUTHORISED", "This site does not know the caller.");
  });
  app.get("/healthcheck", (_request, reply) => reply.type("text/plain").send("OK"));
  app.get("/peer/healthcheck", () => ({ site: trust.siteName }));
  if (pairing)
    app.post("/pair", { schema: { body: PairRequest }, bodyLimit: 24 * 1024 }, async (request, reply) => {
      const { step, name } = request.body as PairRequest;
      const socket = request.raw.socket as TLSSocket;
      const answer = await pairing.answer(request.body as PairRequest, socket);
      // A wrong try costs its connection; who has the code goes on to the second step.
      if (step === "introduce") letAskAgain(socket, reply.raw);
      else log.info({ site: name }, "paired with a site");
      return answer;
    });
  app.register(async (scope) => await registerPeerRoutes(scope as unknown as PeerApp));
  if (registerOwnRoutes) app.register(async (scope) => await registerOwnRoutes(scope as unknown as PeerApp));

  app.server.on("upgrade", (request: IncomingMessage, duplex: Duplex, head: Buffer) => {
    const socket = duplex as TLSSocket;
    socket.on("error", (error) => log.debug({ err: error }, "a data connection broke"));
    const caller = trust.identify(socket);
    const url = request.url ?? "";
    const migrationId = dataPath.exec(url)?.[1];
    if (!caller) return refuseUpgrade(socket, 401, new UmsError("NOT_AUTHORISED", "This site does not know the caller."));
    if (migrationId === undefined || request.method !== "GET" || request.headers.upgrade?.toLowerCase() !== "ums-data") {
      return refuseUpgrade(socket, 404, new UmsError("BAD_REQUEST", "No such connection can be opened here."));
    }
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ums-data\r\n\r\n");
    onData(socket, head, {
      peer: caller.site,
      self: caller.isSelf,
      migrationId,
      url,
      headers: request.headers as Record<string, string | undefined>,
    });
  });

  const stopFollowing = trust.onChange(() => {
    app.server.setSecureContext(trust.serverOptions());
    connections.peersChanged();
  });
  // Before the server closes, as that waits for its connections, and knows nothing of the upgraded ones.
  app.addHook("preClose", (done) => {
    stopFollowing();
    connections.close();
    done();
  });
  return app;
}

/**
 * Opens the server.
 * @throws UmsError SERVE_RUNNING where the port is taken, BAD_CONFIGURATION where the address is not this host's
 */
export async function listenForPeers(app: PeerApp, { host, port }: { host: string; port: number }): Promise<void> {
  try {
    await app.listen({ host, port, backlog });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EADDRINUSE") {
      throw new UmsError("SERVE_RUNNING", `Something else listens on ${host}:${port} already.`, { cause });
    }
    throw new UmsError("BAD_CONFIGURATION", `This host can't listen on ${host}:${port}.`, { cause });
  }
}

function refuseUpgrade(socket: TLSSocket, status: 401 | 404, { code, message, cure }: UmsError): void {
  const body = JSON.stringify({ code, message, cure });
  const headers = ["Connection: close", "Content-Type: application/json", `Content-Length: ${Buffer.byteLength(body)}`];
  socket.end([`HTTP/1.1 ${status} ${status === 401 ? "Unauthorized" : "Not Found"}`, ...headers, "", body].join("\r\n"));
}
