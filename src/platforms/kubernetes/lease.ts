/** One leader among several replicas, by a Lease of coordination.k8s.io. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster, ClusterError } from "./client.ts";
import { type Lease, leases } from "./kinds.ts";
import type { Term } from "./term.ts";

/** One time of being the leader. */
export type Tenure = Readonly<{
  /** Aborts when the lease is lost or given up, before another one may have it. */
  signal: AbortSignal;
  /** Unique to this tenure. */
  owner: string;
  term: Term;
}>;

export type Candidacy = Readonly<{
  cluster: Cluster;
  namespace: string;
  /** The Lease's name. */
  name: string;
  /** This instance, as it is shown in the Lease: the pod's name. */
  identity: string;
  /** Ends the candidacy: the work is stopped and the lease released. */
  signal: AbortSignal;
  /** What the leader does. It must end soon after its signal aborts; a new tenure begins only after that. */
  lead(tenure: Tenure): Promise<void>;
  /** Hears what goes wrong; the candidacy goes on. */
  onTrouble?: (error: unknown) => void;
  /** For how long a leader that is silent keeps the others out. */
  leaseMs?: number;
  /** How often the leader renews, and the others look. */
  retryMs?: number;
}>;

/** Stands for leader until the signal aborts. Resolves when the work has ended and the lease is released. */
export async function standForLeader({
  cluster,
  namespace,
  name,
  identity,
  signal,
  lead,
  onTrouble = () => undefined,
  leaseMs = 10_000,
  retryMs = 2_000,
}: Candidacy): Promise<void> {
  /** What the lease was when it last changed, and when that was by this machine's own clock: clocks of nodes differ. */
  let seen: { version: string | undefined; at: number } | undefined;

  /** @returns the lease, if this instance has it now */
  async function tryToAcquire(): Promise<Lease | undefined> {
    const limit = { namespace, signal: AbortSignal.any([signal, AbortSignal.timeout(leaseMs)]) };
    const time = microTime();
    const taken = { holderIdentity: identity, leaseDurationSeconds: Math.ceil(leaseMs / 1000), acquireTime: time, renewTime: time };
    try {
      const current = await cluster.get(leases, name, limit);
      if (!current) return await cluster.create(leases, { metadata: { name }, spec: { ...taken, leaseTransitions: 0 } }, limit);
      const version = current.metadata?.resourceVersion;
      if (version !== seen?.version || !seen) seen = { version, at: performance.now() };
      // Its own lease of a former life is no exception: the former life may still be ending.
      const free = !current.spec?.holderIdentity;
      const theirsMs = Math.max(leaseMs, (current.spec?.leaseDurationSeconds ?? 0) * 1000);
      if (!free && performance.now() - seen.at < theirsMs) return undefined;
      const spec = { ...taken, leaseTransitions: (current.spec?.leaseTransitions ?? 0) + 1 };
      return await cluster.replace(leases, { ...current, spec }, limit);
    } catch (error) {
      if (!signal.aborted && !isLostRace(error)) onTrouble(error);
      return undefined;
    }
  }

  /** Renews until the tenure ends, or the lease is lost. */
  async function renewing(lease: Lease, acquiredAt: number, tenure: AbortSignal, lose: (reason: Error) => void): Promise<void> {
    let latest = lease;
    let renewedAt = acquiredAt;
    while (true) {
      // Counted from before the last successful request was sent; a part of the lease is left for the work to notice.
      const leftMs = () => Math.ceil(renewedAt + leaseMs * 0.7 - performance.now());
      await sleep(Math.max(0, Math.min(retryMs, leftMs())), undefined, { signal: tenure }).catch(() => undefined);
      if (hasAborted(tenure)) return;
      if (leftMs() <= 0) return lose(new Error(`The lease ${name} could not be renewed.`));
      const limit = { namespace, signal: AbortSignal.any([tenure, AbortSignal.timeout(leftMs())]) };
      const sentAt = performance.now();
      try {
        latest = await cluster.replace(leases, { ...latest, spec: { ...latest.spec, renewTime: microTime() } }, limit);
        renewedAt = sentAt;
      } catch (error) {
        if (hasAborted(tenure)) return;
        if (!isLostRace(error)) {
          onTrouble(error);
          continue;
        }
        // Somebody else's edit, or a renewal whose answer got lost.
        const current = await cluster.get(leases, name, limit).catch(() => undefined);
        if (current && isSameTenure(current, latest)) latest = current;
        else if (current) return lose(new Error(`The lease ${name} went to ${current.spec?.holderIdentity || "nobody"}.`));
      }
    }
  }

  async function release(lease: Lease): Promise<void> {
    const limit = { namespace, signal: AbortSignal.timeout(2_000) };
    try {
      // Read anew: the last renewal may have been given up after it had been written.
      const current = await cluster.get(leases, name, limit);
      if (!current || !isSameTenure(current, lease)) return;
      const spec = { ...current.spec, holderIdentity: "", leaseDurationSeconds: 1, renewTime: microTime() };
      await cluster.replace(leases, { ...current, spec }, limit);
    } catch (error) {
      // It runs out by itself.
      if (!isLostRace(error)) onTrouble(error);
    }
  }

  while (!signal.aborted) {
    const acquiredAt = performance.now();
    const lease = await tryToAcquire();
    if (!lease) {
      await sleep(retryMs * (0.8 + 0.4 * Math.random()), undefined, { signal }).catch(() => undefined);
      continue;
    }
    const end = new AbortController();
    const tenure = AbortSignal.any([signal, end.signal]);
    const owner = `${identity}#${lease.metadata?.uid?.slice(0, 8)}.${lease.spec?.leaseTransitions}`;
    const term = {
      leaseMadeAt: Math.floor(Date.parse(lease.metadata?.creationTimestamp ?? "1970-01-01") / 1000),
      transitions: lease.spec?.leaseTransitions ?? 0,
    };
    const work = lead({ signal: tenure, owner, term }).catch((error: unknown) => {
      if (!tenure.aborted) onTrouble(error);
    });
    // Renewed until the work has ended, also while it stops: nobody else may begin before.
    const renewal = renewing(lease, acquiredAt, end.signal, (reason) => {
      onTrouble(reason);
      end.abort(reason);
    });
    await work;
    end.abort();
    await renewal;
    // One that was lost is somebody else's by now, which is seen there.
    await release(lease);
    // Work that ends by itself gives the others their turn.
    await sleep(retryMs, undefined, { signal }).catch(() => undefined);
  }
}

function isSameTenure(one: Lease, other: Lease): boolean {
  return one.spec?.holderIdentity === other.spec?.holderIdentity && one.spec?.leaseTransitions === other.spec?.leaseTransitions;
}

/** metav1.MicroTime */
function microTime(): string {
  return new Date().toISOString().replace("Z", "000Z");
}

function hasAborted(signal: AbortSignal): boolean {
  return signal.aborted;
}

function isLostRace(error: unknown): boolean {
  return error instanceof ClusterError && ["OBJECT_CHANGED", "OBJECT_EXISTS", "OBJECT_GONE"].includes(error.code);
}
