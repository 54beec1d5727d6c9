/**
 * The hold on a container's network, inside its own namespace: nothing from outside reaches it, whatever way it takes
 * (published port, another container on its bridge, the host). A frozen process's kernel would go on to accept and
 * acknowledge. What the service had sent before may still leave. The rules outlive this process.
 */
import { stat } from "node:fs/promises";
import { execa } from "execa";

const table = "inet ums_hold";
const timeoutMs = 10_000;

const inNamespace = (namespace: string, command: string[], input?: string) =>
  execa("nsenter", [`--net=${namespace}`, "--", ...command], {
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: "ignore" as const } : { input }),
  });

export async function holdNamespace(namespace: string): Promise<void> {
  const rules = `table ${table} {}
delete table ${table}
table ${table} {
  chain arriving {
    type filter hook prerouting priority -450; policy accept;
    iifname "lo" accept
    drop
  }
}
`;
  await inNamespace(namespace, ["nft", "-f", "-"], rules);
}

export async function releaseNamespace(namespace: string): Promise<void> {
  if (!(await stat(namespace).catch(() => undefined))) return; // its rules went with it
  await inNamespace(namespace, ["nft", "-f", "-"], `table ${table} {}\ndelete table ${table}\n`);
}

export async function isNamespaceHeld(namespace: string): Promise<boolean> {
  const { stdout } = await inNamespace(namespace, ["nft", "list", "tables"]);
  return stdout.split("\n").includes(`table ${table}`);
}

/** Resets every TCP connection of the namespace, so that its clients know at once that they must connect anew. */
export async function resetConnections(namespace: string): Promise<void> {
  if (!(await stat(namespace).catch(() => undefined))) return;
  await inNamespace(namespace, ["ss", "--kill", "--tcp", "--no-header", "--numeric", "state", "connected"]);
}
