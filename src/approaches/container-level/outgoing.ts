/** The source's half, and its side of the conversation with the destination. One pair for each migration. */
import { createReadStream } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { freezerOf, isGroupFrozen, isKilled, memoryOf, processesOf } from "../../checkpoint/freezer.ts";
import type { Marks } from "../../checkpoint/marks.ts";
import { type Criu, dump } from "../../checkpoint/dump.ts";
import { dumpEnded, removeImages } from "../../checkpoint/criu.ts";
import { freezeUnvisited } from "../../checkpoint/visitors.ts";
import type { Container, ContainerEngine } from "../../container-engines/engine.ts";
import type { Destination, MigrationPlan, Source } from "../../engine/ports.ts";
import { UmsError } from "../../errors.ts";
import { type ContainerNeed, ReserveAnswer } from "../../protocol/container.ts";
import { ArmAnswer, CreateAnswer, type DataTarget, dataTarget, Done, portKey } from "../../protocol/conversation.ts";
import {
  forgetConnections,
  forgetDatagrams,
  type Forwarding,
  holdNewConnections,
  letThrough,
  makeWaitingPlace,
  removeForwarding,
  removeWaitingPlace,
  wayTo,
  withdrawForwarding,
} from "../../traffic/forward.ts";
import { addressesIn, holdNamespace, lateConnections, releaseNamespace, resetConnections } from "../../traffic/hold.ts";
import { awaitYoungConnections, openConnections } from "../../traffic/young-connections.ts";
import { createSender, type Sender } from "../../transfer/channel.ts";
import { byKind, createFileSender } from "../../transfer/files.ts";
import { makeImageDirectory } from "../../transfer/memory.ts";
import { settle } from "../../transfer/tree.ts";
import type { PeerClient } from "../../trust/peer-client.ts";
import { createDestinationSite } from "../destination.ts";
import { sendFrozen } from "../send.ts";
import { startAgain } from "./restart-policy.ts";

/** What the source must know after a crash. */
export type SourceFacts = Readonly<{
  container: Container;
  need: ContainerNeed;
  /** Known once the destination has a place for the service. */
  target?: DataTarget;
  /** Known once the destination's copy waits for the memory, if it is led to at all. */
  forwarding?: Forwarding;
}>;

export type OutgoingParts = Readonly<{
  engine: ContainerEngine;
  criu: Criu;
  marks: Marks;
  peer: PeerClient;
  imageDirectories: readonly string[];
  workDirectory: string;
  /** Checks both sides. @throws the first refusal */
  admit(signal: AbortSignal): Promise<{ container: Container; need: ContainerNeed }>;
  openData(target: DataTarget, signal: AbortSignal): Promise<Parameters<typeof createSender>[0]>;
  /** Host under which this source reaches the destination's published ports. */
  peerHost(): string;
  takeSlot(): number;
  /** Ends what earlier migrations of a container of this name keep for its clients: it is here again. */
  endEarlierForwardings(): Promise<void>;
  facts: {
    get(): SourceFacts | undefined;
    /** Durable when it returns. */
    set(facts: SourceFacts): void;
    imageDirectory(): string | undefined;
    setImageDirectory(directory: string): void;
  };
  /** Keeps the forwarding, durably, until it is released. */
  keepForwarding(forwarding: Forwarding): void;
  /** Told how many connections to a forwarded port could not be held. */
  late(connections: number): void;
  /** Told how long each part of a step took, in milliseconds. */
  measured(part: string, milliseconds: number): void;
  limits: { reserveMs: number; transferMs: number; restoreMs: number; requestMs: number };
}>;

export function createOutgoing(
  plan: MigrationPlan,
  parts: OutgoingParts,
): { source: Source; destination: Destination; bytesSent(): number; close(): void } {
  const { engine, peer, limits } = parts;
  const workDirectory = path.join(parts.workDirectory, plan.id);
  const site = createDestinationSite(peer, plan.id, limits);
  const files = createFileSender(path.join(workDirectory, "files"));
  let sender: Sender | undefined;
  /** Before the hold; whoever takes over after a crash undoes, and doesn't need it. */
  let opened: ReadonlySet<string> = new Set();

  const known = (): SourceFacts => {
    const facts = parts.facts.get();
    if (!facts) throw new UmsError("INTERNAL", `Migration ${plan.id} was never admitted.`);
    return facts;
  };
  const connect = async (signal: AbortSignal) =>
    (sender ??= createSender(await parts.openData(known().target ?? { site: plan.destination }, signal)));

  const trees = () => {
    const { container, need } = known();
    const directoryOf = (name: string) => container.volumes.find((volume) => volume.name === name)?.directory ?? "";
    return byKind([
      { tree: "changes", root: container.changesDirectory },
      ...need.volumes.map(({ name }, at) => ({ tree: `volume:${at}`, root: directoryOf(name) })),
      ...(container.shmDirectory === undefined ? [] : [{ tree: "shm", root: container.shmDirectory }]),
    ]);
  };
  const sendLog = (data: Sender) => files.log(data, { kind: "log" }, known().container.logPath);

  /** Whoever thawed it by hand made it live on: then what was dumped is old. One that was killed lives on at the destination alone. */
  async function expectFrozen(): Promise<void> {
    const { container } = known();
    const freezer = await freezerOf(container);
    if (freezer && !(await isGroupFrozen(freezer)) && (await freezerOf(container)))
      throw new UmsError("THAWED", `Container ${container.name} was thawed while it moved.`);
  }

  async function arm(signal: AbortSignal): Promise<void> {
    const { ports: ledTo } = await site.ask("POST", "/arm", ArmAnswer, { timeoutMs: limits.reserveMs, signal });
    const address = (await connect(signal)).peerAddress ?? parts.peerHost();
    const ports = known().container.spec.ports.flatMap((port) => {
      if (!ledTo) return [port];
      const toPort = ledTo[portKey({ port: port.containerPort, protocol: port.protocol })];
      return toPort === undefined ? [] : [{ ...port, toPort }];
    });
    if (ports.length === 0) return;
    await parts.endEarlierForwardings();
    const [way, leaving] = await Promise.all([wayTo(address), addressesIn(known().container.networkNamespace)]);
    // Taken and noted at once: another migration may want a slot.
    parts.facts.set({ ...known(), forwarding: { slot: parts.takeSlot(), ports, leaving, ...way } });
  }

  const source: Source = {
    async admit(_plan, signal) {
      parts.facts.set(await parts.admit(signal));
    },

    preCopy: {
      async run(_plan, signal) {
        const data = await connect(signal);
        const { early } = await trees();
        await sendLog(data);
        await files.live(data, early, { flushMs: limits.transferMs, signal });
        await arm(signal);
        opened = await openConnections(known().container.pid);
        // Once more, so that what was written during all that doesn't fall into the freeze. A volume's own directory has
        // got owner, mode and time from the engine meanwhile, which takes it for new.
        for (const tree of early) await files.tree(data, tree, { live: true, signal, rootToo: tree.tree !== "changes" });
        await data.flush(limits.transferMs);
        const { container, forwarding } = known();
        if (forwarding) await makeWaitingPlace(forwarding);
        parts.facts.setImageDirectory(
          await makeImageDirectory(parts.imageDirectories, plan.id, await memoryOf(await processesOf(container))),
        );
      },
      async discard() {
        const { forwarding } = known();
        if (forwarding) await removeForwarding(forwarding.slot);
        sender?.close();
        sender = undefined;
      },
    },

    async holdClients() {
      const { container, forwarding } = known();
      // One that came to the service's own network after the hold there would be dropped, not held.
      if (forwarding) {
        await holdNewConnections(forwarding);
        await awaitYoungConnections(container.pid, { before: opened });
      }
      await holdNamespace(container.networkNamespace);
    },
    async releaseClients() {
      const { container, forwarding } = known();
      if (container.networkNamespace !== "") await releaseNamespace(container.networkNamespace);
      if (forwarding) await withdrawForwarding(forwarding.slot);
    },

    async freeze() {
      const { container } = known();
      await parts.marks.set(container.id);
      await engine.pause(container.id);
      const freezer = await freezerOf(container);
      if (!freezer) throw new UmsError("SERVICE_NOT_RUNNING", `Container ${container.name} has ended.`);
      await freezeUnvisited([{ pid: container.pid, freezer }]);
    },
    async thaw() {
      const { container } = known();
      await dumpEnded(workDirectory);
      const state = (await engine.find(container.id))?.state;
      if (state === "paused" || state === "running") await engine.unpause(container.id);
      await parts.marks.clear(container.id);
      await startAgain(engine, container.id);
    },

    async isLost() {
      const { container } = known();
      // Whoever removed it wants it gone.
      if (!(await engine.find(container.id))) return false;
      return await isKilled(container);
    },

    async transfer(_plan, signal) {
      const data = await connect(signal);
      const { container, forwarding } = known();
      const { id: containerId, stateRoot } = container;
      const imageDirectory = parts.facts.imageDirectory();
      if (imageDirectory === undefined) throw new UmsError("INTERNAL", "There is no directory for the memory image.");
      const { early, late } = await trees();
      const forgotten = forwarding && forgetDatagrams(forwarding);
      forgotten?.catch(() => undefined); // met below
      await sendFrozen(
        {
          containers: [
            {
              imageDirectory,
              dump: () => dump(parts.criu, { containerId, stateRoot, imageDirectory, workDirectory, timeoutMs: limits.transferMs }),
            },
          ],
          trees: [...early, ...late],
          sendLogs: () => sendLog(data),
        },
        { data, files, flushMs: limits.transferMs, took: parts.measured, giveUp: () => data.close(), signal },
      );
      await forgotten;
    },

    async forwardClients() {
      const { container, forwarding } = known();
      if (forwarding) {
        parts.keepForwarding(forwarding);
      }
      await Promise.all([resetConnections(container.networkNamespace), forwarding && letThrough(forwarding)]);
      // Not before: connection tracking leads the resets to their clients.
      if (forwarding) await forgetConnections(forwarding);
    },

    async remove() {
      const { container, forwarding } = known();
      if (forwarding) parts.late(await lateConnections(container.networkNamespace));
      await engine.remove(container.id);
      for (const { name } of container.volumes) await engine.removeVolume(name);
      // A million files have gone, perhaps: see the destination's arm.
      await settle(path.dirname(parts.workDirectory)).catch(() => undefined);
      await parts.marks.clear(container.id);
      await site.acknowledge();
    },

    async cleanUp() {
      sender?.close();
      sender = undefined;
      const facts = parts.facts.get();
      if (facts?.forwarding) await removeWaitingPlace(facts.forwarding.slot);
      const imageDirectory = parts.facts.imageDirectory();
      if (imageDirectory !== undefined) await removeImages(imageDirectory);
      await rm(workDirectory, { recursive: true, force: true });
    },
  };

  async function sendImage(need: ContainerNeed, layers: readonly string[], signal: AbortSignal): Promise<void> {
    const directory = path.join(workDirectory, "image");
    await rm(directory, { recursive: true, force: true });
    await mkdir(path.dirname(directory), { recursive: true, mode: 0o700 });
    try {
      await engine.saveImage(need.image, directory, signal);
      const data = await connect(signal);
      const missing = new Set(layers.map((layer) => layer.replace("sha256:", "")));
      const all = new Set(need.image.layers.map((layer) => layer.replace("sha256:", "")));
      for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || (all.has(entry.name) && !missing.has(entry.name))) continue;
        const file = path.relative(directory, path.join(entry.parentPath, entry.name));
        await data.stream({ kind: "image", file }, createReadStream(path.join(directory, file), { highWaterMark: 1 << 20 }));
      }
      await data.flush(limits.reserveMs);
      await site.ask("POST", "/image", Done, { timeoutMs: limits.reserveMs, signal });
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  const destination: Destination = {
    async reserve(_plan, signal) {
      const { need } = known();
      const { layers } = await site.ask("PUT", "", ReserveAnswer, { body: need, timeoutMs: limits.reserveMs, signal });
      if (layers) await sendImage(need, layers, signal);
      const created = await site.ask("POST", "/create", CreateAnswer, { timeoutMs: limits.reserveMs, signal });
      parts.facts.set({ ...known(), target: dataTarget(created, { site: plan.destination, host: parts.peerHost() }) });
    },
    release: site.release,
    async restore(_plan, signal) {
      await expectFrozen();
      await site.restore(signal);
      await expectFrozen(); // the last moment at which it can be undone
    },
    destroyRestored: site.destroyRestored,
    commit: async () => void (await site.commit(Done)),
  };

  return { source, destination, bytesSent: () => sender?.bytesSent() ?? 0, close: () => sender?.close() };
}
