/**
 * Where a pod is on its node, by what containerd and the kernel say. A request says whose pod it means, and nothing of where
 * that is: whoever could write one would act as root on any process, network and directory of the node.
 */
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { Value } from "typebox/value";
import { type PodLabels, type Task, findTask, tasksOfPod } from "../../../container-engines/containerd/containerd.ts";
import { UmsError } from "../../../errors.ts";
import { syncDirectory, writeDurably } from "../../../trust/durable-file.ts";
import { KeptPod, type PodIdentity, type PodOnNode, type PodReference } from "../../../protocol/pod.ts";

/** A pod whose containers all run here, and each one's OCI bundle. */
export type Located = Readonly<{ pod: PodOnNode; bundles: ReadonlyMap<string, string> }>;

export type Places = Readonly<{
  /** @throws UmsError RUNTIME_NOT_RUNC where a container of it does not run here, OTHER_POD, STORAGE_DRIVER, HOST_NAMESPACE */
  find(reference: PodReference): Promise<Located>;
  /**
   * The same, noted durably for a migration: what is frozen, killed or removed is not found any more, and has to be let go all
   * the same, also by a later process of this node.
   * @throws UmsError ALREADY_MIGRATING where the migration has begun with another pod, BAD_STATE
   */
  keep(id: string, reference: PodReference): Promise<PodOnNode>;
  /** What was noted, or is found now. @returns undefined where nothing of the pod is here @throws UmsError OTHER_POD, BAD_STATE */
  kept(id: string, reference: PodReference): Promise<PodOnNode | undefined>;
}>;

/** In a migration's directory, beside those of containers, none of which can be called so. */
const noteFile = ".pod";

/** @param options.find of a container's task; another one in tests */
export function createPlaces({ workDirectory, find = findTask }: { workDirectory: string; find?: typeof findTask }): Places {
  const noteOf = (id: string) => path.join(workDirectory, id, noteFile);

  async function locate(reference: PodReference): Promise<Located> {
    const tasks = await Promise.all(
      reference.containers.map(async ({ name, id, restarts }) => {
        const task = await find(id);
        if (!task) throw new UmsError("RUNTIME_NOT_RUNC", `Container ${name} has no task of runc on this node.`);
        expectOf(reference, task.labels, name);
        if (task.changesDirectory === undefined)
          throw new UmsError("STORAGE_DRIVER", `The root of container ${name} is no overlay: its files can't be told from the image's.`);
        return { ...task, name, changesDirectory: task.changesDirectory, logPath: path.join(logsOf(reference), name, `${restarts}.log`) };
      }),
    );
    const [first] = tasks;
    if (first?.network === undefined) throw new UmsError("HOST_NAMESPACE", "The pod has no network of its own.");
    const shm = tasks.find((task) => task.shm !== undefined)?.shm;
    return {
      pod: {
        uid: reference.uid,
        network: first.network,
        containers: tasks.map(({ name, id, pid, runcRoot, freezer, changesDirectory, logPath }) => ({
          ...{ name, id, pid, runcRoot, freezer, changesDirectory, logPath },
        })),
        volumes: reference.volumes.map((name) => ({ name, directory: emptyDirectory(reference.uid, name) })),
        ...(shm === undefined ? {} : { shm }),
      },
      bundles: new Map(tasks.map(({ name, bundle }) => [name, bundle])),
    };
  }

  /** A note that can't be read is not taken for none: an undo would leave alone what it tells of. @throws UmsError BAD_STATE */
  async function noted(id: string): Promise<KeptPod | undefined> {
    const text = await readFile(noteOf(id), "utf8").catch((cause: unknown) => {
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
    });
    if (text === undefined) return undefined;
    const note = parsed(text);
    if (Value.Check(KeptPod, note)) return note;
    throw new UmsError("BAD_STATE", `${noteOf(id)} does not say which pod migration ${id} has begun with.`);
  }

  return {
    find: locate,

    async keep(id, reference) {
      const before = await noted(id);
      if (before && !isSame(before.of, reference))
        throw new UmsError(
          "ALREADY_MIGRATING",
          `Migration ${id} has begun with pod ${before.of.namespace}/${before.of.name} on this node.`,
        );
      const { pod } = await locate(reference);
      const { namespace, name, uid } = reference;
      const note: KeptPod = { of: { namespace, name, uid }, pod };
      if (!Value.Check(KeptPod, note)) throw new UmsError("RUNTIME_NOT_RUNC", `Pod ${name} lies where this version knows nothing of.`);
      await mkdir(path.join(workDirectory, id), { recursive: true, mode: 0o700 });
      syncDirectory(workDirectory);
      writeDurably(noteOf(id), JSON.stringify(note));
      return pod;
    },

    async kept(id, reference) {
      const note = await noted(id);
      if (note && !isSame(note.of, reference))
        throw new UmsError("OTHER_POD", `Migration ${id} has begun with another pod than ${reference.namespace}/${reference.name}.`);
      if (note) return note.pod;
      return await locate(reference).then(
        ({ pod }) => pod,
        (cause: unknown) => {
          if (cause instanceof UmsError && cause.code !== "OTHER_POD") return undefined;
          throw cause;
        },
      );
    },
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The tasks that run here of the pod with this uid. @throws UmsError OTHER_POD where that is another pod */
export async function ownTasks(pod: PodIdentity): Promise<Task[]> {
  const tasks = await tasksOfPod(pod.uid);
  for (const { labels } of tasks) expectOf(pod, labels);
  return tasks;
}

/** @throws UmsError OTHER_POD */
function expectOf({ namespace, name, uid }: PodIdentity, labels: PodLabels | undefined, container = labels?.container): void {
  if (labels && isSame(labels, { namespace, name, uid }) && labels.container === container) return;
  throw new UmsError("OTHER_POD", `What runs here under that id is not container ${container} of pod ${namespace}/${name} (${uid}).`);
}

const isSame = (one: PodIdentity, other: PodIdentity) =>
  one.uid === other.uid && one.namespace === other.namespace && one.name === other.name;

/** Where the kubelet keeps the logs of a pod's containers. */
const logsOf = ({ namespace, name, uid }: PodIdentity) => path.join("/var/log/pods", `${namespace}_${name}_${uid}`);

/** Where the kubelet keeps a pod's emptyDir volume (kubernetes, pkg/volume/emptydir). */
export const emptyDirectory = (podUid: string, volume: string) =>
  path.join("/var/lib/kubelet/pods", podUid, "volumes/kubernetes.io~empty-dir", volume);
