/** The programs that UMS, its build and its tests call: which Debian package brings each, and how old it may be. */
import { execa } from "execa";
import { isAtLeast } from "../src/machine/version.ts";
import { calledPrograms, enginePrograms, type NeededProgram } from "../src/preflight/programs.ts";
import { type Architecture, ownArchitecture, platforms } from "./platforms.ts";

type Program = Pick<NeededProgram, "name" | "package" | "minimum">;

const programs: readonly Program[] = [
  ...calledPrograms,
  ...enginePrograms,
  { name: "/usr/lib/podman/aardvark-dns", package: "aardvark-dns", minimum: "1.4" },
  { name: "catatonit", package: "catatonit" },
  { name: "mmdebstrap", package: "mmdebstrap" },
  { name: "setfacl", package: "acl" },
  { name: "getfattr", package: "attr" },
  { name: "newuidmap", package: "uidmap" },
  { name: "python3", package: "python3-minimal" },
  { name: "gcc", package: "gcc" },
  // runc of the tests' clusters is built with them.
  { name: "pkg-config", package: "pkgconf" },
  { name: "/usr/include/seccomp.h", package: "libseccomp-dev" },
];
/** What the benchmark's subjects call besides. */
const benchmarkPrograms: readonly Program[] = [
  { name: "socat", package: "socat" },
  { name: "redis-cli", package: "redis-tools" },
];
/** What tests call besides. Where it is there, Podman makes new containers with it unless told otherwise: no host gets it from here. */
const testPrograms: readonly Program[] = [{ name: "crun", package: "crun" }];
/** What makes and runs virtual machines. */
const machinePrograms: readonly Program[] = [
  { name: "qemu-system-x86_64", package: "qemu-system-x86" },
  { name: "qemu-img", package: "qemu-utils" },
  { name: "mke2fs", package: "e2fsprogs" },
  { name: "mmdebstrap", package: "mmdebstrap" },
  { name: "ssh", package: "openssh-client" },
];
const extra = { benchmark: benchmarkPrograms, tests: testPrograms, none: [] };

/** What a machine is set up for, beside UMS itself. */
export type Purpose = keyof typeof extra;

/** A compiler alone has no headers to compile with. */
const companions: Readonly<Record<string, readonly string[]>> = {
  gcc: ["libc6-dev"],
  "gcc-aarch64-linux-gnu": ["libc6-dev-arm64-cross"],
  "gcc-x86-64-linux-gnu": ["libc6-dev-amd64-cross"],
};

/**
 * Installs what is missing.
 * @param options.purpose with what that needs besides
 * @returns what was done, and the versions of those that have a minimum
 */
export async function setUpPrograms({ purpose }: { purpose: Purpose }): Promise<{ done: string[]; versions: Record<string, string> }> {
  const wanted = [...programs, ...extra[purpose]];
  const missing = await installMissing(wanted);
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

/** Installs what fetches Debian packages, compiles C for this kind of machine, and takes its programs apart. */
export async function provideBuildTools(architecture: Architecture): Promise<void> {
  const { triplet } = platforms[architecture];
  const compiler = architecture === ownArchitecture() ? "gcc" : `gcc-${triplet.replaceAll("_", "-")}`;
  await installMissing([
    { name: "mmdebstrap", package: "mmdebstrap" },
    { name: `${triplet}-gcc`, package: compiler },
  ]);
}

/** Installs what makes and runs virtual machines. */
export async function provideMachinePrograms(): Promise<void> {
  await installMissing(machinePrograms);
}

/** @returns the packages that were installed */
async function installMissing(wanted: readonly Program[]): Promise<string[]> {
  const found = await Promise.all(wanted.map(async (program) => ({ program, there: await isThere(program) })));
  const missing = found.filter(({ there }) => !there).flatMap(({ program }) => [program.package, ...(companions[program.package] ?? [])]);
  if (missing.length > 0) {
    const options = { env: { DEBIAN_FRONTEND: "noninteractive" } };
    await execa("apt-get", ["--quiet", "update"], options);
    await execa("apt-get", ["--quiet", "--yes", "--no-install-recommends", "install", ...missing], options);
  }
  return missing;
}

async function isThere({ name }: Program): Promise<boolean> {
  const { exitCode } = await execa("sh", ["-c", 'command -v "$1"', "sh", name], { reject: false });
  return exitCode === 0;
}

async function versionOf({ name }: Program): Promise<string> {
  const { stdout } = await execa(name, [name === "ip" ? "-Version" : "--version"], { reject: false, timeout: 10_000 });
  return /(\d+\.\d+[\w.+]*)/.exec(stdout)?.[1] ?? "0";
}
