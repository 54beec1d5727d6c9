/** Kubernetes' own programs, containerd, runc, CoreDNS and a registry, built from their Go modules as `tools/` pins them. */
import { readdirSync, readFileSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { cached } from "./cache.ts";

const tools = resolve(import.meta.dirname, "../tools");

/** The directory with kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl and pause. */
export async function kubernetesPrograms(): Promise<string> {
  const names = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
  const full = pinnedVersion("kubernetes", "k8s.io/kubernetes");
  const [major = "", minor = ""] = full.slice(1).split(".");
  const stamps = { gitVersion: full, gitMajor: major, gitMinor: minor, gitTreeState: "clean" };
  return goPrograms({
    module: "kubernetes",
    packages: names.map((name) => `k8s.io/kubernetes/cmd/${name}`),
    // The server's version is read from the one, kubectl's from the other.
    variables: ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((path) =>
      Object.entries(stamps).map(([name, value]) => `${path}.${name}=${value}`),
    ),
    alsoMake: async ({ go, directory }) => {
      const { stdout } = await execa(go, ["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"], { cwd: join(tools, "kubernetes") });
      // Kubernetes has it in C.
      const source = join(stdout.trim(), "build/pause/linux/pause.c");
      await execa("gcc", ["-Os", "-static", "-s", `-DVERSION=${full}`, "-o", join(directory, "pause"), source]);
    },
  });
}

/** The directory with containerd, its shim for runc, and ctr. */
export async function containerdPrograms(): Promise<string> {
  const path = "github.com/containerd/containerd/v2";
  return goPrograms({
    module: "containerd",
    packages: ["containerd", "containerd-shim-runc-v2", "ctr"].map((name) => `${path}/cmd/${name}`),
    variables: [`${path}/version.Version=${pinnedVersion("containerd", path)}`],
  });
}

/** The directory with `runc`, linked statically as its own releases are: a node's C library may be older than this machine's. */
export async function runcProgram(): Promise<string> {
  const path = "github.com/opencontainers/runc";
  return goPrograms({ module: "runc", packages: [path], variables: [], staticTags: ["seccomp", "netgo", "osusergo"] });
}

/** The directory with `coredns`. */
export async function coreDnsProgram(): Promise<string> {
  return goPrograms({ module: "coredns", packages: ["."], variables: [] });
}

/** The directory with `registry`. */
export async function registryProgram(): Promise<string> {
  return goPrograms({ module: "registry", packages: ["."], variables: [] });
}

type Build = Readonly<{
  /** A folder of `tools/`. */
  module: string;
  packages: readonly string[];
  /** Go variables set at link time, `path.name=value`. */
  variables: readonly string[];
  /** Build tags of a program with C in it, which is linked statically; undefined for one of Go alone. */
  staticTags?: readonly string[];
  alsoMake?: (made: Readonly<{ go: string; directory: string }>) => Promise<void>;
}>;

/** @returns with its leading v */
function pinnedVersion(module: string, path: string): string {
  const line = readFileSync(join(tools, module, "go.mod"), "utf8")
    .split("\n")
    .find((text) => text.startsWith(`require ${path} v`));
  if (!line) throw new Error(`tools/${module}/go.mod names no version of ${path}.`);
  return line.split(" ")[2] ?? "";
}

async function goPrograms({ module, packages, variables, staticTags, alsoMake }: Build): Promise<string> {
  const go = await goProgram();
  const { stdout: toolchain } = await execa(go, ["version"]);
  const source = join(tools, module);
  const flags = [
    "-trimpath",
    "-mod=readonly",
    "-buildvcs=false",
    "-ldflags",
    ["-s -w", ...variables.map((text) => `-X ${text}`), ...(staticTags ? ["-extldflags -static"] : [])].join(" "),
    ...(staticTags ? ["-tags", staticTags.join(",")] : []),
  ];
  const files = readdirSync(source).toSorted();
  return cached({
    name: `programs-${module}`,
    inputs: [toolchain, JSON.stringify({ flags, packages }), ...files.map((file) => readFileSync(join(source, file)))],
    make: async (directory) => {
      console.log(`Building ${module} from its Go modules, which takes minutes the first time …`);
      await execa("nice", [go, "build", ...flags, "-p", String(availableParallelism()), "-o", `${directory}/`, ...packages], {
        cwd: source,
        env: { CGO_ENABLED: staticTags ? "1" : "0" },
        timeout: 40 * 60_000,
      });
      await alsoMake?.({ go, directory });
      await copyFile(join(source, "go.mod"), join(directory, "go.mod"));
    },
  });
}

/** Go where it is in PATH, or where its own archive puts it. */
async function goProgram(): Promise<string> {
  for (const candidate of ["go", "/usr/local/go/bin/go"]) {
    const { failed } = await execa(candidate, ["version"], { reject: false });
    if (!failed) return candidate;
  }
  throw new Error("Kubernetes is built with Go 1.26.6 or later, and there is none in PATH or /usr/local/go: https://go.dev/dl.");
}
