import { onTestFinished, vi } from "vitest";
import { shareWithNodes } from "./share.ts";
import type { TrustStore } from "./store.ts";
import { openTrust, type Trust } from "./trust.ts";

type MemoryStore = TrustStore & Readonly<{ entries: Map<string, string>; fail(times: number): void }>;

export function memoryStore(): MemoryStore {
  const entries = new Map<string, string>();
  const listeners = new Set<(entries: ReadonlyMap<string, string>) => void>();
  let failures = 0;
  return {
    entries,
    fail: (times) => void (failures = times),
    placeOf: (name) => name,
    async read() {
      return new Map(entries);
    },
    async update(name, change) {
      if (failures-- > 0) throw new Error("The store is away.");
      const after = change(entries.get(name));
      if (after === undefined) entries.delete(name);
      else entries.set(name, after);
      listeners.forEach((listener) => listener(new Map(entries)));
      return after;
    },
    watch(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
}

/** What speaks for a cluster, and what its nodes have of that. */
export async function cluster(name: string, { store = memoryStore(), nodes = memoryStore(), now = Date.now } = {}) {
  const stop = new AbortController();
  const trust = await openTrust(store, name, { now });
  const troubles: unknown[] = [];
  const sharing = shareWithNodes(trust, nodes, { signal: stop.signal, onTrouble: (cause) => troubles.push(cause) });
  const node = await openTrust(nodes, name, { role: "node", signal: stop.signal });
  onTestFinished(async () => {
    stop.abort();
    await sharing;
    trust.close();
    node.close();
  });
  return { trust, node, store, nodes, troubles };
}

type Cluster = Readonly<{ trust: Trust; node: Trust }>;

/** Resolves when the nodes know it, too. */
export async function pair(a: Cluster, b: Cluster): Promise<void> {
  for (const [{ trust }, other] of [
    [a, b],
    [b, a],
  ] as const)
    await trust.addPeer({ name: other.trust.siteName, certificate: other.trust.certificate, addresses: ["127.0.0.2:1"] });
  await vi.waitUntil(() => a.node.peer(b.trust.siteName) && b.node.peer(a.trust.siteName));
}
