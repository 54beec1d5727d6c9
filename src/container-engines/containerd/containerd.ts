/**
 * What the kubelet's containers are on their node: containerd keeps an OCI bundle for each task (runtime v2,
 * containerd/docs/runtime-v2.md), and runc its state; both are read here as files. The kubelet makes, starts and removes
 * containers by itself, so nothing of that is here.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { readBundle } from "../../checkpoint/bundle.ts";
import { type Freezer, freezerOf } from "../../checkpoint/freezer.ts";

/** Where containerd keeps what runs. */
export type ContainerdPlaces = Readonly<{
  /** One OCI bundle a container. */
  bundles: string;
  /** runc's root for Kubernetes' containers. */
  runcRoot: string;
}>;

/** containerd's own, and that of k3s and RKE2. */
const knownPlaces: readonly ContainerdPlaces[] = ["/run/containerd", "/run/k3s/containerd"].map((state) => ({
  bundles: path.join(state, "io.containerd.runtime.v2.task/k8s.io"),
  runcRoot: path.join(state, "runc/k8s.io"),
}));

/** A container of a pod, as its node has it while it runs. */
export type Task = Readonly<{
  id: string;
  /** Its init, as the node sees it. */
  pid: number;
  bundle: string;
  runcRoot: string;
  freezer: Freezer;
  /** Directory of the container's own changes to its image; undefined where its root is no overlay. */
  changesDirectory: string | undefined;
  /** The pod's network namespace, which outlives its containers; undefined where it is the node's. */
  network: string | undefined;
  /** The pod's /dev/shm on the node, where it has one. */
  shm: string | undefined;
  /** Whose container it is; undefined where it is none of a pod's. */
  labels: PodLabels | undefined;
}>;

/** What containerd itself writes into a container's configuration, and no user of the cluster can. */
export type PodLabels = Readonly<{ uid: string; namespace: string; name: string; container: string }>;

/** @returns undefined when no runc container of this id runs here @throws where that can't be told */
export async function findTask(id: string, places: readonly ContainerdPlaces[] = knownPlaces): Promise<Task | undefined> {
  for (const { bundles, runcRoot } of places) {
    const bundle = path.join(bundles, id);
    const pid = Number(await readFile(path.join(bundle, "init.pid"), "utf8").catch(unlessGone)) || 0;
    // Other runtimes have bundles too, but no state of runc's.
    if (pid === 0 || !(await isThere(path.join(runcRoot, id, "state.json")))) continue;
    const freezer = await freezerOf({ pid, id });
    if (!freezer) continue; // it has ended, and its process id may be another's
    const { mounts, linux, annotations } = await readBundle(bundle);
    const network = linux.namespaces.find(({ type }) => type === "network")?.path;
    const shm = mounts.find(({ destination, source }) => destination === "/dev/shm" && path.isAbsolute(source))?.source;
    const changesDirectory = await changesOf(path.join(bundle, "rootfs"));
    return { id, pid, bundle, runcRoot, freezer, changesDirectory, network, shm, labels: labelsOf(annotations) };
  }
  return undefined;
}

/** The containers of a pod that run here, by the annotations which containerd's CRI plugin gives them. */
export async function tasksOfPod(uid: string, places: readonly ContainerdPlaces[] = knownPlaces): Promise<Task[]> {
  const ids = (await Promise.all(places.map(async ({ bundles }) => (await readdir(bundles).catch(unlessGone)) ?? []))).flat();
  const tasks = await Promise.all(
    ids.map(async (id) => {
      const found = await findTask(id, places).catch(unlessGone); // it may go while we look
      return found?.labels?.uid === uid ? [found] : [];
    }),
  );
  return tasks.flat();
}

/** Ids of the containers that run by this runtime's program: containerd keeps each one's options beside its bundle. */
export async function containersOf(program: string, places: readonly ContainerdPlaces[] = knownPlaces): Promise<string[]> {
  const found = places.map(async ({ bundles }) => {
    const ids = await readdir(bundles).catch(() => []);
    const options = await Promise.all(ids.map((id) => readFile(path.join(bundles, id, "options.json"), "latin1").catch(() => "")));
    return ids.filter((_, index) => options[index]?.includes(program));
  });
  return (await Promise.all(found)).flat();
}

/** containerd/internal/cri/annotations */
function labelsOf(annotations: Readonly<Record<string, string>> = {}): PodLabels | undefined {
  const told = (name: string) => annotations[`io.kubernetes.cri.${name}`] ?? "";
  if (told("container-type") !== "container") return undefined;
  return { uid: told("sandbox-uid"), namespace: told("sandbox-namespace"), name: told("sandbox-name"), container: told("container-name") };
}

/** The writable layer of an overlay that is mounted on the node. @returns undefined where there is none */
export async function changesOf(rootfs: string): Promise<string | undefined> {
  const line = await mountAt(rootfs);
  return /(?:^|,)upperdir=([^,]+)/.exec(line?.split(" - ")[1]?.split(" ")[2] ?? "")?.[1];
}

/** Whether the node has a container's root there: containerd takes it away before its bundle. */
export const isMounted = async (rootfs: string) => (await mountAt(rootfs)) !== undefined;

async function mountAt(place: string): Promise<string | undefined> {
  // The node's own mounts: this process may be in a mount namespace that shows only some of them.
  const mounts = await readFile("/proc/1/mountinfo", "utf8");
  const real = place.replace(/^\/var\/run\//, "/run/");
  return mounts.split("\n").findLast((each) => each.split(" ")[4] === real);
}

const isThere = async (file: string) => (await stat(file).catch(unlessGone)) !== undefined;

/** @throws what tells of something else than that there is nothing, or has just ended: a failed read must not be taken for that */
function unlessGone(cause: unknown): undefined {
  if (!["ENOENT", "ENOTDIR", "ESRCH"].includes((cause as NodeJS.ErrnoException).code ?? "")) throw cause;
}
