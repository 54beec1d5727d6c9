/**
 * A container's sysctls at its restore. `create` would have set those of the network namespace, which is the engine's
 * and which CRIU leaves as it is; those of the other namespaces are in CRIU's image.
 */
import { execa } from "execa";

const timeoutMs = 10_000;

/** @param namespace path of the network namespace */
export async function setNetworkSysctls(namespace: string, sysctls: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, value] of Object.entries(sysctls)) {
    // The names come from another site. What a namespace can't set for itself alone isn't visible in it.
    if (!/^net(\.[a-zA-Z0-9_-]+)+$/.test(name)) continue;
    await execa("nsenter", [`--net=${namespace}`, "--", "tee", `/proc/sys/${name.replaceAll(".", "/")}`], {
      input: value,
      stdout: "ignore",
      timeout: timeoutMs,
    });
  }
}
