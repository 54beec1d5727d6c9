/**
 * Snapshots of pods on their node: taken of one that runs and goes on running, and sent to a destination as a migration's
 * source sends a pod. A snapshot is a directory with CRIU's images of each container (`images/NAME`), the streams of its
 * files as a data connection would have carried them (`streams/N`), and what says so (`snapshot.json`).
 */
import { cp, lstat, mkdir, readdir, readFile, realpath, rename, rm, rmdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { codeFrom, UmsError } from "../../../errors.ts";
import { bootId } from "../../../machine/boot-id.ts";
import { diskUsage } from "../../../machine/measure.ts";
import { disk } from "../../../preflight/machine.ts";
import { closed } from "../../../protocol/forms.ts";
import { type CheckResult } from "../../../protocol/measures.ts";
import { PodOnNode } from "../../../protocol/pod.ts";
import {
  type KnownSnapshot,
  type OnNode,
  PodSnapshot,
  type ReplaySnapshot,
  type RescueSnapshot,
  type SnapshotSummary,
  type TakeSnapshot,
} from "../../../protocol/snapshot.ts";
import { createSender } from "../../../transfer/channel.ts";
import { createFileSender } from "../../../transfer/files.ts";
import { createStreamStore, sendKept } from "../../../transfer/kept-streams.ts";
import { imageSlackBytes, sendWhileDumped } from "../../../transfer/memory.ts";
import { syncDirectory, writeDurably } from "../../../trust/durable-file.ts";
import { standstillMs } from "../pod.ts";
import { filesDirectory, isAlone, sendLogs, treesOf } from "./contents.ts";
import { findDump } from "./dump.ts";
import type { Leaving, LeavingParts } from "./leaving.ts";
import type { PodControl } from "./pod-control.ts";

export type SnapshotParts = Readonly<{
  control: PodControl;
  /** Below it lie the snapshots. */
  root: string;
  /** On disk: what a crash must leave behind. */
  workDirectory: string;
  openData: LeavingParts["openData"];
  /** Where migrations dump. */
  imageDirectories: readonly string[];
  /** Whether CRIU can do anything on this node. */
  check(signal: AbortSignal): Promise<CheckResult[]>;
  limits: Readonly<{ transferMs: number }>;
  log: { info(details: object, message: string): void; warn(details: object, message: string): void };
}>;

export type Taken = Readonly<{ heldMs: number; memoryBytes: number; fileBytes: number }>;

export type Snapshots = Readonly<{
  /**
   * Writes a snapshot. The pod stands still for as long as its dump takes, and goes on in any case; its connections stay.
   * Asked again with the same id, it takes no second one.
   * @throws UmsError SNAPSHOT_EXISTS, ALREADY_MIGRATING, NO_DISK, LIVENESS, DUMP_FAILED, …: then nothing is left of it
   */
  take(id: string, request: OnNode<TakeSnapshot>, signal: AbortSignal): Promise<Taken>;
  /**
   * Makes a snapshot of a frozen pod, of what its migration with this id has dumped. Nothing is done to the pod.
   * @returns whether there is one now: no, where the dump isn't whole, or of an earlier boot, or the pod has run since
   * @throws UmsError SNAPSHOT_EXISTS, NO_DISK: then it can be tried again
   */
  rescue(id: string, request: OnNode<RescueSnapshot>, signal: AbortSignal): Promise<{ saved: boolean }>;
  /** Removes it, or what an attempt at it has left. */
  remove(which: KnownSnapshot): Promise<void>;
  /** @returns undefined where no complete snapshot lies there */
  find(place: string): Promise<SnapshotSummary | undefined>;
  /** Sends a snapshot to the destination of a migration. @throws UmsError SNAPSHOT_NOT_FOUND */
  replay(id: string, request: ReplaySnapshot, signal: AbortSignal): Promise<{ bytesSent: number }>;
  /** The same, except that no pod leaves while its snapshot is taken, and the other way round: each would thaw what the other has frozen. */
  apartFrom(leaving: Leaving): Leaving;
  /** Lets pods go on that an earlier process of this node has left standing still. Before anything else is asked of it. */
  recover(): Promise<void>;
  /** Gives up what is being taken; resolves when those pods go on, or after a while. */
  close(): Promise<void>;
}>;

/** Written before anything is done of what it tells. */
const Mark = Type.Object(
  {
    path: Type.String({ maxLength: 4096 }),
    /** Processes and cgroups of another boot are gone, and their numbers may be others'. */
    boot: Type.String({ maxLength: 64 }),
    /** The pod, as long as it may stand still. */
    pod: Type.Optional(PodOnNode),
  },
  closed,
);
type Mark = Static<typeof Mark>;

const workSuffix = ".checkpoint";
const retryMs = 2_000;
/** A node serves its other pods even if one of them can't be let go. */
const recoverMs = 60_000;
/** Less than the kubelet gives the interface to end. */
const closeMs = 20_000;

export function createSnapshots(parts: SnapshotParts): Snapshots {
  const { control, limits, log, root } = parts;
  /** Pods that a snapshot is taken of, and where it goes. */
  const standing = new Map<string, string>();
  /** Migrations that have begun with a pod of this node, as far as this process knows. */
  const leaving = new Map<string, string>();
  const running = new Map<string, Promise<unknown>>();
  const closing = new AbortController();

  const workOf = (id: string) => path.join(parts.workDirectory, `${id}${workSuffix}`);
  const dumpOf = (id: string, container: string) => path.join(workOf(id), container);
  const partialOf = (place: string) => path.join(path.dirname(place), `.${path.basename(place)}.partial`);
  /** Of a snapshot that is being written. */
  const inside = (place: string) => {
    const partial = partialOf(place);
    return { partial, images: path.join(partial, "images"), streams: path.join(partial, "streams") };
  };

  async function read(place: string): Promise<PodSnapshot | undefined> {
    // A link would lead to what nobody has checked.
    if ((await realpath(place).catch(() => undefined)) !== place) return undefined;
    const snapshot = await readJson(path.join(place, "snapshot.json"));
    if (snapshot === undefined || Value.Check(PodSnapshot, snapshot)) return snapshot;
    log.warn({ place }, "a snapshot is not of a form that this version knows");
    return undefined;
  }

  /** @throws UmsError BAD_REQUEST, SNAPSHOT_EXISTS */
  async function expectVacant(place: string): Promise<void> {
    const names = path.relative(root, path.dirname(place)).split("/").filter(Boolean);
    for (let depth = 0; depth <= names.length; depth++) {
      const directory = path.join(root, ...names.slice(0, depth));
      const found = await lstat(directory).catch(() => undefined);
      if (!found) return;
      if (!found.isDirectory()) throw new UmsError("BAD_REQUEST", `${directory} is no directory of its own: a link, or a file.`);
      if (await lstat(path.join(directory, "snapshot.json")).catch(() => undefined))
        throw new UmsError("BAD_REQUEST", `${directory} is a snapshot: no other one can lie in it.`);
    }
    if (await lstat(place).catch(() => undefined)) throw new UmsError("SNAPSHOT_EXISTS", `${place} is there already.`);
  }

  async function writeMark(id: string, { path: place, pod }: { path: string; pod?: PodOnNode }): Promise<Mark> {
    const mark: Mark = { path: place, boot: await bootId(), ...(pod ? { pod } : {}) };
    await mkdir(workOf(id), { recursive: true, mode: 0o700 });
    syncDirectory(parts.workDirectory);
    writeDurably(path.join(workOf(id), "mark.json"), JSON.stringify(mark));
    return mark;
  }

  async function letGo(id: string, pod: PodOnNode): Promise<void> {
    for (const { name } of pod.containers) await control.dumpEnded(dumpOf(id, name));
    await control.thaw(pod);
    await control.release(pod);
  }

  /** Until it succeeds, since a pod may be frozen. @param settled resolves when nothing is written any more */
  async function undo(id: string, { path: place, boot, pod }: Mark, settled: Promise<unknown>): Promise<void> {
    for (;;) {
      try {
        if (pod && boot === (await bootId())) await letGo(id, pod);
        await settled;
        await rm(partialOf(place), { recursive: true, force: true });
        await removeEmpty(path.dirname(place));
        await rm(workOf(id), { recursive: true, force: true });
        return;
      } catch (cause) {
        if (closing.signal.aborted) throw cause;
        log.warn({ id, cause }, "what a checkpoint has left can't be undone yet");
        await sleep(retryMs, undefined, { signal: closing.signal }).catch(() => undefined);
      }
    }
  }

  /** Directories that are not a user's: nothing lies in them. */
  async function removeEmpty(directory: string): Promise<void> {
    for (let at = directory; at === root || at.startsWith(`${root}/`); at = path.dirname(at)) {
      if (!(await rmdir(at).then(() => true, isMissing))) return;
    }
  }

  /**
   * Dumps the pod while it stands still; it goes on when this has resolved.
   * @returns for how many milliseconds it stood still
   * @throws with the pod as it is: the caller undoes
   */
  async function standStill(
    id: string,
    { pod, livenessMs }: OnNode<TakeSnapshot>,
    { signal, files, memory, begun }: Standing,
  ): Promise<number> {
    const startedAt = performance.now();
    const probed = AbortSignal.timeout(Math.min(standstillMs(livenessMs ?? Infinity), limits.transferMs));
    const giveUp = new AbortController();
    const until = AbortSignal.any([signal, probed, giveUp.signal]);
    try {
      await control.hold(pod);
      await control.freeze(pod);
      until.throwIfAborted();
      const both = [memory(until), files(until)];
      begun(Promise.allSettled(both));
      // A dump ends for no signal: whoever gives up doesn't wait here, and has it ended.
      await Promise.race([Promise.all(both), aborted(until)]);
    } catch (cause) {
      giveUp.abort(cause);
      if (!probed.aborted || signal.aborted) throw cause;
      if (livenessMs === undefined) throw new UmsError("TIMED_OUT", `The dump took longer than ${limits.transferMs} ms.`, { cause });
      throw new UmsError("LIVENESS", `The pod's liveness probe gives up after ${livenessMs} ms.`, { cause });
    }
    await letGo(id, pod);
    return Math.round(performance.now() - startedAt);
  }

  async function write(id: string, request: OnNode<TakeSnapshot>, { signal, marked, begun }: Writing): Promise<Taken> {
    const { path: place, pod, need } = request;
    const { images, store } = await begin(place, pod);
    const sender = createFileSender(dumpOf(id, filesDirectory));
    const { early, late } = await treesOf(pod);
    await sendLogs(sender, pod, store);
    // Once: what each further pass brings, the snapshot would have for ever.
    for (const tree of early) await sender.tree(store, tree, { live: true, signal });

    const memoryBytes = await control.memoryBytes(pod);
    await expectRoom(place, { memoryBytes, fileBytes: need.fileBytes });
    signal.throwIfAborted();
    await control.expectUntouched(pod);
    await marked({ path: place, pod });
    const heldMs = await standStill(id, request, {
      signal,
      begun,
      async memory(until) {
        for (const container of pod.containers) {
          until.throwIfAborted();
          const imageDirectory = path.join(images, container.name);
          await control.dump(container, { imageDirectory, workDirectory: dumpOf(id, container.name), timeoutMs: limits.transferMs });
        }
      },
      async files(until) {
        for (const tree of [...early, ...late]) await sender.tree(store, tree, { live: false, signal: until });
        await sendLogs(sender, pod, store);
      },
    });
    await marked({ path: place });
    return takenOf(await complete(id, request, { store, memoryBytes, heldMs, signal }));
  }

  /** Makes the place in which a snapshot is written. */
  async function begin(place: string, pod: PodOnNode): Promise<Begun> {
    const { partial, images, streams } = inside(place);
    await rm(partial, { recursive: true, force: true });
    for (const directory of [streams, ...pod.containers.map(({ name }) => path.join(images, name))])
      await mkdir(directory, { recursive: true, mode: 0o700 });
    return { images, store: createStreamStore(streams) };
  }

  /** Durable when it resolves. */
  async function complete(
    id: string,
    { path: place, need }: Pick<RescueSnapshot, "path" | "need">,
    { store, memoryBytes, heldMs, signal }: Pick<Begun, "store"> & { memoryBytes: number; heldMs: number; signal: AbortSignal },
  ): Promise<PodSnapshot> {
    const { partial, images, streams } = inside(place);
    const [written, fileBytes] = await Promise.all([diskUsage([images], signal), diskUsage([streams], signal)]);
    const snapshot: PodSnapshot = {
      version: 1,
      takenBy: id,
      takenAt: new Date().toISOString(),
      heldMs,
      need: { ...need, memoryBytes: Math.max(memoryBytes, written), fileBytes: Math.max(need.fileBytes, fileBytes) },
      streams: store.kept() as PodSnapshot["streams"],
    };
    writeDurably(path.join(partial, "snapshot.json"), JSON.stringify(snapshot));
    // All of its file system: tar and CRIU have written files and directories of whatever names.
    await execa("sync", ["--file-system", partial], { stdin: "ignore", timeout: limits.transferMs, cancelSignal: signal });
    signal.throwIfAborted();
    await rename(partial, place);
    syncDirectory(path.dirname(place));
    return snapshot;
  }

  async function rescueOnce(id: string, request: OnNode<RescueSnapshot>, signal: AbortSignal): Promise<{ saved: boolean }> {
    const { path: place, pod, need } = request;
    if ((await read(place))?.takenBy === id) return { saved: true };
    const dumped = await findDump(parts.imageDirectories, id, pod);
    if (dumped === undefined || !(await control.isAsDumped(pod))) return { saved: false };
    await expectVacant(place);
    try {
      const memoryBytes = await diskUsage([dumped], signal);
      await expectRoom(place, { memoryBytes, fileBytes: need.fileBytes });
      const { images, store } = await begin(place, pod);
      for (const { name } of pod.containers) await cp(path.join(dumped, name), path.join(images, name), { recursive: true });
      const sender = createFileSender(dumpOf(id, filesDirectory));
      const { early, late } = await treesOf(pod);
      for (const tree of [...early, ...late]) await sender.tree(store, tree, { live: false, signal });
      await sendLogs(sender, pod, store);
      await complete(id, request, { store, memoryBytes, heldMs: 0, signal });
      // It may lie in memory, which the pod that is made of the snapshot wants.
      await rm(dumped, { recursive: true, force: true });
      log.info({ id, place, pod: pod.uid }, "the dump of a pod that has no copy left is a snapshot now");
      return { saved: true };
    } catch (cause) {
      await rm(partialOf(place), { recursive: true, force: true });
      await removeEmpty(path.dirname(place));
      throw isFull(cause) ? new UmsError("NO_DISK", `There is no room any more at ${place}.`, { cause }) : cause;
    } finally {
      await rm(workOf(id), { recursive: true, force: true });
    }
  }

  /** @param sizes of what is still to be written @throws UmsError NO_DISK */
  async function expectRoom(place: string, { memoryBytes, fileBytes }: { memoryBytes: number; fileBytes: number }): Promise<void> {
    expectOk([await disk([{ directory: path.dirname(place), bytes: memoryBytes + fileBytes + imageSlackBytes }])]);
  }

  async function takeOnce(id: string, request: OnNode<TakeSnapshot>, signal: AbortSignal): Promise<Taken> {
    const { path: place, pod, need } = request;
    const before = await read(place);
    if (before?.takenBy === id) return takenOf(before);
    await expectVacant(place);
    if (standing.has(pod.uid)) throw new UmsError("ALREADY_MIGRATING", "A checkpoint of this pod is being taken.");
    if ([...leaving.values()].includes(pod.uid)) throw new UmsError("ALREADY_MIGRATING", "A migration of this pod has begun.");
    if ([...standing.values()].includes(place)) throw new UmsError("SNAPSHOT_EXISTS", `A checkpoint is being written to ${place}.`);
    standing.set(pod.uid, place);
    let mark: Mark | undefined;
    let settled: Promise<unknown> = Promise.resolve();
    try {
      await control.expectUntouched(pod);
      expectOk(await parts.check(signal));
      // A file that is written to meanwhile is there twice.
      await expectRoom(place, { memoryBytes: need.memoryBytes, fileBytes: 2 * need.fileBytes });
      const marked = async (what: { path: string; pod?: PodOnNode }) => {
        mark = await writeMark(id, what);
      };
      await marked({ path: place });
      const taken = await write(id, request, { signal, marked, begun: (work) => void (settled = work) });
      await rm(workOf(id), { recursive: true, force: true });
      log.info({ id, place, pod: pod.uid, ...taken }, "a snapshot has been taken");
      return taken;
    } catch (cause) {
      // A crash may have come between the two; a mark of what has not happened yet does no harm.
      if (mark) await undo(id, mark, settled);
      throw isFull(cause) ? new UmsError("NO_DISK", `There is no room any more at ${place}.`, { cause }) : cause;
    } finally {
      standing.delete(pod.uid);
    }
  }

  async function oneAtATime<T>(id: string, signal: AbortSignal, write: (until: AbortSignal) => Promise<T>): Promise<T> {
    // That of a connection which broke may still be on its way back.
    for (let before = running.get(id); before; before = running.get(id)) await before.catch(() => undefined);
    const writing = write(AbortSignal.any([signal, closing.signal])).finally(() => running.delete(id));
    running.set(id, writing);
    return await writing;
  }

  /** @throws UmsError ALREADY_MIGRATING */
  function expectGoing({ uid }: PodOnNode): void {
    if (standing.has(uid)) throw new UmsError("ALREADY_MIGRATING", "A checkpoint of this pod is being taken.");
  }

  return {
    take: (id, request, signal) => oneAtATime(id, signal, (until) => takeOnce(id, request, until)),
    rescue: (id, request, signal) => oneAtATime(id, signal, (until) => rescueOnce(id, request, until)),

    async remove({ path: place, takenBy, namespace }) {
      const found = await read(place);
      if (found && !isMeant(found, { takenBy, namespace })) return;
      // By the name of one that is written: what a crash leaves of it is no snapshot, and is found again.
      if (found) await rename(place, partialOf(place));
      await rm(partialOf(place), { recursive: true, force: true });
      await removeEmpty(path.dirname(place));
    },

    async find(place) {
      const found = await read(place);
      if (!found) return undefined;
      const { version: _, streams: _long, ...told } = found;
      return told;
    },

    async replay(id, { path: place, takenBy, namespace, target }, signal) {
      const snapshot = await read(place);
      if (!snapshot || !isMeant(snapshot, { takenBy, namespace }))
        throw new UmsError("SNAPSHOT_NOT_FOUND", `The snapshot ${place} is not there any more.`);
      const data = createSender(await parts.openData(target, id, signal));
      const onAbort = () => data.close();
      signal.addEventListener("abort", onAbort, { once: true });
      try {
        signal.throwIfAborted();
        await sendKept(data, path.join(place, "streams"), snapshot.streams);
        const { containers } = snapshot.need;
        for (const { name } of containers) {
          const images = path.join(place, "images", name);
          await sendWhileDumped(data, images, Promise.resolve(), isAlone({ containers }) ? {} : { under: name });
        }
        await data.flush(limits.transferMs);
        return { bytesSent: data.bytesSent() };
      } catch (cause) {
        signal.throwIfAborted();
        if ((cause as NodeJS.ErrnoException).code === "ENOENT")
          throw new UmsError("SNAPSHOT_NOT_FOUND", `The snapshot ${place} was removed while it was read.`, { cause });
        throw cause;
      } finally {
        signal.removeEventListener("abort", onAbort);
        data.close();
      }
    },

    apartFrom: (real) => ({
      ...real,
      async preCopy(id, request, signal) {
        expectGoing(request.pod);
        leaving.set(id, request.pod.uid);
        return await real.preCopy(id, request, signal);
      },
      async prepare(id, request, signal) {
        expectGoing(request.pod);
        leaving.set(id, request.pod.uid);
        await real.prepare(id, request, signal);
      },
      async hold(pod) {
        expectGoing(pod);
        await real.hold(pod);
      },
      async release(pod) {
        expectGoing(pod);
        await real.release(pod);
      },
      async freeze(id, pod) {
        expectGoing(pod);
        await real.freeze(id, pod);
      },
      async thaw(id, pod) {
        expectGoing(pod);
        await real.thaw(id, pod);
      },
      async transfer(id, request, signal) {
        expectGoing(request.pod);
        leaving.set(id, request.pod.uid);
        return await real.transfer(id, request, signal);
      },
      async kill(pod) {
        expectGoing(pod);
        return await real.kill(pod);
      },
      async cleanUp(id) {
        leaving.delete(id);
        await real.cleanUp(id);
      },
    }),

    async recover() {
      const entries = await readdir(parts.workDirectory).catch(() => []);
      const undoing = entries
        .filter((name) => name.endsWith(workSuffix))
        .map(async (name) => {
          const id = name.slice(0, -workSuffix.length);
          const mark = await readJson(path.join(workOf(id), "mark.json"));
          // Nothing is done before the mark is whole.
          if (!Value.Check(Mark, mark) || !mark.path.startsWith(`${root}/`)) return await rm(workOf(id), { recursive: true, force: true });
          if (mark.pod) standing.set(mark.pod.uid, mark.path);
          const undone = undo(id, mark, Promise.resolve());
          running.set(id, undone);
          await undone;
          running.delete(id);
          if (mark.pod) standing.delete(mark.pod.uid);
          log.info({ id, place: mark.path, pod: mark.pod?.uid }, "a checkpoint that a crash had left is undone");
        });
      const all = Promise.allSettled(undoing);
      await Promise.race([all, sleep(recoverMs, undefined, { ref: false, signal: closing.signal }).catch(() => undefined)]);
    },

    async close() {
      closing.abort(new UmsError("INTERRUPTED", "The interface is stopping."));
      await Promise.race([Promise.allSettled(running.values()), sleep(closeMs, undefined, { ref: false })]);
    },
  };
}

type Standing = Readonly<{
  signal: AbortSignal;
  memory(until: AbortSignal): Promise<void>;
  files(until: AbortSignal): Promise<void>;
  /** Told of the work, which settles when nothing is written any more. */
  begun(work: Promise<unknown>): void;
}>;
type Begun = Readonly<{ images: string; store: ReturnType<typeof createStreamStore> }>;
type Writing = Readonly<{
  signal: AbortSignal;
  /** Durable when it resolves. */
  marked(what: { path: string; pod?: PodOnNode }): Promise<void>;
  begun: Standing["begun"];
}>;

const isMeant = ({ takenBy, need }: PodSnapshot, wanted: Omit<KnownSnapshot, "path">) =>
  takenBy === wanted.takenBy && need.pod.metadata.namespace === wanted.namespace;

const takenOf = ({ heldMs, need: { memoryBytes, fileBytes } }: PodSnapshot): Taken => ({ heldMs, memoryBytes, fileBytes });

/** @returns undefined where there is no such file, or it is no JSON */
async function readJson(file: string): Promise<unknown> {
  const text = await readFile(file, "utf8").catch(() => "");
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Never resolves. @throws the signal's reason */
const aborted = (signal: AbortSignal) =>
  new Promise<never>((_resolve, reject) => {
    const fail = () => reject(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
    if (signal.aborted) fail();
    else signal.addEventListener("abort", fail, { once: true });
  });

function expectOk(checks: readonly CheckResult[]): void {
  const refused = checks.find(({ ok }) => !ok);
  if (refused) throw new UmsError(codeFrom(refused.code), refused.detail ?? refused.name);
}

const isFull = (cause: unknown) => cause instanceof Error && "code" in cause && (cause.code === "ENOSPC" || cause.code === "EDQUOT");

function isMissing(cause: unknown): boolean {
  return (cause as NodeJS.ErrnoException).code === "ENOENT";
}
