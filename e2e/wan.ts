/** The network between test hosts and clusters: a bridge in a network namespace of its own, where clients run, too. */
import { end, firstLine, pidOf, type Place, placeAt, spawnTied } from "./place.ts";

const wanAddress = "10.231.0.1";

/** A place whose network others may enter. */
export type Wan = Place & Readonly<{ /** A file: `nsenter --net=` it. */ networkNamespace: string }>;

/** Lives as long as the stack. */
export async function createWan(stack: AsyncDisposableStack): Promise<Wan> {
  const holder = spawnTied(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]);
  stack.defer(() => end(holder));
  await firstLine(holder, /^ready$/);
  const networkNamespace = `/proc/${pidOf(holder)}/ns/net`;
  const place = placeAt({
    address: wanAddress,
    enter: () => ["nsenter", `--net=${networkNamespace}`, "--"],
    forks: false,
  });
  await place.exec(["ip", "link", "set", "lo", "up"]);
  await place.exec(["ip", "link", "add", "wan", "type", "bridge"]);
  await place.exec(["ip", "addr", "add", `${wanAddress}/24`, "dev", "wan"]);
  await place.exec(["ip", "link", "set", "wan", "up"]);
  return { ...place, networkNamespace };
}

type Link = Readonly<{
  wan: Place;
  /** Of the port; the inside's device is its first card. */
  port: string;
  bridge: string;
  inside: Place;
  initPid: number;
  /** The last byte of the address in the wan's network. */
  number: number;
}>;

/** The address of whoever is connected under that number. */
export function wanAddressOf(number: number): string {
  return wanAddress.replace(/\d+$/, String(number));
}

/** Gives a host or node its card, address and default route. */
export async function connect({ wan, port, bridge, inside, initPid, number }: Link): Promise<void> {
  // The same after a reboot, as a card's is: others remember it.
  const hardwareAddress = `02:00:0a:e7:00:${number.toString(16).padStart(2, "0")}`;
  const card = ["name", "eth0", "address", hardwareAddress, "netns", String(initPid)];
  await wan.exec(["ip", "link", "add", port, "type", "veth", "peer", ...card]);
  await wan.exec(["ip", "link", "set", port, "master", bridge, "up"]);
  await inside.exec(["ip", "addr", "add", `${wanAddressOf(number)}/24`, "dev", "eth0"]);
  await inside.exec(["ip", "link", "set", "eth0", "up"]);
  await inside.exec(["ip", "route", "add", "default", "via", wanAddress]);
}

/** Limits what leaves by a device; undefined = unshaped. */
export async function shape(place: Place, device: string, mbit: number | undefined): Promise<void> {
  const args =
    mbit === undefined
      ? ["tc", "qdisc", "del", "dev", device, "root"]
      : // One GSO packet (64 KiB) must fit into the bucket, or it is cut up at a great cost.
        ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", `${mbit}mbit`, "burst", "256kb", "latency", "50ms"];
  // Deleting what was never added fails, and need not succeed.
  await place.exec(args, { reject: mbit !== undefined });
}
