/**
 * The source's half on the node of the pod. Where the pod is says the node itself (places.ts), which has written it down, so
 * that a restarted interface goes on; only the data connection, and what went over it, is this process's own.
 */
import path from "node:path";
import { rm } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { readLaunch } from "../../../checkpoint/bundle.ts";
import { type Criu, dump } from "../../../checkpoint/dump.ts";
import { freezerOf, isGroupFrozen, isKilled, killGroup, memoryIn, parentOf, processesIn, setFrozen } from "../../../checkpoint/freezer.ts";
import { dumpEnded, removeImages } from "../../../checkpoint/criu.ts";
import { freezeUnvisited } from "../../../checkpoint/visitors.ts";
import { codeFrom, UmsError } from "../../../errors.ts";
import { diskUsage, uidsOf } from "../../../machine/measure.ts";
import { machineMeasures } from "../../../machine/measures.ts";
import { dumpRoom } from "../../../preflight/machine.ts";
import { heldResources } from "../../../preflight/resources.ts";
import type { DataTarget } from "../../../protocol/conversation.ts";
import type { CheckResult } from "../../../protocol/measures.ts";
import type { Described, LeavingPod, PodOnNode, PodReference } from "../../../protocol/pod.ts";
import type { OnNode } from "../../../protocol/snapshot.ts";
import { holdNamespace, lateConnections, releaseNamespace, resetConnections } from "../../../traffic/hold.ts";
import { awaitYoungConnections, openConnections } from "../../../traffic/young-connections.ts";
import { createSender, type Sender } from "../../../transfer/channel.ts";
import { createFileSender, type FileSender } from "../../../transfer/files.ts";
import { sendFrozen } from "../../send.ts";
import { filesDirectory, isAlone, sendLogs, treesOf } from "./contents.ts";
import { dumpName, makeRoomForDump } from "./dump.ts";
import type { Places } from "./places.ts";
import { allowStarts, holdStarts } from "./start-mark.ts";

export type LeavingParts = Readonly<{
  criu: Criu;
  places: Pick<Places, "find">;
  imageDirectories: readonly string[];
  /** On disk. */
  workDirectory: string;
  openData(target: DataTarget, migrationId: string, signal: AbortSignal): Promise<Parameters<typeof createSender>[0]>;
  /** Whether CRIU can dump at all on this node. */
  check(signal: AbortSignal): Promise<CheckResult[]>;
  limits: Readonly<{ transferMs: number }>;
  log: { warn(details: object, message: string): void };
}>;

export type Leaving = Readonly<{
  /** Finds the pod on this node and measures it; changes nothing. */
  describe(reference: PodReference, signal: AbortSignal): Promise<Described>;
  /** Sends the files while the pod runs. @returns where they go: there the destination has proved who it is */
  preCopy(id: string, leaving: OnNode<LeavingPod>, signal: AbortSignal): Promise<string | undefined>;
  /** Makes room for the dump, and sees to it that no container of the pod starts again from here on; where it was aborted, they may. */
  prepare(id: string, leaving: OnNode<LeavingPod>, signal: AbortSignal): Promise<void>;
  /** Lets connections end that were opened a moment ago, for a moment: while new ones are held back. */
  awaitYoung(id: string, pod: PodOnNode): Promise<void>;
  hold(pod: PodOnNode): Promise<void>;
  release(pod: PodOnNode): Promise<void>;
  /** A repeated request joins the first. */
  freeze(id: string, pod: PodOnNode): Promise<void>;
  /** When it resolves, nothing of a transfer goes on, nor will the pod's own group be frozen by it. */
  endTransfer(id: string, pod: PodOnNode): Promise<void>;
  thaw(id: string, pod: PodOnNode): Promise<void>;
  /** @throws UmsError THAWED */
  expectFrozen(pod: PodOnNode): Promise<void>;
  /** Whether a container has ended while it was frozen, or will at the thaw: a probe of the kubelet can do that. */
  isLost(pod: PodOnNode): Promise<boolean>;
  /** Dumps every container and sends it with what the files have changed; the pod's own group stays frozen after that. */
  transfer(id: string, leaving: OnNode<LeavingPod>, signal: AbortSignal): Promise<{ bytesSent: number; parts: Record<string, number> }>;
  /** Tells the connections of the pod that they have ended. */
  reset(pod: PodOnNode): Promise<void>;
  /** Kills every task of the pod before it can run again. @returns how many connections its hold has dropped */
  kill(pod: PodOnNode): Promise<number>;
  /** Ends what this process has open. @param pod where something of it is here */
  discard(id: string, pod: PodOnNode | undefined): Promise<void>;
  cleanUp(id: string): Promise<void>;
  close(): void;
}>;

const killMs = 10_000;
/** Less than a request to a node may take; it is asked again. */
const doomMs = 15_000;

type Session = {
  files: FileSender;
  sender?: Sender;
  imageDirectory?: string;
  /** Connections that were open before the hold. */
  opened?: ReadonlySet<string>;
  /** What is at work, and ends when nobody wants it any more; it has settled when the promise resolves. */
  freeze?: { giveUp: AbortController; ended: Promise<void> };
  transfer?: { giveUp: AbortController; ended: Promise<void> };
};

export function createLeaving(parts: LeavingParts): Leaving {
  const { criu, limits } = parts;
  const sessions = new Map<string, Session>();
  const sessionOf = (id: string) => {
    let session = sessions.get(id);
    if (!session) sessions.set(id, (session = { files: createFileSender(workOf(id, filesDirectory)) }));
    return session;
  };
  const workOf = (id: string, container: string) => path.join(parts.workDirectory, id, container);
  const groupOf = ({ containers: [first] }: PodOnNode) => {
    if (!first) throw new UmsError("INTERNAL", "The pod has no containers.");
    return parentOf(first.freezer);
  };

  async function connect(id: string, target: DataTarget | undefined, signal: AbortSignal): Promise<Sender> {
    const session = sessionOf(id);
    if (!target) throw new UmsError("INTERNAL", "It was not said where to send.");
    return (session.sender ??= createSender(await parts.openData(target, id, signal)));
  }

  /** Without the mark the pod moves as well: what that means for a node that loses its power stands in docs/crash-safety.md. */
  async function markHeld(pod: PodOnNode): Promise<void> {
    await holdStarts(pod).catch((cause: unknown) => parts.log.warn({ pod: pod.uid, cause }, "the pod's log directory takes no mark"));
  }

  async function roomFor(id: string, pod: PodOnNode): Promise<string> {
    const sizes = await Promise.all(pod.containers.map(({ freezer }) => memoryIn(freezer)));
    return await makeRoomForDump(parts.imageDirectories, id, { pod, memoryBytes: sizes.reduce((a, b) => a + b, 0) });
  }

  /** Nothing of it goes on when it has settled. */
  async function send(
    id: string,
    { pod, target }: OnNode<LeavingPod>,
    { signal: wanted, giveUp }: { signal: AbortSignal; giveUp: AbortController },
  ): Promise<{ bytesSent: number; parts: Record<string, number> }> {
    const signal = AbortSignal.any([wanted, giveUp.signal]);
    const session = sessionOf(id);
    const took: Record<string, number> = {};
    const data = await connect(id, target, signal);
    const imageDirectory = (session.imageDirectory ??= await roomFor(id, pod));
    const { early, late } = await treesOf(pod);
    const containers = pod.containers.map(({ name, id: containerId, runcRoot }) => {
      const places = { imageDirectory: path.join(imageDirectory, name), workDirectory: workOf(id, name) };
      return {
        ...(isAlone(pod) ? {} : { name }),
        imageDirectory: places.imageDirectory,
        dump: () => dump(criu, { containerId, stateRoot: runcRoot, ...places, timeoutMs: limits.transferMs }),
      };
    });
    await sendFrozen(
      {
        containers,
        // From here on the kubelet can start nothing in the pod. What it kills is lost: at the thaw, or at once (cgroup version 2).
        dumped: () => setFrozen(groupOf(pod), true),
        trees: [...early, ...late],
        sendLogs: () => sendLogs(session.files, pod, data),
      },
      {
        data,
        files: session.files,
        flushMs: limits.transferMs,
        took: (part, milliseconds) => (took[part] = Math.round(milliseconds)),
        giveUp: (cause) => giveUp.abort(cause),
        signal,
      },
    );
    return { bytesSent: data.bytesSent(), parts: took };
  }

  async function endTransfer(id: string, pod: PodOnNode): Promise<void> {
    const { transfer, sender } = sessions.get(id) ?? {};
    transfer?.giveUp.abort(new UmsError("CANCELLED", "The transfer is undone."));
    if (transfer) sender?.close();
    for (const { name } of pod.containers) await dumpEnded(workOf(id, name));
    await transfer?.ended;
  }

  return {
    async describe(reference, signal) {
      const { pod, bundles } = await parts.places.find(reference);
      const directories = [
        ...pod.containers.map(({ changesDirectory }) => changesDirectory),
        ...pod.volumes.map(({ directory }) => directory),
        ...(pod.shm === undefined ? [] : [pod.shm]),
      ];
      const [memory, fileBytes, machine, uids, held, launches, abilities] = await Promise.all([
        Promise.all(pod.containers.map(({ freezer }) => memoryIn(freezer))),
        diskUsage(directories, signal),
        machineMeasures(),
        Promise.all(pod.containers.map(async ({ freezer }) => uidsOf(await processesIn(freezer)))),
        Promise.all(pod.containers.map(async ({ pid, freezer }) => heldResources({ init: pid, pids: await processesIn(freezer) }))),
        Promise.all([...bundles].map(async ([name, bundle]) => [name, await readLaunch(bundle)] as const)),
        parts.check(signal),
      ]);
      const measures = {
        memoryBytes: memory.reduce((a, b) => a + b, 0),
        fileBytes,
        ...machine,
        uids: [...new Set(uids.flat())].toSorted((a, b) => a - b),
      };
      const checks = [...abilities, await dumpRoom(parts.imageDirectories, measures)];
      const refusals = [
        ...held.flatMap(({ ioUring, ownAddresses, unsupported }) => [
          ...ioUring.map((detail) => ({ code: "IO_URING" as const, detail })),
          ...ownAddresses.map((detail) => ({ code: "ADDRESS_BOUND" as const, detail })),
          ...unsupported.map((detail) => ({ code: "UNSUPPORTED_RESOURCE" as const, detail })),
        ]),
        ...checks.filter(({ ok }) => !ok).map(({ name, code, detail = name }) => ({ code: codeFrom(code), detail })),
      ];
      return { measures, launches: Object.fromEntries(launches), refusals, notes: checks.flatMap(({ notes = [] }) => notes) };
    },

    async preCopy(id, { pod, target }, signal) {
      const data = await connect(id, target, signal);
      await sendLogs(sessionOf(id).files, pod, data);
      const { early } = await treesOf(pod);
      const [first] = pod.containers;
      if (first) sessionOf(id).opened = await openConnections(first.pid);
      await sessionOf(id).files.live(data, early, { flushMs: limits.transferMs, signal });
      return data.peerAddress;
    },

    async prepare(id, { pod }, signal) {
      sessionOf(id).imageDirectory ??= await roomFor(id, pod);
      signal.throwIfAborted();
      // While the pod runs: on a disk that is busy the mark's sync takes seconds.
      await markHeld(pod);
      if (signal.aborted) await allowStarts(pod);
      signal.throwIfAborted();
    },

    async awaitYoung(id, { containers: [first] }) {
      if (first) await awaitYoungConnections(first.pid, { before: sessionOf(id).opened ?? new Set() });
    },
    hold: ({ network }) => holdNamespace(network),
    release: ({ network }) => releaseNamespace(network),

    freeze(id, pod) {
      const session = sessionOf(id);
      if (session.freeze) return session.freeze.ended;
      const giveUp = new AbortController();
      const ended = freezeUnvisited(pod.containers, { signal: giveUp.signal });
      session.freeze = { giveUp, ended };
      return ended.finally(() => delete session.freeze);
    },

    endTransfer,

    async thaw(id, pod) {
      const { freeze } = sessions.get(id) ?? {};
      freeze?.giveUp.abort();
      await freeze?.ended.catch(ignore);
      await endTransfer(id, pod);
      await allowStarts(pod);
      for (const group of [groupOf(pod), ...pod.containers.map(({ freezer }) => freezer)]) await setFrozen(group, false).catch(ignoreGone); // its container has ended
    },

    async expectFrozen(pod) {
      for (const { name, pid, id, freezer } of pod.containers) {
        if (!(await isGroupFrozen(freezer)) && (await freezerOf({ pid, id })))
          throw new UmsError("THAWED", `Container ${name} was thawed while it moved.`);
      }
    },

    async isLost({ containers }) {
      return (await Promise.all(containers.map(isKilled))).some(Boolean);
    },

    async transfer(id, leaving, signal) {
      const giveUp = new AbortController();
      const sent = send(id, leaving, { signal, giveUp });
      sessionOf(id).transfer = { giveUp, ended: sent.then(ignore, ignore) };
      return await sent;
    },

    reset: ({ network }) => resetConnections(network),

    async kill(pod) {
      await expectDoomed(pod);
      const late = await lateConnections(pod.network);
      const group = groupOf(pod);
      for (const until = Date.now() + killMs; ;) {
        // Its deletion has reached the kubelet, or the API server alone: neither starts a pod that is being deleted.
        if ((await processesIn(group).catch(() => [])).length === 0) {
          await allowStarts(pod);
          return late;
        }
        await killGroup(group).catch(ignoreGone);
        for (const each of [group, ...pod.containers.map(({ freezer }) => freezer)]) await setFrozen(each, false).catch(ignoreGone);
        if (Date.now() > until) throw new UmsError("TIMED_OUT", "The frozen copy's tasks do not end.");
      }
    },

    async discard(id, pod) {
      sessions.get(id)?.sender?.close();
      sessions.delete(id);
      if (pod) await allowStarts(pod);
    },

    async cleanUp(id) {
      sessions.get(id)?.sender?.close();
      sessions.delete(id);
      for (const candidate of parts.imageDirectories) await removeImages(path.join(candidate, dumpName(id)));
      await rm(path.join(parts.workDirectory, id), { recursive: true, force: true });
    },

    close() {
      for (const { sender } of sessions.values()) sender?.close();
    },
  };
}

/**
 * Resolves when the kubelet itself has killed every container, which frozen tasks of cgroup version 1 outlive until the thaw. A
 * kubelet that has not heard of the deletion yet, as after an outage of the API server, would start them again instead.
 */
async function expectDoomed(pod: PodOnNode): Promise<void> {
  for (const until = Date.now() + doomMs; ; await sleep(50)) {
    const doomed = await Promise.all(pod.containers.map(isKilled));
    if (doomed.every(Boolean)) return;
    if (Date.now() > until) throw new UmsError("TIMED_OUT", "The kubelet has not ended the frozen copy yet.");
  }
}

const ignore = () => undefined;

function ignoreGone(cause: unknown): void {
  if ((cause as NodeJS.ErrnoException).code !== "ENOENT" && (cause as NodeJS.ErrnoException).code !== "ENODEV") throw cause;
}
