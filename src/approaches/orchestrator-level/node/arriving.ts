/**
 * The destination's half on the node of the pod. The kubelet has made the pod and waits in the shim's `create` for each
 * container in turn; what arrives is staged beside its place until then, because a container that waits too long for
 * the kubelet's patience (2 minutes) is made anew.
 */
import { mkdirSync } from "node:fs";
import { chmod, chown, lstat, mkdir, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import path from "node:path";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { forgetCachedFiles } from "../../../checkpoint/bundle.ts";
import { killGroup, processesIn, setFrozen } from "../../../checkpoint/freezer.ts";
import { removeImages } from "../../../checkpoint/criu.ts";
import {
  breakOff,
  forgetCommitted,
  forgetRestore,
  heldNetwork,
  isDoomed,
  letGo,
  noteCommitted,
  noteHeldNetwork,
  prepareRestore,
} from "../../../checkpoint/shim.ts";
import { changesOf, isMounted } from "../../../container-engines/containerd/containerd.ts";
import { UmsError } from "../../../errors.ts";
import type { PeerState, StreamContent } from "../../../protocol/conversation.ts";
import type { ArrivedPod, ArrivingPod, PodIdentity } from "../../../protocol/pod.ts";
import { addressesIn, holdNamespace, releaseNamespace } from "../../../traffic/hold.ts";
import type { Sink } from "../../../transfer/channel.ts";
import { makeImageDirectory, type MemoryStore, openMemoryStore } from "../../../transfer/memory.ts";
import { fileSink } from "../../../transfer/sink.ts";
import { isTmpfs, unpack } from "../../../transfer/tree.ts";
import { type Allowance, createAllowance, receiveService } from "../../receive.ts";
import { awaitContainer, givenUp, restoreContainer } from "../../restore.ts";
import { isDump } from "./dump.ts";
import { emptyDirectory, ownTasks } from "./places.ts";

export type ArrivingParts = Readonly<{
  imageDirectories: readonly string[];
  /**
   * Where files wait until they are moved to their places: beside these, so that a move is a rename, and a whiteout of an
   * overlay lies where overlays can have whiteouts.
   */
  stagingDirectories: Readonly<{ changes: string; volumes: string }>;
  restoreTimeoutMs: number;
  log: { info(details: object, message: string): void; warn(details: object, message: string): void };
}>;

export type ArrivalState = Exclude<PeerState, "committed">;

export type Arriving = Readonly<{
  /** Makes everything ready for a pod that the kubelet is about to start here. */
  announce(id: string, pod: ArrivingPod): Promise<void>;
  /** Resolves when the first container waits in the shim and no client can reach the pod. */
  arm(id: string, options: { timeoutMs: number; signal: AbortSignal }): Promise<{ podAddress: string }>;
  /** Resolves when every container runs again, its network still held. */
  restore(id: string): Promise<void>;
  /** What this node has of the migration, as its files tell. */
  state(id: string, pod: ArrivedPod): Promise<ArrivalState>;
  /** After the commit: lets clients in. Can be repeated, and needs nothing that this process knew. */
  takeOver(id: string, pod: ArrivedPod): Promise<void>;
  /** Resolves when nothing of the pod runs here any more, or ever will by this migration. */
  destroy(id: string, pod: ArrivedPod): Promise<void>;
  /** @throws UmsError NOT_YOURS, COPY_IS_GONE */
  data(id: string, sender: { peer: string; secret: string }, socket: Duplex, head: Buffer): Promise<void>;
  /** Removes what an earlier process of this node has left of arrivals: none of them can go on. */
  sweep(): Promise<void>;
  close(): void;
}>;

type Arrival = {
  readonly id: string;
  readonly pod: ArrivingPod;
  readonly cancelled: AbortController;
  readonly imageDirectory: string;
  readonly memory: MemoryStore;
  /** Trees that lie where they belong already; the others are staged. */
  readonly places: Map<string, string>;
  state: ArrivalState;
  busy: Promise<unknown>;
  /** Of the memory that has come. */
  readonly allowance: Allowance;
};

/** The name under which the shim finds a container's restore: see ums-runc. */
const restoreOf = (id: string, container: string) => `${id}.${container}`;
const nameOf = (container: string) => `Container ${container}`;
/** Apart from what leaves under the same id: see dump.ts. */
const imagesName = (id: string) => `arriving-${id}`;
const killMs = 10_000;

export function createArriving(parts: ArrivingParts): Arriving {
  const { log } = parts;
  const arrivals = new Map<string, Arrival>();
  const connections = new Set<Duplex>();

  const stagedAt = (id: string, tree: string) =>
    path.join(parts.stagingDirectories[tree.startsWith("changes:") ? "changes" : "volumes"], id, tree.replace(":", "."));
  const stagedLog = (id: string, container: string) => path.join(parts.stagingDirectories.volumes, id, `log.${container}`);
  const stagedFor = (id: string) => Object.values(parts.stagingDirectories).map((directory) => path.join(directory, id));

  const known = (id: string): Arrival => {
    const arrival = arrivals.get(id);
    if (!arrival) throw new UmsError("COPY_IS_GONE", `This node has no copy for migration ${id}.`);
    return arrival;
  };

  /** One action at a time on an arrival: an undo waits for what it undoes. */
  function inTurn<T>(arrival: Arrival, action: () => Promise<T>): Promise<T> {
    const turn = arrival.busy.then(action, action);
    arrival.busy = turn.catch(() => undefined);
    return turn;
  }

  /** The container that waits in the shim, fit for a restore. @throws UmsError CONTAINER_REMADE */
  async function readyContainer({ id, pod }: Arrival, container: string, options: { timeoutMs: number; signal: AbortSignal }) {
    const what = nameOf(container);
    const waiting = await awaitContainer(restoreOf(id, container), { what, mounts: pod.mounts[container] ?? [], ...options });
    if (!(await isMounted(waiting.root))) throw givenUp(what);
    return waiting;
  }

  /** One that was given up is made anew, by the kubelet itself: a service that stands still meanwhile goes on some seconds later. */
  async function waitingContainer(arrival: Arrival, container: string, { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal }) {
    for (const until = Date.now() + timeoutMs; ; await sleep(100, undefined, { signal })) {
      try {
        return await readyContainer(arrival, container, { timeoutMs: until - Date.now(), signal });
      } catch (cause) {
        if (!(cause instanceof UmsError && cause.code === "CONTAINER_REMADE") || Date.now() > until) throw cause;
      }
    }
  }

  async function armOnce(arrival: Arrival, timeoutMs: number, signal: AbortSignal): Promise<{ podAddress: string }> {
    const { pod, places } = arrival;
    const [first = ""] = pod.containers;
    const waiting = AbortSignal.any([signal, arrival.cancelled.signal]);
    const { network, shm } = await waitingContainer(arrival, first, { timeoutMs, signal: waiting });
    if (network === undefined) throw new UmsError("SHIM_SILENT", "The pod has no network of its own.");
    await noteHeldNetwork(restoreOf(arrival.id, first), network);
    await holdNamespace(network);
    if (shm !== undefined) places.set("shm", shm);
    for (const [at, volume] of pod.volumes.entries()) {
      const directory = emptyDirectory(pod.uid, volume);
      if (await isTmpfs(directory)) places.set(`volume:${at}`, directory);
    }
    arrival.state = "armed";
    return { podAddress: await addressIn(network) };
  }

  async function restoreInto(arrival: Arrival, container: string): Promise<void> {
    const { id } = arrival;
    const limit = { timeoutMs: parts.restoreTimeoutMs, signal: arrival.cancelled.signal };
    const { root } = await waitingContainer(arrival, container, limit);
    const changes = await changesOf(root);
    if (changes === undefined) throw new UmsError("STORAGE_DRIVER", `The root of container ${container} is no overlay on this node.`);
    if (await moveInto(stagedAt(id, `changes:${container}`), changes)) await forgetCachedFiles(root);
    await appendLog(arrival, container);
    await restoreContainer(restoreOf(id, container), { what: nameOf(container), ...limit });
  }

  async function appendLog({ id, pod }: Arrival, container: string): Promise<void> {
    const directory = path.join("/var/log/pods", `${pod.namespace}_${pod.name}_${pod.uid}`, container);
    const newest = (await readdir(directory).catch(() => []))
      .filter((name) => /^\d+\.log$/.test(name))
      .toSorted(byNumber)
      .at(-1);
    const old = await readFile(stagedLog(id, container)).catch(() => undefined);
    if (newest === undefined || old === undefined) return;
    const sink = fileSink(path.join(directory, newest), "a");
    await sink.write(old);
    await sink.end();
  }

  async function restoreOnce(arrival: Arrival): Promise<void> {
    const { id, pod, memory, places } = arrival;
    arrival.state = "restoring";
    memory.close();
    for (const [at, volume] of pod.volumes.entries()) {
      const tree = `volume:${at}`;
      if (places.has(tree)) continue;
      // The kubelet has mounted what a container has of it by subPath.
      await moveInto(stagedAt(id, tree), emptyDirectory(pod.uid, volume), { merging: true });
    }
    // The kubelet starts a container only when the one before has started; those that run already wait for the rest.
    const several = pod.containers.length > 1;
    for (const container of pod.containers) {
      await restoreInto(arrival, container);
      if (!several) continue;
      for (const { freezer } of await ownTasks(pod)) await setFrozen(freezer, true);
    }
    const tasks = await ownTasks(pod);
    if (tasks.length !== pod.containers.length) throw new UmsError("RESTORE_FAILED", "A restored container has ended at once.");
    if (several) await Promise.all(tasks.map(({ freezer }) => setFrozen(freezer, false)));
    arrival.state = "restored";
  }

  async function cleanUp(id: string, containers: readonly string[]): Promise<void> {
    for (const candidate of parts.imageDirectories) await removeImages(path.join(candidate, imagesName(id)));
    for (const directory of stagedFor(id)) await rm(directory, { recursive: true, force: true });
    for (const container of containers) await forgetRestore(restoreOf(id, container));
  }

  /** Kills what runs of the pod and resolves when it has ended. */
  async function killPod(pod: PodIdentity): Promise<void> {
    for (const until = Date.now() + killMs; ; await sleep(20)) {
      const tasks = await ownTasks(pod);
      const alive = await Promise.all(tasks.map(({ freezer }) => processesIn(freezer).catch(() => [])));
      if (alive.flat().length === 0) return;
      for (const { freezer } of tasks) {
        await killGroup(freezer).catch(() => undefined); // gone between the look and the kill: seen the next time round
        await setFrozen(freezer, false).catch(() => undefined);
      }
      if (Date.now() > until) throw new UmsError("TIMED_OUT", "The restored copy's tasks do not end.");
    }
  }

  return {
    async announce(id, pod) {
      const before = arrivals.get(id);
      if (before?.pod.uid === pod.uid) return;
      if (before) throw new UmsError("SITE_BUSY", `Migration ${id} has another pod on this node.`);
      for (const directory of stagedFor(id)) {
        await rm(directory, { recursive: true, force: true });
        await mkdir(directory, { recursive: true, mode: 0o700 });
      }
      const imageDirectory = await makeImageDirectory(parts.imageDirectories, imagesName(id), pod.memoryBytes);
      for (const container of pod.containers) {
        const directory = alone(pod) === undefined ? path.join(imageDirectory, container) : imageDirectory;
        await mkdir(directory, { recursive: true, mode: 0o700 });
        await prepareRestore({ name: restoreOf(id, container), imageDirectory: directory, podUid: pod.uid });
      }
      arrivals.set(id, {
        id,
        pod,
        imageDirectory,
        memory: openMemoryStore(imageDirectory),
        cancelled: new AbortController(),
        places: new Map(),
        state: "reserved",
        busy: Promise.resolve(),
        allowance: createAllowance({ memoryBytes: pod.memoryBytes, fileBytes: pod.fileBytes, imageBytes: 0 }),
      });
    },

    arm: (id, { timeoutMs, signal }) => inTurn(known(id), () => armOnce(known(id), timeoutMs, signal)),

    restore: (id) =>
      inTurn(known(id), async () => {
        const arrival = known(id);
        if (arrival.state === "restored") return;
        // One action at a time: this one is that of a restore which has failed.
        if (arrival.state === "restoring") throw new UmsError("COPY_IS_GONE", `Migration ${id} could not be restored on this node.`);
        if (arrival.state !== "armed") throw new UmsError("PEER_FAILED", `Migration ${id} is ${arrival.state} on this node.`);
        await restoreOnce(arrival);
      }),

    async state(id, pod) {
      const arrival = arrivals.get(id);
      if (arrival && arrival.state !== "restored") return arrival.state;
      if ((await ownTasks(pod)).length !== pod.containers.length) return "gone";
      // A probe that the hold has kept from its answer, or a deletion.
      const doomed = await Promise.all(pod.containers.map((container) => isDoomed(restoreOf(id, container))));
      return doomed.some(Boolean) ? "gone" : "restored";
    },

    async takeOver(id, pod) {
      const { containers } = pod;
      const [first = ""] = containers;
      // Also of a pod whose containers have just ended: its next ones get the same network.
      const network = (await heldNetwork(restoreOf(id, first))) ?? (await ownTasks(pod))[0]?.network;
      if (network !== undefined) await releaseNamespace(network);
      arrivals.delete(id);
      for (const container of containers) await noteCommitted(restoreOf(id, container));
      // Not while clients wait; where this process dies first, its next one does it.
      setTimeout(() => void cleanUp(id, containers).catch((cause: unknown) => log.warn({ id, cause }, "the clean-up failed")), 200).unref();
    },

    async destroy(id, pod) {
      const { containers } = pod;
      await ownTasks(pod); // before anything is done to another's
      const arrival = arrivals.get(id);
      arrival?.cancelled.abort(new UmsError("CANCELLED", "The migration is undone."));
      // A shim that waits is told to give up; one that comes later finds no restore to wait for, and refuses.
      for (const container of containers) await letGo(restoreOf(id, container), "give-up");
      const act = async () => {
        arrival?.memory.close();
        for (const container of containers) await breakOff(restoreOf(id, container));
        await cleanUp(id, containers);
        await killPod(pod);
        arrivals.delete(id);
      };
      await (arrival ? inTurn(arrival, act) : act());
    },

    async data(id, { peer, secret }, socket, head) {
      const arrival = known(id);
      if (arrival.pod.peer !== peer || arrival.pod.secret !== secret) throw new UmsError("NOT_YOURS", `Migration ${id} is another site's.`);
      connections.add(socket);
      socket.on("error", () => undefined); // told by `receive`
      try {
        await receiveService(socket, head, {
          allowance: arrival.allowance,
          memory: () => arrival.memory,
          sinkFor: (content) => sinkFor(arrival, content),
          signal: arrival.cancelled.signal,
        });
      } catch (cause) {
        if (!arrival.cancelled.signal.aborted) log.warn({ id, cause }, "the data connection ended with an error");
      } finally {
        connections.delete(socket);
        socket.destroy();
      }
    },

    async sweep() {
      await forgetCommitted();
      for (const directory of [...parts.imageDirectories, ...Object.values(parts.stagingDirectories)]) {
        for (const name of await readdir(directory).catch(() => [])) {
          const left = path.join(directory, name);
          // A pod that leaves: its migration removes that, once it has ended.
          if (!(await isDump(left))) await rm(left, { recursive: true, force: true });
        }
      }
    },

    close() {
      for (const socket of connections) socket.destroy();
    },
  };

  function sinkFor({ id, pod, places }: Arrival, content: StreamContent): Sink {
    const noPlace = new UmsError("BAD_REQUEST", `Migration ${id} has no place here for what was sent.`);
    if (content.kind === "image") throw noPlace; // the kubelet pulls it
    if (content.kind === "log") {
      const container = content.container ?? alone(pod);
      if (container === undefined || !pod.containers.includes(container)) throw noPlace;
      return fileSink(stagedLog(id, container), "a");
    }
    const { deleted } = content;
    const tree = content.tree === "changes" ? `changes:${alone(pod)}` : content.tree;
    const [kind, which = ""] = tree.split(":");
    const ours =
      kind === "changes"
        ? pod.containers.includes(which)
        : kind === "volume"
          ? pod.volumes[Number(which)] !== undefined
          : places.has("shm");
    if (!ours) throw noPlace;
    return unpack(places.get(tree) ?? made(stagedAt(id, tree)), deleted);
  }
}

/** The pod's only container, which nothing that is sent names then. */
const alone = ({ containers: [first, ...others] }: ArrivingPod) => (others.length === 0 ? first : undefined);

const byNumber = (a: string, b: string) => parseInt(a, 10) - parseInt(b, 10);

/** A directory that is there when this returns: a stream's sink is wanted at once. */
function made(directory: string): string {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return directory;
}

/**
 * Moves what is in one directory into another, with the directory's own owner, mode and times.
 * @param options.merging leaves a directory that is there, as somebody may have mounted it already
 * @returns whether there was anything
 */
export async function moveInto(from: string | Buffer, to: string | Buffer, { merging = false } = {}): Promise<boolean> {
  const own = await stat(from).catch(() => undefined);
  if (!own) return false;
  for (const name of await readdir(from, { encoding: "buffer" })) {
    const [source, target] = [from, to].map((directory) => Buffer.concat([Buffer.from(directory), Buffer.from("/"), name]));
    if (!source || !target) continue;
    if (merging && (await isDirectory(source)) && (await isDirectory(target))) {
      await moveInto(source, target, { merging });
      await copy(source, target, "--attributes-only");
      continue;
    }
    await rm(target, { recursive: true, force: true });
    try {
      await rename(source, target);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EXDEV") throw cause;
      await copy(source, target); // another file system
    }
  }
  await chown(to, own.uid, own.gid);
  await chmod(to, own.mode & 0o7777);
  await utimes(to, own.atime, own.mtime);
  return true;
}

const isDirectory = (file: Buffer) =>
  lstat(file).then(
    (found) => found.isDirectory(),
    () => false,
  );

/** The names go by standard input, as they may be no text. */
const copy = (source: Buffer, target: Buffer, ...options: string[]) =>
  execa("xargs", ["--null", "cp", "--archive", "--no-target-directory", ...options], {
    input: Buffer.concat([source, Buffer.of(0), target, Buffer.of(0)]),
    timeout: 600_000,
  });

/** The pod's own address, which its network's plug-in has given it. */
async function addressIn(namespace: string): Promise<string> {
  const [address] = await addressesIn(namespace);
  if (address === undefined) throw new UmsError("UNSUPPORTED_SETTING", "The pod has no IPv4 address.");
  return address;
}
