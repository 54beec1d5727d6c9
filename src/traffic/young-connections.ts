/**
 * TCP connections that clients have opened a moment before a hold. Each belongs to a request that will be over in
 * milliseconds, as a rule: given these, nobody's request is cut off. Those that are open for long are cut off in any case.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

export type InboundConnection = Readonly<{
  /** Both ends, as the kernel writes them. */
  ends: string;
  /** Whether the service has taken it out of its listener's queue. */
  isAccepted: boolean;
}>;

/** As in /proc/net/tcp (the kernel's include/net/tcp_states.h). */
const listening = "0A";
/** ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING: in the others the client has got all that it will get. */
const unfinished = new Set(["01", "03", "04", "08", "09", "0B"]);

/** @param tables of /proc/net/tcp and tcp6 */
export function inboundConnections(tables: readonly string[]): InboundConnection[] {
  const sockets = tables.flatMap((table) =>
    table
      .trim()
      .split("\n")
      .slice(1)
      .map((line) => {
        const [, local = "", remote = "", state = "", , , , , , inode = ""] = line.trim().split(/\s+/);
        return { local, remote, state, inode, port: local.split(":")[1] };
      }),
  );
  const served = new Set(sockets.filter(({ state }) => state === listening).map(({ port }) => port));
  return sockets
    .filter(({ state, port }) => unfinished.has(state) && served.has(port))
    .map(({ local, remote, inode }) => ({ ends: `${local} ${remote}`, isAccepted: inode !== "0" }));
}

/** Of the network that a process is in; none where the process has ended. */
async function connectionsOf(pid: number): Promise<InboundConnection[]> {
  const tables = ["tcp", "tcp6"].map((name) => readFile(`/proc/${pid}/net/${name}`, "utf8").catch(() => ""));
  return inboundConnections(await Promise.all(tables));
}

/** Those that are open now: later they are not young any more. */
export async function openConnections(pid: number): Promise<ReadonlySet<string>> {
  return new Set((await connectionsOf(pid)).map(({ ends }) => ends));
}

/**
 * Resolves when every connection to the service is one that was open `before`, and accepted; or when it has waited for long
 * enough. New ones should be held back meanwhile.
 * @param options.patienceMs for which the clients that are held may wait for that
 */
export async function awaitYoungConnections(
  pid: number,
  { before, patienceMs = 200, everyMs = 3 }: { before: ReadonlySet<string>; patienceMs?: number; everyMs?: number },
): Promise<void> {
  for (const until = performance.now() + patienceMs; performance.now() < until; await sleep(everyMs)) {
    const open = await connectionsOf(pid);
    if (open.every(({ ends, isAccepted }) => isAccepted && before.has(ends))) return;
  }
}
