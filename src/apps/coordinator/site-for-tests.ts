import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { pino } from "pino";
import { onTestFinished } from "vitest";
import { openTrustFiles } from "../../trust/files.ts";
import { createPairing, type Pairing } from "../../trust/pairing.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { openTrust, type Trust } from "../../trust/trust.ts";
import { createFakeCoordinator } from "./fake-coordinator.ts";
import { createLocalApi, listenOnSocket } from "./http.ts";
import { createMetrics } from "./metrics.ts";
import { createPeerServer, listenForPeers, type PeerApp, type PeerServerParts } from "../../server/peer-server.ts";

type Options = Partial<Pick<PeerServerParts, "registerPeerRoutes" | "onData" | "limits" | "people" | "unsafeHttp">> & {
  now?: () => number;
  fake?: ReturnType<typeof createFakeCoordinator>;
};

/** A whole site with a fake coordinator, on 127.0.0.1 and a socket in a temporary directory; ends with the test. */
export async function startSite(name: string, { now = Date.now, fake = createFakeCoordinator(), ...peerParts }: Options = {}) {
  const log = pino({ level: "silent" });
  const directory = temporaryDirectory();
  const trust: Trust = await openTrust(openTrustFiles(directory), name);
  // The port is known only once the server listens.
  const latePairing: { -readonly [Part in keyof Pairing]: Pairing[Part] } = {
    issueCode: (accept) => pairing.issueCode(accept),
    answer: (request, socket) => pairing.answer(request, socket),
    pairWith: (options) => pairing.pairWith(options),
  };
  const peerServer: PeerApp = createPeerServer({
    trust,
    pairing: latePairing,
    registerPeerRoutes: () => undefined,
    onData: (socket) => void socket.destroy(),
    log,
    ...peerParts,
  });
  await listenForPeers(peerServer, { host: "127.0.0.1", port: 0 });
  const { port } = peerServer.server.address() as AddressInfo;
  const address = `127.0.0.1:${port}`;
  const pairing = createPairing({ trust, addresses: [], port, now });
  const metrics = createMetrics(fake.coordinator.migrations);
  const newApi = () => createLocalApi({ coordinator: fake.coordinator, trust, pairing, addresses: [address], accept: {}, metrics, log });
  const localApi = newApi();
  const socketPath = join(directory, "ums.sock");
  await listenOnSocket(localApi, { path: socketPath });
  onTestFinished(async () => {
    await Promise.all([localApi.close(), peerServer.close()]);
    trust.close();
  });
  /** The API on the same socket, after a test has closed the first. */
  const listenAgain = async () => {
    const again = newApi();
    onTestFinished(async () => await again.close());
    await listenOnSocket(again, { path: socketPath });
  };
  return { name, directory, trust, pairing, peerServer, latePairing, localApi, listenAgain, port, address, socketPath, ...fake };
}
export type TestSite = Awaited<ReturnType<typeof startSite>>;

/** Pairs two sites by a code, as people do. */
export async function pair(caller: TestSite, answerer: TestSite): Promise<void> {
  const { code } = await answerer.pairing.issueCode();
  await caller.pairing.pairWith({ address: answerer.address, code, signal: AbortSignal.timeout(5_000) });
}
