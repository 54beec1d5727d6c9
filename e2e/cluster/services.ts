/** What the nodes of a test cluster run, and with which settings: Kubernetes' defaults, but for what a test machine needs. */
import { type Authority, createTokenKeys, kubeconfig } from "./certificates.ts";
import type { ServiceName } from "./node.ts";

/** The network of one cluster. */
export type ClusterNetwork = Readonly<{
  cluster: string;
  apiServer: string;
  /** The service network without its last byte. */
  servicePrefix: string;
  /** The pods' network without its last two bytes. */
  podPrefix: string;
}>;

type NodeSettings = Readonly<{
  files: Readonly<Record<string, string>>;
  services: Readonly<Partial<Record<ServiceName, readonly string[]>>>;
}>;

const pki = "/etc/kubernetes/pki";

/** What every node has. */
export async function workerSettings({
  network,
  authority,
  name,
  number,
  address,
  registry,
}: Readonly<{
  network: ClusterNetwork;
  authority: Authority;
  name: string;
  /** Which of the cluster's nodes it is, from 1. */
  number: number;
  address: string;
  /** Host and port. */
  registry: string;
}>): Promise<NodeSettings> {
  const user = async (userName: string, groups: readonly string[] = []) =>
    kubeconfig({
      cluster: network.cluster,
      server: network.apiServer,
      authority: authority.certificate,
      user: userName,
      credential: await authority.issue({ name: userName, groups }),
    });
  const serving = await authority.issue({ name: `system:node:${name}`, groups: ["system:nodes"], dnsNames: [name], addresses: [address] });
  return {
    files: {
      "/etc/hostname": `${name}\n`,
      "/etc/hosts": `127.0.0.1 localhost\n${address} ${name}\n`,
      // No outside DNS: whatever asks for it fails at once.
      "/etc/resolv.conf": "",
      "/etc/machine-id": `${Buffer.from(name.padEnd(16, "-")).toString("hex").slice(0, 32)}\n`,
      [`${pki}/ca.crt`]: authority.certificate,
      [`${pki}/kubelet.crt`]: serving.certificate,
      [`${pki}/kubelet.key`]: serving.key,
      "/etc/kubernetes/kubelet.conf": await user(`system:node:${name}`, ["system:nodes"]),
      "/etc/kubernetes/kube-proxy.conf": await user("system:kube-proxy"),
      "/etc/kubernetes/kubelet.yaml": JSON.stringify({
        apiVersion: "kubelet.config.k8s.io/v1beta1",
        kind: "KubeletConfiguration",
        authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: `${pki}/ca.crt` } },
        authorization: { mode: "Webhook" },
        tlsCertFile: `${pki}/kubelet.crt`,
        tlsPrivateKeyFile: `${pki}/kubelet.key`,
        clusterDNS: [`${network.servicePrefix}.10`],
        clusterDomain: "cluster.local",
        containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
        cgroupDriver: "cgroupfs",
        failCgroupV1: false,
        failSwapOn: false,
        // Without CAP_SYS_RESOURCE nobody may lower it.
        oomScoreAdj: 0,
        // A test machine's disk may be fuller than a node's should be.
        imageGCHighThresholdPercent: 100,
        evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
      }),
      "/etc/kubernetes/kube-proxy.yaml": JSON.stringify({
        apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
        kind: "KubeProxyConfiguration",
        clientConnection: { kubeconfig: "/etc/kubernetes/kube-proxy.conf" },
        clusterCIDR: `${network.podPrefix}.0.0/16`,
        mode: "iptables",
        oomScoreAdj: 0,
        // Limits of the whole machine, which a network namespace cannot set.
        conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
      }),
      "/etc/containerd/config.toml": `version = 3
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '/etc/containerd/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
`,
      ...Object.fromEntries(
        // Whatever registry an image's name tells, this one has it.
        ["_default", "docker.io", "ghcr.io", "registry.k8s.io"].map((host) => [
          `/etc/containerd/certs.d/${host}/hosts.toml`,
          `${host === "_default" ? "" : `server = "https://${host === "docker.io" ? "registry-1.docker.io" : host}"\n`}[host."http://${registry}"]\n  capabilities = ["pull", "resolve"]\n`,
        ]),
      ),
      "/etc/cni/net.d/10-pods.conflist": JSON.stringify({
        cniVersion: "1.0.0",
        name: "pods",
        plugins: [
          {
            type: "ptp",
            ipam: { type: "host-local", ranges: [[{ subnet: podNetwork(network, number) }]], routes: [{ dst: "0.0.0.0/0" }] },
          },
          { type: "portmap", capabilities: { portMappings: true } },
        ],
      }),
    },
    services: {
      containerd: ["containerd"],
      kubelet: [
        "kubelet",
        "--config=/etc/kubernetes/kubelet.yaml",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        `--hostname-override=${name}`,
        `--node-ip=${address}`,
      ],
      "kube-proxy": ["kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml", `--hostname-override=${name}`],
    },
  };
}

/** What the first node has besides. */
export async function controlPlaneSettings({
  network,
  authority,
  name,
  address,
}: Readonly<{ network: ClusterNetwork; authority: Authority; name: string; address: string }>): Promise<NodeSettings> {
  const user = async (userName: string) =>
    kubeconfig({
      cluster: network.cluster,
      server: network.apiServer,
      authority: authority.certificate,
      user: userName,
      credential: await authority.issue({ name: userName }),
    });
  const serving = await authority.issue({
    name: "kube-apiserver",
    dnsNames: ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", name],
    addresses: ["127.0.0.1", address, `${network.servicePrefix}.1`],
  });
  const toKubelets = await authority.issue({ name: "kube-apiserver-kubelet-client", groups: ["system:masters"] });
  const tokens = createTokenKeys();
  return {
    files: {
      [`${pki}/ca.key`]: authority.key,
      [`${pki}/apiserver.crt`]: serving.certificate,
      [`${pki}/apiserver.key`]: serving.key,
      [`${pki}/apiserver-kubelet-client.crt`]: toKubelets.certificate,
      [`${pki}/apiserver-kubelet-client.key`]: toKubelets.key,
      [`${pki}/sa.key`]: tokens.privateKey,
      [`${pki}/sa.pub`]: tokens.publicKey,
      "/etc/kubernetes/controller-manager.conf": await user("system:kube-controller-manager"),
      "/etc/kubernetes/scheduler.conf": await user("system:kube-scheduler"),
    },
    services: {
      etcd: [
        "etcd",
        "--data-dir=/var/lib/etcd/data",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
      ],
      "kube-apiserver": [
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        `--advertise-address=${address}`,
        "--secure-port=6443",
        `--service-cluster-ip-range=${network.servicePrefix}.0/24`,
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        `--client-ca-file=${pki}/ca.crt`,
        `--tls-cert-file=${pki}/apiserver.crt`,
        `--tls-private-key-file=${pki}/apiserver.key`,
        `--kubelet-client-certificate=${pki}/apiserver-kubelet-client.crt`,
        `--kubelet-client-key=${pki}/apiserver-kubelet-client.key`,
        `--kubelet-certificate-authority=${pki}/ca.crt`,
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        `--service-account-key-file=${pki}/sa.pub`,
        `--service-account-signing-key-file=${pki}/sa.key`,
      ],
      "kube-controller-manager": [
        "kube-controller-manager",
        "--kubeconfig=/etc/kubernetes/controller-manager.conf",
        `--cluster-name=${network.cluster}`,
        `--root-ca-file=${pki}/ca.crt`,
        `--cluster-signing-cert-file=${pki}/ca.crt`,
        `--cluster-signing-key-file=${pki}/ca.key`,
        `--service-account-private-key-file=${pki}/sa.key`,
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
      ],
      "kube-scheduler": [
        "kube-scheduler",
        "--kubeconfig=/etc/kubernetes/scheduler.conf",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
      ],
    },
  };
}

/** The addresses of one node's pods. */
export function podNetwork({ podPrefix }: ClusterNetwork, number: number): string {
  return `${podPrefix}.${number}.0/24`;
}
