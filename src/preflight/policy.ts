/** What may cross a site's border with a service: the one list of what a machine acts upon, and what a destination takes of that. */
import { realpath } from "node:fs/promises";
import path from "node:path";
import type { V1Container, V1PodSpec, V1SecurityContext } from "@kubernetes/client-node";
import type { Accepting } from "../accept.ts";
import type { ContainerSpec } from "../protocol/container-spec.ts";
import type { ContainerNeed } from "../protocol/container.ts";
import type { CheckResult } from "../protocol/measures.ts";
import { verdict } from "./check.ts";

/** A pod as its manifest says: what is judged of it. */
export type JudgedPod = Readonly<{
  metadata?: { namespace?: string; annotations?: Readonly<Record<string, string>>; labels?: Readonly<Record<string, string>> };
  spec?: Pick<
    V1PodSpec,
    "hostNetwork" | "hostPID" | "hostIPC" | "securityContext" | "containers" | "initContainers" | "serviceAccount" | "serviceAccountName"
  > & { volumes?: readonly { name: string; hostPath?: { path: string }; image?: { reference?: string } }[] };
}>;
type JudgedSpec = NonNullable<JudgedPod["spec"]>;

/**
 * Whether an engine, its runtime or CRIU acts upon an annotation. `org.criu.config` names a file of which CRIU takes programs
 * to run as root (runc, docs/checkpoint-restore.md); the others give devices, groups, hooks or another runtime.
 */
export const isActedOn = (annotation: string) =>
  /^(org\.(criu|systemd|opencontainers)\.|run\.oci\.|io\.(podman|kubernetes|container|containers|cri-o|crun|kata-containers)[./-])/.test(
    annotation,
  );

/** By it `podman auto-update` restarts a unit of the host's, whatever that is. */
const unitLabel = "PODMAN_SYSTEMD_UNIT";

const capability = (name: string) => (name.startsWith("CAP_") ? name : `CAP_${name}`);
/** What Podman gives every container (containers.conf(5), default_capabilities). */
const usual = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FOWNER",
  "FSETID",
  "KILL",
  "NET_BIND_SERVICE",
  "SETFCAP",
  "SETGID",
  "SETPCAP",
  "SETUID",
  "SYS_CHROOT",
].map(capability);

/** Security options that take nothing away from the engine's own confinement. A profile is this site's, so not one from a volume. */
const confining = /^(no-new-privileges(=true|:true)?|seccomp=\/(etc|usr)(?!.*\/\.\.?(\/|$))\/.+|mask=.+)$/;

/** A `*` stands for anything. */
const isLike = (pattern: string, text: string) =>
  new RegExp(
    `^${pattern
      .split("*")
      .map((part) => part.replaceAll(".", "\\."))
      .join(".*")}$`,
  ).test(text);

/** Kubernetes' own namespaces must be meant: no pattern for all has them. */
const isNamespace = (pattern: string, namespace: string) =>
  isLike(pattern, namespace) && (pattern.startsWith("kube-") || !namespace.startsWith("kube-"));

/** An image's name as its registry has it, and that with the digest; a tag says nothing of what is in it. */
function imageNames(reference: string): string[] {
  const [name = "", digest] = reference.split("@");
  const given = name.replace(/:[^/:]*$/, "");
  const [registry = ""] = given.split("/");
  // As the kubelet reads it: no repository has capital letters, so what has some is a registry.
  const isWhole = given.includes("/") && (/[.:]/.test(registry) || registry === "localhost" || registry !== registry.toLowerCase());
  const whole = isWhole ? given : `docker.io/${given.includes("/") ? "" : "library/"}${given}`;
  return digest === undefined ? [whole] : [whole, `${whole}@${digest}`];
}

/** What both kinds of sites are asked for. */
type Common = Readonly<{ namespace: string | undefined; images: readonly string[] }>;

function commonRefusals({ namespace, images }: Common, accept: Accepting): string[] {
  const isTaken = (image: string) => accept.images.some((pattern) => imageNames(image).some((name) => isLike(pattern, name)));
  return [
    ...(namespace === undefined || accept.namespaces.some((pattern) => isNamespace(pattern, namespace))
      ? []
      : [`The namespace ${namespace} (accept.namespaces).`]),
    ...[...new Set(images)].filter((image) => !isTaken(image)).map((image) => `The image ${image} (accept.images).`),
  ];
}

const asCheck = (refusals: readonly string[]): CheckResult =>
  verdict("policy", "POLICY", refusals.length === 0 ? [] : ["The destination doesn't take from this site:", ...refusals.slice(0, 20)]);

/** @returns why nothing at all is taken, if so: then nothing else is looked at, or told */
export const notTaken = (approach: Accepting["approaches"][number], accept: Accepting): CheckResult | undefined =>
  accept.approaches.includes(approach) ? undefined : asCheck([`Any service, as ${approach} is not in its accept.approaches.`]);

/**
 * Judges a container as the host would make it.
 * @param namespace of the pod that it was, where it comes from a cluster
 */
export function containerPolicy(
  { spec, image }: Pick<ContainerNeed, "spec" | "image">,
  accept: Accepting,
  namespace?: string,
): CheckResult {
  const { bindMounts, capabilities, unconfined } = accept;
  const isBelow = (place: string, top: string) => place === top || place.startsWith(top.endsWith("/") ? top : `${top}/`);
  const images = [spec.imageName, ...image.names, ...image.digests.filter((digest) => !digest.startsWith("localhost/"))];
  return asCheck([
    ...commonRefusals({ namespace, images }, accept),
    ...Object.keys(spec.annotations)
      .filter(isActedOn)
      .map((name) => `The annotation ${name}.`),
    ...Object.keys(spec.labels)
      .filter((label) => label === unitLabel)
      .map((label) => `The label ${label}.`),
    ...spec.binds
      .filter(({ source }) => !bindMounts.some((top) => isBelow(source, top)))
      .map(({ source }) => `The bind mount of ${source} (accept.bindMounts).`),
    ...spec.capAdd
      .map(capability)
      .filter((name) => !usual.includes(name) && !capabilities.includes(name))
      .map((name) => `The added capability ${name} (accept.capabilities).`),
    ...spec.securityOptions
      .filter((option) => !unconfined && !confining.test(option))
      .map((option) => `The security option ${option} (accept.unconfined).`),
  ]);
}

/** @returns a sentence for each bind mount to which a link leads: a service that writes to an accepted directory can have put it there */
export async function linkedMounts({ binds }: Pick<ContainerSpec, "binds">): Promise<string[]> {
  const found = await Promise.all(
    binds.map(async ({ source }) => {
      const written = path.resolve(source);
      const real = await realpath(written).catch(() => written); // one that is missing is told as that
      return real === written ? [] : [`The bind mount of ${source}: a link leads from there to ${real}.`];
    }),
  );
  return found.flat();
}

/** Sysctls that reach no further than the pod: what kubelets let any pod set, and `baseline` too. */
export const safeSysctls: readonly string[] = [
  "kernel.shm_rmid_forced",
  "net.ipv4.ip_local_port_range",
  "net.ipv4.ip_local_reserved_ports",
  "net.ipv4.ip_unprivileged_port_start",
  "net.ipv4.ping_group_range",
  "net.ipv4.tcp_fin_timeout",
  "net.ipv4.tcp_keepalive_intvl",
  "net.ipv4.tcp_keepalive_probes",
  "net.ipv4.tcp_keepalive_time",
  "net.ipv4.tcp_rmem",
  "net.ipv4.tcp_syncookies",
  "net.ipv4.tcp_wmem",
];
const podCapabilities = [...usual, ...["AUDIT_WRITE", "MKNOD"].map(capability)];
const confinedTypes: readonly string[] = ["RuntimeDefault", "Localhost"];
const confinedLabels: readonly string[] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const appArmorAnnotation = "container.apparmor.security.beta.kubernetes.io/";

/** Of UMS itself, in the cluster: whoever uses these accounts and Secrets is the site; by the label `app` its parts are found. */
export type OwnObjects = Readonly<{ namespace: string; accounts: readonly string[]; secrets: readonly string[]; apps: readonly string[] }>;

/** A field of a pod that is not as `baseline` has it, and what accepts it; without, nothing does. */
type Beyond = Readonly<{ field: string; value: unknown; by?: keyof Accepting }>;
const met = (applies: unknown, field: string, value: unknown, by?: keyof Accepting): Beyond[] =>
  applies ? [{ field, value, ...(by === undefined ? {} : { by }) }] : [];

/**
 * Judges a pod as the cluster would make it by `baseline` of the Pod Security Standards, as of Kubernetes 1.34
 * (kubernetes.io/docs/concepts/security/pod-security-standards), except for what the site accepts.
 */
export function podPolicy(pod: JudgedPod, accept: Accepting, own: OwnObjects): CheckResult {
  const { metadata = {}, spec = { containers: [] } } = pod;
  const containers = [...(spec.initContainers ?? []), ...spec.containers];
  const volumeImages = (spec.volumes ?? []).flatMap(({ image }) => image?.reference ?? []);
  const images = [...containers.flatMap(({ image }) => image ?? []), ...volumeImages];
  const beyond = [...beyondOfPod(spec, metadata.annotations), ...containers.flatMap(beyondOfContainer)];
  const isAccepted = ({ value, by }: Beyond) => {
    const said = by === undefined ? false : accept[by];
    return typeof said === "boolean" ? said : said.some((each) => each === value);
  };
  return asCheck([
    ...commonRefusals({ namespace: metadata.namespace, images }, accept),
    ...(metadata.namespace === own.namespace ? ownRefusals(pod, own) : []),
    ...beyond
      .filter((each) => !isAccepted(each))
      .map(({ field, value, by }) => `${field}: ${String(value).slice(0, 200)} (${by === undefined ? "never taken" : `accept.${by}`}).`),
  ]);
}

function beyondOfPod(spec: JudgedSpec, annotations: Readonly<Record<string, string>> = {}): Beyond[] {
  const { hostNetwork, hostPID, hostIPC, securityContext = {}, volumes = [] } = spec;
  const isConfining = (profile: string) => /^(runtime\/default|localhost\/.*|)$/.test(profile);
  return [
    // No pod that has one of these moves anyway.
    ...Object.entries({ hostNetwork, hostPID, hostIPC }).flatMap(([name, value]) => met(value, `spec.${name}`, value)),
    ...volumes.flatMap(({ name, hostPath }) => met(hostPath, `spec.volumes[${name}].hostPath`, hostPath?.path)),
    ...(securityContext.sysctls ?? []).flatMap(({ name }) =>
      met(!safeSysctls.includes(name), "spec.securityContext.sysctls", name, "sysctls"),
    ),
    ...Object.entries(annotations).flatMap(([name, profile]) =>
      met(name.startsWith(appArmorAnnotation) && !isConfining(profile), `metadata.annotations[${name}]`, profile, "unconfined"),
    ),
    ...beyondOfContext("spec.securityContext", securityContext),
  ];
}

function beyondOfContainer({ name, securityContext = {}, ports = [], lifecycle = {}, ...container }: V1Container): Beyond[] {
  const at = `spec.containers[${name}]`;
  const { capabilities, privileged, procMount = "Default" } = securityContext;
  const { livenessProbe, readinessProbe, startupProbe } = container;
  const callers = { livenessProbe, readinessProbe, startupProbe, postStart: lifecycle.postStart, preStop: lifecycle.preStop };
  return [
    ...met(privileged, `${at}.securityContext.privileged`, privileged, "privileged"),
    ...(capabilities?.add ?? [])
      .map(capability)
      .flatMap((added) => met(!podCapabilities.includes(added), `${at}.securityContext.capabilities.add`, added, "capabilities")),
    ...met(procMount !== "Default", `${at}.securityContext.procMount`, procMount, "unconfined"),
    ...ports.flatMap(({ hostPort }) => met(hostPort, `${at}.ports.hostPort`, hostPort, "hostPorts")),
    ...Object.entries(callers).flatMap(([field, caller]) =>
      [caller?.httpGet?.host, caller?.tcpSocket?.host].flatMap((host) => met(host, `${at}.${field}.host`, host, "probeHosts")),
    ),
    ...beyondOfContext(`${at}.securityContext`, securityContext),
  ];
}

/** What a pod's and a container's security context have in common. */
function beyondOfContext(
  at: string,
  context: Pick<V1SecurityContext, "seccompProfile" | "appArmorProfile" | "seLinuxOptions" | "windowsOptions">,
): Beyond[] {
  const { seccompProfile, appArmorProfile, seLinuxOptions = {}, windowsOptions } = context;
  const { type = "", user, role } = seLinuxOptions;
  return [
    ...Object.entries({ seccompProfile, appArmorProfile }).flatMap(([name, profile]) =>
      met(profile && !confinedTypes.includes(profile.type), `${at}.${name}.type`, profile?.type, "unconfined"),
    ),
    ...met(!confinedLabels.includes(type), `${at}.seLinuxOptions.type`, type, "unconfined"),
    ...Object.entries({ user, role }).flatMap(([name, value]) => met(value, `${at}.seLinuxOptions.${name}`, value, "unconfined")),
    ...met(windowsOptions?.hostProcess, `${at}.windowsOptions.hostProcess`, true),
  ];
}

function ownRefusals({ metadata, spec = { containers: [] } }: JudgedPod, { accounts, secrets, apps }: OwnObjects): string[] {
  const found = new Set<string>();
  const { app } = metadata?.labels ?? {};
  if (app !== undefined && apps.includes(app)) found.add(`The label app=${app}`);
  for (const account of [spec.serviceAccountName, spec.serviceAccount])
    if (account !== undefined && accounts.includes(account)) found.add(account);
  JSON.stringify(spec, (key, value: unknown) => {
    if ((key === "name" || key === "secretName") && typeof value === "string" && secrets.includes(value)) found.add(value);
    return value;
  });
  return [...found].map((name) => `${name}, which is UMS's own (never taken).`);
}
