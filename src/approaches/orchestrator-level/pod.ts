/** A Pod that moves: whether it can, what of it its destination needs, and the Pod that the destination makes of it. */
import type { ErrorCode } from "../../errors.ts";
import type { Pod, Service } from "../../platforms/kubernetes/kinds.ts";
import type { Protocol } from "../../protocol/forms.ts";
import type { PodReference } from "../../protocol/pod.ts";

/** Names the migration whose restore a pod's containers wait for; the shim reads it, the commit removes it. */
export const restoreAnnotation = "ums.dev/restore";
/** On a pod that came by a migration: that one's id, also after the commit. */
export const arrivedAnnotation = "ums.dev/migration";
const runtimeClass = "ums";
/** On a Service that UMS made for a pod which arrived: the pod's name. It has no selector, as it leads to the pod before that is Ready. */
export const podLabel = "ums.dev/pod";
/** The node label that the RuntimeClass asks for, and that its admission writes into a pod. */
const restoresLabel = "ums.dev/restores";

type Refusal = Readonly<{ code: ErrorCode; detail: string }>;
type Container = NonNullable<Pod["spec"]>["containers"][number];

/** What moves with a pod or is made anew at the destination; every other kind of volume stays where it is. */
const movableVolumes = new Set(["emptyDir", "configMap", "secret", "projected", "downwardAPI"]);
const standardResources = /^(cpu|memory|ephemeral-storage)$/;

/** Why this pod can't move, as its object alone tells. */
export function podRefusals(pod: Pod): Refusal[] {
  const { metadata = {}, spec, status = {} } = pod;
  if (!spec) return [{ code: "SERVICE_NOT_RUNNING", detail: "The pod has no spec." }];
  const containers = [...(spec.initContainers ?? []), ...spec.containers];
  const refusals: (Refusal | false | undefined)[] = [
    status.phase !== "Running" && { code: "SERVICE_NOT_RUNNING", detail: `Pod ${metadata.name} is ${status.phase ?? "unknown"}.` },
    metadata.deletionTimestamp !== undefined && { code: "SERVICE_NOT_RUNNING", detail: `Pod ${metadata.name} is being deleted.` },
    ...(metadata.ownerReferences ?? []).map(({ kind, name }) => ({
      code: "POD_OWNED" as const,
      detail: `${kind} ${name} owns the pod, and would make another in its place.`,
    })),
    ...(metadata.finalizers ?? []).map((finalizer) => ({
      code: "POD_OWNED" as const,
      detail: `The finalizer ${finalizer} keeps the pod when it is deleted.`,
    })),
    metadata.annotations?.["kubernetes.io/config.mirror"] !== undefined && {
      code: "POD_OWNED",
      detail: "It is a static pod: the kubelet would make it again.",
    },
    metadata.annotations?.[restoreAnnotation] !== undefined && { code: "ALREADY_MIGRATING", detail: "The pod is still arriving here." },
    ...(["hostNetwork", "hostPID", "hostIPC"] as const).map(
      (field) => spec[field] === true && { code: "HOST_NAMESPACE" as const, detail: `The pod has ${field}.` },
    ),
    spec.shareProcessNamespace === true && { code: "SHARED_PROCESSES", detail: "The pod's containers share a PID namespace." },
    spec.hostUsers === false && { code: "USER_NAMESPACE", detail: "The pod runs in a user namespace (hostUsers: false)." },
    spec.runtimeClassName !== undefined &&
      spec.runtimeClassName !== runtimeClass && { code: "RUNTIME_NOT_RUNC", detail: `The pod's RuntimeClass is ${spec.runtimeClassName}.` },
    (spec.resourceClaims ?? []).length > 0 && { code: "DEVICE", detail: "The pod has resource claims." },
    (spec.ephemeralContainers ?? []).length > 0 && { code: "UNSUPPORTED_SETTING", detail: "The pod has ephemeral containers." },
    ...(spec.volumes ?? []).flatMap(volumeRefusals),
    ...containers.flatMap(containerRefusals),
    ...runningContainers(pod).map(
      ({ name, livenessProbe }) =>
        // One that is under way when clients are held fails, whenever they are let go again.
        livenessProbe?.failureThreshold === 1 && {
          code: "LIVENESS" as const,
          detail: `The liveness probe of container ${name} gives up after a single failure.`,
        },
    ),
    // The kubelet starts nothing beside a sidecar whose probe has not succeeded, and one that is held answers none.
    ...sidecars(pod).map(
      ({ name, startupProbe }) =>
        startupProbe && { code: "UNSUPPORTED_SETTING" as const, detail: `The sidecar ${name} has a startupProbe.` },
    ),
    ...spec.containers.map(
      ({ name, startupProbe }) =>
        startupProbe &&
        status.containerStatuses?.some((each) => each.name === name && each.started === false) && {
          code: "SERVICE_NOT_RUNNING" as const,
          detail: `Container ${name} is still starting: its startupProbe has not succeeded yet.`,
        },
    ),
    ...(status.containerStatuses ?? []).map(
      ({ name, state }) => !state?.running && { code: "SERVICE_NOT_RUNNING" as const, detail: `Container ${name} does not run.` },
    ),
  ];
  return refusals.filter((refusal) => refusal !== false && refusal !== undefined);
}

function volumeRefusals(volume: NonNullable<NonNullable<Pod["spec"]>["volumes"]>[number]): Refusal[] {
  const kind = Object.keys(volume).find((key) => key !== "name") ?? "emptyDir";
  if (kind === "hostPath") return [{ code: "HOST_PATH", detail: `Volume ${volume.name} is ${volume.hostPath?.path} of the node.` }];
  if (kind === "persistentVolumeClaim" || kind === "ephemeral") return [{ code: "CLAIM", detail: `Volume ${volume.name} is a claim.` }];
  if (volume.emptyDir?.medium?.startsWith("HugePages")) return [{ code: "HUGEPAGES", detail: `Volume ${volume.name} is of huge pages.` }];
  return movableVolumes.has(kind) ? [] : [{ code: "VOLUME_UNSUPPORTED", detail: `Volume ${volume.name} is of kind ${kind}.` }];
}

function containerRefusals({ name, resources, tty, volumeDevices, lifecycle }: Container): Refusal[] {
  const wanted = [...new Set([...Object.keys(resources?.limits ?? {}), ...Object.keys(resources?.requests ?? {})])];
  return wanted
    .filter((resource) => !standardResources.test(resource))
    .map((resource): Refusal =>
      resource.startsWith("hugepages-")
        ? { code: "HUGEPAGES", detail: `Container ${name} has ${resource}.` }
        : { code: "DEVICE", detail: `Container ${name} has ${resource}.` },
    )
    .concat(tty === true ? [{ code: "TERMINAL", detail: `Container ${name} has a terminal.` }] : [])
    .concat(
      // Its hold keeps the pod's own network silent; another host would be told that the pod ends.
      lifecycle?.preStop?.httpGet?.host
        ? [{ code: "UNSUPPORTED_SETTING", detail: `The preStop hook of container ${name} calls ${lifecycle.preStop.httpGet.host}.` }]
        : [],
    )
    .concat((volumeDevices ?? []).length > 0 ? [{ code: "CLAIM", detail: `Container ${name} has a block device.` }] : []);
}

/** Init containers that go on running. */
const sidecars = ({ spec }: Pod): Container[] => (spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === "Always");
/** The containers that run, in the order in which the kubelet starts them. */
const runningContainers = (pod: Pod): Container[] => [...sidecars(pod), ...(pod.spec?.containers ?? [])];

/** Kubernetes' own defaults, which the API server has filled in, as a rule. */
const probeDefaults = { periodSeconds: 10, timeoutSeconds: 1, failureThreshold: 3 };

type Probe = NonNullable<Container["livenessProbe"]>;
const patienceMs = (probe: Probe) => {
  const { periodSeconds, timeoutSeconds, failureThreshold } = { ...probeDefaults, ...probe };
  return (failureThreshold - 1) * periodSeconds * 1000 + timeoutSeconds * 1000;
};
const least = (times: readonly number[]) => (times.length === 0 ? undefined : Math.min(...times));

/** For how long no liveness probe can have failed so often that the kubelet kills a container; undefined: there is none. */
export const livenessBudgetMs = (pod: Pod) =>
  least(runningContainers(pod).flatMap(({ livenessProbe }) => (livenessProbe ? [patienceMs(livenessProbe)] : [])));

/**
 * For how long of such a budget (ms) the containers may stand still, so that an undo is done before it ends also on a busy
 * machine: all but a quarter, which is at least one second and at most five.
 */
export const standstillMs = (budgetMs: number) => Math.max(0, Math.round(budgetMs - Math.min(5_000, Math.max(1_000, budgetMs / 4))));

/** For how long no readiness probe can have failed so often that the pod is taken out of its Services; undefined: there is none. */
export const readinessBudgetMs = (pod: Pod) =>
  least(
    runningContainers(pod).flatMap(({ readinessProbe }) => {
      if (!readinessProbe) return [];
      const { periodSeconds, timeoutSeconds, failureThreshold } = { ...probeDefaults, ...readinessProbe };
      // One that was under way when the hold began fails as well.
      return [Math.max(0, (failureThreshold - 1) * periodSeconds - timeoutSeconds) * 1000];
    }),
  );

/** For how long a readiness probe that found the pod held may take to fail. */
export const readinessTimeoutMs = (pod: Pod) =>
  Math.max(
    0,
    ...runningContainers(pod).map(({ readinessProbe }) => (readinessProbe?.timeoutSeconds ?? probeDefaults.timeoutSeconds) * 1000),
  );

/** The condition by which a pod's Services lead to it, or don't. */
export const readyCondition = ({ status }: Pod) => status?.conditions?.find(({ type }) => type === "Ready");

/** What kube-proxy takes to follow a pod that has become Ready. */
export const proxyLagMs = 2_000;

/** The budget of containers that answer no probe from their start on. */
export const startBudgetMs = (pod: Pod) =>
  least(
    runningContainers(pod).flatMap(({ startupProbe, livenessProbe }) => {
      const probe = startupProbe ?? livenessProbe;
      return probe ? [(probe.initialDelaySeconds ?? 0) * 1000 + patienceMs(probe)] : [];
    }),
  );

/** @throws Error where the pod's status lacks a container: it is refused before */
export function podReference(pod: Pod): PodReference {
  const { metadata = {}, spec, status = {} } = pod;
  const statuses = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  return {
    namespace: metadata.namespace ?? "default",
    name: metadata.name ?? "",
    uid: metadata.uid ?? "",
    containers: runningContainers(pod).map(({ name }) => {
      const found = statuses.find((each) => each.name === name);
      return { name, id: found?.containerID?.replace(/^[a-z-]+:\/\//, "") ?? "", restarts: found?.restartCount ?? 0 };
    }),
    volumes: (spec?.volumes ?? []).flatMap(({ name, emptyDir }) => (emptyDir ? [name] : [])),
  };
}

/** Each running container's image by its digest, where the node knows one. */
export function pulledImages(pod: Pod): { name: string; image?: string }[] {
  const { status = {} } = pod;
  const statuses = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  return runningContainers(pod).map(({ name }) => {
    // An image that was only imported has no registry's digest, and is a bare id here.
    const image = statuses.find((each) => each.name === name)?.imageID ?? "";
    return { name, ...(/.@sha256:[0-9a-f]{64}$/.test(image) ? { image } : {}) };
  });
}

/** A Service's port that leads to a port of the pod. */
export type ServicePort = Readonly<{
  service: string;
  /** The Service's own: another one of its name may get other addresses, and those addresses may become another's. */
  uid: string;
  protocol: Protocol;
  clusterIp?: string;
  port: number;
  nodePort?: number;
  targetPort: number;
}>;

function selects({ metadata, spec }: Service, pod: Pod): boolean {
  if (metadata?.labels?.[podLabel] !== undefined) return metadata.labels[podLabel] === pod.metadata?.name;
  const selector = Object.entries(spec?.selector ?? {});
  return selector.length > 0 && selector.every(([key, value]) => pod.metadata?.labels?.[key] === value);
}

/** Of the Services that lead to a pod, those by which it can't be led away: they lead to others of its namespace, too. */
export function sharedServices(pod: Pod, services: readonly Service[], all: readonly Pod[]): Refusal[] {
  const others = all.filter(
    ({ metadata, status }) =>
      metadata?.uid !== pod.metadata?.uid && metadata?.deletionTimestamp === undefined && status?.phase === "Running",
  );
  return services
    .filter((service) => service.spec?.clusterIP !== "None" && selects(service, pod))
    .flatMap((service) => {
      const other = others.find((each) => selects(service, each));
      const [shared, name] = [service.metadata?.name, other?.metadata?.name];
      return other ? [{ code: "SERVICE_SHARED" as const, detail: `Service ${shared} leads to pod ${name}, too.` }] : [];
    });
}

/** The ports by which the Services of its namespace lead to the pod. */
export function servicePorts(pod: Pod, services: readonly Service[]): ServicePort[] {
  const named = new Map(
    runningContainers(pod).flatMap(({ ports = [] }) =>
      ports.flatMap(({ name, containerPort }) => (name === undefined ? [] : [[name, containerPort] as const])),
    ),
  );
  return services
    .filter((service) => selects(service, pod))
    .flatMap(({ metadata, spec }) =>
      (spec?.ports ?? []).flatMap(({ port, nodePort, targetPort, protocol: upper = "TCP" }): ServicePort[] => {
        // IntOrString on the wire: a number, a name, or nothing for the same as the port.
        const target = targetPort;
        const resolved = typeof target === "string" ? named.get(target) : (target ?? port);
        const clusterIp = spec?.clusterIP === "None" ? undefined : spec?.clusterIP;
        const protocol = upper.toLowerCase();
        if ((protocol !== "tcp" && protocol !== "udp") || resolved === undefined) return [];
        return [
          {
            service: metadata?.name ?? "",
            uid: metadata?.uid ?? "",
            protocol,
            port,
            targetPort: resolved,
            ...(clusterIp === undefined ? {} : { clusterIp }),
            ...(nodePort === undefined ? {} : { nodePort }),
          },
        ];
      }),
    );
}

/** What will be different for the clients of a pod that has moved to another cluster. @returns a sentence each */
export function podNotes(pod: Pod, services: readonly Service[]): string[] {
  const own = services.filter((service) => selects(service, pod));
  const hostPorts = runningContainers(pod).flatMap(({ ports = [] }) => ports.flatMap(({ hostPort }) => hostPort ?? []));
  const isIPv6 = ({ spec }: Service) => (spec?.clusterIPs ?? []).some((address) => address.includes(":"));
  const named = (service: Service) => service.metadata?.name ?? "";
  return [
    ...(servicePorts(pod, own).some(({ protocol }) => protocol === "tcp")
      ? ["Connections that are open at the move are reset: clients connect again."]
      : []),
    ...hostPorts.map((port) => `Clients of the node's own port ${port} (hostPort) are not led to the destination.`),
    ...own
      .filter(({ spec }) => spec?.clusterIP === "None")
      .map((service) => `The name ${named(service)} (a headless Service) leads nowhere after the move.`),
    ...own.filter(isIPv6).map((service) => `Clients of Service ${named(service)} by IPv6 are not led to the destination: only IPv4 is.`),
  ];
}

/**
 * The Pod that the destination makes. docs/kubernetes.md lists each field that changes, and why.
 * @param images as the source runs them, by digest
 * @param node where it is to run, if that is not the scheduler's choice
 */
export function destinationPod(
  pod: Pod,
  {
    migration,
    images,
    node,
  }: { migration: string; images: readonly { name: string; image?: string | undefined }[]; node?: string | undefined },
): Pod {
  const { metadata = {}, spec } = pod;
  if (!spec) throw new Error("The pod has no spec.");
  const { nodeName: _node, priority: _priority, overhead: _overhead, ephemeralContainers: _debug, ...kept } = spec;
  const digestOf = new Map(images.map(({ name, image }) => [name, image?.split("@")[1]]));
  const moved = ({ lifecycle, ...container }: Container): Container => {
    const digest = digestOf.get(container.name);
    const { postStart: _done, ...hooks } = lifecycle ?? {};
    return {
      ...container,
      ...(digest === undefined || container.image?.includes("@") ? {} : { image: `${container.image}@${digest}` }),
      ...(Object.keys(hooks).length === 0 ? {} : { lifecycle: hooks }),
    };
  };
  // Those that have run to their end don't run again.
  const initContainers = sidecars(pod).map(moved);
  const { initContainers: _all, nodeSelector = {}, ...withoutInit } = kept;
  const { [restoresLabel]: _ours, ...nodeLabels } = nodeSelector;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: metadata.name ?? "",
      namespace: metadata.namespace ?? "default",
      ...(metadata.labels ? { labels: metadata.labels } : {}),
      annotations: { ...metadata.annotations, [restoreAnnotation]: migration, [arrivedAnnotation]: migration },
    },
    spec: {
      ...withoutInit,
      ...(node === undefined ? {} : { nodeName: node }),
      ...(Object.keys(nodeLabels).length > 0 ? { nodeSelector: nodeLabels } : {}),
      ...(initContainers.length > 0 ? { initContainers } : {}),
      containers: spec.containers.map(moved),
      runtimeClassName: runtimeClass,
    },
  };
}
