/** The parts of UMS in a cluster, each a process of its own: `ums coordinator`, `ums operator`, `ums interface`. */
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyBaseLogger } from "fastify";
import type { Logger } from "pino";
import { readAccept } from "../accept-form.ts";
import { accepting } from "../accept.ts";
import { openDataConnection } from "../approaches/data-connection.ts";
import { placesOfPeer } from "../approaches/peer-bounds.ts";
import { createIncomingPods, type IncomingPods } from "../approaches/orchestrator-level/incoming.ts";
import { createArriving } from "../approaches/orchestrator-level/node/arriving.ts";
import { nodeChecks } from "../approaches/orchestrator-level/node/checks.ts";
import { createLeaving } from "../approaches/orchestrator-level/node/leaving.ts";
import { createPlaces } from "../approaches/orchestrator-level/node/places.ts";
import { createPodControl } from "../approaches/orchestrator-level/node/pod-control.ts";
import { createSnapshots } from "../approaches/orchestrator-level/node/snapshots.ts";
import type { Criu } from "../checkpoint/dump.ts";
import {
  clusterLimits,
  type ClusterSettings,
  coordinatorNodePort,
  coordinatorPort,
  healthPort,
  interfaceHealth,
  interfacePort,
  ownAccounts,
  ownApps,
  ownCoordinator,
} from "../cluster-settings.ts";
import { type Cluster, openCluster } from "../platforms/kubernetes/client.ts";
import { connectByKubeconfig, connectInCluster } from "../platforms/kubernetes/connection.ts";
import { followInterfaces } from "../platforms/kubernetes/interfaces.ts";
import { nodes } from "../platforms/kubernetes/kinds.ts";
import { standForLeader } from "../platforms/kubernetes/lease.ts";
import { createTermGuard } from "../platforms/kubernetes/term.ts";
import { nodeTrustSecretName, openTrustSecret, trustSecretName } from "../platforms/kubernetes/trust-store.ts";
import { type Check, checked, summary, verdict } from "../preflight/check.ts";
import { criuChecks } from "../preflight/site.ts";
import { formatAddress } from "../protocol/address.ts";
import type { DataTarget } from "../protocol/conversation.ts";
import type { CheckResult, Measures } from "../protocol/measures.ts";
import { snapshotRoot } from "../protocol/names.ts";
import { listenForHealth } from "../server/health.ts";
import { createPeerServer, listenForPeers } from "../server/peer-server.ts";
import type { Role } from "../trust/identity.ts";
import { createPairing } from "../trust/pairing.ts";
import { shareWithNodes } from "../trust/share.ts";
import { openTrust, type Trust } from "../trust/trust.ts";
import { createArrivalRecords } from "./coordinator/arrivals.ts";
import { createClusterCoordinator } from "./coordinator/cluster.ts";
import { createLocalApi, createOriginalApi, listenOnSocket } from "./coordinator/http.ts";
import { createMetrics } from "./coordinator/metrics.ts";
import { registerPeerRoutes } from "./coordinator/peer-routes.ts";
import { createPeople } from "./coordinator/people.ts";
import { createPodmigrationRequests } from "./coordinator/podmigrations.ts";
import { takeData } from "./interface/data.ts";
import { install, onNode } from "./interface/installation.ts";
import { registerLeavingRoutes } from "./interface/leaving-routes.ts";
import { registerNodeRoutes } from "./interface/routes.ts";
import { registerSnapshotRoutes } from "./interface/snapshot-routes.ts";
import { operate } from "./operator/operator.ts";
import { answerPodmigrations } from "./operator/podmigrations.ts";

export type Part = Readonly<{ settings: ClusterSettings; log: Logger; signal: AbortSignal }>;

const socketPath = "/tmp/ums.sock";
/** On the node; mounted at the same paths into the interface's pod. */
const nodeDirectories = {
  work: "/var/lib/ums/work",
  staging: { changes: "/var/lib/containerd/ums", volumes: "/var/lib/kubelet/ums" },
} as const;
const imageDirectories = ["/dev/shm/ums", "/var/lib/ums/images"];
const collectEveryMs = 20_000;
/** Every caller may have the address of a node there: nobody is kept out for what another did. */
const behindNodePort = { barredMs: 0 };
const restoresLabel = "ums.dev/restores";
const criu = "/opt/ums/criu/criu";

async function open(
  { settings, log, signal }: Part,
  { role = "site", makesKeys = false }: { role?: Role; makesKeys?: boolean } = {},
): Promise<{ cluster: Cluster; trust: Trust }> {
  const connection =
    settings.KUBECONFIG === undefined
      ? connectInCluster({ host: settings.KUBERNETES_SERVICE_HOST, port: settings.KUBERNETES_SERVICE_PORT })
      : await connectByKubeconfig(settings.KUBECONFIG);
  const cluster = openCluster(connection);
  const siteName = settings.SITE_NAME ?? (await defaultSiteName(cluster));
  const onTrouble = (cause: unknown) => log.warn({ cause }, "the site's keys can't be watched");
  const forNodes = openTrustSecret(cluster, { secretName: nodeTrustSecretName, signal, onTrouble });
  const store = role === "node" ? forNodes : openTrustSecret(cluster, { signal, onTrouble });
  const trust = await openTrust(store, siteName, { role, makesKeys, signal });
  if (makesKeys)
    void shareWithNodes(trust, forNodes, { signal, onTrouble: (cause) => log.warn({ cause }, "the nodes' keys can't be written") });
  return { cluster, trust };
}

/** A cluster has no name of its own; the id of its oldest namespace is as lasting. */
async function defaultSiteName(cluster: Cluster): Promise<string> {
  const { namespaces } = await import("../platforms/kubernetes/kinds.ts");
  const oldest = await cluster.get(namespaces, "kube-system");
  return `cluster-${oldest?.metadata?.uid?.slice(0, 8) ?? "unnamed"}`;
}

export async function runCoordinator(part: Part): Promise<void> {
  const { settings, log, signal } = part;
  const accept = readAccept(settings.ACCEPT, "The environment's ACCEPT");
  const { cluster, trust } = await open(part, { makesKeys: true });
  const interfaces = await followInterfaces({ cluster, trust, service: settings.SSU_INTERFACE_SERVICE, port: interfacePort, signal });
  const coordinator = await createClusterCoordinator({ cluster, trust, interfaces, limits: clusterLimits, log, signal });
  const told = settings.ADVERTISE.split(/[\s,]+/).filter(Boolean);
  const { SSU_INTERFACE_HOST: host } = settings;
  const addresses = told.length > 0 || host === undefined ? told : [formatAddress({ host, port: coordinatorNodePort })];
  const pairing = createPairing({ trust, addresses, port: coordinatorPort });
  const logger = log as FastifyBaseLogger;
  const parts = {
    coordinator,
    trust,
    pairing,
    addresses,
    accept,
    metrics: createMetrics(() => coordinator.migrations()),
    log: logger,
    original: {
      approach: "ssu" as const,
      podmigrations: createPodmigrationRequests(cluster),
      ...(settings.SSU_INTERFACE_ENABLE === ""
        ? {}
        : { ssu: { host: settings.SSU_INTERFACE_HOST, port: settings.SSU_INTERFACE_NODEPORT } }),
    },
  };
  const api = createLocalApi(parts);
  await listenOnSocket(api, { path: socketPath });
  const unsafeApi = settings.UNSAFE_HTTP ? createOriginalApi(parts) : undefined;
  await unsafeApi?.ready();
  if (unsafeApi) log.warn("UNSAFE_HTTP is set: whoever reaches this port by plain HTTP may move any pod");
  const incoming = createIncomingPods({
    cluster,
    records: createArrivalRecords(cluster, { siteName: trust.siteName }),
    node: interfaces.node,
    nodes: async () => interfaces.all(),
    accept: (peer) => (peer === trust.siteName ? undefined : accepting(accept, trust.peer(peer)?.accept)),
    own: {
      namespace: cluster.namespace,
      accounts: ownAccounts,
      secrets: [trustSecretName, nodeTrustSecretName],
      apps: [...ownApps, settings.SSU_INTERFACE_SERVICE],
    },
    maxIncoming: settings.MAX_INCOMING_MIGRATIONS,
    // What moves within the cluster takes nobody's place.
    maxOfPeer: (peer) =>
      peer === trust.siteName ? undefined : placesOfPeer(peer, { peers: trust.peers(), all: settings.MAX_INCOMING_MIGRATIONS }),
    dataPort: settings.SSU_INTERFACE_NODEPORT,
    limits: clusterLimits,
    log,
  });
  void collectArrivals(incoming, part);
  const server = createPeerServer({
    trust,
    pairing,
    log: logger,
    people: createPeople(cluster, api),
    limits: behindNodePort,
    ...(unsafeApi ? { unsafeHttp: unsafeApi } : {}),
    registerPeerRoutes(app) {
      const { create, arm, restore, commit, acknowledge, collect: _, ...arrivals } = incoming;
      registerPeerRoutes(app, { ...arrivals, actions: { create, arm, restore, commit, acknowledge } });
    },
    onData: (socket) => void socket.destroy(), // the interfaces take data
  });
  await listenForPeers(server, { host: "::", port: coordinatorPort });
  await using health = await listenForHealth({ port: healthPort });
  void health;
  log.info({ site: trust.siteName, fingerprint: trust.fingerprint }, "serving");
  await aborted(signal);
  await server.close();
  await api.close();
  await unsafeApi?.close();
  interfaces.close();
}

async function collectArrivals(incoming: IncomingPods, { log, signal }: Part): Promise<void> {
  while (!signal.aborted) {
    await incoming.collect().catch((cause: unknown) => log.warn({ cause }, "arrivals could not be looked at"));
    await sleep(collectEveryMs, undefined, { signal }).catch(() => undefined);
  }
}

export async function runOperator(part: Part): Promise<void> {
  const { settings, log, signal } = part;
  await using health = await listenForHealth({ port: healthPort });
  void health;
  const { cluster, trust } = await open(part);
  await standForLeader({
    cluster,
    namespace: cluster.namespace,
    name: "migration-operator",
    identity: settings.POD_NAME,
    signal,
    onTrouble: (cause) => log.warn({ cause }, "the operators' lease"),
    lead: async (tenure) => {
      log.info({ owner: tenure.owner, site: trust.siteName }, "leading");
      const { SSU_INTERFACE_SERVICE: service } = settings;
      const interfaces = await followInterfaces({ cluster, trust, service, port: interfacePort, term: tenure.term, signal: tenure.signal });
      const coordinatorAddress = ownCoordinator(settings, cluster.namespace);
      const parts = { cluster, trust, interfaces, coordinatorAddress, log };
      const { MAX_CONCURRENT_MIGRATIONS: maxConcurrentMigrations, BREAKPOINTS } = settings;
      await Promise.all([
        operate({ ...parts, maxConcurrentMigrations, limits: clusterLimits, breakpoints: BREAKPOINTS !== "" }, tenure),
        answerPodmigrations({ ...parts, limits: clusterLimits }, tenure),
      ]).finally(() => interfaces.close());
    },
  });
}

export async function runInterface(part: Part): Promise<void> {
  const { settings, log, signal } = part;
  const { cluster, trust } = await open(part, { role: "node" });
  await mkdir(nodeDirectories.work, { recursive: true, mode: 0o700 });
  const common = {
    workDirectory: nodeDirectories.work,
    imageDirectories,
    limits: clusterLimits,
    check: async (waiting: AbortSignal) => summary("CRIU", await criuChecks(criu, waiting)),
    openData: (target: DataTarget, migrationId: string, waiting: AbortSignal) =>
      openDataConnection(trust, target, { migrationId, signal: waiting }),
  };
  const dumping: Criu = [...onNode, criu];
  const snapshots = createSnapshots({
    ...common,
    control: createPodControl(dumping),
    root: snapshotRoot,
    log,
  });
  const places = createPlaces(common);
  const leaving = snapshots.apartFrom(createLeaving({ ...common, places, criu: dumping, log }));
  const arriving = createArriving({
    imageDirectories,
    stagingDirectories: nodeDirectories.staging,
    restoreTimeoutMs: clusterLimits.restoreMs,
    log,
  });
  let unchangeable: string | undefined;
  const check = async (measures: Measures, waiting: AbortSignal): Promise<CheckResult[]> =>
    unchangeable === undefined
      ? await nodeChecks(measures, { criu, imageDirectories, stagingDirectory: nodeDirectories.staging.volumes }, waiting)
      : [verdict("the node's runtime", "NODE_UNCHANGEABLE", [unchangeable])];
  const doctor = async (waiting: AbortSignal): Promise<Check[]> => [
    ...(await criuChecks(criu, waiting)),
    checked("pods that arrive", unchangeable === undefined, "NODE_UNCHANGEABLE", unchangeable ?? "their containers can be restored here"),
  ];
  const terms = createTermGuard(path.join(nodeDirectories.work, "term"));
  const server = createPeerServer({
    trust,
    log,
    limits: behindNodePort,
    registerPeerRoutes: () => undefined,
    registerOwnRoutes(app) {
      registerNodeRoutes(app, { arriving, check, doctor, terms, address: settings.HOST_IP });
      registerLeavingRoutes(app, { leaving, places });
      registerSnapshotRoutes(app, snapshots, places);
    },
    onData: (socket, head, connection) => {
      takeData({ socket, head, connection }, { trust, arriving, address: settings.HOST_IP, port: interfacePort }).catch(
        (cause: unknown) => {
          log.warn({ migration: connection.migrationId, cause }, "a data connection was refused");
          socket.destroy();
        },
      );
    },
  });
  // First of all: a pod may be frozen.
  await snapshots.recover();
  // Sources need CRIU alone; a node that can't be changed still gives its pods away.
  try {
    const { changed } = await install({ restart: settings.CONTAINERD_RESTART });
    log.info({ changed, node: settings.NODE_NAME }, "the node can take pods in");
  } catch (cause) {
    unchangeable = cause instanceof Error ? cause.message : String(cause);
    log.warn({ cause, node: settings.NODE_NAME }, "the node can't take pods in");
  }
  const labels = { [restoresLabel]: unchangeable === undefined ? "true" : null };
  await cluster.patch(nodes, settings.NODE_NAME, { metadata: { labels } }, { signal });
  await arriving.sweep();
  await listenForPeers(server, { host: settings.HOST_IP, port: interfacePort });
  await using health = await listenForHealth(interfaceHealth);
  void health;
  log.info({ site: trust.siteName, node: settings.NODE_NAME }, "serving");
  await aborted(signal);
  await snapshots.close();
  leaving.close();
  arriving.close();
  await server.close();
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, "abort");
}
