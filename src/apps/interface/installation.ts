/**
 * What the orchestrator-level approach needs on a node: CRIU and the runtime shim in /opt/ums, and containerd's runtime
 * `ums`, whose containers the shim creates. Nothing of the node's own is changed but the end of containerd's configuration.
 */
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { containersOf } from "../../container-engines/containerd/containerd.ts";
import { UmsError } from "../../errors.ts";
import { isAtLeast } from "../../machine/version.ts";

/** What the image brings for the node. */
const brought = "/usr/share/ums/node";
const installed = "/opt/ums";
/** Not all of /run/ums and /var/lib/ums: a node may be a site of its own, with `ums serve`. */
const leftOnNode = [
  ...["/opt/ums/bin", "/opt/ums/criu", "/run/ums/restore", "/dev/shm/ums"],
  ...["/var/lib/ums/work", "/var/lib/containerd/ums", "/var/lib/kubelet/ums", "/var/lib/ums/images"],
];
const shim = path.join(installed, "bin/ums-runc");
const configuration = "/etc/containerd/config.toml";
const first = "# BEGIN ums";
const last = "# END ums";
const commandMs = 20_000;
const restartMs = 60_000;

/** Commands run with the node's own files: CRIU and runc must see what containerd sees. */
export const onNode = ["nsenter", "--target", "1", "--mount", "--ipc", "--uts", "--"] as const;

/**
 * Makes the node able to take pods in. Safe to repeat; containerd is restarted only where its configuration changed.
 * @throws UmsError NODE_UNCHANGEABLE
 */
export async function install({ restart }: { restart: "systemd" | "signal" }): Promise<{ changed: boolean }> {
  await copyPrograms();
  const { stdout } = await execa(onNode[0], [...onNode.slice(1), "containerd", "--version"], { timeout: commandMs, reject: false });
  const version = /\bv?(\d+\.\d+\.\d+\S*)/.exec(stdout)?.[1];
  if (version === undefined) throw new UmsError("NODE_UNCHANGEABLE", "The node has no containerd that answers.");
  const before = await readFile(configuration, "utf8").catch(() => "");
  const after = withRuntime(before, version);
  if (after === before) return { changed: false };
  await replace(after);
  try {
    await restartContainerd(restart);
  } catch (cause) {
    await replace(before); // what could not be activated must not come alive with the node's next boot
    throw cause;
  }
  return { changed: true };
}

/**
 * Takes away what {@link install} and the migrations brought. Not while pods that have come run here: without the shim
 * containerd could not even stop them.
 * @throws UmsError RUNTIME_IN_USE
 */
export async function uninstall({ restart }: { restart: "systemd" | "signal" }): Promise<void> {
  const users = await containersOf(shim);
  if (users.length > 0) throw new UmsError("RUNTIME_IN_USE", `${users.length} container(s) and sandboxes on this node run by ${shim}.`);
  // The restart comes last: it ends a `kubectl exec`, and with that this very process.
  await execa(onNode[0], [...onNode.slice(1), "rm", "--recursive", "--force", ...leftOnNode], { timeout: commandMs });
  const parents = ["/opt/ums", "/run/ums", "/var/lib/ums"];
  await execa(onNode[0], [...onNode.slice(1), "rmdir", "--ignore-fail-on-non-empty", ...parents], { timeout: commandMs, reject: false });
  const before = await readFile(configuration, "utf8").catch(() => "");
  const after = withoutRuntime(before);
  if (after !== before) {
    await replace(after);
    await restartContainerd(restart);
  }
}

async function copyPrograms(): Promise<void> {
  await mkdir(installed, { recursive: true });
  for (const name of await readdir(brought)) {
    const target = path.join(installed, name);
    await rm(`${target}.new`, { recursive: true, force: true });
    await cp(path.join(brought, name), `${target}.new`, { recursive: true, preserveTimestamps: true });
    // A CRIU that works keeps its files; the names lead to the new ones.
    await rm(`${target}.old`, { recursive: true, force: true });
    await rename(target, `${target}.old`).catch(() => undefined);
    await rename(`${target}.new`, target);
    await rm(`${target}.old`, { recursive: true, force: true });
  }
}

/** containerd 2 moved the CRI plugin's settings (containerd/docs/cri/config.md). */
export function withRuntime(configuration: string, version: string): string {
  const written = /^\s*version\s*=\s*(\d+)/m.exec(configuration)?.[1];
  // A file of version 2 keeps that one's names under containerd 2, too, which migrates it when it reads it.
  const modern = written === undefined ? isAtLeast(version, "2.0") : Number(written) >= 3;
  const plugin = modern ? "io.containerd.cri.v1.runtime" : "io.containerd.grpc.v1.cri";
  const base = withoutRuntime(configuration);
  const head = base.trim() === "" ? `version = ${modern ? 3 : 2}\n` : base;
  const runtime = `[plugins.'${plugin}'.containerd.runtimes.ums]`;
  const systemd = /^\s*SystemdCgroup\s*=\s*true/m.test(base);
  const block = [
    first,
    runtime,
    "  runtime_type = 'io.containerd.runc.v2'",
    "  pod_annotations = ['ums.dev/*']",
    `  ${runtime.slice(0, -1)}.options]`,
    `    BinaryName = '${shim}'`,
    `    SystemdCgroup = ${systemd}`,
    last,
    "",
  ];
  return `${head.replace(/\n*$/, "\n")}${block.join("\n")}`;
}

function withoutRuntime(configuration: string): string {
  const [before, rest] = configuration.split(`${first}\n`);
  return rest === undefined ? configuration : `${before}${rest.split(`${last}\n`)[1] ?? ""}`;
}

async function replace(content: string): Promise<void> {
  await mkdir(path.dirname(configuration), { recursive: true });
  await writeFile(`${configuration}.ums`, content);
  await rename(`${configuration}.ums`, configuration);
}

/** Containers run on without containerd, and it finds them again. */
async function restartContainerd(how: "systemd" | "signal"): Promise<void> {
  if (how === "systemd") {
    const command = [...onNode.slice(1), "systemctl", "restart", "containerd"];
    const { failed, stderr } = await execa(onNode[0], command, { timeout: restartMs, reject: false });
    if (failed) throw new UmsError("NODE_UNCHANGEABLE", `containerd could not be restarted: ${stderr || "no systemd answers"}`);
    return;
  }
  const [old] = await containerds();
  if (old === undefined) throw new UmsError("NODE_UNCHANGEABLE", "The node runs no containerd.");
  process.kill(old, "SIGTERM");
  for (const until = Date.now() + restartMs; Date.now() < until; await sleep(100)) {
    const now = await containerds();
    if (now.length > 0 && !now.includes(old)) return;
  }
  throw new UmsError("NODE_UNCHANGEABLE", "Nothing has started containerd again after it ended.");
}

async function containerds(): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const names = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/comm`, "utf8").catch(() => "")));
  return pids.filter((_, index) => names[index]?.trim() === "containerd").map(Number);
}
