/**
 * What leads the clients of a published port from the host that had the service to the one that has it.
 *
 * Connections opened during the hold get their way to the destination at once, but wait on it in the kernel: the way
 * leads through a device whose neighbour is not resolved, and the kernel queues what can't be sent yet. Naming the
 * neighbour lets all of it go in order, within the same millisecond. Dropping them instead would cost their clients a
 * second (TCP's first retransmission); accepting them here would break them with this process.
 *
 * The waiting packets come back on the other end of the device (a veth pair) and are routed again; connection tracking
 * has seen them already, so it must not see them twice.
 */
import { lookup } from "node:dns/promises";
import { writeFile } from "node:fs/promises";
import { execa } from "execa";
import type { PortMapping } from "../container-engines/spec.ts";

export type Forwarding = Readonly<{
  /** From 1 to 250, unlike that of any other forwarding of this host. */
  slot: number;
  ports: readonly PortMapping[];
  /** IPv4 address of the destination. */
  to: string;
}>;

const timeoutMs = 10_000;
const table = (slot: number) => `ip ums_forward_${slot}`;
const outside = (slot: number) => `umshold${slot}`;
const inside = (slot: number) => `umshold${slot}b`;
/** Marks packets for the routing table of the hold, and connections for removal on rollback. */
const mark = (slot: number) => `0x554d${slot.toString(16).padStart(4, "0")}`;
const routingTable = (slot: number) => String(21_709_000 + slot);
const rulePriority = "90";
const neighbour = "169.254.85.77";

const ip = (...args: string[]) => execa("ip", args, { stdin: "ignore", timeout: timeoutMs });
const nft = (rules: string) => execa("nft", ["-f", "-"], { input: rules, timeout: timeoutMs });

/** Resolves the host part of an address to IPv4. */
export async function addressOf(host: string): Promise<string> {
  return (await lookup(host, { family: 4 })).address;
}

/** Leads new connections to the destination, and makes them wait on the way until {@link letThrough}. */
export async function holdConnections(forwarding: Forwarding): Promise<void> {
  const { slot } = forwarding;
  await removeForwarding(slot);
  await ip("link", "add", outside(slot), "type", "veth", "peer", "name", inside(slot));
  const set = (kind: "conf" | "neigh", device: string, key: string, value: number) => writeFile(`/proc/sys/net/ipv4/${kind}/${device}/${key}`, String(value));
  await Promise.all([
    ip("link", "set", inside(slot), "arp", "off", "up").then(() => ip("link", "set", outside(slot), "up")),
    set("neigh", outside(slot), "unres_qlen_bytes", 32 << 20),
    // The kernel asks once a second and gives up after so many; the hold must not end by itself.
    set("neigh", outside(slot), "mcast_solicit", 86_400),
    set("conf", inside(slot), "rp_filter", 0),
    set("conf", outside(slot), "rp_filter", 0),
    // What comes back carries this host's own address as its source.
    set("conf", inside(slot), "accept_local", 1),
  ]);
  await ip("route", "replace", "default", "via", neighbour, "dev", outside(slot), "onlink", "table", routingTable(slot));
  await ip("rule", "add", "fwmark", mark(slot), "lookup", routingTable(slot), "priority", rulePriority);
  await installForwarding(forwarding);
}

/** Lets go what waits, in order; later connections take the direct way. */
export async function letThrough({ slot }: Forwarding): Promise<void> {
  const { stdout } = await execa("ip", ["-json", "link", "show", "dev", inside(slot)], { stdin: "ignore", timeout: timeoutMs, reject: false });
  const [link] = stdout.trim() === "" ? [] : (JSON.parse(stdout) as { address: string }[]);
  if (!link) return; // after a reboot nothing waits
  await ip("neigh", "replace", neighbour, "lladdr", link.address, "dev", outside(slot), "nud", "permanent");
  await removeRule(slot);
}

/** Removes the waiting place; the forwarding itself stays. */
export async function removeWaitingPlace(slot: number): Promise<void> {
  await removeRule(slot);
  await execa("ip", ["route", "flush", "table", routingTable(slot)], { stdin: "ignore", timeout: timeoutMs, reject: false });
  await execa("ip", ["link", "delete", outside(slot)], { stdin: "ignore", timeout: timeoutMs, reject: false });
}

async function removeRule(slot: number): Promise<void> {
  await execa("ip", ["rule", "delete", "fwmark", mark(slot), "lookup", routingTable(slot), "priority", rulePriority], { stdin: "ignore", timeout: timeoutMs, reject: false });
}

/** Leads new connections to the destination. Safe to repeat; used after a reboot too. */
export async function installForwarding({ slot, ports, to }: Forwarding): Promise<void> {
  const { stdout } = await execa("ip", ["-json", "route", "get", to], { stdin: "ignore", timeout: timeoutMs });
  const from = (JSON.parse(stdout) as { prefsrc: string }[])[0]?.prefsrc;
  if (from === undefined) throw new Error(`There is no route to ${to}.`);
  // Connections to the host's loopback address can't leave it: they are not forwarded (docs/hosts.md).
  const match = ({ hostIp, hostPort, protocol }: PortMapping) =>
    `${hostIp === "" || hostIp === "0.0.0.0" ? "fib daddr type local ip daddr != 127.0.0.0/8" : `ip daddr ${hostIp}`} ${protocol} dport ${hostPort}`;
  const lead = ports.filter(({ hostIp }) => !hostIp.startsWith("127.") && !hostIp.includes(":")).map((port) => `${match(port)} ct mark set ${mark(slot)} dnat to ${to}:${port.hostPort}`);
  const toHold = `ct mark ${mark(slot)} ct direction original meta mark set ${mark(slot)}`;
  const chains = {
    again: ["filter hook prerouting priority -300", `iifname "${inside(slot)}" notrack meta mark set 0`],
    arriving: ["nat hook prerouting priority -110", ...lead],
    own: ["nat hook output priority -110", ...lead],
    wait: ["filter hook prerouting priority -90", `iifname != "${inside(slot)}" ${toHold}`],
    wait_own: ["route hook output priority -90", toHold],
    leaving: ["nat hook postrouting priority 90", `ct mark ${mark(slot)} snat to ${from}`],
  };
  const body = Object.entries(chains).map(([name, [hook, ...rules]]) => `chain ${name} {\n type ${hook};\n ${rules.join("\n ")}\n}\n`);
  await nft(`table ${table(slot)} {}\ndelete table ${table(slot)}\ntable ${table(slot)} {\n${body.join("")}}\n`);
}

/** Ends the forwarding and forgets the connections that it led. No error when there is none. */
export async function removeForwarding(slot: number): Promise<void> {
  await nft(`table ${table(slot)} {}\ndelete table ${table(slot)}\n`);
  await removeWaitingPlace(slot);
  await execa("conntrack", ["-D", "--mark", mark(slot)], { stdin: "ignore", timeout: timeoutMs, reject: false });
}
