/** Which control group Podman's `pause` freezes. */
import { stat } from "node:fs/promises";
import path from "node:path";
import { type Freezer, freezerOf } from "../../checkpoint/freezer.ts";
import type { Container } from "../engine.ts";

/**
 * The groups of a container that runs.
 * @returns `whole` with all that is the container's; `inner` where its runtime freezes a group of its own in that: crun does with
 * systemd's scopes on cgroup version 2 (its annotation run.oci.systemd.subgroup). undefined when it is gone
 */
export async function frozenGroups(
  container: Pick<Container, "pid" | "id" | "runtime">,
): Promise<{ whole: Freezer; inner?: Freezer } | undefined> {
  const whole = await freezerOf(container);
  if (!whole) return undefined;
  const inner = { version: whole.version, directory: path.join(whole.directory, "container") };
  const isCruns = container.runtime === "crun" && whole.version === 2 && whole.directory.endsWith(".scope");
  return isCruns && (await stat(inner.directory).catch(() => undefined)) ? { whole, inner } : { whole };
}
