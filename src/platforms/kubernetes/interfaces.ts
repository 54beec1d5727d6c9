/** The interfaces of the cluster's nodes: where each one is, and how the site's other parts call it. */
import type { ArrivalState } from "../../approaches/orchestrator-level/node/arriving.ts";
import type { LeavingAction, NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import { UmsError } from "../../errors.ts";
import type { SnapshotSummary } from "../../protocol/snapshot.ts";
import { createSelfClient, type PeerClient, type PeerRequest } from "../../trust/peer-client.ts";
import type { Trust } from "../../trust/trust.ts";
import type { Cluster } from "./client.ts";
import { nodes, type Pod, pods } from "./kinds.ts";
import { formatTerm, type Term, termHeader } from "./term.ts";

export type Interfaces = Readonly<{
  /** Also of a node whose object is gone: nothing of such a node runs any more. @throws UmsError INTERFACE_MISSING */
  node(name: string): Promise<NodeClient>;
  /**
   * Without those of nodes that are down, which keep their pods. One that is only being started again is waited for. A node
   * that was down and has come back has another client than before.
   */
  all(): NodeClient[];
  close(): void;
}>;

type Known = {
  pod: string | undefined;
  life: string;
  isOnDeadNode: boolean;
  /** It did not answer the last request. */
  isSilent: boolean;
  client: NodeClient;
  connection: PeerClient;
};

const shortMs = 20_000;
const longMs = 120_000;

/**
 * Follows the pods of the DaemonSet; resolves when it has seen those that are there.
 * @param options.service the label `app` of those pods (SSU_INTERFACE_SERVICE)
 * @param options.term of the operator that calls: nodes refuse it once they have heard of a later one
 */
export async function followInterfaces({
  cluster,
  trust,
  service,
  port,
  term,
  signal,
}: {
  cluster: Cluster;
  trust: Trust;
  service: string;
  port: number;
  term?: Term;
  signal: AbortSignal;
}): Promise<Interfaces> {
  const headers = term && { [termHeader]: formatTerm(term) };
  const clients = new Map<string, Known>();
  const selection = { namespace: cluster.namespace, labelSelector: `app=${service}` };

  const forget = (node: string) => {
    clients.get(node)?.connection.close();
    clients.delete(node);
  };
  const note = (pod: Pod) => {
    const { metadata, spec, status } = pod;
    const node = spec?.nodeName;
    const address = status?.hostIP;
    if (node === undefined || address === undefined || status?.phase !== "Running") return;
    const isOnDeadNode = isLost(pod);
    // A container that was started again may be that of a node that was: what it had is gone.
    const life = `${metadata?.uid} ${status.containerStatuses?.map(({ restartCount }) => restartCount).join(" ")}`;
    const known = clients.get(node);
    if (known?.life === life) {
      // Nobody has told it anything meanwhile.
      if (known.isOnDeadNode && !isOnDeadNode) known.client = { ...known.client };
      known.isOnDeadNode = isOnDeadNode;
      return;
    }
    forget(node);
    const connection = createSelfClient(trust, {
      who: `The interface of node ${node}`,
      address: `${address}:${port}`,
      role: "node",
      ...(headers ? { headers } : {}),
    });
    const listening: Pick<PeerClient, "request"> = {
      async request<T>(options: PeerRequest) {
        try {
          const answer = await connection.request<T>(options);
          fresh.isSilent = false;
          return answer;
        } catch (cause) {
          fresh.isSilent = cause instanceof UmsError && (cause.code === "SITE_UNREACHABLE" || cause.code === "TIMED_OUT");
          throw cause;
        }
      },
    };
    const client = createNodeClient(node, address, listening);
    const fresh: Known = { pod: metadata?.uid, life, isOnDeadNode, isSilent: false, client, connection };
    clients.set(node, fresh);
  };

  const { items } = await cluster.list(pods, { ...selection, signal });
  items.forEach(note);
  void (async () => {
    for await (const { type, object } of cluster.watch(pods, { ...selection, signal })) {
      if (type === "present") note(object);
      else if (clients.get(object.spec?.nodeName ?? "")?.pod === object.metadata?.uid) forget(object.spec?.nodeName ?? "");
    }
  })();

  return {
    async node(name) {
      const found = clients.get(name);
      if (found && !found.isSilent) return found.client;
      const missing = new UmsError("INTERFACE_MISSING", `No interface of UMS runs on node ${name}.`);
      // The pods of a node that was deleted stay for a minute or so.
      const isThere = name !== "" && (await cluster.get(nodes, name, { signal })) !== undefined;
      if (found && isThere) return found.client;
      if (name === "" || isThere) throw missing;
      return createGoneNode(name, missing);
    },
    all: () => [...clients.values()].filter(({ isOnDeadNode }) => !isOnDeadNode).map(({ client }) => client),
    close() {
      for (const node of [...clients.keys()]) forget(node);
    },
  };
}

/** A kubelet that has gone leaves its containers ready; it is the control plane that says that their pod is not. */
function isLost({ status }: Pod): boolean {
  const isReady = status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True") ?? false;
  return !isReady && (status?.containerStatuses ?? []).length > 0 && (status?.containerStatuses ?? []).every(({ ready }) => ready);
}

/**
 * Whoever deletes a Node says that it is gone for good, as Kubernetes itself takes it (its PodGC removes the pods of such
 * nodes): what was there has ended, there is nothing to undo, and nothing new can be asked for.
 */
function createGoneNode(node: string, missing: UmsError): NodeClient {
  const refuse = () => Promise.reject(missing);
  const isUndo = (action: LeavingAction) => ["release", "end-transfer", "thaw", "kill", "reset", "discard", "clean-up"].includes(action);
  return {
    node,
    address: "",
    greet: refuse,
    doctor: refuse,
    describe: refuse,
    check: refuse,
    leaving: async (_id, action) => (action === "is-lost" ? { lost: true } : isUndo(action) ? {} : await refuse()),
    announce: refuse,
    arm: refuse,
    restore: refuse,
    state: async () => "gone",
    takeOver: async () => undefined,
    destroy: async () => undefined,
    expectLed: refuse,
    forwarding: async () => undefined,
    keepForwardings: async () => undefined,
    takeSnapshot: refuse,
    rescueSnapshot: async () => ({ saved: false }),
    removeSnapshot: async () => undefined,
    findSnapshot: async () => undefined,
    replaySnapshot: refuse,
  };
}

function createNodeClient(node: string, address: string, { request }: Pick<PeerClient, "request">): NodeClient {
  const post = <T>(path: string, body?: unknown, options: Pick<PeerRequest, "timeoutMs" | "signal"> = {}) =>
    request<T>({ method: "POST", path: `/node${path}`, timeoutMs: shortMs, ...(body === undefined ? {} : { body }), ...options });
  return {
    node,
    address,
    greet: async (signal) => void (await request({ method: "GET", path: "/peer/healthcheck", timeoutMs: shortMs, signal })),
    doctor: (signal) => request({ method: "GET", path: "/node/doctor", timeoutMs: longMs, signal }),
    describe: (reference, signal) => post("/describe", reference, { signal, timeoutMs: longMs }),
    check: (measures, signal) => post("/check", measures, { signal, timeoutMs: longMs }),
    leaving: (id, action, leaving, options = {}) => post(`/leaving/${id}/${action}`, leaving, options),
    announce: async (id, pod) => void (await request({ method: "PUT", path: `/node/arriving/${id}`, body: pod, timeoutMs: shortMs })),
    arm: (id, { timeoutMs, signal }) =>
      post(`/arriving/${id}/arm`, { timeoutMs }, { timeoutMs: timeoutMs + shortMs, ...(signal ? { signal } : {}) }),
    restore: async (id, { timeoutMs }) => void (await post(`/arriving/${id}/restore`, undefined, { timeoutMs })),
    state: async (id, pod) => (await post<{ state: ArrivalState }>(`/arriving/${id}/state`, pod)).state,
    takeOver: async (id, pod) => void (await post(`/arriving/${id}/take-over`, pod)),
    destroy: async (id, pod) => void (await post(`/arriving/${id}/destroy`, pod, { timeoutMs: longMs })),
    expectLed: async (ports) => void (await post("/led", { ports })),
    forwarding: async (action, forwarding) => void (await post(`/forwarding/${action}`, forwarding)),
    keepForwardings: async (slots) => void (await post("/forwardings/keep", { slots })),
    takeSnapshot: (id, wanted, options) => post(`/snapshots/${id}/take`, wanted, options),
    rescueSnapshot: (id, wanted, options) => post(`/snapshots/${id}/rescue`, wanted, options),
    removeSnapshot: async (which) => void (await post("/snapshots/remove", which, { timeoutMs: longMs })),
    findSnapshot: async (path, signal) =>
      (await post<{ snapshot?: SnapshotSummary }>("/snapshots/find", { path }, { signal, timeoutMs: shortMs })).snapshot,
    replaySnapshot: (id, wanted, options) => post(`/snapshots/${id}/replay`, wanted, options),
  };
}
