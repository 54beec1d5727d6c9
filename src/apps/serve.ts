/** `ums serve`: coordinator and interface of a host, in one process. */
import { chmod, mkdir } from "node:fs/promises";
import path from "node:path";
import type { FastifyBaseLogger } from "fastify";
import type { Logger } from "pino";
import { marksIn } from "../checkpoint/marks.ts";
import { advertisedAddresses, type Config } from "../config.ts";
import { createPodman } from "../container-engines/podman/podman.ts";
import { ensurePodmanService } from "../container-engines/podman/service.ts";
import { openDatabase } from "../platforms/podman-host/database.ts";
import { isOurs } from "../transfer/memory.ts";
import { openTrustFiles } from "../trust/files.ts";
import { createPairing } from "../trust/pairing.ts";
import { openTrust } from "../trust/trust.ts";
import { createHostCoordinator } from "./coordinator/host.ts";
import { createLocalApi, listenOnSocket } from "./coordinator/http.ts";
import { createMetrics } from "./coordinator/metrics.ts";
import { registerPeerRoutes } from "./coordinator/peer-routes.ts";
import { createPeerServer, listenForPeers } from "../server/peer-server.ts";

/** Resolves when the site answers on its socket and its port. @throws UmsError */
export async function serve(config: Config, log: Logger): Promise<{ close(): Promise<void> }> {
  await using opened = new AsyncDisposableStack();
  await mkdir(config.stateDirectory, { recursive: true, mode: 0o700 });
  await chmod(config.stateDirectory, 0o700);
  // Before anybody else can: a reboot has emptied /dev/shm.
  for (const directory of config.imageDirectories)
    if (!(await isOurs(directory))) log.warn({ directory }, "a directory for memory images is not root's, and is not used");
  const trust = opened.adopt(await openTrust(openTrustFiles(config.stateDirectory), config.siteName), (each) => each.close());
  const addresses = advertisedAddresses(config);
  const pairing = createPairing({ trust, addresses, port: config.listen.port });
  const podman = opened.adopt(await ensurePodmanService(config.podmanSocket), (each) => each.close());
  void podman;
  const engine = opened.adopt(
    createPodman({ socketPath: config.podmanSocket, shimPath: config.shimPath, marksDirectory: marksIn(config.stateDirectory) }),
    (each) => each.close(),
  );
  const database = opened.adopt(openDatabase(path.join(config.stateDirectory, "journal.db")), (each) => each.close());
  const coordinator = opened.adopt(createHostCoordinator({ config, trust, engine, database, log }), (each) => each.close());
  const logger = log as FastifyBaseLogger;

  const local = opened.adopt(
    createLocalApi({
      coordinator,
      trust,
      pairing,
      addresses,
      accept: config.accept,
      metrics: createMetrics(() => coordinator.migrations()),
      log: logger,
    }),
    (each) => each.close(),
  );
  // The socket is also what keeps two coordinators apart, so it comes before anything is taken up.
  await listenOnSocket(local, { path: config.socketPath, group: config.socketGroup });
  // Before other sites can ask: a commit must not meet a reservation that has not been read yet.
  await coordinator.recoverIncoming();
  const peers = opened.adopt(
    createPeerServer({
      trust,
      pairing,
      log: logger,
      registerPeerRoutes(app) {
        const { loadImage, create, arm, restore, commit, ...incoming } = coordinator.incoming;
        // Nobody can make a host forget.
        const acknowledge = async () => undefined;
        registerPeerRoutes(app, { ...incoming, actions: { image: loadImage, create, arm, restore, commit, acknowledge } });
      },
      onData: (socket, head, { migrationId, peer }) => {
        coordinator.incoming.data(migrationId, peer, socket, head).catch((cause: unknown) => {
          log.warn({ migration: migrationId, cause }, "a data connection was refused");
          socket.destroy();
        });
      },
    }),
    (each) => each.close(),
  );
  await listenForPeers(peers, config.listen);
  coordinator.resume();
  log.info({ site: trust.siteName, socket: config.socketPath, ...config.listen, fingerprint: trust.fingerprint }, "serving");
  const owned = opened.move();
  return { close: () => owned.disposeAsync() };
}
