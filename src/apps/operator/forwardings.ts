/**
 * The ways by which the nodes lead clients of pods that have moved: each is kept as long as its Migration, or until the pod is
 * back, and no longer than the Services by which the clients come.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import { ledPorts, type PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import { proxyLagMs, readyCondition, restoreAnnotation, type ServicePort } from "../../approaches/orchestrator-level/pod.ts";
import { UmsError } from "../../errors.ts";
import { ownPorts } from "./own-facts.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import { type Pod, pods, type Service, services } from "../../platforms/kubernetes/kinds.ts";
import { isSource, migrationFinalizer, type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";

type Parts = Readonly<{
  cluster: Cluster;
  interfaces: Pick<Interfaces, "all">;
  siteName: string;
  /** All migrations, as they are known now. */
  known(): readonly MigrationObject[];
  log: Logger;
  signal: AbortSignal;
}>;

export type Forwardings = Readonly<{
  /** @param uid of the Migration @throws UmsError SITE_BUSY */
  takeSlot(uid: string): Promise<number>;
  /** Ends what earlier migrations of a pod of this name keep: it is here again, if nobody has noticed yet. */
  endEarlier(where: { namespace: string; pod: string }): Promise<void>;
  /** Ends, until the signal aborts, what leads to addresses that a Service has lost: the API server gives them to others. */
  followServices(): Promise<void>;
  /** Removes what a Migration that is being deleted has kept, and lets its object go. */
  forget(object: MigrationObject): Promise<void>;
  /** What has to be done from time to time. */
  tend(): Promise<void>;
}>;

const slots = 250;
/** A pod that somebody has made in place of one that has moved is found within this time. */
const lookEveryMs = 10_000;

const sourceOf = ({ status }: MigrationObject) => status?.facts?.["source"] as PodFacts | undefined;
/** Nothing is forwarded of it any more. */
const isUndone = ({ status }: MigrationObject) => status?.endedAt !== undefined && status.phase !== "Succeeded";
const slotOf = (object: MigrationObject) => (isUndone(object) ? undefined : sourceOf(object)?.forwarding?.slot);
/** Whether it leads clients, and has ended: one that has not is its carrier's. */
const isKept = (object: MigrationObject) => object.status?.phase === "Succeeded" && sourceOf(object)?.forwarding !== undefined;
/** What a pod that has moved is called in this cluster, once it is back or is here under another name. */
const nameHere = ({ spec: { pod, destination, rename } }: MigrationObject, siteName: string) =>
  destination === siteName ? (rename ?? pod) : pod;

/** The ways by which clients still come to the very same Service's port. */
function waysLeft({ uid, port, protocol, ...known }: ServicePort, all: readonly Service[]): ReturnType<typeof ledPorts> {
  const spec = all.find(({ metadata }) => metadata?.uid === uid)?.spec;
  const now = spec?.ports?.find((each) => each.port === port && (each.protocol ?? "TCP") === protocol.toUpperCase());
  if (!spec || !now) return [];
  const { clusterIp, nodePort, ...kept } = known;
  return ledPorts({
    ...kept,
    uid,
    port,
    protocol,
    ...(clusterIp !== undefined && clusterIp === spec.clusterIP ? { clusterIp } : {}),
    ...(nodePort !== undefined && nodePort === now.nodePort ? { nodePort } : {}),
  });
}

export function createForwardings({ cluster, interfaces, siteName, known, log, signal }: Parts): Forwardings {
  let busy: Promise<void> = Promise.resolve();
  let sweeping: Promise<void> = Promise.resolve();
  /** Those that no object tells yet. */
  const taken = new Map<string, number>();
  /** By Migration: the nodes that have its forwarding. */
  const installed = new Map<string, WeakSet<NodeClient>>();
  /** Nodes that have no forwarding whose Migration is gone: from here on they are told. */
  const swept = new WeakSet<NodeClient>();
  /** By Migration: when its pod was last looked for. */
  const lookedAt = new Map<string, number>();
  /** Namespaces whose Services have changed. */
  const changed = new Set<string>();

  async function forget(object: MigrationObject): Promise<void> {
    const { namespace = "default", name = "", uid = "", finalizers = [] } = object.metadata;
    // The slot of one that was undone may be another's by now.
    const forwarding = isUndone(object) ? undefined : sourceOf(object)?.forwarding;
    if (forwarding) await Promise.all(interfaces.all().map((node) => node.forwarding("remove", forwarding)));
    const kept = finalizers.filter((each) => each !== migrationFinalizer);
    // Whoever was a moment earlier has done it.
    if (await cluster.get(migrations, name, { namespace, signal }))
      await cluster.patch(migrations, name, { metadata: { finalizers: kept } }, { namespace, signal });
    for (const each of [taken, installed, lookedAt]) each.delete(uid);
  }

  /** A node that was down, or not known yet, has not heard of the end of every forwarding. */
  async function sweep(node: NodeClient): Promise<void> {
    const { items } = await cluster.list(migrations, { namespace: undefined, signal });
    const told = items.flatMap((object) => slotOf(object) ?? []);
    await node.keepForwardings([...told, ...taken.values()]);
    swept.add(node);
  }

  /** A node that came later, or was rebooted, leads nobody yet. */
  async function install(object: MigrationObject): Promise<void> {
    const { uid = "" } = object.metadata;
    const forwarding = sourceOf(object)?.forwarding;
    if (!forwarding) return;
    const done = installed.get(uid) ?? new WeakSet();
    installed.set(uid, done);
    const missing = interfaces.all().filter((each) => !done.has(each));
    if (missing.length === 0) return;
    const { items } = await cluster.list(services, { namespace: object.metadata.namespace, signal });
    for (const node of missing) {
      await node.forwarding("lead", { ...forwarding, ports: ownPorts(forwarding.ports, items) });
      done.add(node);
    }
  }

  /** Whether a migration has brought the pod back since. */
  const isBack = ({ metadata, spec, status }: MigrationObject) =>
    known().some(
      (other) =>
        other.spec.role === "Destination" &&
        other.status?.phase === "Succeeded" &&
        other.spec.pod === spec.pod &&
        other.metadata.namespace === metadata.namespace &&
        (other.status.endedAt ?? "") > (status?.endedAt ?? ""),
    );

  /** The pod, or one that somebody has made in its place. */
  async function podHere(object: MigrationObject): Promise<Pod | undefined> {
    const { uid = "", namespace } = object.metadata;
    const isDue = Date.now() - (lookedAt.get(uid) ?? 0) > lookEveryMs;
    if (!isDue && object.spec.destination !== siteName && !isBack(object)) return undefined;
    lookedAt.set(uid, Date.now());
    const pod = await cluster.get(pods, nameHere(object, siteName), { namespace, signal });
    return pod?.metadata?.uid === sourceOf(object)?.uid ? undefined : pod;
  }

  /** Connections that took the way keep it. */
  async function drop(object: MigrationObject): Promise<void> {
    const { forwarding, ...rest } = sourceOf(object) ?? {};
    if (!forwarding) return;
    await Promise.all(interfaces.all().map((node) => node.forwarding("remove", forwarding)));
    await letServicesGo(object);
    await note(object, rest);
  }

  /** Those that would have gone with the pod if this had not led clients who come by them: garbage collection takes them now. */
  async function letServicesGo({ metadata: { uid, namespace } }: MigrationObject): Promise<void> {
    const { items } = await cluster.list(services, { namespace, signal });
    for (const { metadata = {} } of items) {
      const owners = metadata.ownerReferences ?? [];
      const ownerReferences = owners.filter((owner) => owner.uid !== uid);
      if (ownerReferences.length < owners.length)
        await cluster.patch(services, metadata.name ?? "", { metadata: { ownerReferences } }, { namespace, signal });
    }
  }

  async function note({ metadata: { namespace, name = "" } }: MigrationObject, facts: Partial<PodFacts>): Promise<void> {
    const patch = [{ op: "replace", path: "/status/facts/source", value: facts }] as const;
    if (await cluster.get(migrations, name, { namespace, signal }))
      await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
  }

  /**
   * A pod that is here is found by its own Services again, as soon as it is Ready: then the way to where it was isn't needed
   * any more. @returns whether it was removed
   */
  async function reclaim(object: MigrationObject): Promise<boolean> {
    const found = await podHere(object);
    if (!found || found.metadata?.annotations?.[restoreAnnotation] !== undefined || readyCondition(found)?.status !== "True") return false;
    await sleep(proxyLagMs, undefined, { signal });
    await drop(object);
    log.info({ pod: found.metadata?.name, namespace: object.metadata.namespace }, "the pod is back: nothing is forwarded any more");
    return true;
  }

  /** Leads by those ports alone that the same Services still have. */
  async function retain(object: MigrationObject, all: readonly Service[]): Promise<void> {
    const facts = sourceOf(object);
    if (!facts?.forwarding) return;
    const there = facts.ports.flatMap((port) => waysLeft(port, all));
    const ports = ownPorts(facts.forwarding.ports, all).filter((led) =>
      there.some(({ address, port, protocol }) => address === led.address && port === led.port && protocol === led.protocol),
    );
    if (ports.length === facts.forwarding.ports.length) return;
    log.info(
      { pod: object.spec.pod, namespace: object.metadata.namespace, ports },
      "a Service has gone, or has other addresses: its clients are not led any more",
    );
    if (ports.length === 0) return await drop(object);
    const forwarding = { ...facts.forwarding, ports };
    await Promise.all(interfaces.all().map((node) => node.forwarding("lead", forwarding)));
    await note(object, { ...facts, forwarding });
  }

  async function retainChanged(): Promise<void> {
    const namespaces = [...changed];
    changed.clear();
    for (const namespace of namespaces) {
      const kept = known().filter((object) => isSource(object) && isKept(object) && object.metadata.namespace === namespace);
      if (kept.length === 0) continue;
      const { items } = await cluster.list(services, { namespace, signal });
      for (const object of kept) await retain(object, items);
    }
  }

  return {
    async takeSlot(uid) {
      // The forwarding that will have it must not be swept as one that nobody tells.
      await sweeping;
      for (const { metadata } of known().filter(isUndone)) taken.delete(metadata.uid ?? "");
      const others = new Set([...known().map(slotOf), ...taken.values()]);
      for (let slot = 1; slot <= slots; slot++) {
        if (others.has(slot)) continue;
        taken.set(uid, slot);
        return slot;
      }
      throw new UmsError("SITE_BUSY", `This cluster keeps ${slots} forwardings.`);
    },
    endEarlier: ({ namespace, pod }) =>
      inTurn(async () => {
        const isIts = (object: MigrationObject) => object.metadata.namespace === namespace && nameHere(object, siteName) === pod;
        for (const object of known().filter((each) => isSource(each) && isKept(each) && isIts(each))) await drop(object);
      }),
    async followServices() {
      for await (const { object } of cluster.watch(services, { namespace: undefined, signal })) {
        // Many change at once, at the start.
        if (changed.size === 0) setTimeout(() => void inTurn(retainChanged).catch(complain("changed Services could not be followed")), 20);
        changed.add(object.metadata?.namespace ?? "");
      }
    },
    forget: (object) => inTurn(() => forget(object)),
    async tend() {
      for (const node of interfaces.all().filter((each) => !swept.has(each))) {
        sweeping = inTurn(() => sweep(node)).catch(complain("a node's forwardings could not be looked through", { node: node.node }));
        await sweeping;
      }
      // What has arrived is the coordinator's.
      for (const { metadata } of known().filter(isSource)) {
        await inTurn(() => tendTo(metadata.uid)).catch(complain("a forwarding could not be tended to", { migration: metadata.name }));
      }
    },
  };

  function complain(what: string, details: object = {}): (cause: unknown) => void {
    return (cause) => {
      if (!signal.aborted) log.warn({ ...details, cause }, what);
    };
  }

  /** What is removed must not be installed again meanwhile. */
  function inTurn(act: () => Promise<void>): Promise<void> {
    const turn = busy.then(act);
    busy = turn.catch(() => undefined);
    return turn;
  }

  async function tendTo(uid: string | undefined): Promise<void> {
    const object = known().find(({ metadata }) => metadata.uid === uid);
    if (object?.status?.endedAt === undefined) return;
    if (object.metadata.deletionTimestamp !== undefined) {
      if (object.metadata.finalizers?.includes(migrationFinalizer)) await forget(object);
    } else if (object.status.phase === "Succeeded" && !(await reclaim(object))) await install(object);
  }
}
