/** Pods as `baseline` of the Pod Security Standards takes them, and as it doesn't: the API server judges them alike (e2e/kubernetes-policy.e2e.test.ts). */
import type { Accept } from "../accept-form.ts";
import type { Pod } from "../platforms/kubernetes/kinds.ts";

const image = "registry.example/shop:1";
type Fields = Readonly<Record<string, unknown>>;

const pod = (spec: Fields, container: Fields = {}, annotations: Readonly<Record<string, string>> = {}) =>
  ({ metadata: { namespace: "shop", annotations }, spec: { containers: [{ name: "main", image, ...container }], ...spec } }) as Pod;
const context = (securityContext: Fields) => pod({}, { securityContext });
const podContext = (securityContext: Fields) => pod({ securityContext });
const beside = (container: Fields) =>
  pod({ initContainers: [{ name: "side", image, restartPolicy: "Always", securityContext: container }] });
const appArmor = (profile: string) => pod({}, {}, { "container.apparmor.security.beta.kubernetes.io/main": profile });
const probe = (action: Fields) => pod({}, { livenessProbe: action });

export const withinBaseline: readonly (readonly [what: string, pod: Pod])[] = [
  ["nothing of its own", pod({})],
  [
    "capabilities of every container",
    context({ capabilities: { add: ["AUDIT_WRITE", "MKNOD", "SETPCAP", "NET_BIND_SERVICE"], drop: ["ALL"] } }),
  ],
  ["not privileged", context({ privileged: false, procMount: "Default" })],
  ["confined by profiles", podContext({ seccompProfile: { type: "RuntimeDefault" }, appArmorProfile: { type: "RuntimeDefault" } })],
  ["by profiles of the node", context({ seccompProfile: { type: "Localhost", localhostProfile: "a.json" } })],
  ["an SELinux type for containers, and a level", podContext({ seLinuxOptions: { type: "container_init_t", level: "s0:c1,c2" } })],
  ["safe sysctls", podContext({ sysctls: [{ name: "net.ipv4.tcp_rmem", value: "4096 131072 6291456" }] })],
  ["a port", pod({}, { ports: [{ containerPort: 80 }] })],
  ["a probe of itself", probe({ httpGet: { path: "/", port: 80 } })],
  [
    "volumes of the cluster",
    pod({
      volumes: [
        { name: "a", emptyDir: {} },
        { name: "b", secret: { secretName: "own" } },
      ],
    }),
  ],
  ["an account", pod({ serviceAccountName: "clerk", automountServiceAccountToken: true })],
  ["AppArmor's default by annotation", appArmor("runtime/default")],
  ["root, who may become more", context({ runAsUser: 0, allowPrivilegeEscalation: true })],
];

/** With the field that is told, and what accepts it, if anything does. */
export type BeyondBaseline = Readonly<{ what: string; pod: Pod; field: string; accept: Accept | undefined }>;
const cases: readonly (readonly [string, Pod, string, Accept?])[] = [
  ["the node's network", pod({ hostNetwork: true }), "spec.hostNetwork"],
  ["the node's processes", pod({ hostPID: true }), "spec.hostPID"],
  ["the node's IPC", pod({ hostIPC: true }), "spec.hostIPC"],
  ["a directory of the node", pod({ volumes: [{ name: "etc", hostPath: { path: "/etc" } }] }), "spec.volumes[etc].hostPath: /etc"],
  ["privileged", context({ privileged: true }), "spec.containers[main].securityContext.privileged", { privileged: true }],
  ["a privileged sidecar", beside({ privileged: true }), "spec.containers[side].securityContext.privileged", { privileged: true }],
  [
    "a capability",
    context({ capabilities: { add: ["NET_ADMIN"] } }),
    "capabilities.add: CAP_NET_ADMIN",
    { capabilities: ["CAP_NET_ADMIN"] },
  ],
  ["all capabilities", context({ capabilities: { add: ["ALL"] } }), "capabilities.add: CAP_ALL", { capabilities: ["CAP_ALL"] }],
  ["NET_RAW", context({ capabilities: { add: ["NET_RAW"] } }), "capabilities.add: CAP_NET_RAW", { capabilities: ["CAP_NET_RAW"] }],
  [
    "seccomp off",
    context({ seccompProfile: { type: "Unconfined" } }),
    "securityContext.seccompProfile.type: Unconfined",
    { unconfined: true },
  ],
  [
    "seccomp off for the pod",
    podContext({ seccompProfile: { type: "Unconfined" } }),
    "spec.securityContext.seccompProfile.type",
    { unconfined: true },
  ],
  ["AppArmor off", context({ appArmorProfile: { type: "Unconfined" } }), "securityContext.appArmorProfile.type", { unconfined: true }],
  ["AppArmor off by annotation", appArmor("unconfined"), "metadata.annotations[container.apparmor", { unconfined: true }],
  ["another SELinux type", podContext({ seLinuxOptions: { type: "spc_t" } }), "seLinuxOptions.type: spc_t", { unconfined: true }],
  ["an SELinux user", context({ seLinuxOptions: { user: "system_u" } }), "seLinuxOptions.user: system_u", { unconfined: true }],
  ["an SELinux role", context({ seLinuxOptions: { role: "system_r" } }), "seLinuxOptions.role: system_r", { unconfined: true }],
  [
    "an unsafe sysctl",
    podContext({ sysctls: [{ name: "kernel.msgmax", value: "1" }] }),
    "sysctls: kernel.msgmax",
    { sysctls: ["kernel.msgmax"] },
  ],
  ["a port of the node", pod({}, { ports: [{ containerPort: 80, hostPort: 8080 }] }), "ports.hostPort: 8080", { hostPorts: true }],
  [
    "a probe of another host",
    probe({ httpGet: { path: "/", port: 80, host: "169.254.169.254" } }),
    "livenessProbe.host: 169.254.169.254",
    { probeHosts: true },
  ],
  [
    "a TCP probe of another host",
    probe({ tcpSocket: { port: 80, host: "10.0.0.1" } }),
    "livenessProbe.host: 10.0.0.1",
    { probeHosts: true },
  ],
  [
    "a hook to another host",
    pod({}, { lifecycle: { preStop: { httpGet: { path: "/", port: 80, host: "10.0.0.1" } } } }),
    "preStop.host: 10.0.0.1",
    { probeHosts: true },
  ],
];
export const beyondBaseline: readonly BeyondBaseline[] = cases.map(([what, each, field, accept]) => ({ what, pod: each, field, accept }));
