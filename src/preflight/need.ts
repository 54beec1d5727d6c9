/** What the destination must know about a service beforehand. */
import path from "node:path";
import { readLaunch } from "../checkpoint/bundle.ts";
import { memoryOf, processesOf } from "../checkpoint/freezer.ts";
import type { Container, ContainerEngine } from "../container-engines/engine.ts";
import { UmsError } from "../errors.ts";
import { diskUsage, uidsOf } from "../machine/measure.ts";
import { machineMeasures } from "../machine/measures.ts";
import type { ContainerNeed } from "../protocol/container.ts";

/** @param container running */
export async function describeNeed({
  engine,
  container,
  signal,
}: {
  engine: ContainerEngine;
  container: Container;
  signal: AbortSignal;
}): Promise<ContainerNeed> {
  const pids = await processesOf(container);
  const names = [...new Set(container.volumes.map(({ name }) => name))];
  const [image, volumes, memory, files, machine, uids, launch] = await Promise.all([
    engine.findImage(container.spec.imageId, signal),
    Promise.all(names.map((name) => engine.findVolume(name))),
    memoryOf(pids),
    // Files in /dev/shm are in no process's memory as long as none has mapped them.
    diskUsage([container.changesDirectory, ...container.volumes.map(({ directory }) => directory), container.shmDirectory ?? ""], signal),
    machineMeasures(),
    uidsOf(pids),
    readLaunch(path.dirname(container.ociConfigPath)),
  ]);
  if (!image) throw new UmsError("PODMAN_FAILED", `The image of container ${container.name} is not there any more.`);
  return {
    kind: "Container",
    spec: container.spec,
    launch,
    image: { ...image, names: [...image.names], digests: [...image.digests], layers: [...image.layers] },
    volumes: volumes.flatMap((volume) => (volume ? [{ name: volume.name, labels: { ...volume.labels } }] : [])),
    memoryBytes: memory,
    fileBytes: files,
    ...machine,
    uids,
  };
}
