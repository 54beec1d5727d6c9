import { connect, createServer, type TLSSocket } from "node:tls";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test, vi } from "vitest";
import { cluster, memoryStore, pair } from "./cluster-for-tests.ts";
import type { Caller, Trust } from "./trust.ts";

const dayMs = 86_400_000;

/** Who the server takes the caller for; undefined where either refuses the other. */
async function meet(server: Trust, options: object): Promise<Caller | undefined> {
  const { promise, resolve } = Promise.withResolvers<Caller | undefined>();
  const listener = createServer(server.serverOptions(), (socket: TLSSocket) => {
    socket.on("error", () => undefined);
    resolve(server.identify(socket));
    socket.end();
  });
  onTestFinished(() => void listener.close());
  await new Promise<void>((done) => listener.listen(0, "127.0.0.1", done));
  const socket = connect({ ...options, host: "127.0.0.1", port: (listener.address() as AddressInfo).port });
  const accepted = await new Promise<boolean>((done) => socket.on("secureConnect", () => done(true)).on("error", () => done(false)));
  const caller = accepted ? await promise : undefined;
  socket.destroy();
  return caller;
}

test("what nodes read has no key but their own", async () => {
  const { trust, nodes } = await cluster("alpha");
  expect([...nodes.entries.keys()].toSorted()).toEqual(["authority.crt", "node.pem"]);
  expect(nodes.entries.get("authority.crt")).toBe(trust.certificate);
  expect(nodes.entries.get("node.pem")).not.toContain(trust.serverOptions().key);
});

test("a node is known as one, by its own site and by its peers, and no one takes it for the site", async () => {
  const [alpha, beta] = [await cluster("alpha"), await cluster("beta")];
  await pair(alpha, beta);
  const aNode = (name: string, isSelf = false) => ({ site: name, role: "node", isSelf });
  expect(await meet(beta.node, alpha.node.connectOptions("beta", "node"))).toEqual(aNode("alpha"));
  expect(await meet(alpha.node, alpha.trust.connectToSelfOptions("node"))).toEqual({ site: "alpha", role: "site", isSelf: true });
  expect(await meet(alpha.trust, alpha.node.connectToSelfOptions("site"))).toEqual(aNode("alpha", true));
  // As servers.
  expect(await meet(beta.node, alpha.trust.connectOptions("beta"))).toBeUndefined();
  expect(await meet(beta.trust, alpha.node.connectOptions("beta", "node"))).toBeUndefined();
  expect(await meet(alpha.node, alpha.trust.connectToSelfOptions("site"))).toBeUndefined();
});

test("nodes follow the site's peers", async () => {
  const [alpha, beta] = [await cluster("alpha"), await cluster("beta")];
  await pair(alpha, beta);
  expect(alpha.node.peers()).toEqual(alpha.trust.peers());
  await alpha.trust.removePeer("beta");
  await vi.waitFor(() => expect(alpha.node.peers()).toEqual([]));
});

test("replicas share one certificate, and make the next one before it ends", async () => {
  const { nodes, store } = await cluster("alpha");
  const first = nodes.entries.get("node.pem");
  const leafIn = async (days: number) =>
    (await cluster("alpha", { nodes, store, now: () => Date.now() + days * dayMs })).trust.nodeLeaf(first);
  expect(await leafIn(0)).toBe(first);
  expect(await leafIn(50)).toBe(first);
  expect(nodes.entries.get("node.pem")).toBe(first);
  expect(await leafIn(65)).not.toBe(first);
  await vi.waitFor(() => expect(nodes.entries.get("node.pem")).not.toBe(first));
});

test("what somebody has removed from the store, or damaged, comes back", async () => {
  const { nodes, trust } = await cluster("alpha");
  await nodes.update("authority.crt", () => undefined);
  await vi.waitFor(() => expect(nodes.entries.get("authority.crt")).toBe(trust.certificate));
  const [key = "", certificate = ""] = ["PRIVATE KEY", "CERTIFICATE"].map((kind) => `-----BEGIN ${kind}-----\nx\n-----END ${kind}-----\n`);
  expect(await trust.nodeLeaf(key + certificate)).not.toContain("\nx\n");
});

test("a store that is away is tried again", async () => {
  const nodes = memoryStore();
  nodes.fail(1);
  const { troubles, node, trust } = await cluster("alpha", { nodes });
  expect(troubles).toHaveLength(1);
  expect(node.fingerprint).toBe(trust.fingerprint);
});
