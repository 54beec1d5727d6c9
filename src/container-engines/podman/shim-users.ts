/** Which containers need UMS's OCI runtime. Asked of Podman's own command, as UMS's service of its API may not run. */
import { execa } from "execa";
import { UmsError } from "../../errors.ts";
import { shimRuntime } from "./runtimes.ts";

/** @returns their names, also of those that don't run. @throws UmsError PODMAN_FAILED */
export async function shimUsers(): Promise<string[]> {
  const ids = await ask(["container", "ls", "--all", "--quiet", "--no-trunc"]);
  if (ids.length === 0) return [];
  const lines = await ask(["container", "inspect", "--format", "{{.OCIRuntime}} {{.Name}}", ...ids]);
  return lines.flatMap((line) => (line.startsWith(`${shimRuntime} `) ? [line.slice(shimRuntime.length + 1)] : []));
}

async function ask(args: readonly string[]): Promise<string[]> {
  const { stdout, stderr, failed, shortMessage } = await execa("podman", [...args], { stdin: "ignore", reject: false, timeout: 30_000 });
  if (failed) throw new UmsError("PODMAN_FAILED", `Podman does not tell of which runtime its containers are: ${stderr || shortMessage}.`);
  return stdout.split("\n").filter(Boolean);
}
