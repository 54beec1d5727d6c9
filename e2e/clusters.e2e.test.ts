import { readdirSync, readFileSync } from "node:fs";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test } from "vitest";
import { containerImages } from "../setup/container-images.ts";
import { type Cluster, type Clusters, createClusters } from "./clusters.ts";
import { imageLayout } from "./images.ts";

const redisImage = "docker.io/library/redis:7";
let before: Record<string, string[]>;
let clusters: Clusters;
let a: Cluster;
let b: Cluster;
beforeAll(async () => {
  const layout = await imageLayout("redis");
  before = await machine();
  const ours = await containerImages(["memhog", "ums", "ssu-interface"]);
  clusters = await createClusters({ images: [{ reference: redisImage, layout }, ...ours] });
  ({ a, b } = clusters);
});
afterAll(() => clusters[Symbol.asyncDispose]());

/** What of this machine clusters could leave something in; the hosts of other tests come and go meanwhile. */
async function machine(): Promise<Record<string, string[]>> {
  const lines = async (...[file = "", ...args]: string[]) => (await execa(file, args)).stdout.split("\n").toSorted();
  const settings = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward", "fs/pipe-max-size"];
  const own = `ums-e2e-${process.pid}-`;
  return {
    settings: settings.map((name) => `${name} ${readFileSync(`/proc/sys/${name}`, "utf8")}`),
    links: (await lines("ip", "-oneline", "link")).map((line) => line.split(" ")[1] ?? ""),
    nftRules: await lines("nft", "--stateless", "list", "ruleset"),
    mounts: readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[4] ?? ""),
    cgroups: readdirSync("/sys/fs/cgroup").flatMap((hierarchy) =>
      readdirSync("/sys/fs/cgroup", { withFileTypes: true }).some((entry) => entry.name === hierarchy && entry.isDirectory())
        ? readdirSync(`/sys/fs/cgroup/${hierarchy}`).filter((name) => name.startsWith(own) || name === "kubepods")
        : [],
    ),
    children: readdirSync("/proc/self/task").flatMap((task) =>
      readFileSync(`/proc/self/task/${task}/children`, "utf8").split(" ").filter(Boolean),
    ),
    runs: readdirSync("/var/tmp/ums-e2e").filter((name) => name.startsWith(`${process.pid}-`)),
  };
}

const pod = (name: string, node?: string) =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { app: name } },
    spec: { ...(node === undefined ? {} : { nodeName: node }), containers: [{ name: "redis", image: redisImage }] },
  });

const apply = async (cluster: Cluster, name: string, node?: string) => {
  await cluster.kubectl(["apply", "--filename=-"], { input: pod(name, node) });
  await cluster.kubectl(["wait", "--for=condition=Ready", `pod/${name}`, "--timeout=60s"], { timeoutMs: 70_000 });
  return (await cluster.kubectl(["get", `pod/${name}`, "--output=jsonpath={.status.podIP}"])).stdout;
};

test("both clusters are ready, one with a node and one with two", async () => {
  const nodes = async (cluster: Cluster) => (await cluster.kubectl(["get", "nodes", "--no-headers"])).stdout.split("\n");
  expect(await nodes(a)).toEqual([expect.stringMatching(/^a-1 +Ready /)]);
  expect(await nodes(b)).toEqual([expect.stringMatching(/^b-1 +Ready /), expect.stringMatching(/^b-2 +Ready /)]);
});

test("a pod runs from an image with its usual name, logs, and is reached across clusters by its NodePort", async () => {
  await apply(a, "redis");
  await a.kubectl(["expose", "pod/redis", "--port=6379", "--type=NodePort"]);
  expect((await a.kubectl(["logs", "pod/redis"])).stdout).toContain("Ready to accept connections");
  const nodePort = (await a.kubectl(["get", "service/redis", "--output=jsonpath={.spec.ports[0].nodePort}"])).stdout;
  await apply(b, "client", "b-2");
  const ping = ["redis-cli", "-h", a.nodes[0].address, "-p", nodePort, "ping"];
  expect((await b.kubectl(["exec", "client", "--", ...ping])).stdout).toBe("PONG");
  expect((await b.nodes[0].exec(["curl", "--silent", `http://${a.nodes[0].address}:${nodePort}`], { reject: false })).exitCode).toBe(52);
});

test("pods find services by name, and each other across nodes", async () => {
  const address = await apply(b, "one", "b-1");
  await b.kubectl(["expose", "pod/one", "--port=6379"]);
  const ask = async (host: string) =>
    (await b.kubectl(["exec", "client", "--", "redis-cli", "-h", host, "ping"], { reject: false })).stdout;
  expect(await ask(address)).toBe("PONG");
  // kube-proxy learns of a service before it learns who is behind it.
  await expect.poll(() => ask("one"), { timeout: 10_000 }).toBe("PONG");
  expect(await ask("one.default.svc.cluster.local")).toBe("PONG");
});

const logsOf = async (cluster: Cluster, name: string, spec: object) => {
  const object = { apiVersion: "v1", kind: "Pod", metadata: { name }, spec: { restartPolicy: "Never", ...spec } };
  await cluster.kubectl(["apply", "--filename=-"], { input: JSON.stringify(object) });
  await cluster.kubectl(["wait", "--for=jsonpath={.status.phase}=Succeeded", `pod/${name}`, "--timeout=90s"], { timeoutMs: 100_000 });
  return (await cluster.kubectl(["logs", `pod/${name}`])).stdout;
};

test("memhog counts and holds memory in as many processes as it is told", async () => {
  const env = Object.entries({ MEMORY_LIMIT: "4", MEMORY_INCREMENT: "2", PROCESS: "3", SHOULD_STOP: "true" });
  const image = "ghcr.io/hpcclab/nims/memhog:main";
  const log = await logsOf(a, "memhog", { containers: [{ name: "memhog", image, env: env.map(([name, value]) => ({ name, value })) }] });
  const counts = log.split("\n").map((line) => /^\d{16} Counter: (\d+)$/.exec(line)?.[1]);
  expect(counts.toSorted()).toEqual(["0", "0", "0", "1", "1", "1"]);
});

test("the control plane's image runs as nobody on a root that is read-only, and the node's has what it needs", async () => {
  const securityContext = {
    runAsNonRoot: true,
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: false,
    capabilities: { drop: ["ALL"] },
  };
  const control = { name: "ums", image: "ghcr.io/hpcclab/ums/ums:main", args: ["--help"], securityContext };
  expect(await logsOf(a, "ums", { containers: [control] })).toContain("Usage: ums");
  const commands = "runc --version; nft --version; conntrack --version; ip -Version; nsenter --version; ls /usr/share/ums/node/*";
  const node = { name: "node", image: "ghcr.io/hpcclab/ums/ssu-interface:main", command: ["sh", "-ec", commands] };
  expect(await logsOf(b, "node", { containers: [node] })).toMatch(
    /runc version[\s\S]*nftables[\s\S]*conntrack[\s\S]*ums-runc[\s\S]*criu\.bin/,
  );
});

test("the link between the clusters is cut and comes back", async () => {
  const reach = async () => {
    const command = ["curl", "--silent", "--insecure", "--max-time", "1", `${a.server}/readyz`];
    return (await b.nodes[1]!.exec(command, { reject: false })).stdout;
  };
  expect(await reach()).toBe("ok");
  await clusters.cutLink();
  expect(await reach()).toBe("");
  expect((await b.kubectl(["get", "--raw=/readyz"])).stdout).toBe("ok");
  await clusters.restoreLink();
  expect(await reach()).toBe("ok");
});

test("an API server stays away until it is started again, and containerd comes back by itself", async () => {
  await a.stopApiServer();
  expect((await a.kubectl(["get", "nodes", "--request-timeout=2s"], { reject: false })).exitCode).toBe(1);
  const containerd = async () => (await a.nodes[0].exec(["pgrep", "--exact", "containerd"], { reject: false })).stdout;
  const first = await containerd();
  await a.nodes[0].kill("containerd");
  await expect.poll(containerd, { timeout: 10_000 }).toMatch(/^\d+$/);
  expect(await containerd()).not.toBe(first);
  await a.startApiServer();
  expect((await a.kubectl(["exec", "redis", "--", "redis-cli", "ping"])).stdout).toBe("PONG");
});

test("nothing is left behind", async () => {
  await clusters[Symbol.asyncDispose]();
  // The keeper of the run still looks whether anything is left to remove.
  await expect.poll(machine, { timeout: 10_000 }).toEqual(before);
});
