import type { ContainerEngine } from "../../container-engines/engine.ts";

/** Podman forgets over a reboot that a container was running. */
const ended = new Set(["exited", "created"]);

/**
 * For a container that is held no more: somebody killed it, or the host rebooted, while it was held. What the engine
 * would have done then by the container's restart policy is done now.
 */
export async function startAgain(engine: ContainerEngine, containerId: string): Promise<void> {
  const container = await engine.find(containerId);
  const policy = container?.spec.restartPolicy.name ?? "";
  if (container && ended.has(container.state) && policy !== "" && policy !== "no") await engine.start(container.id);
}
