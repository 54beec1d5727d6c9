/** What a host must have to take part in any migration: the lines of `ums doctor`, and a part of every plan. */
import { mkdir, mkdtemp, readdir, readFile, rmdir, stat, statfs } from "node:fs/promises";
import path from "node:path";
import { release } from "node:os";
import { execa } from "execa";
import { freezerOf } from "../checkpoint/freezer.ts";
import type { Config } from "../config.ts";
import type { ContainerEngine } from "../container-engines/engine.ts";
import { createPodmanApi } from "../container-engines/podman/api.ts";
import { shimRuntime } from "../container-engines/podman/podman.ts";
import { UmsError } from "../errors.ts";
import { isOurs } from "../transfer/memory.ts";
import { isTmpfs } from "../transfer/tree.ts";
import { type Check, checked, failed, passed } from "./check.ts";
import { readEngineSettings } from "./containers-conf.ts";
import { existing } from "./machine.ts";
import { type Abilities, criuAbilities } from "./probe.ts";
import { isAtLeast } from "./version.ts";

const oldestPodman = "4.3";
const oldestRunc = "1.1";
const oldestCriu = "4.2.1";
const commandMs = 10_000;

type Parts = Readonly<{ config: Config; engine: ContainerEngine; signal: AbortSignal }>;

/** Every check of this host. What a check makes to try something is gone when this resolves. */
export async function siteChecks({ config, engine, signal }: Parts): Promise<Check[]> {
  const parts: Parts = { config, engine, signal };
  const checks = await Promise.all([
    podman(parts),
    oncePassed(`runc ${config.runcPath}`, () => runc(parts)),
    criuChecks(config.criuPath, signal),
    shim(parts),
    hook(parts),
    cgroups(),
    oncePassed("tools", tools),
    oncePassed("kernel", kernel),
    run(),
    imageDirectories(parts),
    stateDirectory(parts),
  ]);
  signal.throwIfAborted();
  return checks.flat();
}

const trustedForMs = 60_000;
const trusted = new Map<string, { until: number; checks: Check[] }>();

/** What starts processes is not tried again within a minute: a plan and the steps of a migration come close together. A failure is never remembered. */
async function oncePassed(key: string, make: () => Promise<Check | Check[]>): Promise<Check[]> {
  const known = trusted.get(key);
  if (known && known.until > Date.now()) return known.checks;
  trusted.delete(key);
  const checks = [await make()].flat();
  if (checks.every(({ ok }) => ok)) trusted.set(key, { until: Date.now() + trustedForMs, checks });
  return checks;
}

const messageOf = (cause: unknown) => (cause instanceof Error ? cause.message : String(cause));

type Said = Readonly<{ ran: boolean; succeeded: boolean; output: string }>;

async function ask(file: string, args: readonly string[], options: { input?: string; signal?: AbortSignal } = {}): Promise<Said> {
  const { input, signal } = options;
  const {
    stdout,
    stderr,
    failed: unsuccessful,
    code,
  } = await execa(file, args, {
    ...(input === undefined ? { stdin: "ignore" as const } : { input }),
    ...(signal ? { cancelSignal: signal } : {}),
    timeout: commandMs,
    reject: false,
    env: { LC_ALL: "C" },
  });
  return { ran: code !== "ENOENT" && code !== "EACCES", succeeded: !unsuccessful, output: stdout.trim() || stderr.trim() };
}

type PodmanInfo = {
  host: { security: { rootless: boolean }; ociRuntime: { name: string }; cgroupManager: string; cgroupVersion: string; logDriver: string };
  store: { graphDriverName: string };
};

async function podman({ config, engine, signal }: Parts): Promise<Check[]> {
  try {
    const version = await engine.version(signal);
    return [
      checked("Podman", isAtLeast(version, oldestPodman), "PODMAN_TOO_OLD", version),
      ...(await oncePassed(`podman ${config.podmanSocket}`, () => podmanSettings(config.podmanSocket, signal))),
    ];
  } catch (cause) {
    signal.throwIfAborted();
    return [failed("Podman", cause instanceof UmsError ? cause.code : "PODMAN_FAILED", messageOf(cause))];
  }
}

async function podmanSettings(socket: string, signal: AbortSignal): Promise<Check[]> {
  const api = createPodmanApi(socket);
  try {
    const { host, store } = (await api.call({ method: "GET", path: "/info", signal })) as PodmanInfo;
    const { cgroupVersion, cgroupManager, ociRuntime, security } = host;
    return [
      checked(
        "Podman runs as root",
        !security.rootless,
        "PODMAN_ROOTLESS",
        `${security.rootless ? "rootless" : "root"}, cgroups ${cgroupVersion} by ${cgroupManager}`,
      ),
      // Podman 4.3 takes a new container's runtime from its service, whatever its API is told.
      checked("Podman's service uses UMS's OCI runtime", ociRuntime.name === shimRuntime, "SHIM_MISSING", ociRuntime.name),
      checked("Podman's storage driver", store.graphDriverName === "overlay", "STORAGE_DRIVER", store.graphDriverName),
    ];
  } finally {
    api.close();
  }
}

async function runc({ config }: Parts): Promise<Check> {
  const { ran, output } = await ask(config.runcPath, ["--version"]);
  const version = /^runc version (\S+)/m.exec(output)?.[1];
  const found = !ran ? `${config.runcPath} can't be started` : (version ?? `no runc: ${output.split("\n")[0] ?? ""}`);
  return checked("runc", version !== undefined && isAtLeast(version, oldestRunc), "RUNC_TOO_OLD", found);
}

/** Whether CRIU is new enough, and can really do its work on this machine. */
export function criuChecks(file: string, signal: AbortSignal): Promise<Check[]> {
  return oncePassed(`criu ${file}`, () => criu(file, signal));
}

async function criu(file: string, signal: AbortSignal): Promise<Check[]> {
  const { ran, output } = await ask(file, ["--version"]);
  const version = /^Version: (\S+)/m.exec(output)?.[1];
  if (version === undefined || !isAtLeast(version, oldestCriu)) {
    return [failed("CRIU", "CRIU_TOO_OLD", ran ? (version ?? output.split("\n")[0] ?? "") : `${file} can't be started`)];
  }
  const { dumpsTcp, dumpsOtherUsers } = await criuAbilities(file, signal).catch((cause: unknown): Abilities => {
    signal.throwIfAborted();
    return { dumpsTcp: messageOf(cause), dumpsOtherUsers: messageOf(cause) };
  });
  const works = (reason: string | undefined) => reason ?? "dumped, restored, and it answered";
  return [
    passed("CRIU", version),
    checked("CRIU moves a process with a TCP socket", dumpsTcp === undefined, "CRIU_PROBE_FAILED", works(dumpsTcp)),
    // Where nothing can be dumped, that is said already.
    ...(dumpsTcp === undefined
      ? [checked("CRIU moves processes of other users", dumpsOtherUsers === undefined, "UID", works(dumpsOtherUsers))]
      : []),
  ];
}

async function shim({ config }: Parts): Promise<Check[]> {
  // It hands `--version` on to runc.
  const { ran, succeeded, output } = await ask(config.shimPath, ["--version"]);
  const works = succeeded && output.startsWith("runc version");
  const { runtimes } = await readEngineSettings();
  const registered = runtimes[shimRuntime]?.find((file) => file === config.shimPath);
  return [
    checked("UMS's OCI runtime", works, "SHIM_MISSING", works ? config.shimPath : ran ? output : `${config.shimPath} can't be started`),
    checked(
      "Podman knows UMS's OCI runtime",
      registered !== undefined,
      "SHIM_MISSING",
      registered ?? `containers.conf has no runtime “${shimRuntime}” with this path`,
    ),
  ];
}

type Hook = { hook?: { path?: string; args?: string[] }; when?: { always?: boolean }; stages?: string[] };
/** Stages of which a failure keeps the container's own process from running. */
const earlyStages = new Set(["precreate", "prestart", "createRuntime", "createContainer", "startContainer"]);

/** Podman must call the hook with the directory of our marks, and the hook must do what it is there for. */
async function hook({ config }: Parts): Promise<Check> {
  const name = "Held containers can't be started";
  const marks = path.join(config.stateDirectory, "held");
  const { hooksDirectories } = await readEngineSettings();
  for (const directory of hooksDirectories) {
    for (const file of (await readdir(directory).catch(() => [])).filter((entry) => entry.endsWith(".json"))) {
      const found = await readFile(path.join(directory, file), "utf8").then(
        (text) => JSON.parse(text) as Hook,
        () => undefined,
      );
      const { path: program, args = [] } = found?.hook ?? {};
      if (program === undefined || !args.includes(marks)) continue;
      const where = path.join(directory, file);
      if (found?.when?.always !== true || !(found.stages ?? []).some((stage) => earlyStages.has(stage)))
        return failed(name, "HOOK_MISSING", `${where} is not for every container's creation`);
      // /proc/version stands for a mark.
      const tried = args.slice(1).map((argument) => (argument === marks ? "/proc" : argument));
      const [held, free] = await Promise.all(
        ["version", "ums-holds-no-such-container"].map((id) => ask(program, tried, { input: JSON.stringify({ ociVersion: "1.0.2", id }) })),
      );
      return held?.ran && !held.succeeded && free?.succeeded
        ? passed(name, where)
        : failed(name, "HOOK_MISSING", `${program} does not answer as it should`);
    }
  }
  return failed(name, "HOOK_MISSING", `no hook for ${marks} in ${hooksDirectories.join(", ")}`);
}

async function cgroups(): Promise<Check> {
  const name = "cgroup freezer";
  try {
    const { version, directory } = await freezerOf(process.pid);
    const tried = path.join(directory, `ums-check-${process.pid}-${++cgroupCounter}`);
    await mkdir(tried);
    try {
      await stat(path.join(tried, version === 1 ? "freezer.state" : "cgroup.freeze"));
    } finally {
      await rmdir(tried);
    }
    return passed(name, `cgroup version ${version}`);
  } catch (cause) {
    return failed(name, "CGROUP_UNUSABLE", messageOf(cause));
  }
}
let cgroupCounter = 0;

const needed = [
  "nft",
  "ip",
  "ss",
  "conntrack",
  "nsenter",
  "unshare",
  "mount",
  "umount",
  "sync",
  "mkfifo",
  "timeout",
  "du",
  "find",
  "sort",
  "tar",
  "bwrap",
  "perl",
  "podman",
];

async function tools(): Promise<Check> {
  const [{ output }, tar, find] = await Promise.all([
    ask("sh", ["-c", 'for tool; do command -v "$tool" >/dev/null || echo "$tool"; done', "sh", ...needed]),
    ask("tar", ["--help"]),
    ask("find", ["/usr", "-maxdepth", "0", "-printf", "%i"]),
  ]);
  const missing = output.split("\n").filter(Boolean);
  // BusyBox's have none of these.
  if (!tar.output.includes("--xattrs") || !tar.output.includes("--sparse")) missing.push("tar with --xattrs");
  if (!find.succeeded) missing.push("find with -printf");
  const found = missing.length === 0 ? `all ${needed.length} are there` : `missing: ${missing.join(", ")}`;
  return checked("Programs", missing.length === 0, "TOOL_MISSING", found);
}

/** As in src/traffic: every kind of rule that is made there. */
const rules = `table ip ums_check {
  chain wait { type filter hook prerouting priority -250; fib daddr type local tcp dport 1 tcp flags & (syn | ack) == syn dup to 192.0.2.1 device "lo" drop; }
  chain wait_own { type filter hook output priority -300; oifname "lo" accept; ip daddr 192.0.2.2 udp dport 1 fib daddr type local notrack accept; ip daddr 192.0.2.2 udp dport 1 dup to 192.0.2.1 device "lo" drop; }
  chain arriving { type nat hook prerouting priority -110; fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 1 ct mark set 0x1 dnat to 192.0.2.1:1; }
  chain own { type nat hook output priority -110; ip daddr 192.0.2.2 udp dport 1 ct mark set 0x1 dnat to 192.0.2.1:1; }
  chain leaving { type nat hook postrouting priority 90; ct mark 0x1 snat to 192.0.2.2; }
}
table inet ums_check {
  counter late {}
  chain arriving { type filter hook prerouting priority -450; policy accept; iifname "lo" accept; tcp flags & (syn | ack) == syn counter name "late"; drop; }
}
`;

/** In a network namespace that ends with the command. */
async function kernel(): Promise<Check[]> {
  const [nat, veth] = await Promise.all([
    ask("unshare", ["--net", "nft", "-f", "-"], { input: rules }),
    ask("unshare", ["--net", "ip", "link", "add", "ums0", "type", "veth", "peer", "name", "ums1"]),
  ]);
  const lacking = [
    ...(nat.succeeded ? [] : [`nf_tables: ${nat.output.split("\n")[0]}`]),
    ...(veth.succeeded ? [] : [`veth: ${veth.output}`]),
  ];
  return [checked("Kernel", lacking.length === 0, "KERNEL_FEATURE", [release(), ...lacking].join("; "))];
}

async function run(): Promise<Check> {
  const volatile = await isTmpfs("/run").catch(() => false);
  return checked("/run is emptied by a reboot", volatile, "RUN_NOT_VOLATILE", volatile ? "tmpfs" : "no tmpfs");
}

/** Tried, because root's permissions are no answer on a file system that takes no files. */
async function writable(directory: string): Promise<boolean> {
  try {
    await rmdir(await mkdtemp(path.join(directory, ".ums-check-")));
    return true;
  } catch {
    return false;
  }
}

async function imageDirectories({ config }: Parts): Promise<Check> {
  const described = await Promise.all(
    config.imageDirectories.map(async (directory) => {
      const there = await existing(directory);
      // Before anything is tried in it: somebody else's is left alone.
      if (there === directory && !(await isOurs(directory))) return { usable: false, words: `${directory} is not root's alone` };
      if (!(await writable(there))) return { usable: false, words: `${directory} can't be written` };
      const { bavail, bsize } = await statfs(there);
      return { usable: true, words: `${directory} has ${Math.floor((bavail * bsize) / 2 ** 20)} MiB` };
    }),
  );
  const usable = described.some((directory) => directory.usable);
  return checked("Directories for memory images", usable, "IMAGE_DIRECTORY", described.map(({ words }) => words).join(", "));
}

async function stateDirectory({ config }: Parts): Promise<Check> {
  const there = await existing(config.stateDirectory);
  const [canWrite, volatile] = await Promise.all([writable(there), isTmpfs(there)]);
  const found = !canWrite ? "can't be written" : volatile ? "is in memory" : "is on disk";
  return checked("State directory", canWrite && !volatile, "STATE_DIRECTORY", `${config.stateDirectory} ${found}`);
}
