/**
 * What the nodes of a cluster need of their site's keys, in a store of its own: the authority's certificate, the peers, and a
 * certificate that is good for data alone. Whoever takes over a node, and reads it, can't speak for the site.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { authorityCertificateEntry, nodeLeafEntry, peerEntry, peerEntryPattern, type TrustStore } from "./store.ts";
import { textOf, type Trust } from "./trust.ts";

const renewalCheckMs = 6 * 3_600_000;
const retryMs = 2_000;

/**
 * Keeps that store as the site is, until the signal. Several replicas may do it at once.
 * @param trust of a part of the site that makes its keys
 */
export async function shareWithNodes(
  trust: Trust,
  store: TrustStore,
  { signal, onTrouble }: { signal: AbortSignal; onTrouble: (cause: unknown) => void },
): Promise<void> {
  let wake = () => {};
  // Also after what another replica has written, by an older view of the peers, or a person has removed.
  const stops = [trust.onChange(() => wake()), store.watch?.(() => wake())];
  while (!signal.aborted) {
    const changed = new AbortController();
    wake = () => changed.abort();
    const isShared = await share(trust, store).then(
      () => true,
      (cause: unknown) => {
        if (!signal.aborted) onTrouble(cause);
        return false;
      },
    );
    const waiting = AbortSignal.any([signal, changed.signal]);
    await sleep(isShared ? renewalCheckMs : retryMs, undefined, { signal: waiting, ref: false }).catch(() => undefined);
  }
  for (const stop of stops) stop?.();
}

async function share(trust: Trust, store: TrustStore): Promise<void> {
  const theirs = await store.read();
  const peers = trust.peers().map((peer) => [peerEntry(peer.name), textOf(peer)] as const);
  const gone = [...theirs.keys()].filter((name) => peerEntryPattern.test(name) && !peers.some(([entry]) => entry === name));
  for (const [name, text] of [[authorityCertificateEntry, trust.certificate] as const, ...peers])
    if (theirs.get(name) !== text) await store.update(name, () => text);
  for (const name of gone) await store.update(name, () => undefined);
  const current = theirs.get(nodeLeafEntry);
  const leaf = await trust.nodeLeaf(current);
  // Another replica may have been quicker.
  if (leaf !== current) await store.update(nodeLeafEntry, (found) => (found === current ? leaf : found));
}
