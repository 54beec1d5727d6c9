/** What the destination must know about a service beforehand. */
import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import { readLaunch } from "../checkpoint/bundle.ts";
import { memoryBytes } from "../checkpoint/freezer.ts";
import type { Container, ContainerEngine } from "../container-engines/engine.ts";
import type { OciConfig } from "../container-engines/podman/describe.ts";
import { UmsError } from "../errors.ts";
import type { ContainerNeed } from "../protocol/container.ts";
import { machineMeasures } from "./machine.ts";
import { diskUsage, uidsOf } from "./measure.ts";

/**
 * @param container running
 * @returns what the destination is asked for, and the host's path of the container's /dev/shm where that is a mount of its own
 */
export async function describeNeed({
  engine,
  container,
  signal,
}: {
  engine: ContainerEngine;
  container: Container;
  signal: AbortSignal;
}): Promise<{ need: ContainerNeed; shm: string | undefined }> {
  const names = [...new Set(container.volumes.map(({ name }) => name))];
  const [image, volumes, memory, files, machine, uids, shm, launch] = await Promise.all([
    engine.findImage(container.spec.imageId, signal),
    Promise.all(names.map((name) => engine.findVolume(name))),
    memoryBytes(container.pid),
    diskUsage([container.changesDirectory, ...container.volumes.map(({ directory }) => directory)], signal),
    machineMeasures(),
    uidsOf(container.pid),
    shmOf(container),
    readLaunch(path.dirname(container.ociConfigPath)),
  ]);
  if (!image) throw new UmsError("PODMAN_FAILED", `The image of container ${container.name} is not there any more.`);
  const need: ContainerNeed = {
    kind: "Container",
    spec: container.spec,
    launch,
    image: { ...image, names: [...image.names], digests: [...image.digests], layers: [...image.layers] },
    volumes: volumes.flatMap((volume) => (volume ? [{ name: volume.name, labels: { ...volume.labels } }] : [])),
    // Files in /dev/shm are in no process's memory as long as none has mapped them.
    memoryBytes: memory,
    fileBytes: files + (shm === undefined ? 0 : await diskUsage([shm], signal)),
    ...machine,
    uids,
  };
  return { need, shm };
}

/** Podman gives each container a tmpfs for /dev/shm, mounts it on the host, and binds it into the container. */
async function shmOf({ ociConfigPath }: Container): Promise<string | undefined> {
  const oci = JSON.parse(await readFile(ociConfigPath, "utf8")) as OciConfig;
  const source = oci.mounts?.find(({ destination }) => destination === "/dev/shm")?.source;
  if (source === undefined || !path.isAbsolute(source)) return undefined;
  const [own, above] = await Promise.all([source, path.dirname(source)].map((each) => stat(each).catch(() => undefined)));
  return own !== undefined && own.dev !== above?.dev ? source : undefined;
}
