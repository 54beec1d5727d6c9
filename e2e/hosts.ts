/**
 * Hosts for tests, on one machine: each has namespaces, cgroups, storage and an address of its own and
 * runs real Podman. They hang on a bridge in a network namespace of their own, the "wan", where clients run.
 * All of it lives exactly as long as the process that made it, also when that is killed.
 */
import { type ChildProcess, spawn as spawnChild } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { execa } from "execa";

const checkout = resolve(import.meta.dirname, "..");
const runsDirectory = process.env.UMS_E2E_DIRECTORY ?? "/var/tmp/ums-e2e";
const cgroupRoot = "/sys/fs/cgroup";
const hostEnvironment = {
  HOME: "/root",
  LANG: "C.UTF-8",
  TERM: "dumb",
  // Node's pipes are sockets, and bash whose stdin is one takes itself for a login by rsh and reads ~/.bashrc; not so below another shell.
  SHLVL: "1",
  PATH: [
    join(checkout, "bin"),
    join(checkout, "node_modules/.bin"),
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "/opt/ums/criu",
  ].join(":"),
};

/** How to run a command in a host or in the wan. */
export type ExecOptions = Readonly<{
  /** 60 s unless told. */
  timeoutMs?: number;
  input?: string | Buffer;
  env?: Readonly<Record<string, string>>;
  /** Reject when the command fails; true unless told. */
  reject?: boolean;
  signal?: AbortSignal;
}>;

/** What a command said. */
export type ExecResult = Readonly<{ stdout: string; stderr: string; exitCode: number | undefined; timedOut: boolean }>;

/** A long-running process in a host or in the wan; ends with it at the latest. */
export type RunningProcess = Readonly<{
  /** The pid as the host sees it. */
  pid: number;
  /** The pid as the test runner sees it. */
  outerPid: number;
  /** What it printed so far, both streams, the last 4 MiB. */
  output(): string;
  /** Resolves with the first line, also one printed before the call, that matches. */
  waitForLine(pattern: RegExp, timeoutMs?: number): Promise<string>;
  write(text: string): void;
  /** Sends a signal to the process itself; SIGTERM unless told. */
  kill(signal?: NodeJS.Signals): void;
  /** Resolves at its end. */
  exited: Promise<Readonly<{ exitCode: number | null; signal: NodeJS.Signals | null }>>;
}>;

/** A place where commands run: a host, or the wan. */
export type Place = Readonly<{
  address: string;
  exec(args: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  spawn(args: readonly string[], options?: Pick<ExecOptions, "env">): Promise<RunningProcess>;
}>;

/** What a host holds, each list sorted: compare two of them to see what was left behind. */
export type Inventory = Readonly<
  Record<
    | "containers"
    | "images"
    | "volumes"
    | "podmanNetworks"
    | "layers"
    | "mounts"
    | "networkNamespaces"
    | "nftRules"
    | "addressesAndRoutes"
    | "links"
    | "listeners"
    | "processes"
    | "files"
    | "cgroups",
    readonly string[]
  >
>;

/** A machine with Podman, as far as anything in it can tell. */
export type Host = Place &
  Readonly<{
    name: string;
    /** The host's init as the test runner sees it; changes with a reboot. */
    initPid(): number;
    /** A path of the host, as the test runner reaches it. */
    path(inside: string): string;
    podman(args: readonly string[], options?: ExecOptions): Promise<ExecResult>;
    /** Signals a process by the pid it has in the host. */
    kill(pid: number, signal?: NodeJS.Signals): void;
    /** A power loss: every process is gone at once and nobody is told; /run, /tmp and /dev/shm are lost. */
    powerOff(): Promise<void>;
    powerOn(): Promise<void>;
    /** {@link powerOff} and {@link powerOn}. */
    reboot(): Promise<void>;
    /** Nothing reaches this host or leaves it any more; its own link stays up. */
    cutLink(): Promise<void>;
    restoreLink(): Promise<void>;
    /** Limits both directions of the host's link; undefined = unshaped. */
    setRate(mbit: number | undefined): Promise<void>;
    inventory(): Promise<Inventory>;
  }>;

/** Two hosts (or as many as were named) and the wan between them. */
export type Hosts = AsyncDisposable &
  Readonly<{
    hosts: readonly [Host, Host, ...Host[]];
    wan: Place;
    /** Nothing passes between the hosts any more; the wan still reaches each of them. */
    cutLink(): Promise<void>;
    restoreLink(): Promise<void>;
    setRate(mbit: number | undefined): Promise<void>;
  }>;

/** What {@link createHosts} may be told. */
export type HostsOptions = Readonly<{
  linkMbit?: number;
  names?: readonly [string, string, ...string[]];
  /** 1 (the machine's v1 hierarchies, where it has them) or 2; what the machine has, unless told. */
  cgroupVersion?: 1 | 2;
  /** Size of each host's /dev/shm; half of the machine's memory unless told. */
  shmSize?: string;
}>;

/** Makes hosts on a network of their own. Sweeps first what killed runs left. */
export async function createHosts(options: HostsOptions = {}): Promise<Hosts> {
  await sweep();
  const run = `${process.pid}-${startTime(process.pid)}-${++runCounter}`;
  const runDirectory = join(runsDirectory, run);
  const cgroupVersion = options.cgroupVersion ?? (existsSync(join(cgroupRoot, "cgroup.controllers")) ? 2 : 1);
  const runCgroups = ownCgroups(cgroupVersion).map((cgroup) => join(cgroup, `ums-e2e-${run}`));
  mkdirSync(runDirectory, { recursive: true });
  writeFileSync(join(runDirectory, "cgroups.json"), JSON.stringify(runCgroups));
  // Cleans up after a runner that had no time to: its end closes the pipe.
  const keeper = spawnChild(
    "sh",
    ["-c", 'cat >/dev/null; exec "$@"', "sh", process.execPath, fileURLToPath(import.meta.url), "sweep", run],
    { stdio: ["pipe", "ignore", "ignore"], detached: true, cwd: "/" },
  );
  keeper.unref();

  const stack = new AsyncDisposableStack();
  stack.defer(() => void keeper.stdin.end());
  stack.defer(() => removeRun(run));
  try {
    const wan = await createWan(stack);
    const names = options.names ?? [`a-${process.pid}-${runCounter}`, `b-${process.pid}-${runCounter}`];
    const hosts = names.map((name, index) =>
      createHost({
        name,
        index,
        wan,
        stack,
        cgroupVersion,
        storage: join(runDirectory, name),
        cgroups: runCgroups.map((cgroup) => join(cgroup, name)),
        shmSize: options.shmSize ?? "50%",
      }),
    );
    await Promise.all(hosts.map((host) => host.powerOn()));
    const setRate = async (mbit: number | undefined) => void (await Promise.all(hosts.map((host) => host.setRate(mbit))));
    if (options.linkMbit !== undefined) await setRate(options.linkMbit);
    const isolate = async (isolated: "on" | "off") =>
      void (await Promise.all(hosts.map((_, index) => wan.exec(["bridge", "link", "set", "dev", port(index), "isolated", isolated]))));
    return {
      hosts: hosts as unknown as readonly [Host, Host, ...Host[]],
      wan,
      setRate,
      cutLink: () => isolate("on"),
      restoreLink: () => isolate("off"),
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

let runCounter = 0;
const wanAddress = "10.231.0.1";
const port = (index: number) => `host${index}`;

async function createWan(stack: AsyncDisposableStack): Promise<Place> {
  const holder = spawnTied(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]);
  stack.defer(() => end(holder));
  await firstLine(holder, /^ready$/);
  const place = placeAt({
    address: wanAddress,
    enter: () => ["nsenter", `--net=/proc/${pidOf(holder)}/ns/net`, "--"],
    forks: false,
  });
  await place.exec(["ip", "link", "set", "lo", "up"]);
  await place.exec(["ip", "link", "add", "wan", "type", "bridge"]);
  await place.exec(["ip", "addr", "add", `${wanAddress}/24`, "dev", "wan"]);
  await place.exec(["ip", "link", "set", "wan", "up"]);
  return place;
}

type HostParts = Readonly<{
  name: string;
  index: number;
  wan: Place;
  stack: AsyncDisposableStack;
  cgroupVersion: 1 | 2;
  storage: string;
  cgroups: readonly string[];
  shmSize: string;
}>;

function createHost({ name, index, wan, stack, cgroupVersion, storage, cgroups, shmSize }: HostParts): Host {
  const address = `10.231.0.${11 + index}`;
  let init: { process: ChildProcess; pid: number } | undefined;
  let rateMbit: number | undefined;
  const initPid = () => {
    if (!init) throw new Error(`host ${name} is off`);
    return init.pid;
  };
  // A v2 group that has processes cannot give controllers to its children, so the host's own live in one of these.
  const entered = cgroupVersion === 1 ? cgroups : cgroups.map((cgroup) => join(cgroup, "init"));
  const enter = () => [
    ...inCgroups(entered),
    "nsenter",
    `--target=${initPid()}`,
    ...["mount", "uts", "ipc", "net", "pid", "cgroup"].map((namespace) => `--${namespace}`),
    "--",
    // nsenter forks to enter the pid namespace: what it started must not outlive it.
    "setpriv",
    "--pdeathsig=KILL",
  ];
  const place = placeAt({ address, enter, forks: true });

  const powerOn = async () => {
    if (init) throw new Error(`host ${name} is on already`);
    mkdirSync(storage, { recursive: true });
    for (const cgroup of entered) makeCgroup(cgroup);
    const namespaces = ["mount", "uts", "net", "ipc", "pid"].map((namespace) => `--${namespace}`);
    const process = spawnTied([
      ...inCgroups(cgroups),
      "unshare",
      "--cgroup",
      ...inCgroups(entered),
      "unshare",
      ...namespaces,
      "--fork",
      "--kill-child",
      "--propagation=private",
      "sh",
      join(checkout, "e2e/host-init.sh"),
      storage,
      name,
      String(cgroupVersion),
      shmSize,
      checkout,
    ]);
    const ready = firstLine(process, /^ready$/);
    ready.catch(() => undefined);
    const pid = Number((await firstLine(process, /^pid \d+$/)).slice(4));
    await ready;
    init = { process, pid };
    // The same after a reboot, as a card's is: others remember it.
    const hardwareAddress = `02:00:0a:e7:00:${(11 + index).toString(16).padStart(2, "0")}`;
    await wan.exec([
      "ip",
      "link",
      "add",
      port(index),
      "type",
      "veth",
      "peer",
      "name",
      "eth0",
      "address",
      hardwareAddress,
      "netns",
      String(pid),
    ]);
    await wan.exec(["ip", "link", "set", port(index), "master", "wan", "up"]);
    await place.exec(["ip", "addr", "add", `${address}/24`, "dev", "eth0"]);
    await place.exec(["ip", "link", "set", "eth0", "up"]);
    await place.exec(["ip", "route", "add", "default", "via", wanAddress]);
    if (rateMbit !== undefined) await shape(rateMbit);
  };

  const powerOff = async () => {
    if (!init) return;
    const { process } = init;
    init = undefined;
    // Without its link no dying process can tell a peer (FIN, RST), as in a real power loss.
    await wan.exec(["ip", "link", "del", port(index)], { reject: false });
    await killCgroups(cgroups);
    await end(process);
    await removeCgroups(cgroups);
  };
  stack.defer(powerOff);

  const shape = async (mbit: number | undefined) => {
    const qdisc = (device: string) =>
      mbit === undefined
        ? ["tc", "qdisc", "del", "dev", device, "root"]
        : // One GSO packet (64 KiB) must fit into the bucket, or it is cut up at a great cost.
          ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", `${mbit}mbit`, "burst", "256kb", "latency", "50ms"];
    // Deleting what was never added fails, and need not succeed.
    const reject = mbit !== undefined;
    await Promise.all([wan.exec(qdisc(port(index)), { reject }), place.exec(qdisc("eth0"), { reject })]);
  };
  // A bridge port that is disabled drops silently; the host keeps its carrier, as behind a cut cable further away.
  const portState = async (state: string) => void (await wan.exec(["bridge", "link", "set", "dev", port(index), "state", state]));

  const path = (inside: string) => `/proc/${initPid()}/root${inside}`;
  return {
    ...place,
    name,
    initPid,
    path,
    podman: (args, options) => place.exec(["podman", ...args], options),
    kill: (pid, signal = "SIGTERM") => {
      const outer = processesOf(initPid()).find((process) => process.pid === pid);
      if (!outer) throw new Error(`host ${name} has no process ${pid}`);
      process.kill(outer.outerPid, signal);
    },
    powerOn,
    powerOff,
    reboot: async () => {
      await powerOff();
      await powerOn();
    },
    cutLink: () => portState("disabled"),
    restoreLink: () => portState("forwarding"),
    setRate: async (mbit) => {
      rateMbit = mbit;
      await shape(mbit);
    },
    inventory: () => takeInventory({ place, initPid: initPid(), cgroups, path }),
  };
}

type InventoryParts = Readonly<{ place: Place; initPid: number; cgroups: readonly string[]; path: (inside: string) => string }>;

async function takeInventory({ place, initPid, cgroups, path }: InventoryParts): Promise<Inventory> {
  const lines = async (...args: string[]) => sortedLines((await place.exec(args)).stdout);
  // Podman first: it mounts its storage when it is first asked, and that is no trace of anything.
  const podman = {
    containers: await lines("podman", "ps", "--all", "--external", "--format", "{{.Names}} {{.Image}} {{.State}}"),
    images: await lines("podman", "images", "--all", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}"),
    volumes: await lines("podman", "volume", "ls", "--quiet"),
    podmanNetworks: await lines("podman", "network", "ls", "--format", "{{.Name}}"),
  };
  const storage = "/var/lib/containers/storage";
  const layers = ["overlay", "overlay-containers", "overlay-layers", "volumes"].flatMap((directory) =>
    listDirectory(path(join(storage, directory))).map((name) => `${directory}/${name}`),
  );
  const [nftRules, rules, rules6, routes, routes6, addresses, links, listeners] = await Promise.all([
    lines("nft", "--stateless", "list", "ruleset"),
    lines("ip", "-4", "rule"),
    lines("ip", "-6", "rule"),
    lines("ip", "-4", "route", "show", "table", "all"),
    lines("ip", "-6", "route", "show", "table", "all"),
    lines("ip", "-oneline", "-4", "address"),
    lines("ip", "-oneline", "link", "show"),
    lines("ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric"),
  ]);
  const files = ["/run", "/var/lib/ums", "/dev/shm", "/tmp", "/etc/containers"].flatMap((top) =>
    walk(path(top)).map((name) => `${top}/${name}`),
  );
  return {
    ...podman,
    layers: layers.toSorted(),
    mounts: readFileSync(`/proc/${initPid}/mountinfo`, "utf8")
      .trim()
      .split("\n")
      .map((line) => {
        const fields = line.split(" ");
        return `${fields[4] ?? ""} ${fields[fields.indexOf("-") + 1] ?? ""}`;
      })
      .toSorted(),
    networkNamespaces: listDirectory(path("/run/netns")).toSorted(),
    nftRules,
    // The kernel's own IPv6 entries come late and with random addresses.
    addressesAndRoutes: [
      ...rules,
      ...rules6,
      ...routes,
      ...routes6.filter((line) => !line.includes("proto kernel")),
      ...addresses,
    ].toSorted(),
    links: links.map((line) => (line.split(":")[1] ?? "").trim().replace(/@.*/, "")).toSorted(),
    listeners,
    processes: processesOf(initPid)
      .map((process) => process.command)
      .toSorted(),
    files: files.toSorted(),
    cgroups: cgroups.flatMap((cgroup) => walk(cgroup, "directories").map((name) => `${cgroup.split("/")[4] ?? ""}: ${name}`)).toSorted(),
  };
}

/** The differences between two inventories, one line each; none = nothing was left behind. */
export function inventoryChanges(before: Inventory, after: Inventory): string[] {
  return (Object.keys(before) as (keyof Inventory)[]).flatMap((kind) => {
    const rest = [...after[kind]];
    const gone = before[kind].filter((line) => {
      const at = rest.indexOf(line);
      if (at >= 0) rest.splice(at, 1);
      return at < 0;
    });
    return [...gone.map((line) => `- ${kind}: ${line}`), ...rest.map((line) => `+ ${kind}: ${line}`)];
  });
}

function sortedLines(text: string): string[] {
  return text.split("\n").filter(Boolean).toSorted();
}

function listDirectory(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Relative paths of all that is below, without crossing into what is no plain directory. */
function walk(top: string, only?: "directories"): string[] {
  const found: string[] = [];
  const visit = (directory: string, prefix: string) => {
    let entries;
    try {
      entries = readdirSync(directory, { withFileTypes: true });
    } catch {
      return;
    }
    for (const entry of entries) {
      const name = prefix + entry.name;
      if (entry.isDirectory()) visit(join(directory, entry.name), `${name}/`);
      if (entry.isDirectory() || !only) found.push(name);
    }
  };
  visit(top, "");
  return found;
}

type HostProcess = Readonly<{ pid: number; outerPid: number; command: string }>;

/** Read from outside, so that looking leaves no process of its own in the list. */
function processesOf(initPid: number): HostProcess[] {
  const namespace = readlinkSync(`/proc/${initPid}/ns/pid`);
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        if (readlinkSync(`/proc/${name}/ns/pid`) !== namespace) return [];
        const pids = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1]?.split("\t") ?? [];
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0").join(" ").trim();
        return [{ pid: Number(pids.at(-1)), outerPid: Number(name), command }];
      } catch {
        return []; // it ended meanwhile
      }
    });
}

// --- running commands ---

function placeAt({ address, enter, forks }: { address: string; enter: () => readonly string[]; forks: boolean }): Place {
  return {
    address,
    exec: async (args, { timeoutMs = 60_000, input, env, reject = true, signal } = {}) => {
      const child = spawnTied([...enter(), ...args], { ...hostEnvironment, ...env });
      // What the command started dies with it, unless it took a session of its own, as daemons do.
      const stop = () => killGroup(child);
      const limit = { passed: false };
      const timer = setTimeout(() => {
        limit.passed = true;
        stop();
      }, timeoutMs);
      signal?.addEventListener("abort", stop);
      const [stdout, stderr] = [child.stdout, child.stderr].map((stream) => {
        const chunks: Buffer[] = [];
        stream?.on("data", (chunk: Buffer) => chunks.push(chunk));
        return () => Buffer.concat(chunks).toString().replace(/\n$/, "");
      });
      child.stdin?.on("error", () => undefined).end(input);
      try {
        const closed = once(child, "close");
        await once(child, "exit");
        // A daemon may hold the pipes open for ever.
        await Promise.race([closed, sleep(200)]);
      } finally {
        clearTimeout(timer);
        signal?.removeEventListener("abort", stop);
      }
      signal?.throwIfAborted();
      const said = { stdout: stdout?.() ?? "", stderr: stderr?.() ?? "", exitCode: child.exitCode ?? undefined, timedOut: limit.passed };
      if (reject && said.exitCode !== 0) {
        const how = limit.passed ? `took longer than ${timeoutMs} ms` : `ended with ${said.exitCode ?? child.signalCode ?? "an error"}`;
        throw Object.assign(new Error(`${args.join(" ")} ${how}: ${said.stderr || said.stdout}`), said);
      }
      return said;
    },
    spawn: async (args, { env } = {}) => {
      const child = spawnTied([...enter(), ...args], { ...hostEnvironment, ...env });
      const outerPid = await runningPid(child, { file: args[0] ?? "", forks });
      return runningProcess(child, outerPid);
    },
  };
}

function runningProcess(child: ChildProcess, outerPid: number): RunningProcess {
  const kept = 4 * 1024 * 1024;
  let output = "";
  const listeners = new Set<() => void>();
  const changed = () => {
    for (const listener of listeners) listener();
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-kept);
      changed();
    });
  }
  let ended = false;
  const exited = new Promise<{ exitCode: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("exit", (exitCode, signal) => {
      // What it said last is still in the pipe; "close" may never come, while a child of its own holds the pipe.
      setTimeout(() => {
        ended = true;
        resolve({ exitCode, signal });
        changed();
      }, 20);
    });
  });
  return {
    pid: Number(/^NSpid:.*\s(\d+)$/m.exec(readFileSync(`/proc/${outerPid}/status`, "utf8"))?.[1]),
    outerPid,
    output: () => output,
    waitForLine: (pattern, timeoutMs = 10_000) =>
      new Promise((resolve, reject) => {
        const settle = (action: () => void) => {
          clearTimeout(timer);
          listeners.delete(look);
          action();
        };
        const look = () => {
          const line = output.split("\n").find((candidate) => pattern.test(candidate));
          if (line !== undefined) settle(() => resolve(line));
          else if (ended) settle(() => reject(new Error(`the process ended without a line like ${pattern}:\n${output}`)));
        };
        const timer = setTimeout(
          () => settle(() => reject(new Error(`no line like ${pattern} within ${timeoutMs} ms:\n${output}`))),
          timeoutMs,
        );
        listeners.add(look);
        look();
      }),
    write: (text) => void child.stdin?.write(text),
    kill: (signal = "SIGTERM") => {
      if (!ended) process.kill(outerPid, signal);
    },
    exited,
  };
}

/** Starts a process, in a group of its own, that the kernel kills when this one dies. */
function spawnTied(args: readonly string[], env: Readonly<Record<string, string>> = hostEnvironment): ChildProcess {
  return spawnChild("setpriv", ["--pdeathsig=KILL", ...args], { stdio: "pipe", env: { ...env }, cwd: "/", detached: true });
}

function killGroup(child: ChildProcess): void {
  try {
    process.kill(-pidOf(child), "SIGKILL");
  } catch {
    // it ended meanwhile
  }
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error("the process could not be started");
  return child.pid;
}

/** The pid of what was asked for, once the programs that lead into the place have become it. */
async function runningPid(child: ChildProcess, { file, forks }: { file: string; forks: boolean }): Promise<number> {
  const leading = new Set(["setpriv", "nsenter"]);
  const deadline = Date.now() + 5_000;
  for (;;) {
    const first = pidOf(child);
    // nsenter's fork into a pid namespace is the one child that the leading programs have.
    const pid = forks ? Number(readLines(`/proc/${first}/task/${first}/children`)[0]?.split(" ")[0]) : first;
    const command = pid ? readCommand(pid) : undefined;
    if (command !== undefined && command !== "" && !leading.has(command)) return pid;
    if (child.exitCode !== null || child.signalCode !== null) {
      await sleep(20);
      const said = String(child.stderr?.read() ?? child.stdout?.read() ?? "");
      throw new Error(`${file} could not be started, or ended at once (${child.exitCode ?? child.signalCode}): ${said}`);
    }
    if (Date.now() > deadline) throw new Error(`${file} did not start`);
    await sleep(2);
  }
}

function readCommand(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return undefined;
  }
}

async function firstLine(child: ChildProcess, pattern: RegExp, timeoutMs = 10_000): Promise<string> {
  if (!child.stdout || !child.stderr) throw new Error("the process has no output");
  const lines = child.stdout as typeof child.stdout & { lines?: ReturnType<typeof createInterface> };
  lines.lines ??= createInterface({ input: child.stdout });
  const reader = lines.lines;
  let complaint = "";
  child.stderr.on("data", (text: Buffer) => (complaint += text.toString()));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => settle(() => reject(new Error(`no line like ${pattern} within ${timeoutMs} ms: ${complaint}`))),
      timeoutMs,
    );
    const settle = (action: () => void) => {
      clearTimeout(timer);
      reader.off("line", look);
      action();
    };
    const look = (line: string) => {
      if (pattern.test(line)) settle(() => resolve(line));
    };
    reader.on("line", look);
    child.once("close", () => settle(() => reject(new Error(`the process ended without a line like ${pattern}: ${complaint}`))));
  });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, "exit");
  child.kill("SIGKILL");
  await closed;
}

// --- cgroups, and what killed runs left ---

/** This process's own groups: hosts live below them, so that limits set on the runner hold for them too. */
function ownCgroups(version: 1 | 2): string[] {
  const own = readFileSync("/proc/self/cgroup", "utf8").trim().split("\n");
  if (version === 2) {
    const unified = existsSync(join(cgroupRoot, "unified")) ? join(cgroupRoot, "unified") : cgroupRoot;
    // Not below its own: a v2 group that has processes cannot give controllers to its children.
    return [unified];
  }
  return own.flatMap((line) => {
    const [, controllers = "", group = "/"] = line.split(":");
    const directory = join(cgroupRoot, controllers.replace(/^name=/, ""));
    return controllers !== "" && existsSync(directory) ? [join(directory, group)] : [];
  });
}

function makeCgroup(cgroup: string): void {
  if (existsSync(cgroup)) return;
  const parent = dirname(cgroup);
  if (!existsSync(parent)) makeCgroup(parent);
  const controllers = join(parent, "cgroup.controllers");
  if (existsSync(controllers)) {
    for (const controller of readFileSync(controllers, "utf8").trim().split(" ").filter(Boolean)) {
      writeFileSync(join(parent, "cgroup.subtree_control"), `+${controller}`);
    }
  }
  mkdirSync(cgroup);
  // A fresh cpuset has no CPUs, and then takes no process.
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    if (existsSync(join(parent, file)) && !existsSync(controllers)) writeFileSync(join(cgroup, file), readFileSync(join(parent, file)));
  }
}

function inCgroups(cgroups: readonly string[]): string[] {
  const join = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"';
  return ["sh", "-c", join, "sh", ...cgroups, "--"];
}

function withDescendants(cgroup: string): string[] {
  return [...walk(cgroup, "directories").map((name) => join(cgroup, name)), ...(existsSync(cgroup) ? [cgroup] : [])];
}

async function killCgroups(cgroups: readonly string[], timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const all = cgroups.flatMap(withDescendants);
    const pids = new Set(all.flatMap((cgroup) => readLines(join(cgroup, "cgroup.procs")).map(Number)));
    pids.delete(0);
    if (pids.size === 0) return;
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it ended meanwhile
      }
    }
    // Only now: a frozen task of cgroup v1 takes the signal when it thaws, before it runs again.
    for (const cgroup of all) {
      for (const [file, thawed] of [
        ["freezer.state", "THAWED"],
        ["cgroup.freeze", "0"],
      ] as const) {
        if (existsSync(join(cgroup, file))) tryWrite(join(cgroup, file), thawed);
      }
    }
    if (Date.now() > deadline) throw new Error(`processes ${[...pids].join(", ")} do not end`);
    await sleep(5);
  }
}

async function removeCgroups(cgroups: readonly string[], timeoutMs = 5_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    // Deepest first, as walk() lists them.
    const left = cgroups.flatMap(withDescendants).filter((cgroup) => {
      try {
        rmdirSync(cgroup);
        return false;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code !== "ENOENT";
      }
    });
    if (left.length === 0) return;
    if (Date.now() > deadline) throw new Error(`cgroups cannot be removed: ${left.join(", ")}`);
    await sleep(5);
  }
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, "utf8").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}

function tryWrite(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch {
    // the group is gone, or its root cannot be frozen
  }
}

/** Start time in clock ticks: with the pid it names a process for good. */
function startTime(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ")[19];
  } catch {
    return undefined;
  }
}

/** Removes what runs left whose test runner is dead. */
async function sweep(): Promise<void> {
  for (const run of listDirectory(runsDirectory)) {
    const [pid, start] = run.split("-");
    if (startTime(Number(pid)) !== start) await removeRun(run);
  }
}

async function removeRun(run: string): Promise<void> {
  const directory = join(runsDirectory, run);
  const record = readLines(join(directory, "cgroups.json"))[0];
  const cgroups = record === undefined ? [] : (JSON.parse(record) as string[]);
  await killCgroups(cgroups);
  await removeCgroups(cgroups);
  await execa("rm", ["-rf", "--one-file-system", directory]);
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === "sweep") await sweep();
