/** What a container's processes hold that CRIU can't dump or that can't be the same elsewhere, as /proc tells. */
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import path from "node:path";
import { execa } from "execa";
import { dumpedOf } from "../checkpoint/visitors.ts";

/** Each list has one phrase for each thing found. */
export type Held = Readonly<{ ioUring: string[]; ownAddresses: string[]; unsupported: string[] }>;

const ioUring = "anon_inode:[io_uring]";
/** CRIU 4.2 (criu/files.c and its callees). */
const dumpableAnonymous = /^anon_inode:(\[(eventfd|eventpoll|signalfd|timerfd|fanotify|pidfd)\]|inotify|bpf-map)$/;
/** CRIU dumps no namespaces below the container's own but those of mounts (tried with CRIU 4.2.1 below runc 1.1). */
const flatNamespaces = ["pid", "user", "ipc", "uts", "net", "cgroup", "time"];
/** Sockets that CRIU does not know, by the names in /proc/net/protocols. */
const undumpableProtocols = /^(MPTCP|SCTP|DCCP|XDP|ALG|TIPC|SMC|RXRPC|KEY|CAN|L2CAP|RFCOMM)/;

/**
 * @param init the container's first process
 * @param pids all of them, also what somebody runs beside it (`exec`, a probe): CRIU stops that, but does not dump it
 * @param proc where /proc lies, for tests
 */
export async function heldResources({
  init,
  pids,
  proc = "/proc",
}: {
  init: number;
  pids: readonly number[];
  proc?: string;
}): Promise<Held> {
  const processes = await Promise.all(pids.map((pid) => inspect(path.join(proc, String(pid)), pid)));
  const all = processes.filter((each) => each !== undefined);
  const isDumped = dumpedOf(init, all);
  const there = all.filter(({ pid }) => isDumped(pid));
  const sockets = new Set(all.flatMap((each) => each.sockets));
  const initNamespaces = there.find(({ pid }) => pid === init)?.namespaces;
  const net = path.join(proc, String(init), "net");
  const table = (name: string) => readFile(path.join(net, name), "utf8").catch(() => "");
  const [tcp, tcp6, udp, udp6, protocols] = await Promise.all(["tcp", "tcp6", "udp", "udp6", "protocols"].map(table));
  const bound = [
    ...boundSockets(tcp ?? "", "tcp"),
    ...boundSockets(tcp6 ?? "", "tcp"),
    ...boundSockets(udp ?? "", "udp"),
    ...boundSockets(udp6 ?? "", "udp"),
  ];
  return {
    ioUring: there.filter((each) => each.ioUring).map(({ words }) => `${words} uses io_uring`),
    ownAddresses: bound.filter(({ inode }) => sockets.has(inode)).map(({ words }) => `a socket is bound to ${words}`),
    unsupported: [
      ...all.flatMap(({ unstoppable }) => unstoppable),
      ...there.flatMap((each) => [
        ...each.unsupported,
        ...flatNamespaces
          .filter((name) => initNamespaces && (each.namespaces[name] ?? initNamespaces[name]) !== initNamespaces[name])
          .map((name) => `${each.words} is in a ${name} namespace of its own`),
      ]),
      ...openProtocols(protocols ?? "")
        .filter((name) => undumpableProtocols.test(name))
        .map((name) => `a process has ${name} sockets open`),
      ...(await outsidePeers(proc, init, sockets)),
    ],
  };
}

type Inspected = Readonly<{
  pid: number;
  parent: number;
  words: string;
  ioUring: boolean;
  sockets: string[];
  unsupported: string[];
  unstoppable: string[];
  namespaces: Record<string, string | undefined>;
}>;

/** What a process's files answer with that has ended meanwhile, or that is a zombie: it has no mounts any more (fs/proc_namespace.c). */
const ended = ["ENOENT", "ESRCH", "EINVAL"];

/** @returns undefined for a process that has ended: it holds nothing */
async function inspect(directory: string, pid: number): Promise<Inspected | undefined> {
  try {
    const [status, mountinfo, maps, descriptors] = await Promise.all([
      readFile(path.join(directory, "status"), "utf8"),
      readFile(path.join(directory, "mountinfo"), "utf8"),
      // A ring that is registered with itself has no descriptor any more.
      readFile(path.join(directory, "maps"), "utf8"),
      readdir(path.join(directory, "fd")),
    ]);
    const words = `process ${/^Name:\s+(.*)$/m.exec(status)?.[1] ?? "?"} (${pid})`;
    const mounts = new Set(mountinfo.split("\n").map((line) => line.split(" ")[0]));
    const links = await Promise.all(descriptors.map((name) => describeDescriptor(directory, name, mounts)));
    const namespaces = await Promise.all(
      // A process that is ending has left its namespaces, though its files are still there.
      flatNamespaces.map(async (name) => [name, await readlink(path.join(directory, "ns", name)).catch(() => undefined)] as const),
    );
    // CRIU 4.2.1 waits for ever for a task that is stopped and frozen at once.
    const stopped = /^State:\s+T /m.test(status);
    const tracer = /^TracerPid:\s+([1-9]\d*)$/m.exec(status)?.[1];
    return {
      pid,
      parent: Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1]),
      words,
      ioUring: maps.includes(ioUring) || links.some(({ link }) => link === ioUring),
      sockets: links.flatMap(({ link }) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []),
      unsupported: links.filter(({ link, dumpable }) => link !== ioUring && !dumpable).map(({ link }) => `${words} holds ${link}`),
      unstoppable: [
        ...(stopped ? [`${words} is stopped (SIGSTOP)`] : []),
        ...(tracer === undefined ? [] : [`${words} is being traced by process ${tracer}`]),
      ],
      namespaces: Object.fromEntries(namespaces),
    };
  } catch (cause) {
    if (ended.includes((cause as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw cause;
  }
}

async function describeDescriptor(
  directory: string,
  name: string,
  mounts: ReadonlySet<string | undefined>,
): Promise<{ link: string; dumpable: boolean }> {
  const file = path.join(directory, "fd", name);
  const link = await readlink(file).catch(() => ""); // closed meanwhile
  if (link.startsWith("anon_inode:")) return { link, dumpable: dumpableAnonymous.test(link) };
  if (!link.startsWith("/") || link.startsWith("/memfd:")) return { link, dumpable: true };
  if (!link.startsWith("/dev/")) {
    // A POSIX message queue, secret memory, a directory of the host that somebody handed in.
    const mount = /^mnt_id:\s+(\d+)$/m.exec(await readFile(path.join(directory, "fdinfo", name), "utf8").catch(() => ""))?.[1];
    return { link, dumpable: mount === undefined || mounts.has(mount) };
  }
  const device = await stat(file).catch(() => undefined);
  if (device?.isBlockDevice()) return { link, dumpable: false };
  return { link, dumpable: !device?.isCharacterDevice() || dumpableDevice(device.rdev) };
}

/** Memory devices but the kernel's log, terminals, and tun (criu/files.c, dump_chrdev). */
export function dumpableDevice(device: number): boolean {
  const major = (device >>> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  if (major === 1) return minor !== 11;
  if (major === 10) return minor === 200;
  return major === 4 || major === 5 || (major >= 128 && major <= 143);
}

/** Sockets of /proc/net/tcp and its like which listen at, or are bound to, an address of the container's own. */
export function boundSockets(table: string, protocol: "tcp" | "udp"): { inode: string; words: string }[] {
  return table
    .trim()
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/\s+/);
      const [hexAddress = "", hexPort = ""] = (fields[1] ?? "").split(":");
      // An established TCP connection is closed by the move; a listener must be bound again.
      if (protocol === "tcp" && fields[3] !== "0A") return [];
      const address = addressOf(hexAddress);
      return isOwn(address)
        ? [{ inode: fields[9] ?? "", words: `${address.includes(":") ? `[${address}]` : address}:${parseInt(hexPort, 16)}/${protocol}` }]
        : [];
    });
}

/** The kernel writes each 32-bit word in the host's byte order: little-endian wherever UMS runs. */
function addressOf(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => (word.match(/../g) ?? []).toReversed().map((byte) => parseInt(byte, 16)));
  if (bytes.length === 4) return bytes.join(".");
  const mapped = bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255 && bytes[11] === 255;
  if (mapped) return bytes.slice(12).join(".");
  const groups = Array.from({ length: 8 }, (_, index) => (((bytes[2 * index] ?? 0) << 8) | (bytes[2 * index + 1] ?? 0)).toString(16));
  return groups.join(":");
}

/** Not any address, the loopback's, multicast or broadcast: those are the same everywhere. */
function isOwn(address: string): boolean {
  if (address.includes(":")) return !/^(0:){7}[01]$/.test(address) && !address.startsWith("ff");
  const first = Number(address.split(".")[0]);
  return address !== "0.0.0.0" && first !== 127 && first < 224;
}

/** Protocols of which the namespace has sockets, from /proc/net/protocols. */
export function openProtocols(protocols: string): string[] {
  return protocols
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , sockets]) => Number(sockets) > 0)
    .flatMap(([name]) => name ?? []);
}

/** Unix sockets connected to a process outside the container: a logger, systemd, a database of the host. */
async function outsidePeers(proc: string, init: number, own: ReadonlySet<string>): Promise<string[]> {
  if (own.size === 0) return [];
  const { stdout } = await execa(
    "nsenter",
    [`--net=${path.join(proc, String(init), "ns/net")}`, "--", "ss", "--unix", "--all", "--no-header", "--numeric"],
    {
      stdin: "ignore",
      timeout: 10_000,
      reject: false, // it ended this moment
    },
  );
  return unixConnections(stdout)
    .filter(({ inode, peer }) => own.has(inode) && peer !== "0" && !own.has(peer))
    .map(({ path: name }) => `a unix socket${name === "*" ? "" : ` (${name})`} is connected to a process outside the container`);
}

/** From `ss --unix`: netid, state, two queues, path and inode here, path and inode there. */
export function unixConnections(text: string): { inode: string; peer: string; path: string }[] {
  return text.split("\n").flatMap((line) => {
    const [, local = "*", inode, remote = "*", peer] = /^\S+\s+\S+\s+\d+\s+\d+\s+(.*?)\s+(\d+)\s+(.*?)\s+(\d+)\s*$/.exec(line) ?? [];
    return inode === undefined || peer === undefined ? [] : [{ inode, peer, path: remote === "*" ? local : remote }];
  });
}
