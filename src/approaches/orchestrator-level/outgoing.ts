/** The source's half, as the operator drives it: the pod's object, its node's interface, and the destination's coordinator. */
import { isIPv4 } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { Type } from "typebox";
import type { Destination, MigrationPlan, Source } from "../../engine/ports.ts";
import { codeFrom, type ErrorCode, UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { type OwnerReference, type Pod, pods, services } from "../../platforms/kubernetes/kinds.ts";
import { noted } from "../../preflight/check.ts";
import { notesOf } from "../../preflight/notes.ts";
import { ArmAnswer, CreateAnswer, type DataTarget, portKey } from "../../protocol/conversation.ts";
import { type Protocol } from "../../protocol/forms.ts";
import { measuresOf } from "../../protocol/measures.ts";
import { rescuedRoot } from "../../protocol/names.ts";
import { CommitAnswer, type NodeForwarding, type PodNeed, type PodReference } from "../../protocol/pod.ts";
import { snapshotTransfers } from "../../protocol/snapshot.ts";
import { allSettled } from "../../settled.ts";
import type { PeerClient } from "../../trust/peer-client.ts";
import { checkThere, createDestinationSite } from "../destination.ts";
import type { NodeClient } from "./node/client.ts";
import { podNeed, withoutSecrets } from "./pod-need.ts";
import {
  livenessBudgetMs,
  podLabel,
  podNotes,
  podReference,
  podRefusals,
  proxyLagMs,
  readinessBudgetMs,
  readinessTimeoutMs,
  readyCondition,
  type ServicePort,
  servicePorts,
  sharedServices,
  standstillMs,
} from "./pod.ts";

/** What the source must know after a crash. */
export type PodFacts = Readonly<{
  namespace: string;
  name: string;
  uid: string;
  node: string;
  /** Its containers and volumes: by their names and ids its node finds them. */
  pod: Pick<PodReference, "containers" | "volumes">;
  need: PodNeed;
  ports: readonly ServicePort[];
  target?: DataTarget;
  forwarding?: NodeForwarding;
  /** Of a pod with liveness probes: when its network was held. */
  heldAt?: string;
  /** Its dump, once that is a snapshot of which a migration makes the pod again. */
  rescued?: Rescued;
}>;

/** @param migration the id of the one that makes a pod of it */
export type Rescued = Readonly<{ node: string; path: string; migration: string }>;

export type OutgoingPodParts = Readonly<{
  cluster: Cluster;
  peer: PeerClient;
  namespace: string;
  /** The interface of a node. @throws UmsError INTERFACE_MISSING */
  node(name: string): Promise<NodeClient>;
  /** The interfaces of all nodes: each leads clients that come to it. */
  nodes(): Promise<NodeClient[]>;
  /** The name of the pod at its destination, and its node there, where they are not the usual ones. */
  wanted: PodWanted;
  /** Host under which this site's nodes reach the destination's. */
  peerHost(): string;
  /** Where this site's nodes send to, from what the destination's coordinator says. */
  dataTarget(created: CreateAnswer): DataTarget;
  /** Whether the destination is this very cluster. */
  isOwnSite: boolean;
  takeSlot(): Promise<number>;
  /** Ends what earlier migrations of a pod of this name keep for its clients. */
  endEarlierForwardings(pod: string): Promise<void>;
  /** The Migration, as an owner of other objects. */
  owner: OwnerReference;
  /** Id of the migration that makes the pod again of its dump, if all else is lost. */
  heir: string;
  /** Told how many connections could not be held: their clients try again by themselves. */
  late(connections: number): void;
  facts: {
    get(): PodFacts | undefined;
    /** Durable when it resolves. */
    set(facts: PodFacts): Promise<void>;
  };
  limits: { preflightMs: number; reserveMs: number; transferMs: number; restoreMs: number; requestMs: number };
  /** Sees to it that the pod is made again of its snapshot. Durable when it resolves; can be repeated. */
  restoreRescued(pod: string, rescued: Rescued): Promise<void>;
  /** Told the Pod that the destination has made of this one, once that owns it. */
  arrived(pod: Pod): void;
  /** Told what will be different after the move. */
  noted(notes: Examined["notes"]): void;
  /** Told how many bytes went to the destination. */
  sent(bytes: number): void;
  /** Told how long each part of a step took, in milliseconds. */
  measured(part: string, milliseconds: number): void;
}>;

export type PodWanted = Readonly<{ name?: string | undefined; node?: string | undefined }>;

/** What a plan finds: everything about the pod, and why it can't move. */
export type Examined = Readonly<{
  facts: PodFacts;
  refusals: readonly { site: Side; code: ErrorCode; detail: string }[];
  /** What will be different after the move, though the pod can move. */
  notes: readonly { site: Side; detail: string }[];
}>;

type Side = "source" | "destination";

/** How long the kubelet gets to learn that the pod is being deleted, before its tasks are killed. */
const deletionLeadMs = 1_000;
const goneMs = 60_000;
/** For how long the clients of an undone hold wait for the pod's Services to lead to it again. */
const servedAgainMs = 30_000;

/**
 * Both sides' checks; changes nothing.
 * @throws UmsError SERVICE_NOT_FOUND and what keeps a check from being made
 */
export async function examinePod(
  {
    cluster,
    peer,
    namespace,
    node,
    nodes,
    limits,
    wanted = {},
    isOwnSite = false,
  }: Pick<OutgoingPodParts, "cluster" | "peer" | "namespace" | "node" | "nodes" | "limits"> &
    Partial<Pick<OutgoingPodParts, "wanted" | "isOwnSite">>,
  name: string,
  signal: AbortSignal,
): Promise<Pick<Examined, "refusals" | "notes"> & { facts?: PodFacts }> {
  const pod = await cluster.get(pods, name, { namespace, signal });
  if (!pod) throw new UmsError("SERVICE_NOT_FOUND", `There is no pod ${name} in namespace ${namespace}.`);
  const own = podRefusals(pod).map((refusal) => ({ site: "source" as const, ...refusal }));
  if (own.length > 0) return { refusals: own, notes: [] };
  const reference = podReference(pod);
  const nodeName = pod.spec?.nodeName ?? "";
  if (isOwnSite && (wanted.node === undefined || wanted.node === nodeName || (wanted.name ?? name) === name))
    throw new UmsError("BAD_REQUEST", "Within its cluster a pod needs another node (node) and another name (rename) to move.");
  const [described, { items }, { items: all }] = await Promise.all([
    node(nodeName).then((client) => client.describe(reference, signal)),
    cluster.list(services, { namespace, signal }),
    cluster.list(pods, { namespace, signal }),
  ]);
  // Within its cluster a pod's clients are led for a moment alone, until its Services find it again.
  const shared = isOwnSite ? [] : sharedServices(pod, items, all);
  const ports = servicePorts(pod, items);
  const mute = ports.length === 0 ? [] : await silentNodes(await nodes(), signal);
  const renamed = { ...pod, metadata: { ...pod.metadata, name: wanted.name ?? name } };
  const need = podNeed(renamed, described, {
    ports: ports.map(({ port, nodePort, targetPort, protocol }) => ({ port: targetPort, published: nodePort ?? port, protocol })),
    node: wanted.node,
  });
  const facts: PodFacts = { namespace, name, uid: reference.uid, node: nodeName, pod: partsOf(reference), need, ports };
  const held = [...shared, ...mute, ...described.refusals].map(({ code, detail }) => ({ site: "source" as const, code, detail }));
  const { checks } = await checkThere(peer, need, { timeoutMs: limits.preflightMs, signal });
  const theirs = checks
    .filter(({ ok }) => !ok)
    .map(({ code, detail, name: check }) => ({ site: "destination" as const, code: codeFrom(code), detail: detail ?? check }));
  // Within its cluster a pod's Services find it again by themselves.
  const here = noted("the pod", [...(isOwnSite ? [] : podNotes(pod, items)), ...described.notes]);
  return { facts, refusals: [...held, ...theirs], notes: [...notesOf("source", [here]), ...notesOf("destination", checks)] };
}

/** Nodes that run, but whose interface doesn't answer: nobody leads the clients that come to them. */
async function silentNodes(nodes: readonly NodeClient[], signal: AbortSignal): Promise<{ code: ErrorCode; detail: string }[]> {
  const answers = await Promise.allSettled(nodes.map((node) => node.greet(signal)));
  return answers.flatMap(({ status }, at) =>
    status === "rejected"
      ? [{ code: "INTERFACE_MISSING" as const, detail: `The interface of node ${nodes[at]?.node} does not answer; it would lead clients.` }]
      : [],
  );
}

/** Whether Kubernetes itself deletes the pod, because its node has gone (concepts/workloads/pods/disruptions). */
const isNodesFault = ({ status }: Pod) =>
  (status?.conditions ?? []).some(
    ({ type, reason = "" }) => type === "DisruptionTarget" && /^DeletionBy(TaintManager|PodGC)$/.test(reason),
  );

/** How clients come to a Service's port. */
export function ledPorts({ clusterIp, port, nodePort, protocol }: ServicePort): { address: string; port: number; protocol: Protocol }[] {
  return [
    ...(nodePort === undefined ? [] : [{ address: "", port: nodePort, protocol }]),
    ...(clusterIp === undefined ? [] : [{ address: clusterIp, port, protocol }]),
  ];
}

/** A pod's own, of IPv4. */
const addressesOf = ({ status }: Pod) => (status?.podIPs ?? []).flatMap(({ ip = "" }) => (isIPv4(ip) ? [ip] : []));

const partsOf = ({ containers, volumes }: PodFacts["pod"]): PodFacts["pod"] => ({ containers, volumes });

/** What of a running pod its user can change. */
const changeable = ({ metadata, spec }: Pod) => [metadata?.labels, metadata?.annotations, spec];

export function createOutgoingPod(plan: MigrationPlan, parts: OutgoingPodParts): { source: Source; destination: Destination } {
  const { cluster, peer, limits } = parts;
  const { id } = plan;
  const site = createDestinationSite(peer, id, limits);

  const facts = (): PodFacts => {
    const found = parts.facts.get();
    if (!found) throw new UmsError("INTERNAL", `Migration ${id} was never admitted.`);
    // Whose pod it is says the Migration, and no fact.
    return { ...found, namespace: parts.namespace, name: plan.service };
  };
  const reference = (): PodReference => {
    const { namespace, name, uid, pod } = facts();
    return { ...partsOf(pod), namespace, name, uid };
  };
  const onNode = async (action: Parameters<NodeClient["leaving"]>[1], options: Parameters<NodeClient["leaving"]>[3] = {}) => {
    const { node, target } = facts();
    return (await parts.node(node)).leaving(id, action, { pod: reference(), ...(target ? { target } : {}) }, options);
  };
  /** Every node leads the clients that come to it. */
  const onNodes = async (action: Parameters<NodeClient["forwarding"]>[0]) => {
    const { forwarding } = facts();
    if (forwarding) await allSettled((await parts.nodes()).map((node) => node.forwarding(action, forwarding)));
  };

  /** Whoever deleted the pod wants it gone, not moved; and what was changed meanwhile its copy does not have. */
  async function whyUnwanted(): Promise<UmsError | undefined> {
    const { namespace, name, uid, need } = facts();
    const pod = await cluster.get(pods, name, { namespace });
    if (pod?.metadata?.uid !== uid || (pod.metadata.deletionTimestamp !== undefined && !isNodesFault(pod)))
      return new UmsError("POD_DELETED", `Pod ${name} was deleted while it moved.`);
    return isDeepStrictEqual(changeable(pod), changeable(need.pod))
      ? undefined
      : new UmsError("POD_CHANGED", `Pod ${name} was changed while it moved.`);
  }

  /** @throws UmsError POD_DELETED, POD_CHANGED */
  async function expectWanted(): Promise<void> {
    const why = await whyUnwanted();
    if (why) throw why;
  }

  /** @param address at which the destination has proved to this site's node who it is */
  async function arm(signal: AbortSignal, address: string): Promise<void> {
    const { ports: ledTo = {}, podAddress } = await site.ask("POST", "/arm", ArmAnswer, { timeoutMs: limits.reserveMs, signal });
    const { name, need, ports } = facts();
    // The pod is here: whoever still leads its clients to where it was leads them past it.
    await parts.endEarlierForwardings(name);
    // Within one cluster the pod itself can be reached, and a node port of the destination's node would lead back there.
    const own = parts.isOwnSite ? podAddress : undefined;
    const led = ports.flatMap((each) => {
      const toPort = own === undefined ? ledTo[portKey({ port: each.targetPort, protocol: each.protocol })] : each.targetPort;
      return toPort === undefined ? [] : ledPorts(each).map((way) => ({ ...way, toPort }));
    });
    if (led.length === 0) return;
    const leaving = addressesOf(need.pod);
    await parts.facts.set({
      ...facts(),
      forwarding: { slot: await parts.takeSlot(), to: own ?? address, ports: led, leaving },
    });
    await onNodes("wait");
  }

  /** A Service that UMS made for the pod would go with it: by its port come clients from where the pod was before. */
  async function keepServices(): Promise<void> {
    const { namespace, name, ports, forwarding } = facts();
    if (!forwarding) return;
    const { items } = await cluster.list(services, { namespace });
    for (const { metadata } of items) {
      const isOurs = metadata?.labels?.[podLabel] === name && ports.some(({ uid }) => uid === metadata.uid);
      const owners = metadata?.ownerReferences ?? [];
      if (!isOurs || owners.some(({ uid }) => uid === parts.owner.uid)) continue;
      await cluster.patch(services, metadata.name ?? "", { metadata: { ownerReferences: [...owners, parts.owner] } }, { namespace });
    }
  }

  /** A pod whose readiness probes found it held may be out of its Services, which refuse clients then. */
  async function servedAgain(): Promise<void> {
    const { namespace, name, need, heldAt: since } = facts();
    const before = readyCondition(need.pod);
    const budgetMs = readinessBudgetMs(need.pod);
    const isAtRisk = budgetMs !== undefined && since !== undefined && Date.now() - Date.parse(since) >= budgetMs;
    if (!isAtRisk || before?.status !== "True") return;
    await sleep(readinessTimeoutMs(need.pod));
    for (const until = Date.now() + servedAgainMs; Date.now() < until; await sleep(200)) {
      const pod = await cluster.get(pods, name, { namespace }).catch(() => undefined);
      const now = pod && readyCondition(pod);
      if (now?.status !== "True") continue;
      if (!isDeepStrictEqual(now.lastTransitionTime, before.lastTransitionTime)) await sleep(proxyLagMs);
      return;
    }
  }

  /** Ends the pod without letting it run again. */
  async function removePod(): Promise<void> {
    const { namespace, name, uid } = facts();
    // First the deletion, so that the kubelet starts nothing in place of what is killed then. Its own signals and hooks
    // find frozen tasks and a held network, and the tasks die before they run again.
    if (await cluster.delete(pods, name, { namespace, uid, graceSeconds: 1 })) await sleep(deletionLeadMs);
    const { late = 0 } = await onNode("kill");
    if (facts().forwarding) parts.late(late);
    for (const until = Date.now() + goneMs; Date.now() < until; await sleep(200)) {
      if ((await cluster.get(pods, name, { namespace }))?.metadata?.uid !== uid) return;
    }
    throw new UmsError("TIMED_OUT", `Pod ${name} has not gone within ${goneMs / 1000} s.`);
  }

  /** Whether it has ended, will at the thaw, or has been silent for so long that its kubelet ends it. */
  async function isEnding(): Promise<boolean> {
    const { need, heldAt: since } = facts();
    const budgetMs = livenessBudgetMs(need.pod);
    const isOverdue = budgetMs !== undefined && since !== undefined && Date.now() - Date.parse(since) > budgetMs;
    return isOverdue || (await onNode("is-lost")).lost === true;
  }

  /** The memory of a pod that would not outlive its thaw for long, and has no other copy. @returns undefined where none is to be saved */
  async function saveDump(): Promise<Rescued | undefined> {
    if (!(await isEnding())) return undefined;
    const { node, need, namespace } = facts();
    const client = await parts.node(node);
    const { path } = rescuedOn(node);
    if (!(await whyUnwanted()) && (await canRestore(client))) {
      await onNode("end-transfer");
      const { saved } = await client.rescueSnapshot(
        id,
        { path, pod: reference(), need },
        { timeoutMs: snapshotTransfers * limits.transferMs },
      );
      // Its user may have had enough meanwhile.
      if (saved && !(await whyUnwanted())) return rescuedOn(node);
    }
    await client.removeSnapshot({ path, takenBy: id, namespace });
    return undefined;
  }

  /** A node that can't be changed gives its pods away, and takes none in. All else will be tried again. */
  async function canRestore(client: NodeClient): Promise<boolean> {
    const checks = await client.check(measuresOf(facts().need), AbortSignal.timeout(limits.preflightMs));
    return checks.every(({ code }) => code !== "NODE_UNCHANGEABLE");
  }

  /** Nothing of it is a fact's to choose but the node, on which nothing lies by that name that isn't this migration's. */
  const rescuedOn = (node: string): Rescued => ({ node, path: `${rescuedRoot}/${id}`, migration: parts.heir });

  /** @returns whether the pod is made again of its dump */
  async function rescue(): Promise<boolean> {
    const before = facts().rescued;
    const rescued = before ? rescuedOn(before.node) : await saveDump();
    if (!rescued) return false;
    // Before the pod is removed: after that nobody could tell that it was not its user who did it.
    await parts.facts.set({ ...facts(), rescued });
    await removePod();
    await parts.restoreRescued(facts().name, rescued);
    return true;
  }

  let heldAt = 0;
  /** With what no object may tell. Whoever takes over after a crash undoes, and doesn't need it. */
  let wholeNeed: PodNeed | undefined;
  const source: Source = {
    async admit(_plan, signal) {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(limits.preflightMs)]);
      const { facts: found, refusals, notes } = await examinePod(parts, plan.service, limited);
      if (notes.length > 0) parts.noted(notes);
      const [refused] = refusals;
      if (refused) throw new UmsError(refused.code, refused.detail);
      if (!found) return;
      wholeNeed = found.need;
      await parts.facts.set({ ...found, need: withoutSecrets(found.need) });
    },

    preCopy: {
      async run(_plan, signal) {
        const { address = parts.peerHost() } = await onNode("pre-copy", { signal, timeoutMs: limits.transferMs });
        await arm(signal, address);
        // Once more, so that what was written during all that doesn't fall into the freeze.
        await onNode("pre-copy", { signal, timeoutMs: limits.transferMs });
        await onNode("prepare", { signal, timeoutMs: limits.transferMs });
      },
      async discard() {
        await onNode("discard");
        await onNodes("remove");
      },
    },

    async holdClients() {
      const { need, forwarding } = facts();
      const isProbed = livenessBudgetMs(need.pod) !== undefined || readinessBudgetMs(need.pod) !== undefined;
      if (isProbed) await parts.facts.set({ ...facts(), heldAt: new Date().toISOString() });
      // One that came to the pod's own network after the hold there would be dropped, not held.
      if (forwarding) {
        await onNodes("hold");
        await onNode("await-young");
      }
      heldAt = performance.now();
      await onNode("hold");
    },
    async releaseClients() {
      await onNode("release");
      if (facts().forwarding) await servedAgain();
      await onNodes("withdraw");
    },

    async freeze() {
      await onNode("freeze");
    },
    async thaw() {
      if (!(await rescue())) await onNode("thaw");
    },

    async isLost() {
      // Its user may have ended it: then that stands.
      return (await whyUnwanted()) === undefined && (await isEnding());
    },

    async transfer(_plan, signal) {
      // Its end freezes the pod's own group; until then a probe that fails too often has the service killed, and started afresh.
      const budgetMs = livenessBudgetMs(facts().need.pod);
      const leftMs = budgetMs === undefined ? limits.transferMs : heldAt + standstillMs(budgetMs) - performance.now();
      const probed = AbortSignal.timeout(Math.max(0, Math.round(leftMs)));
      const forgotten = onNodes("forget-datagrams");
      forgotten.catch(() => undefined); // met below
      const { parts: took = {}, bytesSent = 0 } = await onNode("transfer", {
        signal: AbortSignal.any([signal, probed]),
        timeoutMs: limits.transferMs,
      }).catch((cause: unknown) => {
        if (!probed.aborted || signal.aborted) throw cause;
        throw new UmsError("LIVENESS", `The pod's liveness probe gives up after ${budgetMs} ms.`, { cause });
      });
      await forgotten;
      for (const [part, milliseconds] of Object.entries(took)) parts.measured(part, milliseconds);
      parts.sent(bytesSent);
    },

    async forwardClients() {
      await allSettled([onNodes("let-through"), onNode("reset")]);
      // Not before: the nodes' connection tracking leads the resets to their clients.
      await onNodes("forget-connections");
    },

    async remove() {
      await keepServices();
      await removePod();
      await site.acknowledge();
    },

    async cleanUp() {
      if (!parts.facts.get()) return; // refused at once
      await onNode("clean-up");
      await onNodes("end-wait");
    },
  };

  const destination: Destination = {
    async reserve(_plan, signal) {
      if (!wholeNeed) throw new UmsError("INTERNAL", `Migration ${id} was not admitted by this operator.`);
      await site.ask("PUT", "", Type.Unknown(), { body: wholeNeed, timeoutMs: limits.reserveMs, signal });
      const created = await site.ask("POST", "/create", CreateAnswer, { timeoutMs: limits.reserveMs, signal });
      await parts.facts.set({ ...facts(), target: parts.dataTarget(created) });
    },
    release: site.release,
    async restore(_plan, signal) {
      await Promise.all([onNode("expect-frozen"), expectWanted()]);
      await site.restore(signal);
      await Promise.all([onNode("expect-frozen"), expectWanted()]); // the last moment at which it can be undone
    },
    destroyRestored: site.destroyRestored,
    async commit() {
      const { pod } = await site.commit(CommitAnswer);
      if (pod) parts.arrived(pod);
    },
  };

  return { source, destination };
}
