/**
 * Hosts for tests, on one machine: each has namespaces, cgroups, storage and an address of its own and
 * runs real Podman. They hang on a bridge in a network namespace of their own, the "wan", where clients run.
 * All of it lives exactly as long as the process that made it, also when that is killed.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { listDirectory, walk } from "./listing.ts";
import { createMachine } from "./machine.ts";
import { type ExecOptions, type ExecResult, type Place, processesOf } from "./place.ts";
import { createRun, type Run } from "./runs.ts";
import { connect, createWan, shape, wanAddressOf } from "./wan.ts";

const checkout = resolve(import.meta.dirname, "..");

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
  const stack = new AsyncDisposableStack();
  try {
    const run = await createRun(stack, options.cgroupVersion);
    const wan = await createWan(stack);
    const names = options.names ?? [`a-${run.id}`, `b-${run.id}`];
    const { shmSize } = options;
    const hosts = await Promise.all(
      names.map((name, index) => addHost({ name, index, run, wan, stack, ...(shmSize === undefined ? {} : { shmSize }) })),
    );
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

const port = (index: number) => `host${index}`;
type HostParts = Readonly<{ name: string; index: number; run: Run; wan: Place; stack: AsyncDisposableStack; shmSize?: string }>;

/** A host on a wan that others may be on too; it is on, and goes with the stack. */
export async function addHost(parts: HostParts): Promise<Host> {
  const host = createHost(parts);
  await host.powerOn();
  return host;
}

function createHost({ name, index, run, wan, stack, shmSize = "50%" }: HostParts): Host {
  const { cgroupVersion } = run;
  const storage = join(run.directory, name);
  const cgroups = run.cgroups.map((cgroup) => join(cgroup, name));
  const number = 11 + index;
  const address = wanAddressOf(number);
  let rateMbit: number | undefined;
  const machine = createMachine({ name: `host ${name}`, address, cgroupVersion, cgroups });
  const { place, initPid, path } = machine;

  const powerOn = async () => {
    mkdirSync(storage, { recursive: true });
    const pid = await machine.powerOn(["host-init.sh", storage, name, String(cgroupVersion), shmSize, checkout]);
    await connect({ wan, port: port(index), bridge: "wan", inside: place, initPid: pid, number });
    if (rateMbit !== undefined) await limit(rateMbit);
  };
  const powerOff = async () => {
    // Without its link no dying process can tell a peer (FIN, RST), as in a real power loss.
    if (machine.isOn()) await wan.exec(["ip", "link", "del", port(index)], { reject: false });
    await machine.powerOff();
  };
  stack.defer(powerOff);

  const limit = async (mbit: number | undefined) => void (await Promise.all([shape(wan, port(index), mbit), shape(place, "eth0", mbit)]));
  // A bridge port that is disabled drops silently; the host keeps its carrier, as behind a cut cable further away.
  const portState = async (state: string) => void (await wan.exec(["bridge", "link", "set", "dev", port(index), "state", state]));

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
      await limit(mbit);
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
    walk(path(top))
      .map((name) => `${top}/${name}`)
      // The checkout is the machine's, and in it others work.
      .filter((file) => !file.startsWith(`${checkout}/`)),
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
