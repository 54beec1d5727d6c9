/**
 * The destination's half, as the coordinator answers it: the Pod, a Service that leads to it, and its node's interface.
 * It keeps nothing in memory, so any replica can answer any request; what it must know is in the records.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Accepting } from "../../accept.ts";
import { codeFrom, UmsError } from "../../errors.ts";
import { sharedLook } from "../../shared-look.ts";
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import { endpointSlices, type Kind, type KubernetesObject, type Pod, pods, services } from "../../platforms/kubernetes/kinds.ts";
import { verdict } from "../../preflight/check.ts";
import { notTaken, type OwnObjects, podPolicy } from "../../preflight/policy.ts";
import { type ArmAnswer, type CheckAnswer, type CreateAnswer, type PeerState, portKey } from "../../protocol/conversation.ts";
import { type CheckResult, measuresOf } from "../../protocol/measures.ts";
import type { ServiceNeed } from "../../protocol/need.ts";
import type { PodNeed, PublishedPort } from "../../protocol/pod.ts";
import { podOfContainer } from "../translation/pod-of-container.ts";
import { asChecks, understood } from "../translation/refusals.ts";
import { createArrivalPlaces } from "./arrival-places.ts";
import type { NodeClient } from "./node/client.ts";
import { withoutSecrets } from "./pod-need.ts";
import { arrivedAnnotation, destinationPod, podLabel, restoreAnnotation, startBudgetMs } from "./pod.ts";

/** What a migration to this site leaves behind until it has ended, and a little after. */
export type ArrivalRecord = Readonly<{
  id: string;
  peer: string;
  /** When its source was last known to want it, in milliseconds since the epoch. */
  seenAt: number;
  /** A person has deleted its object. */
  deleted: boolean;
  ended?: "committed" | "gone";
  facts: ArrivalFacts;
}>;

/** Whether this site owns the service. Only once does it change, so that a commit and an end of the lease can't both come true. */
export type Verdict = "open" | "committed" | "abandoned";

export type ArrivalFacts = Readonly<{
  /** Missing where a crash came first. */
  need?: PodNeed;
  verdict?: Verdict;
  /** Set before the Pod is made: from then on one may be there. */
  making?: boolean;
  podUid?: string;
  node?: string;
  token?: string;
  nodePorts?: Readonly<Record<string, number>>;
  /** It was looked, some time after it had ended, for what a request that came late may have made. */
  swept?: boolean;
}>;

export type ArrivalRecords = Readonly<{
  find(id: string): Promise<ArrivalRecord | undefined>;
  /** Durable when it resolves, as are all of these. @throws UmsError COPY_IS_GONE when the id has been here before */
  create(record: { id: string; peer: string; need: PodNeed }): Promise<void>;
  /** Those that have not ended. */
  open(): Promise<{ id: string; peer: string }[]>;
  /** Notes that this id never commits here. Of each site a bounded number of such notes is kept. */
  refuse(id: string, peer: string): Promise<void>;
  /** @throws UmsError COPY_IS_GONE unless its verdict is open */
  update(id: string, facts: Partial<ArrivalFacts>): Promise<void>;
  /** Decides it, if nobody has. @returns what it is now */
  decide(id: string, verdict: Exclude<Verdict, "open">): Promise<Exclude<Verdict, "open">>;
  end(id: string, outcome: "committed" | "gone"): Promise<void>;
  /** Its source knows of the commit: nobody will ask for it again. Before that no person can delete the record of a commit. */
  acknowledge(id: string): Promise<void>;
  /** Those that have not ended, or have not been swept. */
  unfinished(): Promise<ArrivalRecord[]>;
  swept(id: string): Promise<void>;
}>;

export type IncomingPodParts = Readonly<{
  cluster: Cluster;
  records: ArrivalRecords;
  node(name: string): Promise<NodeClient>;
  nodes(): Promise<NodeClient[]>;
  /** What is taken from a site; undefined: it is this very one, whose pods are here already. */
  accept(peer: string): Accepting | undefined;
  own: OwnObjects;
  /** How many migrations come at once. */
  maxIncoming: number;
  /** Of one site; undefined: as many as it likes, for it is this very one. */
  maxOfPeer(peer: string): number | undefined;
  /** Port of the interfaces for other sites. */
  dataPort: number;
  limits: { scheduleMs: number; armMs: number; restoreMs: number; reserveMs: number; leaseMs: number };
  log: { info(details: object, message: string): void; warn(details: object, message: string): void };
}>;

export type IncomingPods = Readonly<{
  check(peer: string, asked: ServiceNeed, signal: AbortSignal): Promise<CheckAnswer>;
  reserve(id: string, peer: string, asked: ServiceNeed): Promise<object>;
  create(id: string, peer: string): Promise<CreateAnswer>;
  arm(id: string, peer: string): Promise<ArmAnswer>;
  restore(id: string, peer: string): Promise<void>;
  /** @returns the Pod, as the original's answer shows it */
  commit(id: string, peer: string): Promise<{ pod: Pod | null }>;
  acknowledge(id: string, peer: string): Promise<void>;
  destroy(id: string, peer: string): Promise<void>;
  state(id: string, peer: string): Promise<PeerState>;
  /**
   * Gives up what a source that has gone has left, and finishes the commits of a coordinator that has died. Several
   * replicas may do it at once.
   */
  collect(): Promise<void>;
}>;

type WholeFacts = ArrivalFacts & Readonly<{ need: PodNeed }>;
type WholeRecord = ArrivalRecord & Readonly<{ facts: WholeFacts }>;
const isWhole = (record: ArrivalRecord): record is WholeRecord => record.facts.need !== undefined;

const serviceName = (id: string) => `ums-${id}`;
const isOf = (podUid: string, { metadata }: KubernetesObject) => metadata?.ownerReferences?.some(({ uid }) => uid === podUid) ?? false;
const pollMs = 50;
/** After this time nobody works on a commit any more. */
const commitMs = 15_000;
const labels = { "app.kubernetes.io/managed-by": "ums" };

export function createIncomingPods(parts: IncomingPodParts): IncomingPods {
  const { cluster, records, limits, log } = parts;
  const places = createArrivalPlaces({ open: () => records.open(), most: parts.maxIncoming, mostOf: (peer) => parts.maxOfPeer(peer) });
  /** All pods of a cluster may be many, and any paired site can have them looked through. */
  const allPods = sharedLook(() => cluster.list(pods, { namespace: undefined }));

  /** @throws UmsError NOT_YOURS, COPY_IS_GONE */
  const mine = async (id: string, peer: string) => expectMine(await records.find(id), id, peer);
  function expectMine(record: ArrivalRecord | undefined, id: string, peer: string): WholeRecord {
    if (record && record.peer !== peer) throw new UmsError("NOT_YOURS", `Migration ${id} is another site's.`);
    if (!record || record.ended === "gone" || !isWhole(record) || record.facts.verdict === "abandoned")
      throw new UmsError("COPY_IS_GONE", `This site has no copy for migration ${id}.`);
    return record;
  }
  const placeOf = ({ need }: WholeFacts) => ({ namespace: need.pod.metadata.namespace, name: need.pod.metadata.name });
  const onNode = ({ need, podUid = "" }: WholeFacts) => ({
    namespace: need.pod.metadata.namespace,
    name: need.pod.metadata.name,
    uid: podUid,
    containers: need.containers.map(({ name }) => name),
  });

  /** A host's container becomes a Pod first, if it can be one. */
  async function understand(peer: string, asked: ServiceNeed, signal: AbortSignal): Promise<{ need: PodNeed; checks: CheckResult[] }> {
    const accept = parts.accept(peer);
    const closed = accept && notTaken("orchestrator-level", accept);
    const { need, refusals } = asked.kind === "Pod" ? { need: asked, refusals: [] } : podOfContainer(asked);
    if (closed) return { need, checks: [closed] };
    return { need, checks: refusals.length > 0 ? asChecks(refusals) : await checkPod(need, accept, signal) };
  }

  async function checkPod(need: PodNeed, accept: Accepting | undefined, signal: AbortSignal): Promise<CheckResult[]> {
    const { namespace, name } = need.pod.metadata;
    const { pod, judged } = understood(() => {
      const made = destinationPod(need.pod, { migration: "000000000000", images: need.containers, node: need.node });
      return { pod: made, judged: accept ? [podPolicy(made, accept, parts.own)] : [] };
    });
    const taken = await cluster.get(pods, name, { namespace, signal });
    const refused = await cluster.create(pods, pod, { namespace, dryRun: true, signal }).then(
      (admitted) => added(pod, admitted),
      (cause: unknown) => {
        if (cause instanceof ClusterError && cause.status !== undefined && cause.code !== "API_SERVER_UNREACHABLE") return cause.message;
        throw cause;
      },
    );
    return [
      ...judged,
      verdict("name", "NAME_TAKEN", taken ? [`Pod ${name} exists already in namespace ${namespace}.`] : []),
      // Quota, admission policies, a missing namespace, service account or priority class: the API server's own words.
      verdict("the API server takes the pod", "POD_REFUSED", taken || refused === undefined ? [] : [refused]),
      ...(await checkNodes(need, signal)),
    ];
  }

  /** What the node that fits best says: which one it will be is the scheduler's. */
  async function checkNodes(need: PodNeed, signal: AbortSignal): Promise<CheckResult[]> {
    const all = need.node === undefined ? await parts.nodes() : [await parts.node(need.node)];
    const answers = await Promise.all(
      all.map(async (client) =>
        (await checkNode(client, need, signal)).map(({ name: check, ...result }) => ({ name: `${check} of ${client.node}`, ...result })),
      ),
    );
    const failures = (answer: readonly CheckResult[]) => answer.filter(({ ok }) => !ok).length;
    const [best] = answers.toSorted((a, b) => failures(a) - failures(b));
    return best ?? [verdict("nodes", "INTERFACE_MISSING", ["UMS's interface runs on no node."])];
  }

  async function checkNode(client: NodeClient, need: PodNeed, signal: AbortSignal): Promise<CheckResult[]> {
    return await client
      .check(measuresOf(need), signal)
      .catch((cause: unknown) => [verdict("interface", "INTERFACE_MISSING", [cause instanceof Error ? cause.message : String(cause)])]);
  }

  async function waitForNode(id: string, { namespace, name }: { namespace: string; name: string }): Promise<{ node: string; pod: Pod }> {
    let reason = "no scheduler has looked at it";
    for (const until = Date.now() + limits.scheduleMs; Date.now() < until; await sleep(pollMs)) {
      const pod = await cluster.get(pods, name, { namespace });
      if (pod?.metadata?.annotations?.[restoreAnnotation] !== id)
        throw new UmsError("POD_DELETED", `Pod ${name} was deleted while it arrived.`);
      if (pod.spec?.nodeName) return { node: pod.spec.nodeName, pod };
      reason = pod.status?.conditions?.find(({ type }) => type === "PodScheduled")?.message ?? reason;
    }
    throw new UmsError("NO_NODE", `No node takes the pod: ${reason}.`);
  }

  /** Leads from a port of every node to the pod, which is not Ready, so that no Service of the user's leads there yet. */
  async function lead(id: string, { need, podUid = "" }: WholeFacts, podAddress: string): Promise<(PublishedPort & { of: string })[]> {
    if (need.ports.length === 0) return [];
    const { namespace, name: pod } = need.pod.metadata;
    const name = serviceName(id);
    const byKey = new Map(need.ports.map((led) => [portKey(led), led]));
    const ports = [...byKey.values()].map(({ port, protocol }) => ({
      name: `${protocol}-${port}`,
      port,
      protocol: protocol.toUpperCase(),
    }));
    // They go with the pod, by the cluster's own garbage collector.
    const ownerReferences = [{ apiVersion: "v1", kind: "Pod", name: pod, uid: podUid }];
    const before = await cluster.get(services, name, { namespace });
    if (before && !isOf(podUid, before)) throw new UmsError("NAME_TAKEN", `Service ${name} is somebody else's.`);
    const made =
      before ??
      (await cluster.create(
        services,
        {
          apiVersion: "v1",
          kind: "Service",
          metadata: { name, namespace, labels: { ...labels, [podLabel]: pod }, ownerReferences },
          spec: { type: "NodePort", ports },
        },
        { namespace },
      ));
    await removeOf(podUid, endpointSlices, { namespace, name });
    await cluster.create(
      endpointSlices,
      {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { name, namespace, labels: { ...labels, "kubernetes.io/service-name": name }, ownerReferences },
        addressType: "IPv4",
        endpoints: [{ addresses: [podAddress], conditions: { ready: true } }],
        ports,
      },
      { namespace },
    );
    return [...byKey].map(([of, { port, protocol }]) => {
      const found = made.spec?.ports?.find((each) => each.port === port && (each.protocol ?? "TCP") === protocol.toUpperCase());
      return { of, port: found?.nodePort ?? 0, protocol };
    });
  }

  async function removeAll(id: string, facts: WholeFacts): Promise<void> {
    const { namespace, name } = placeOf(facts);
    const pod = await cluster.get(pods, name, { namespace });
    // A crash may have come between the making and the noting of it.
    const uid = pod?.metadata?.annotations?.[restoreAnnotation] === id ? pod.metadata.uid : undefined;
    if (uid !== undefined) await cluster.delete(pods, name, { namespace, graceSeconds: 0, uid });
    const node = facts.node ?? (uid === undefined ? undefined : pod?.spec?.nodeName);
    const podUid = facts.podUid ?? uid;
    if (node !== undefined && podUid !== undefined) await (await parts.node(node)).destroy(id, { ...onNode(facts), uid: podUid });
    await removeLead(id, facts);
  }

  async function removeLead(id: string, facts: WholeFacts): Promise<void> {
    const at = { namespace: placeOf(facts).namespace, name: serviceName(id) };
    if (facts.podUid === undefined) return;
    await removeOf(facts.podUid, endpointSlices, at);
    await removeOf(facts.podUid, services, at);
  }

  /** Removes an object if it was made for this pod: one that only has the name is somebody else's. */
  async function removeOf<T extends KubernetesObject>(
    podUid: string,
    kind: Kind<T>,
    { namespace, name }: { namespace: string; name: string },
  ): Promise<void> {
    const found = await cluster.get(kind, name, { namespace });
    const uid = found?.metadata?.uid;
    if (found && uid !== undefined && isOf(podUid, found)) await cluster.delete(kind, name, { namespace, uid });
  }

  /** Lets clients in, once this site owns the service. Can be repeated. */
  async function takeOver(id: string, facts: WholeFacts): Promise<Pod | undefined> {
    const { namespace, name } = placeOf(facts);
    const [pod] = await Promise.all([
      cluster.get(pods, name, { namespace }),
      facts.node === undefined ? undefined : parts.node(facts.node).then((client) => client.takeOver(id, onNode(facts))),
    ]);
    return pod;
  }

  /** What nobody waits for, after that. Can be repeated. */
  async function settle(id: string, facts: WholeFacts, pod: Pod | undefined): Promise<void> {
    const { namespace, name } = placeOf(facts);
    if (pod?.metadata?.annotations?.[restoreAnnotation] === id)
      await cluster.patch(pods, name, { metadata: { annotations: { [restoreAnnotation]: null } } }, { namespace });
    await records.end(id, "committed");
  }

  /** Whether the copy has been silent for so long that its kubelet ends it, or is about to: nobody who comes later can stop that. */
  async function isOverdue(facts: WholeFacts): Promise<boolean> {
    const budgetMs = startBudgetMs(facts.need.pod);
    if (budgetMs === undefined) return false;
    const pod = await cluster.get(pods, placeOf(facts).name, placeOf(facts));
    const starts = (pod?.status?.containerStatuses ?? []).flatMap(({ state }) => state?.running?.startedAt ?? []);
    // Told to the second, so that it may be up to one less than it seems.
    return starts.some((start) => Date.now() - new Date(start).getTime() > budgetMs);
  }

  /** @returns false where this site owns it */
  async function giveUp(record: ArrivalRecord): Promise<boolean> {
    if ((await records.decide(record.id, "abandoned")) === "committed") return false;
    if (isWhole(record)) await removeAll(record.id, record.facts);
    await records.end(record.id, "gone");
    return true;
  }

  async function collectOne(record: ArrivalRecord): Promise<void> {
    const { id, facts, seenAt } = record;
    const silentMs = Date.now() - seenAt;
    if (record.ended === "gone") {
      // A request that had begun before the end may have made a Pod after it; none takes longer than this.
      if (silentMs < limits.reserveMs) return;
      if (isWhole(record)) await removeAll(id, record.facts);
      await records.swept(id);
    } else if (facts.verdict === "committed") {
      if (silentMs < commitMs || !isWhole(record)) return;
      await settle(id, record.facts, await takeOver(id, record.facts));
      log.info({ id }, "a commit that a crash had left is finished");
    } else if (facts.verdict === "abandoned" || record.deleted || silentMs > limits.leaseMs) {
      if (await giveUp(record)) log.info({ id, silentMs, deleted: record.deleted }, "an arrival is given up");
    }
  }

  return {
    check: async (peer, asked, signal) => ({ checks: (await understand(peer, asked, signal)).checks, imageBytes: 0 }),

    async reserve(id, peer, asked) {
      const record = await records.find(id);
      if (record) {
        const { facts } = await mine(id, peer);
        if (asked.kind === "Pod" && facts.need.pod.metadata.uid !== asked.pod.metadata.uid)
          throw new UmsError("BAD_REQUEST", `Migration ${id} is another pod's.`);
        return {};
      }
      await places.during({ id, peer }, async () => {
        const { need, checks } = await understand(peer, asked, AbortSignal.timeout(60_000));
        expectOk(checks);
        await records.create({ id, peer, need: withoutSecrets(need) });
      });
      return {};
    },

    async create(id, peer) {
      const { facts } = await mine(id, peer);
      if (facts.token !== undefined) return { data: { token: facts.token, port: parts.dataPort } };
      const { need } = facts;
      const place = placeOf(facts);
      await records.update(id, { making: true });
      const before = await cluster.get(pods, place.name, { namespace: place.namespace });
      if (!before) {
        const pod = destinationPod(need.pod, { migration: id, images: need.containers, node: need.node });
        await cluster.create(pods, pod, { namespace: place.namespace });
      }
      const { node, pod } = await waitForNode(id, place);
      const podUid = pod.metadata?.uid ?? "";
      const client = await parts.node(node);
      expectOk(await checkNode(client, need, AbortSignal.timeout(limits.scheduleMs)));
      const secret = randomBytes(16).toString("hex");
      const token = `${client.address}/${secret}`;
      await records.update(id, { podUid, node, token });
      const { containers, volumes, memoryBytes, fileBytes } = need;
      const names = containers.map(({ name }) => name);
      const mounts = Object.fromEntries(containers.map(({ name, launch }) => [name, launch.mounts]));
      await client.announce(id, { ...place, uid: podUid, peer, secret, containers: names, mounts, volumes, memoryBytes, fileBytes });
      return { data: { token, port: parts.dataPort } };
    },

    async arm(id, peer) {
      const { facts } = await mine(id, peer);
      if (facts.node === undefined) throw new UmsError("PEER_FAILED", `Migration ${id} has no pod here yet.`);
      const client = await parts.node(facts.node);
      const watching = new AbortController();
      // An image that can't be pulled is told by the pod's status; nothing on the node would ever say so.
      const stuck = expectNoTrouble(placeOf(facts), watching.signal);
      try {
        const armed = client.arm(id, { timeoutMs: limits.armMs, signal: watching.signal });
        const { podAddress } = await Promise.race([armed, stuck]);
        const published = await lead(id, facts, podAddress);
        const nodePorts = Object.fromEntries(published.map(({ of, port }) => [of, port]));
        await Promise.all([
          records.update(id, { nodePorts }),
          client.expectLed(published.map(({ port, protocol }) => ({ port, protocol }))),
        ]);
        return { ports: nodePorts, podAddress };
      } finally {
        watching.abort();
      }
    },

    async restore(id, peer) {
      const { facts } = await mine(id, peer);
      const client = await parts.node(facts.node ?? "");
      await client.restore(id, { timeoutMs: limits.restoreMs }).catch(async (cause: unknown) => {
        // An interface that was started again after a restore knows nothing of it, but finds what runs.
        const isUnknown = cause instanceof UmsError && cause.code === "COPY_IS_GONE";
        if (!isUnknown || (await client.state(id, onNode(facts))) !== "restored") throw cause;
      });
    },

    async commit(id, peer) {
      const found = await records.find(id);
      // Whose it was is not known any more, so nothing of the Pod is told.
      if (!found && (await hasArrived(id))) return { pod: null };
      const record = expectMine(found, id, peer);
      const { facts, ended } = record;
      if (ended === "committed") return { pod: (await cluster.get(pods, placeOf(facts).name, placeOf(facts))) ?? null };
      if (facts.verdict !== "committed") {
        const onItsNode = await (await parts.node(facts.node ?? "")).state(id, onNode(facts));
        const state = onItsNode === "restored" && (await isOverdue(facts)) ? "gone" : onItsNode;
        if (state !== "gone" && state !== "restored") throw new UmsError("PEER_FAILED", `Migration ${id} is ${state} here.`);
        if (state === "gone" ? await giveUp(record) : (await records.decide(id, "committed")) === "abandoned")
          throw new UmsError("COPY_IS_GONE", "The copy ended before the commit.");
      }
      const pod = await takeOver(id, facts);
      // Clients wait for the answer, and for nothing of this; what a crash leaves of it is collected.
      void settle(id, facts, pod).catch((cause: unknown) => log.warn({ id, cause }, "a commit's end is left to the next look"));
      return { pod: pod ? withoutRestore(pod) : null };
    },

    async acknowledge(id, peer) {
      if ((await records.find(id))?.peer === peer) await records.acknowledge(id);
    },

    async destroy(id, peer) {
      const record = await records.find(id);
      if (!record) {
        if (await hasArrived(id)) throw new UmsError("TOO_LATE", `Migration ${id} is committed here.`);
        return await records.refuse(id, peer); // a late request of it is refused
      }
      if (record.peer !== peer) throw new UmsError("NOT_YOURS", `Migration ${id} is another site's.`);
      if (record.ended === "gone") return;
      if (record.ended === "committed" || !(await giveUp(record))) throw new UmsError("TOO_LATE", `Migration ${id} is committed here.`);
    },

    async collect() {
      for (const record of await records.unfinished()) {
        await collectOne(record).catch((cause: unknown) => log.warn({ id: record.id, cause }, "an arrival could not be tidied up"));
      }
    },

    async state(id, peer) {
      const record = await mine(id, peer);
      if (record.ended) return record.ended;
      if (record.facts.node === undefined) return "reserved";
      return await (await parts.node(record.facts.node)).state(id, onNode(record.facts));
    },
  };

  /** Whether a pod has come by this migration, whose record is not there any more. */
  async function hasArrived(id: string): Promise<boolean> {
    const { items } = await allPods();
    return items.some(
      ({ metadata: { annotations } = {} }) => annotations?.[arrivedAnnotation] === id && annotations[restoreAnnotation] !== id,
    );
  }

  /** Rejects when the kubelet says that the pod can't be started; never resolves. */
  async function expectNoTrouble({ namespace, name }: { namespace: string; name: string }, signal: AbortSignal): Promise<never> {
    const fatal = /^(ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|CreateContainerConfigError)$/;
    while (!signal.aborted) {
      const pod = await cluster.get(pods, name, { namespace }).catch(() => undefined);
      const waiting = (pod?.status?.containerStatuses ?? []).map(({ name: container, state }) => ({ container, ...state?.waiting }));
      const trouble = waiting.find(({ reason = "" }) => fatal.test(reason));
      if (trouble) throw new UmsError("POD_REFUSED", `Container ${trouble.container}: ${trouble.reason}: ${trouble.message ?? ""}`);
      await sleep(500, undefined, { signal }).catch(() => undefined);
    }
    return await new Promise<never>(() => undefined);
  }
}

/** What this cluster's admission puts into a pod beside its containers: nothing could restore that. */
function added({ spec: asked }: Pod, { spec: admitted }: Pod): string | undefined {
  const names = (spec: Pod["spec"]) => [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].map(({ name }) => name);
  const extra = names(admitted).filter((name) => !names(asked).includes(name));
  return extra.length === 0 ? undefined : `This cluster's admission adds the container ${extra.join(", ")} to the pod.`;
}

/** As it is a moment later. */
function withoutRestore({ metadata, ...pod }: Pod): Pod {
  const { [restoreAnnotation]: _restore, ...annotations } = metadata?.annotations ?? {};
  return { metadata: { ...metadata, annotations }, ...pod };
}

function expectOk(checks: readonly CheckResult[]): void {
  const refused = checks.find(({ ok }) => !ok);
  if (refused) throw new UmsError(codeFrom(refused.code), refused.detail ?? refused.name);
}
