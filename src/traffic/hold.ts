/**
 * The hold on a container's network, inside its own namespace: nothing from outside reaches it, whatever way it takes
 * (published port, another container on its bridge, the host). A frozen process's kernel would go on to accept and
 * acknowledge. What the service had sent before may still leave. The rules outlive this process.
 */
import { stat } from "node:fs/promises";
import { execa } from "execa";

const table = "inet ums_hold";
const lateCounter = "late";
const timeoutMs = 10_000;

const inNamespace = (namespace: string, command: string[], { input, reject = true }: { input?: string; reject?: boolean } = {}) =>
  execa("nsenter", [`--net=${namespace}`, "--", ...command], {
    timeout: timeoutMs,
    reject,
    ...(input === undefined ? { stdin: "ignore" as const } : { input }),
  });

export async function holdNamespace(namespace: string): Promise<void> {
  const rules = `table ${table} {}
delete table ${table}
table ${table} {
  counter ${lateCounter} {}
  chain arriving {
    type filter hook prerouting priority -450; policy accept;
    iifname "lo" accept
    tcp flags & (syn | ack) == syn counter name "${lateCounter}"
    drop
  }
}
`;
  await inNamespace(namespace, ["nft", "-f", "-"], { input: rules });
}

export async function releaseNamespace(namespace: string): Promise<void> {
  if (!(await stat(namespace).catch(() => undefined))) return; // its rules went with it
  await inNamespace(namespace, ["nft", "-f", "-"], { input: `table ${table} {}\ndelete table ${table}\n` });
}

/** How often somebody has tried to connect past every waiting place since the hold began: only TCP's retransmission helps such a client. */
export async function lateConnections(namespace: string): Promise<number> {
  if (!(await stat(namespace).catch(() => undefined))) return 0;
  const { stdout, failed } = await inNamespace(namespace, ["nft", "--json", "list", "counter", ...table.split(" "), lateCounter], {
    reject: false,
  });
  if (failed) return 0; // it was let go
  const { nftables } = JSON.parse(stdout) as { nftables: { counter?: { packets: number } }[] };
  return nftables.find(({ counter }) => counter)?.counter?.packets ?? 0;
}

export async function isNamespaceHeld(namespace: string): Promise<boolean> {
  const { stdout } = await inNamespace(namespace, ["nft", "list", "tables"]);
  return stdout.split("\n").includes(`table ${table}`);
}

/** The IPv4 addresses that the namespace has in its networks. */
export async function addressesIn(namespace: string): Promise<string[]> {
  const { stdout } = await inNamespace(namespace, ["ip", "-json", "-4", "address", "show", "scope", "global"]);
  const links = JSON.parse(stdout) as { addr_info: { local?: string }[] }[];
  return links.flatMap(({ addr_info }) => addr_info.flatMap(({ local }) => local ?? []));
}

/** Resets every TCP connection of the namespace, so that its clients know at once that they must connect anew. */
export async function resetConnections(namespace: string): Promise<void> {
  if (!(await stat(namespace).catch(() => undefined))) return;
  await inNamespace(namespace, ["ss", "--kill", "--tcp", "--no-header", "--numeric", "state", "connected"]);
}
