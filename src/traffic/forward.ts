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
import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { execa } from "execa";
import type { PortMapping } from "../container-engines/spec.ts";
import { UmsError } from "../errors.ts";

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

/** Locally administered; known beforehand, so that nobody has to ask for it while clients wait. */
const hardwareAddress = (slot: number) => `02:75:6d:73:00:${slot.toString(16).padStart(2, "0")}`;
const ruleRemoval = (slot: number) => `rule delete fwmark ${mark(slot)} lookup ${routingTable(slot)} priority ${rulePriority}`;

const ip = (...args: string[]) => execa("ip", args, { stdin: "ignore", timeout: timeoutMs });
/** Several commands of ip in one process; what is there already, or gone already, is no error. */
const batch = (...commands: string[]) =>
  execa("ip", ["-force", "-batch", "-"], { input: `${commands.join("\n")}\n`, timeout: timeoutMs, reject: false });
const nft = (rules: string) => execa("nft", ["-f", "-"], { input: rules, timeout: timeoutMs });

/** The way to a host, by its name or address. */
export async function wayTo(host: string): Promise<Pick<Forwarding, "to" | "from">> {
  const { address: to } = await lookup(host, { family: 4 });
  const { stdout } = await ip("-json", "route", "get", to);
  const from = (JSON.parse(stdout) as { prefsrc: string }[])[0]?.prefsrc;
  if (from === undefined) throw new UmsError("SITE_UNREACHABLE", `This host has no route to ${to}.`);
  return { to, from };
}

/** Makes the place where connections can wait; changes nothing for anybody yet. */
export async function makeWaitingPlace(slot: number): Promise<void> {
  await withdrawForwarding(slot);
  await ip("link", "add", outside(slot), "type", "veth", "peer", "name", inside(slot), "address", hardwareAddress(slot));
  const set = (kind: "conf" | "neigh", device: string, key: string, value: number) =>
    writeFile(`/proc/sys/net/ipv4/${kind}/${device}/${key}`, String(value));
  await Promise.all([
    set("neigh", outside(slot), "unres_qlen_bytes", 32 << 20),
    // The kernel asks once a second and gives up after so many; the hold must not end by itself.
    set("neigh", outside(slot), "mcast_solicit", 86_400),
    set("conf", inside(slot), "rp_filter", 0),
    set("conf", outside(slot), "rp_filter", 0),
    // What comes back carries this host's own address as its source.
    set("conf", inside(slot), "accept_local", 1),
  ]);
  await batch(
    `link set ${inside(slot)} arp off up`,
    `link set ${outside(slot)} up`,
    `route replace default via ${neighbour} dev ${outside(slot)} onlink table ${routingTable(slot)}`,
    `rule add fwmark ${mark(slot)} lookup ${routingTable(slot)} priority ${rulePriority}`,
  );
}

/** Lets go what waits, in order; later connections take the direct way. */
export async function letThrough(forwarding: Forwarding): Promise<void> {
  const { slot } = forwarding;
  // After a reboot nothing waits, and the forwarding is gone too.
  if (!existsSync(`/sys/class/net/${outside(slot)}`)) return installForwarding(forwarding);
  await batch(`neigh replace ${neighbour} lladdr ${hardwareAddress(slot)} dev ${outside(slot)} nud permanent`, ruleRemoval(slot));
}

/** Removes the waiting place; the forwarding itself stays. No error when there is none. */
export async function removeWaitingPlace(slot: number): Promise<void> {
  await batch(ruleRemoval(slot), `route flush table ${routingTable(slot)}`, `link delete ${outside(slot)}`);
}

/**
 * Leads new connections to the destination; where there is a waiting place, they wait in it until {@link letThrough}.
 * Safe to repeat.
 */
export async function installForwarding({ slot, ports, to, from }: Forwarding): Promise<void> {
  // Connections to the host's loopback address can't leave it: they are not forwarded (docs/hosts.md).
  const match = ({ hostIp, hostPort, protocol }: ForwardedPort) =>
    `${hostIp === "" || hostIp === "0.0.0.0" ? "fib daddr type local ip daddr != 127.0.0.0/8" : `ip daddr ${hostIp}`} ${protocol} dport ${hostPort}`;
  const lead = ports
    .filter(({ hostIp }) => !hostIp.startsWith("127.") && !hostIp.includes(":"))
    .map((port) => `${match(port)} ct mark set ${mark(slot)} dnat to ${to}:${port.toPort ?? port.hostPort}`);
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

/** Ends the forwarding for new connections; those that it led go on. No error when there is none. */
export async function removeForwarding(slot: number): Promise<void> {
  await nft(`table ${table(slot)} {}\ndelete table ${table(slot)}\n`);
  await removeWaitingPlace(slot);
}

/** Ends all forwardings of this host but these: for those whose end it has not heard of. */
export async function keepForwardings(slots: readonly number[]): Promise<void> {
  const { stdout } = await execa("nft", ["--terse", "list", "tables"], { stdin: "ignore", timeout: timeoutMs });
  const names = [...stdout.split("\n"), ...(await readdir("/sys/class/net"))];
  const found = names.flatMap((name) => /^(?:table ip ums_forward_|umshold)(\d+)$/.exec(name)?.[1] ?? []);
  for (const slot of new Set(found.map(Number))) if (!slots.includes(slot)) await removeForwarding(slot);
}

/** Ends the forwarding as if it had never been: who waits to be let through comes back to this host by itself. */
export async function withdrawForwarding(slot: number): Promise<void> {
  await removeForwarding(slot);
  await execa("conntrack", ["-D", "--mark", mark(slot)], { stdin: "ignore", timeout: timeoutMs, reject: false });
}
