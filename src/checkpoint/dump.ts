/**
 * A dump beneath the container engine, by CRIU itself, whichever runtime runs the container: `runc restore` takes it.
 * What CRIU is told is what runc 1.1 to 1.5 tells it (libcontainer/criu_linux.go).
 */
import { lstat, mkdir, readFile, readlink, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { execa, ExecaError } from "execa";
import { UmsError } from "../errors.ts";
import { isBind, type OciBundle, readBundle } from "./bundle.ts";
import { type Freezer, freezerOf } from "./freezer.ts";
import { criuError, settingsIn, writeCriuSettings } from "./criu.ts";
import { type RuntimeState, readRuntimeState } from "./runtime-state.ts";

/** The command that starts CRIU, 4.2.1 or newer; its last word is its path. */
export type Criu = readonly [string, ...string[]];

/** Where a dump goes, and what is noted of it beside. */
export type DumpPlaces = Readonly<{ imageDirectory: string; workDirectory: string; timeoutMs: number }>;

/**
 * Dumps a frozen container and leaves it frozen and whole. Takes no signal: a CRIU that is killed in the middle leaves its
 * own code in the service's tasks to find their way back, so whoever gives up waits for its end (`dumpEnded`).
 * @param options.stateRoot where its runtime has its state
 * @throws UmsError DUMP_FAILED with CRIU's own first error
 */
export async function dump(
  criu: Criu,
  {
    containerId,
    stateRoot,
    imageDirectory,
    workDirectory,
    timeoutMs,
  }: DumpPlaces & Readonly<{ containerId: string; stateRoot: string | undefined }>,
): Promise<void> {
  await mkdir(workDirectory, { recursive: true, mode: 0o700 });
  const settings = settingsIn(workDirectory);
  await writeCriuSettings(settings);
  try {
    const state = await readRuntimeState(containerId, stateRoot);
    const [bundle, freezer] = await Promise.all([readBundle(state.bundle), freezerOf({ pid: state.pid, id: containerId })]);
    if (!freezer) throw new Error("it has ended");
    const externals = await externalsOf(bundle, state.pid);
    await writeFile(path.join(imageDirectory, descriptorsFile), JSON.stringify(state.descriptors), { mode: 0o600 });
    const places = ["--images-dir", imageDirectory, "--work-dir", workDirectory];
    await finished(criu, ["dump", ...optionsOf({ state, freezer, externals }), ...places], { settings, timeoutMs });
  } catch (cause) {
    const said = cause instanceof ExecaError ? cause.stderr : cause instanceof Error ? cause.message : undefined;
    const reason = (await criuError(path.join(workDirectory, logFile))) ?? said;
    throw new UmsError("DUMP_FAILED", `CRIU could not dump the service: ${reason || String(cause)}`, { cause });
  }
}

const logFile = "dump.log";
/** runc reads there which of the dumped pipes are the container's own standard streams. */
const descriptorsFile = "descriptors.json";

/** Nothing of a person's own configuration of CRIU changes what `runc restore` must find. */
function optionsOf({ state, freezer, externals }: { state: RuntimeState; freezer: Freezer; externals: readonly string[] }): string[] {
  return [
    ...["--no-default-config", "--tree", String(state.pid), "--leave-running", "--file-locks", "--manage-cgroups=soft"],
    ...["--freeze-cgroup", freezer.directory, "-v4", "--log-file", logFile],
    ...externals.flatMap((external) => ["--external", external]),
  ];
}

/** One that takes too long is left to itself: see `dumpEnded`. */
async function finished(criu: Criu, args: readonly string[], { settings, timeoutMs }: { settings: string; timeoutMs: number }) {
  const [command, ...prefix] = criu;
  const file = criu.at(-1) ?? command;
  const running = execa(command, [...prefix, ...args], {
    env: { PATH: `${path.dirname(file)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`, CRIU_CONFIG_FILE: settings },
    extendEnv: false,
    stdio: ["ignore", "ignore", "pipe"],
    // A signal for this process, or its end, must not reach a CRIU in the middle.
    detached: true,
    cleanup: false,
  });
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new UmsError("TIMED_OUT", `it took longer than ${timeoutMs} ms`)), timeoutMs);
  try {
    await Promise.race([running, late.promise]);
  } finally {
    clearTimeout(timer);
    running.catch(() => undefined); // told already, or late
  }
}

/** What of a container's mounts and namespaces is not its own, by the names under which `runc restore` gives its own for it. */
async function externalsOf(bundle: OciBundle, pid: number): Promise<string[]> {
  const root = `/proc/${pid}/root`;
  const { mounts, linux } = bundle;
  const own = async (place: string) => `mnt[${await resolveIn(root, place)}]:${await resolveIn(root, place)}`;
  const binds = [...mounts.filter(isBind).map(({ destination }) => destination), ...usualDevices, ...devicesOf(linux)];
  const hasOwnGroups = linux.namespaces.some(({ type }) => type === "cgroup");
  const groups = hasOwnGroups ? [] : mounts.filter(({ type }) => type === "cgroup").map(({ destination }) => destination);
  return [
    ...(await Promise.all([...new Set(binds)].map(own))),
    ...(await groupMountsBelow(pid, groups)).map((place) => `mnt[${place}]:${place}`),
    ...(await maskedFiles(root, linux.maskedPaths ?? [])).map((file) => `mnt[${file}]:/dev/null`),
    ...(await outerNamespaces(linux)),
  ];
}

/** Bind mounts where a container may make no devices, and then as external as others. */
const usualDevices = ["null", "random", "full", "tty", "zero", "urandom"].map((name) => `/dev/${name}`);
const devicesOf = ({ devices = [] }: OciBundle["linux"]) => devices.map((device) => device.path);

/** Cgroup version 1 without a cgroup namespace: a bind mount for each hierarchy. */
async function groupMountsBelow(pid: number, tops: readonly string[]): Promise<string[]> {
  if (tops.length === 0) return [];
  const lines = (await readFile(`/proc/${pid}/mountinfo`, "utf8")).split("\n").filter((line) => line.includes(" - cgroup "));
  const points = lines.map((line) => line.split(" ")[4] ?? "");
  return points.filter((point) => tops.some((top) => point.startsWith(`${top}/`)));
}

/** A directory is masked by a tmpfs, which is the container's own. */
async function maskedFiles(root: string, masked: readonly string[]): Promise<string[]> {
  const found = await Promise.all(
    masked.map(async (place) => {
      const what = await stat(`${root}${await resolveIn(root, place)}`).catch(() => undefined);
      return what && !what.isDirectory() ? [place] : [];
    }),
  );
  return found.flat();
}

/** Namespaces that were there before the container, and will be at its destination: runc names them like this. */
async function outerNamespaces({ namespaces }: OciBundle["linux"]): Promise<string[]> {
  const kinds = [
    ["network", "net", "extRootNetNS"],
    ["pid", "pid", "extRootPidNS"],
  ] as const;
  const found = await Promise.all(
    kinds.map(async ([type, kind, key]) => {
      const place = namespaces.find((namespace) => namespace.type === type)?.path;
      return place ? [`${kind}[${(await stat(place)).ino}]:${key}`] : [];
    }),
  );
  return found.flat();
}

const mostLinks = 255;

/**
 * The path below a root that is reached by what is in it alone, as runc's and crun's own look-ups have it: the service may have
 * made links there. Nothing of the container runs meanwhile.
 */
export async function resolveIn(root: string, place: string): Promise<string> {
  let left = place.split("/").filter(Boolean);
  let at = "/";
  for (let links = 0; left.length > 0;) {
    const [next = "", ...rest] = left;
    left = rest;
    if (next === "." || next === "..") {
      if (next === "..") at = path.dirname(at);
      continue;
    }
    const there = path.join(at, next);
    const what = await lstat(root + there).catch(() => undefined);
    if (!what?.isSymbolicLink()) {
      at = there;
      continue;
    }
    if (++links > mostLinks) throw new Error(`Too many links on the way to ${place}.`);
    const target = await readlink(root + there);
    if (target.startsWith("/")) at = "/";
    left = [...target.split("/").filter(Boolean), ...left];
  }
  return at;
}
