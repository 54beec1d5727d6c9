/**
 * A durable mark on a frozen pod, which stock kubelets and containerds heed before anything of it starts again, also after
 * the node has lost its power. Each start of a container has a log of its own, N.log in the container's log directory
 * (kubelet, kuberuntime_container.go), and containerd opens that before it makes the task (internal/cri/server,
 * container_start.go): in an immutable directory it can't, while a log that is there stays open, or is opened again.
 */
import { open, readdir } from "node:fs/promises";
import path from "node:path";
import { execa } from "execa";
import type { PodOnNode } from "../../../protocol/pod.ts";

const commandMs = 10_000;

/**
 * From here on, durably, no container of the pod starts; those that are there go on.
 * @throws Error where the file system of /var/log/pods knows no immutable directories
 */
export async function holdStarts(pod: PodOnNode): Promise<void> {
  const directories = await logDirectories(pod);
  const { failed, stderr } = await execa("chattr", ["+i", "--", ...directories], { reject: false, timeout: commandMs });
  if (failed) {
    await allowStarts(pod);
    throw new Error(stderr.split("\n")[0]);
  }
  for (const directory of directories) {
    await using handle = await open(directory, "r");
    await handle.sync();
  }
}

/** Takes the mark away, if it is there. */
export async function allowStarts(pod: PodOnNode): Promise<void> {
  const directories = await logDirectories(pod);
  if (directories.length > 0) await execa("chattr", ["-f", "-i", "--", ...directories], { reject: false, timeout: commandMs });
}

/** The pod's own, and those of all its containers: after a power loss init containers would run again, too. */
async function logDirectories({ containers: [first] }: PodOnNode): Promise<string[]> {
  const ofPod = path.dirname(path.dirname(first?.logPath ?? ""));
  const entries = await readdir(ofPod, { withFileTypes: true }).catch(() => []);
  return entries.length === 0 ? [] : [ofPod, ...entries.filter((entry) => entry.isDirectory()).map(({ name }) => path.join(ofPod, name))];
}
