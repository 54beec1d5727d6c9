/** What a host must have to take part in any migration: a part of `ums doctor` and of every plan. */
import { mkdir, mkdtemp, rmdir, stat, statfs } from "node:fs/promises";
import path from "node:path";
import { release } from "node:os";
import { freezerHierarchy } from "../checkpoint/cgroups.ts";
import type { ContainerEngine } from "../container-engines/engine.ts";
import { ask, type Said } from "../machine/ask.ts";
import { isAtLeast } from "../machine/version.ts";
import { isOurs } from "../transfer/memory.ts";
import { isTmpfs } from "../transfer/tree.ts";
import { type Check, checked, failed, passed } from "./check.ts";
import { existing } from "./machine.ts";
import { oncePassed } from "./once-passed.ts";
import { calledPrograms } from "./programs.ts";
import { type Abilities, criuAbilities } from "./probe.ts";

const oldestRunc = "1.1";
const oldestCriu = "4.2.1";

/** What of a host's configuration is looked at. */
export type SiteSettings = Readonly<{ criuPath: string; runcPath: string; stateDirectory: string; imageDirectories: readonly string[] }>;

type Parts = Readonly<{ settings: SiteSettings; engine: ContainerEngine; signal: AbortSignal }>;

/** Every check of this host. What a check makes to try something is gone when this resolves. */
export async function siteChecks({ settings, engine, signal }: Parts): Promise<Check[]> {
  const checks = await Promise.all([
    engine.checks(signal),
    oncePassed(`runc ${settings.runcPath}`, () => runc(settings)),
    criuChecks(settings.criuPath, signal),
    cgroups(),
    oncePassed("tools", tools),
    oncePassed("kernel", kernel),
    run(),
    imageDirectories(settings),
    stateDirectory(settings),
  ]);
  signal.throwIfAborted();
  return checks.flat();
}

const messageOf = (cause: unknown) => (cause instanceof Error ? cause.message : String(cause));

async function runc({ runcPath }: SiteSettings): Promise<Check> {
  const { ran, output, version } = await runcVersion(runcPath);
  const found = !ran ? `${runcPath} can't be started` : (version ?? `no runc: ${output.split("\n")[0] ?? ""}`);
  return checked("runc", version !== undefined && isAtLeast(version, oldestRunc), "RUNC_TOO_OLD", found);
}

/** @returns also what the program said; no version where it is no runc */
export async function runcVersion(file: string): Promise<Said & { version: string | undefined }> {
  const said = await ask(file, ["--version"]);
  return { ...said, version: /^runc version (\S+)/m.exec(said.output)?.[1] };
}

/** As of {@link runcVersion}. */
export async function criuVersion(file: string): Promise<Said & { version: string | undefined }> {
  const said = await ask(file, ["--version"]);
  return { ...said, version: /^Version: (\S+)/m.exec(said.output)?.[1] };
}

/** Whether CRIU is new enough, and can really do its work on this machine. */
export function criuChecks(file: string, signal: AbortSignal): Promise<Check[]> {
  return oncePassed(`criu ${file}`, () => criu(file, signal));
}

async function criu(file: string, signal: AbortSignal): Promise<Check[]> {
  const { ran, output, version } = await criuVersion(file);
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

async function cgroups(): Promise<Check> {
  const name = "cgroup freezer";
  try {
    // At the top of what this process sees, as engines do: its own group may be in a namespace of its own.
    const { version, mountPoint } = await freezerHierarchy();
    const tried = path.join(mountPoint, `ums-check-${process.pid}-${++cgroupCounter}`);
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

async function tools(): Promise<Check> {
  const [{ output }, tar, find] = await Promise.all([
    ask("sh", ["-c", 'for tool; do command -v "$tool" >/dev/null || echo "$tool"; done', "sh", ...calledPrograms.map(({ name }) => name)]),
    ask("tar", ["--help"]),
    ask("find", ["/usr", "-maxdepth", "0", "-printf", "%i"]),
  ]);
  const missing = calledPrograms
    .filter(({ name }) => output.split("\n").includes(name))
    .map((program) => `${program.name} (of Debian's package ${program.package})`);
  // BusyBox's have none of these.
  if (!tar.output.includes("--xattrs") || !tar.output.includes("--sparse")) missing.push("tar with --xattrs (of Debian's package tar)");
  if (!find.succeeded) missing.push("find with -printf (of Debian's package findutils)");
  const found = missing.length === 0 ? `all ${calledPrograms.length} are there` : `missing: ${missing.join(", ")}`;
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

async function imageDirectories(settings: SiteSettings): Promise<Check> {
  const described = await Promise.all(
    settings.imageDirectories.map(async (directory) => {
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

async function stateDirectory(settings: SiteSettings): Promise<Check> {
  const there = await existing(settings.stateDirectory);
  const [canWrite, volatile] = await Promise.all([writable(there), isTmpfs(there)]);
  const found = !canWrite ? "can't be written" : volatile ? "is in memory" : "is on disk";
  return checked("State directory", canWrite && !volatile, "STATE_DIRECTORY", `${settings.stateDirectory} ${found}`);
}
