/** The programs that UMS and its tests call: which Debian package brings each, and how old it may be. */
import { execa } from "execa";
import { isAtLeast } from "../src/machine/version.ts";

type Program = Readonly<{ name: string; package: string; minimum?: string; versionArgs?: readonly string[] }>;

const programs: readonly Program[] = [
  { name: "podman", package: "podman", minimum: "4.3" },
  { name: "runc", package: "runc", minimum: "1.1" },
  { name: "conmon", package: "conmon", minimum: "2.1" },
  { name: "nft", package: "nftables", minimum: "1.0" },
  { name: "iptables", package: "iptables", minimum: "1.8" },
  { name: "ip", package: "iproute2", versionArgs: ["-Version"], minimum: "5.10" },
  { name: "conntrack", package: "conntrack" },
  { name: "/usr/lib/podman/netavark", package: "netavark", minimum: "1.4" },
  { name: "/usr/lib/podman/aardvark-dns", package: "aardvark-dns", minimum: "1.4" },
  { name: "bwrap", package: "bubblewrap" },
  { name: "catatonit", package: "catatonit" },
  { name: "mmdebstrap", package: "mmdebstrap" },
  { name: "setfacl", package: "acl" },
  { name: "getfattr", package: "attr" },
  { name: "newuidmap", package: "uidmap" },
  { name: "perl", package: "perl-base" },
  { name: "python3", package: "python3-minimal" },
  { name: "gcc", package: "gcc" },
];
/** What the benchmark's subjects call besides. */
const benchmarkPrograms: readonly Program[] = [
  { name: "socat", package: "socat" },
  { name: "redis-cli", package: "redis-tools" },
];
/** gcc alone has no headers to compile with. */
const companions: Readonly<Record<string, readonly string[]>> = { gcc: ["libc6-dev"] };

/**
 * Installs what is missing.
 * @param options.benchmark with what a benchmark needs
 * @returns what was done, and the versions of those that have a minimum
 */
export async function setUpPrograms({ benchmark }: { benchmark: boolean }): Promise<{ done: string[]; versions: Record<string, string> }> {
  const wanted = [...programs, ...(benchmark ? benchmarkPrograms : [])];
  const found = await Promise.all(wanted.map(async (program) => ({ program, there: await isThere(program) })));
  const missing = found.filter(({ there }) => !there).flatMap(({ program }) => [program.package, ...(companions[program.package] ?? [])]);
  if (missing.length > 0) {
    const options = { env: { DEBIAN_FRONTEND: "noninteractive" } };
    await execa("apt-get", ["--quiet", "update"], options);
    await execa("apt-get", ["--quiet", "--yes", "--no-install-recommends", "install", ...missing], options);
  }
  const dated = programs.filter(({ minimum }) => minimum !== undefined);
  const versions = Object.fromEntries(
    await Promise.all(dated.map(async (program) => [program.package, await versionOf(program)] as const)),
  );
  const old = dated.filter((program) => !isAtLeast(versions[program.package] ?? "0", program.minimum ?? "0"));
  if (old.length > 0) {
    const complaints = old.map((program) => `${program.package} ${versions[program.package]} (needs ${program.minimum})`);
    throw new Error(`Too old: ${complaints.join(", ")}. Upgrade them, or use Debian 12 or later.`);
  }
  return { done: missing.length > 0 ? [`Debian packages installed: ${missing.join(" ")}`] : [], versions };
}

async function isThere({ name }: Program): Promise<boolean> {
  const { exitCode } = await execa("sh", ["-c", 'command -v "$1"', "sh", name], { reject: false });
  return exitCode === 0;
}

async function versionOf({ name, versionArgs = ["--version"] }: Program): Promise<string> {
  const { stdout } = await execa(name, [...versionArgs], { reject: false, timeout: 10_000 });
  return /(\d+\.\d+[\w.+]*)/.exec(stdout)?.[1] ?? "0";
}
