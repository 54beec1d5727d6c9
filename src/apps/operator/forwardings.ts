/** The ways by which the nodes lead clients of pods that have moved: each is kept as long as its Migration, or until the pod is back. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import type { NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import type { PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import { UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import { pods } from "../../platforms/kubernetes/kinds.ts";
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
  /** Removes what a Migration that is being deleted has kept, and lets its object go. */
  forget(object: MigrationObject): Promise<void>;
  /** What has to be done from time to time. */
  tend(): Promise<void>;
}>;

const slots = 250;
/** What kube-proxy takes to follow a pod that has become Ready. */
const proxyLagMs = 2_000;

const sourceOf = ({ status }: MigrationObject) => status?.facts?.["source"] as PodFacts | undefined;
/** Nothing is forwarded of it any more. */
const isUndone = ({ status }: MigrationObject) => status?.endedAt !== undefined && status.phase !== "Succeeded";
const slotOf = (object: MigrationObject) => (isUndone(object) ? undefined : sourceOf(object)?.forwarding?.slot);

export function createForwardings({ cluster, interfaces, siteName, known, log, signal }: Parts): Forwardings {
  let busy: Promise<void> = Promise.resolve();
  let sweeping: Promise<void> = Promise.resolve();
  /** Those that no object tells yet. */
  const taken = new Map<string, number>();
  /** By Migration: the nodes that have its forwarding. */
  const installed = new Map<string, WeakSet<NodeClient>>();
  /** Nodes that have no forwarding whose Migration is gone: from here on they are told. */
  const swept = new WeakSet<NodeClient>();

  async function forget(object: MigrationObject): Promise<void> {
    const { namespace = "default", name = "", uid = "", finalizers = [] } = object.metadata;
    // The slot of one that was undone may be another's by now.
    const forwarding = isUndone(object) ? undefined : sourceOf(object)?.forwarding;
    if (forwarding) await Promise.all(interfaces.all().map((node) => node.forwarding("remove", forwarding)));
    const kept = finalizers.filter((each) => each !== migrationFinalizer);
    // Whoever was a moment earlier has done it.
    if (await cluster.get(migrations, name, { namespace, signal }))
      await cluster.patch(migrations, name, { metadata: { finalizers: kept } }, { namespace, signal });
    taken.delete(uid);
    installed.delete(uid);
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
    for (const node of interfaces.all().filter((each) => !done.has(each))) {
      await node.forwarding("let-through", forwarding);
      done.add(node);
    }
  }

  /** The pod's name in this cluster once it is back, or is here under another name. */
  function nameHere(object: MigrationObject): string | undefined {
    const { pod, destination, rename } = object.spec;
    if (destination === siteName) return rename ?? pod;
    const isBack = known().some(
      ({ spec, status, metadata }) =>
        spec.role === "Destination" &&
        status?.phase === "Succeeded" &&
        spec.pod === pod &&
        metadata.namespace === object.metadata.namespace &&
        (status.endedAt ?? "") > (object.status?.endedAt ?? ""),
    );
    return isBack ? pod : undefined;
  }

  /**
   * A pod that is here is found by its own Services again, as soon as it is Ready: then the way to where it was isn't needed
   * any more. Connections that took it keep it. @returns whether it was removed
   */
  async function reclaim(object: MigrationObject): Promise<boolean> {
    const { forwarding, ...rest } = sourceOf(object) ?? {};
    const pod = nameHere(object);
    if (!forwarding || pod === undefined) return false;
    const { namespace, name = "" } = object.metadata;
    const found = await cluster.get(pods, pod, { namespace, signal });
    if (!found?.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True")) return false;
    await sleep(proxyLagMs, undefined, { signal });
    await Promise.all(interfaces.all().map((node) => node.forwarding("remove", forwarding)));
    const patch = [{ op: "replace", path: "/status/facts/source", value: rest }] as const;
    await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
    log.info({ pod, namespace }, "the pod is back: nothing is forwarded any more");
    return true;
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
    forget: (object) => inTurn(() => forget(object)),
    async tend() {
      for (const node of interfaces.all().filter((each) => !swept.has(each))) {
        sweeping = inTurn(() => sweep(node)).catch((cause: unknown) => {
          if (!signal.aborted) log.warn({ node: node.node, cause }, "a node's forwardings could not be looked through");
        });
        await sweeping;
      }
      // What has arrived is the coordinator's.
      for (const { metadata } of known().filter(isSource)) {
        await inTurn(() => tendTo(metadata.uid)).catch((cause: unknown) => {
          if (!signal.aborted) log.warn({ migration: metadata.name, cause }, "a forwarding could not be tended to");
        });
      }
    },
  };

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
