/**
 * What leads the clients of a published port from the host that had the service to the one that has it.
 *
 * New connections of the hold wait in the kernel, as the client has sent them: before connection tracking and NAT have
 * seen them, each packet is copied to a device whose neighbour is not resolved, and the kernel queues what can't be sent
 * yet. Naming the neighbour lets all of it go in order, within the same millisecond: it comes back on the other end of the
 * device (a veth pair) as if it had just arrived, and takes the way that there is by then, to the destination or, after an
 * undo, to the service that is still here. Dropping them instead would cost their clients a second (TCP's first
 * retransmission); accepting them here would break them with this process; leading them already would tie them to a
 * destination that may not come to be.
 */
import { lookup } from "node:dns/promises";
import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import type { PortMapping } from "../protocol/container-spec.ts";
import { forgetFlows } from "./flows.ts";

/** `toPort`: where it is another one at the destination. */
export type ForwardedPort = Pick<PortMapping, "hostIp" | "hostPort" | "protocol"> & { toPort?: number };

export type Forwarding = Readonly<{
  /** From 1 to 250, unlike that of any other forwarding of this host. */
  slot: number;
  ports: readonly ForwardedPort[];
  /** IPv4 address of the destination. */
  to: string;
  /** This host's own address on the way there: the destination's answers must come back here. */
  from: string;
  /** IPv4 addresses of the copy that leaves, to which connection tracking still leads. */
  leaving: readonly string[];
}>;

const timeoutMs = 10_000;
const table = (slot: number) => `ip ums_forward_${slot}`;
const outside = (slot: number) => `umshold${slot}`;
const inside = (slot: number) => `umshold${slot}b`;
/** Marks the connections that a forwarding has led. */
const mark = (slot: number) => `0x554d${slot.toString(16).padStart(4, "0")}`;
/** The neighbour on the waiting place's device: link-local, and of no other use on this host. */
const neighbour = (slot: number) => `169.254.85.${slot}`;
/** Of the other end: where the kernel filters by reverse path, a device without an address takes nothing in. */
const insideAddress = (slot: number) => `169.254.86.${slot}`;
/** Locally administered; known beforehand, so that nobody has to ask for it while clients wait. */
const hardwareAddress = (slot: number) => `02:75:6d:73:00:${slot.toString(16).padStart(2, "0")}`;

const ip = (...args: string[]) => execa("ip", args, { stdin: "ignore", timeout: timeoutMs });
/** Several commands of ip in one process; what is there already, or gone already, is no error. */
const batch = (...commands: string[]) =>
  execa("ip", ["-force", "-batch", "-"], { input: `${commands.join("\n")}\n`, timeout: timeoutMs, reject: false });
const nft = (rules: string, ...options: string[]) => execa("nft", [...options, "-f", "-"], { input: rules, timeout: timeoutMs });

/** The way to a host, by its name or address. */
export async function wayTo(host: string): Promise<Pick<Forwarding, "to" | "from">> {
  const { address: to } = await lookup(host, { family: 4 });
  const { stdout } = await ip("-json", "route", "get", to);
  const from = (JSON.parse(stdout) as { prefsrc: string }[])[0]?.prefsrc;
  if (from === undefined) throw new UmsError("SITE_UNREACHABLE", `This host has no route to ${to}.`);
  return { to, from };
}

/** Makes the place where connections can wait, and tries the rules that will lead them to it; changes nothing for anybody yet. */
export async function makeWaitingPlace(forwarding: Forwarding): Promise<void> {
  const { slot } = forwarding;
  await removeForwarding(slot);
  await ip("link", "add", outside(slot), "type", "veth", "peer", "name", inside(slot), "address", hardwareAddress(slot));
  const set = (kind: "conf" | "neigh", device: string, key: string, value: number) =>
    writeFile(`/proc/sys/net/ipv4/${kind}/${device}/${key}`, String(value));
  await Promise.all([
    set("neigh", outside(slot), "unres_qlen_bytes", 32 << 20),
    // The kernel asks once a second and gives up after so many; the hold must not end by itself.
    set("neigh", outside(slot), "mcast_solicit", 86_400),
    set("conf", inside(slot), "rp_filter", 0),
    set("conf", outside(slot), "rp_filter", 0),
    // What comes back from clients on this host carries its own address as its source.
    set("conf", inside(slot), "accept_local", 1),
  ]);
  await batch(
    `address add ${insideAddress(slot)}/32 dev ${inside(slot)} scope link`,
    `link set ${inside(slot)} arp off up`,
    `link set ${outside(slot)} up`,
    // A gateway, or each packet would ask for the neighbour that it was sent to.
    `route replace ${neighbour(slot)}/32 via ${neighbour(slot)} dev ${outside(slot)} onlink`,
  );
  await nft(rulesOf(forwarding, { waiting: true }), "--check");
}

/**
 * From here on new connections, and all datagrams, wait in the waiting place until {@link letThrough} or
 * {@link withdrawForwarding}; those to a port with none go to the destination at once. Connections that are open go on.
 */
export async function holdNewConnections(forwarding: Forwarding): Promise<void> {
  await nft(rulesOf(forwarding, { waiting: true }));
}

/** Has datagrams that wait led anew: they would follow their flows to the copy that leaves. Once that is frozen, so that it begins none. */
export const forgetDatagrams = ({ leaving }: Forwarding) => forget(leaving, "udp");

/** The same for connections that have been reset: a source port that is used again would follow the old one. */
export const forgetConnections = ({ leaving }: Forwarding) => forget(leaving, "tcp");

async function forget(leaving: readonly string[], protocol: "tcp" | "udp"): Promise<void> {
  await Promise.all(leaving.map((address) => forgetFlows(["--proto", protocol, "--reply-src", address])));
}

/** Lets go what waits, in order; it and later connections are led to the destination. Safe to repeat. */
export async function letThrough(forwarding: Forwarding): Promise<void> {
  // After a reboot nothing waits, and the forwarding is gone too.
  if (existsSync(`/sys/class/net/${outside(forwarding.slot)}`)) await openWaitingPlace(forwarding.slot);
  await installForwarding(forwarding);
}

const openWaitingPlace = (slot: number) =>
  batch(`neigh replace ${neighbour(slot)} lladdr ${hardwareAddress(slot)} dev ${outside(slot)} nud permanent`);

/** Removes the waiting place, and what still waits there; the forwarding itself stays. No error when there is none. */
export async function removeWaitingPlace(slot: number): Promise<void> {
  await batch(`link delete ${outside(slot)}`);
}

/** Leads new connections to the destination, without a wait. Safe to repeat. */
export async function installForwarding(forwarding: Forwarding): Promise<void> {
  await nft(rulesOf(forwarding, { waiting: false }));
}

/** Nothing that comes from elsewhere reaches nft as it is. @throws UmsError INTERNAL */
function expectPlain({ slot, ports, to, from, leaving }: Forwarding): void {
  const numbers = [slot, ...ports.flatMap(({ hostPort, toPort = hostPort }) => [hostPort, toPort])];
  const addresses = [to, from, ...leaving, ...ports.flatMap(({ hostIp }) => (hostIp === "" ? [] : [hostIp]))];
  const isPlain =
    numbers.every((number) => Number.isInteger(number) && number > 0 && number < 65_536) &&
    addresses.every((address) => isIP(address) !== 0) &&
    ports.every(({ protocol }) => ["tcp", "udp", "sctp"].includes(protocol));
  if (!isPlain) throw new UmsError("INTERNAL", "A forwarding is no list of ports and addresses.");
}

function rulesOf(forwarding: Forwarding, { waiting }: { waiting: boolean }): string {
  expectPlain(forwarding);
  const { slot, ports, to, from } = forwarding;
  // Connections to the host's loopback address can't leave it: they are not forwarded (docs/hosts.md).
  const led = ports.filter(({ hostIp }) => !hostIp.startsWith("127.") && !hostIp.includes(":"));
  const match = ({ hostIp, hostPort, protocol }: ForwardedPort) =>
    `${hostIp === "" || hostIp === "0.0.0.0" ? "fib daddr type local ip daddr != 127.0.0.0/8" : `ip daddr ${hostIp}`} ${protocol} dport ${hostPort}`;
  const lead = led.map((port) => `${match(port)} ct mark set ${mark(slot)} dnat to ${to}:${port.toPort ?? port.hostPort}`);
  // Of TCP what opens a connection: open ones go on.
  const opening = ({ protocol }: ForwardedPort) => (protocol === "tcp" ? "tcp flags & (syn | ack) == syn" : "");
  const held = led.map((port) => `${match(port)} ${opening(port)}`);
  const wait = held.map((packet) => `${packet} dup to ${neighbour(slot)} device "${outside(slot)}" drop`);
  // Before connection tracking (-200), which would tie each to a way. What a client on this host sends to an address of the
  // host's own comes to the first chain by itself; dropped in the second, its sender would be told.
  const hold = {
    wait: ["filter hook prerouting priority -250", `iifname "${inside(slot)}" accept`, ...wait],
    wait_own: [
      "filter hook output priority -300",
      `oifname "${outside(slot)}" accept`,
      ...held.map((packet) => `${packet} fib daddr type local notrack accept`),
      ...wait,
    ],
  };
  const chains = {
    ...(waiting ? hold : {}),
    arriving: ["nat hook prerouting priority -110", ...lead],
    own: ["nat hook output priority -110", ...lead],
    leaving: ["nat hook postrouting priority 90", `ct mark ${mark(slot)} snat to ${from}`],
  };
  const body = Object.entries(chains).map(([name, [hook, ...rules]]) => `chain ${name} {\n type ${hook};\n ${rules.join("\n ")}\n}\n`);
  return `table ${table(slot)} {}\ndelete table ${table(slot)}\ntable ${table(slot)} {\n${body.join("")}}\n`;
}

const removeRules = (slot: number) => nft(`table ${table(slot)} {}\ndelete table ${table(slot)}\n`);

/** Ends the forwarding for new connections; those that it led go on. No error when there is none. */
export async function removeForwarding(slot: number): Promise<void> {
  await removeRules(slot);
  await removeWaitingPlace(slot);
}

/** Has the sender of each datagram that a forwarding has led, or any of them, led anew: a flow that goes on would follow it for ever. */
export async function endDatagramFlows(slot?: number): Promise<void> {
  await forgetFlows(["--proto", "udp", "--mark", slot === undefined ? "0x554d0000/0xffff0000" : mark(slot)]);
}

/** Ends all forwardings of this host but these: for those whose end it has not heard of. */
export async function keepForwardings(slots: readonly number[]): Promise<void> {
  const { stdout } = await execa("nft", ["--terse", "list", "tables"], { stdin: "ignore", timeout: timeoutMs });
  const names = [...stdout.split("\n"), ...(await readdir("/sys/class/net"))];
  const found = names.flatMap((name) => /^(?:table ip ums_forward_|umshold)(\d+)$/.exec(name)?.[1] ?? []);
  for (const slot of new Set(found.map(Number))) if (!slots.includes(slot)) await removeForwarding(slot);
}

/** Ends the forwarding as if it had never been: what waits goes to the service that is still here, at once. */
export async function withdrawForwarding(slot: number): Promise<void> {
  await removeRules(slot);
  await openWaitingPlace(slot);
}
