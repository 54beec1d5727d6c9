/** What of a pod is copied beside its memory, and what its streams are called: see StreamContent. */
import type { PodOnNode } from "../../../protocol/pod.ts";
import { byKind, type FileSender, type StreamSender, type Tree } from "../../../transfer/files.ts";

/** Then nothing that is sent names its container. */
export const isAlone = ({ containers }: Readonly<{ containers: readonly unknown[] }>) => containers.length === 1;

/** Its containers' changed files, its volumes and its shared memory: `early` can be sent while it runs, `late` can't. */
export const treesOf = (pod: PodOnNode): Promise<{ early: Tree[]; late: Tree[] }> =>
  byKind([
    ...pod.containers.map(({ name, changesDirectory }) => ({
      tree: isAlone(pod) ? "changes" : `changes:${name}`,
      root: changesDirectory,
    })),
    ...pod.volumes.map(({ directory }, at) => ({ tree: `volume:${at}`, root: directory })),
    ...(pod.shm === undefined ? [] : [{ tree: "shm", root: pod.shm }]),
  ]);

/** Sends what the containers' logs have grown by since the sender's last pass. */
export async function sendLogs(files: FileSender, pod: PodOnNode, data: StreamSender): Promise<void> {
  for (const { name, logPath } of pod.containers)
    await files.log(data, { kind: "log", ...(isAlone(pod) ? {} : { container: name }) }, logPath);
}

/** For what a sender of files notes, beside directories of containers: none of those can be called so. */
export const filesDirectory = ".files";
