/**
 * The destination's half. A reservation lives in this process: what a crash leaves of one is destroyed when the
 * process starts again, and its id never commits after that. Only the commit, and that a migration is over, are durable.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import type { Duplex } from "node:stream";
import { forgetCachedFiles } from "../../checkpoint/bundle.ts";
import type { Marks } from "../../checkpoint/marks.ts";
import { removeImages } from "../../checkpoint/criu.ts";
import { breakOff, forgetRestore, letGo, prepareRestore } from "../../checkpoint/shim.ts";
import { setNetworkSysctls } from "../../checkpoint/sysctls.ts";
import type { ContainerEngine, Image } from "../../container-engines/engine.ts";
import { differences, lacking } from "../../container-engines/spec.ts";
import { codeFrom, UmsError } from "../../errors.ts";
import { noted } from "../../preflight/check.ts";
import { overlap } from "../../preflight/destination.ts";
import { cgroupPeers } from "../../preflight/machine.ts";
import { linkedMounts } from "../../preflight/policy.ts";
import { type ContainerSpec } from "../../protocol/container-spec.ts";
import type { ContainerNeed, ReserveAnswer } from "../../protocol/container.ts";
import {
  type ArmAnswer,
  type CheckAnswer,
  type CreateAnswer,
  type PeerState,
  portKey,
  type StreamContent,
} from "../../protocol/conversation.ts";
import type { CheckResult } from "../../protocol/measures.ts";
import type { ServiceNeed } from "../../protocol/need.ts";
import { holdNamespace, releaseNamespace } from "../../traffic/hold.ts";
import type { Sink } from "../../transfer/channel.ts";
import { makeImageDirectory, type MemoryStore, openMemoryStore } from "../../transfer/memory.ts";
import { fileSink } from "../../transfer/sink.ts";
import { settle, unpack } from "../../transfer/tree.ts";
import { type Allowance, createAllowance, receiveService } from "../receive.ts";
import { awaitContainer, restoreContainer } from "../restore.ts";
import { containerOfPod } from "../translation/container-of-pod.ts";
import { asChecks, understood } from "../translation/refusals.ts";
import { startAgain } from "./restart-policy.ts";

/** What of an incoming migration outlives this process. */
export type IncomingRecords = Readonly<{
  /** Durable when it returns. @throws UmsError when the id is taken or has ended */
  create(record: { id: string; peer: string; need: ContainerNeed }): void;
  /** Notes, durably, that this id never commits here. */
  refuse(id: string, peer: string): void;
  fact<T>(id: string, key: string): T | undefined;
  /** Durable when it returns. */
  setFact(id: string, key: string, value: unknown): void;
  /** The peer of a migration that this site has had to do with; undefined for an unknown id. */
  peerOf(id: string): string | undefined;
  /** Committed or gone, durably. */
  ended(id: string): "committed" | "gone" | undefined;
  end(id: string, outcome: "committed" | "gone"): void;
  /** Leaves nothing of an ended migration's environment and arguments. Not while clients wait. */
  forget(id: string): void;
  unfinished(): string[];
  progress(id: string, progress: { bytes: number; state: PeerState }): void;
}>;

export type IncomingParts = Readonly<{
  engine: ContainerEngine;
  marks: Marks;
  records: IncomingRecords;
  /** @param from where it comes from; a pod has a namespace there */
  check(need: ContainerNeed, from: { peer: string; namespace?: string }, signal: AbortSignal): Promise<CheckAnswer>;
  imageDirectories: readonly string[];
  /** On disk; image files on their way lie here. */
  workDirectory: string;
  leaseMs: number;
  restoreTimeoutMs: number;
  maxIncoming: number;
  /** How many of them may be one peer's: it can keep them for as long as it likes. */
  maxOfPeer(peer: string): number;
  /** The container of this name as it was when it last left this host for that site. */
  left(service: string, peer: string): ContainerNeed | undefined;
  /** Called when a service has come back from the site to which its clients are led: that must end. */
  reclaim(service: string, peer: string): Promise<void>;
  log: { info(details: object, message: string): void; warn(details: object, message: string): void };
}>;

export type Incoming = Readonly<{
  check(peer: string, asked: ServiceNeed, signal: AbortSignal): Promise<CheckAnswer>;
  reserve(id: string, peer: string, asked: ServiceNeed): Promise<ReserveAnswer>;
  loadImage(id: string, peer: string): Promise<void>;
  create(id: string, peer: string): Promise<CreateAnswer>;
  arm(id: string, peer: string): Promise<ArmAnswer>;
  restore(id: string, peer: string): Promise<void>;
  commit(id: string, peer: string): Promise<void>;
  destroy(id: string, peer: string): Promise<void>;
  state(id: string, peer: string): PeerState;
  data(id: string, peer: string, socket: Duplex, head: Buffer): Promise<void>;
  /** Destroys what a crash left of reservations, and finishes commits. */
  recover(): Promise<void>;
  close(): Promise<void>;
}>;

type Reservation = {
  readonly id: string;
  readonly peer: string;
  /** As the source has put it. */
  readonly asked: ServiceNeed;
  need: ContainerNeed;
  readonly cancelled: AbortController;
  state: Exclude<PeerState, "committed" | "gone">;
  seenAt: number;
  /** Every action on it waits for the one before. */
  busy: Promise<unknown>;
  containerId?: string;
  /** The restored copy's init. */
  pid?: number;
  imageDirectory?: string;
  memory?: MemoryStore;
  started?: Promise<void>;
  networkNamespace?: string;
  /** Where the engine has mounted the container's root, from then on. */
  root?: string;
  /** The same, once files changed beneath it. */
  staleRoot?: string;
  /** Where each kind of stream goes. Looked up early: while the shim waits, Podman answers nothing about the container. */
  readonly places: Map<string, string>;
  readonly allowance: Allowance;
};

export function createIncoming(parts: IncomingParts): Incoming {
  const { engine, records, log } = parts;
  const reservations = new Map<string, Reservation>();
  /** Those that are being judged: they count already. */
  const openings = new Map<string, { peer: string; opened: Promise<void> }>();
  const connections = new Set<Duplex>();

  const isCommitted = (id: string) => records.ended(id) === "committed" || records.fact<boolean>(id, "committed") === true;
  const blobsDirectory = (id: string) => path.join(parts.workDirectory, `${id}.image`);

  /** @throws UmsError NOT_YOURS, MIGRATION_NOT_FOUND */
  const mine = (id: string, peer: string): Reservation => {
    const reservation = reservations.get(id);
    if (reservation && reservation.peer === peer) {
      reservation.seenAt = Date.now();
      return reservation;
    }
    const owner = reservation?.peer ?? records.peerOf(id);
    if (owner !== undefined && owner !== peer) throw new UmsError("NOT_YOURS", `Migration ${id} is another site's.`);
    throw new UmsError("COPY_IS_GONE", `This site has no copy for migration ${id}.`);
  };

  /** One action at a time on a reservation: an undo waits for what it undoes. */
  function inTurn<T>(reservation: Reservation, action: () => Promise<T>): Promise<T> {
    const turn = reservation.busy.then(action, action);
    reservation.busy = turn.catch(() => undefined);
    return turn;
  }

  const expect = (reservation: Reservation, ...states: PeerState[]) => {
    if (!states.includes(reservation.state)) throw new UmsError("PEER_FAILED", `Migration ${reservation.id} is ${reservation.state} here.`);
  };

  /** A cluster's pod becomes a container first, if it can be one. */
  async function understand(peer: string, asked: ServiceNeed, signal: AbortSignal): Promise<{ need: ContainerNeed; answer: CheckAnswer }> {
    if (asked.kind === "Container") {
      const { need, note } = await keepLog(engine, asked);
      const { checks, imageBytes } = await parts.check(need, { peer }, signal);
      return { need, answer: { checks: withNote(checks, note), imageBytes } };
    }
    const reference = asked.containers[0]?.image;
    const image = reference === undefined ? undefined : await engine.findImage(reference, signal);
    const made = understood(() => containerOfPod(asked, { image, left: parts.left(asked.pod.metadata.name, peer) }));
    if (made.refusals.length > 0) return { need: made.need, answer: { checks: asChecks(made.refusals), imageBytes: 0 } };
    const { need, note } = await keepLog(engine, made.need);
    const { checks, imageBytes } = await parts.check(need, { peer, namespace: asked.pod.metadata.namespace }, signal);
    return { need, answer: { checks: withNote([...checks, await cgroupPeers()], note), imageBytes } };
  }

  /** @returns the image, which has the migration's mark */
  async function pull(
    id: string,
    digests: readonly string[],
    { isWanted, signal }: { isWanted: (image: Image) => boolean; signal: AbortSignal },
  ): Promise<Image | undefined> {
    records.setFact(id, "imageMark", imageMark(id));
    for (const digest of digests.filter((each) => !each.startsWith("localhost/"))) {
      const pulled = await engine.pullImage(digest, { mark: imageMark(id), signal });
      if (pulled && isWanted(pulled)) return pulled;
      if (pulled) await engine.removeImage(imageMark(id));
    }
    return undefined;
  }

  /** Names of the image at the source, as far as no other image has them here. The one by which the container knows it comes last, as Podman's first. */
  async function nameImage(id: string, { image, spec }: ContainerNeed): Promise<void> {
    if (records.fact<string>(id, "imageMark") === undefined) return; // it was here before
    const wanted = image.names.filter((name) => name !== spec.imageName);
    const names = [...wanted, ...(image.names.includes(spec.imageName) ? [spec.imageName] : [])];
    for (const name of names) {
      if (await engine.findImage(name)) continue;
      records.setFact(id, "imageNames", [...(records.fact<string[]>(id, "imageNames") ?? []), name]);
      await engine.nameImage(image.id, name);
    }
  }

  /** @throws UmsError where another migration that has not ended is to have the same */
  function expectApart(id: string, { spec, volumes }: ContainerNeed): void {
    for (const other of [...reservations.values()].filter((each) => each.id !== id)) {
      const by = `of migration ${other.id}, which arrives here`;
      if (other.need.spec.name === spec.name) throw new UmsError("NAME_TAKEN", `Container ${spec.name} is that ${by}.`);
      const volume = volumes.find(({ name }) => other.need.volumes.some((each) => each.name === name));
      if (volume) throw new UmsError("VOLUME_EXISTS", `Volume ${volume.name} is that ${by}.`);
      const port = spec.ports.find((each) => other.need.spec.ports.some((taken) => overlap(each, taken)));
      if (port) throw new UmsError("PORT_TAKEN", `Port ${port.hostPort}/${port.protocol} is that ${by}.`);
    }
  }

  /** @throws UmsError SITE_BUSY */
  function expectFree(peer: string): void {
    const taken = [...reservations.values(), ...openings.values()];
    if (taken.length >= parts.maxIncoming) throw new UmsError("SITE_BUSY", `This site takes ${parts.maxIncoming} migrations at once.`);
    const most = parts.maxOfPeer(peer);
    if (taken.filter((each) => each.peer === peer).length >= most)
      throw new UmsError("SITE_BUSY", `This site takes ${most} migrations of one site at once, so that others can come.`);
  }

  async function openReservation(id: string, peer: string, asked: ServiceNeed): Promise<void> {
    const { need, answer } = await understand(peer, asked, AbortSignal.timeout(60_000));
    const refused = answer.checks.find(({ ok }) => !ok);
    if (refused) throw new UmsError(codeFrom(refused.code), refused.detail ?? refused.name);
    expectApart(id, need);
    records.create({ id, peer, need });
    reservations.set(id, {
      id,
      peer,
      asked,
      need,
      cancelled: new AbortController(),
      state: "reserved",
      seenAt: Date.now(),
      busy: Promise.resolve(),
      places: new Map(),
      allowance: createAllowance({ ...need, imageBytes: need.image.sizeBytes }),
    });
    records.setFact(id, "need", need);
  }

  async function armOnce(reservation: Reservation): Promise<void> {
    const { id, need, containerId, cancelled } = reservation;
    if (containerId === undefined) throw new UmsError("PEER_FAILED", `Migration ${id} has no container here yet.`);
    // A million files have come, perhaps: the next record would wait for all of them to be on the disk, and everybody with it.
    await settle(path.dirname(parts.workDirectory)).catch(() => undefined);
    reservation.imageDirectory = await makeImageDirectory(parts.imageDirectories, id, need.memoryBytes);
    records.setFact(id, "imageDirectory", reservation.imageDirectory);
    reservation.memory = openMemoryStore(reservation.imageDirectory);
    await prepareRestore({ name: containerId, imageDirectory: reservation.imageDirectory });
    reservation.started = engine.start(containerId);
    reservation.started.catch(() => undefined); // met at the restore, or nobody's any more
    const failed = reservation.started.then(
      () => Promise.reject(new UmsError("SHIM_SILENT", "The container started without UMS's runtime.")),
      (cause: unknown) => Promise.reject(cause instanceof Error ? cause : new Error(String(cause))),
    );
    const waiting = awaitContainer(containerId, {
      what: "The container",
      mounts: need.launch.mounts,
      timeoutMs: 60_000,
      signal: cancelled.signal,
    });
    const { root, shm, network } = await Promise.race([waiting, failed]);
    reservation.root = root;
    if (shm !== undefined) reservation.places.set("shm", shm);
    if (network !== undefined) {
      reservation.networkNamespace = network;
      await holdNamespace(network);
      await setNetworkSysctls(network, need.spec.sysctls);
    }
    reservation.state = "armed";
    records.progress(id, { state: reservation.state, bytes: reservation.allowance.bytes() });
  }

  async function restoreOnce(reservation: Reservation): Promise<void> {
    const { containerId, need } = reservation;
    if (containerId === undefined || !reservation.started) throw new UmsError("PEER_FAILED", "Nothing is armed.");
    await expectNoLinks(need.spec); // the runtime mounts next
    reservation.state = "restoring";
    reservation.memory?.close();
    if (reservation.staleRoot) await forgetCachedFiles(reservation.staleRoot);
    await restoreContainer(containerId, {
      what: "The service",
      started: reservation.started,
      timeoutMs: parts.restoreTimeoutMs,
      signal: reservation.cancelled.signal,
    });
    if (
      need.spec.health &&
      need.spec.health.test[0] !== "NONE" &&
      !(await engine.healthy(containerId, AbortSignal.timeout(parts.restoreTimeoutMs)))
    )
      throw new UmsError("UNHEALTHY", "The restored copy failed its own health check.");
    reservation.state = "restored";
    // The commit doesn't wait for this: it matters where the commit comes late.
    void engine.find(containerId).then(
      (copy) => {
        if (copy && copy.pid > 0) reservation.pid = copy.pid;
      },
      (cause: unknown) => log.warn({ id: reservation.id, cause }, "the restored copy could not be looked at"),
    );
  }

  async function destroyCopy(id: string, containerId: string | undefined): Promise<void> {
    if (containerId !== undefined) {
      // Podman holds the container's lock for as long as the shim waits, or its restore, which may hang without its CRIU.
      await letGo(containerId, "give-up");
      await breakOff(containerId);
      const container = await engine.find(containerId);
      // By its name it may be anybody's: only what bears this migration's id is undone.
      if (container?.migration === id) {
        await parts.marks.set(container.id); // its restart policy must not bring it back while it is removed
        await engine.remove(container.id);
        await parts.marks.clear(container.id);
      }
      await forgetRestore(containerId);
    }
    for (const volume of records.fact<string[]>(id, "volumes") ?? [])
      if ((await engine.findVolume(volume))?.migration === id) await engine.removeVolume(volume);
    await removeImage(id);
    await cleanUp(id);
  }

  /** What this migration has brought of it: its names, and itself where nobody has named it otherwise meanwhile. */
  async function removeImage(id: string): Promise<void> {
    const mark = records.fact<string>(id, "imageMark");
    if (mark === undefined) return;
    const image = await engine.findImage(mark);
    for (const name of records.fact<string[]>(id, "imageNames") ?? [])
      if (image && (await engine.findImage(name))?.id === image.id) await engine.unnameImage(name);
    await engine.removeImage(mark).catch((cause: unknown) => log.warn({ cause, mark }, "an image could not be removed"));
  }

  async function cleanUp(id: string): Promise<void> {
    const imageDirectory = records.fact<string>(id, "imageDirectory");
    if (imageDirectory !== undefined) await removeImages(imageDirectory);
    await rm(blobsDirectory(id), { recursive: true, force: true });
  }

  /** The image goes last: it tells the next start that there is something to do. */
  async function cleanUpCommitted(id: string): Promise<void> {
    const containerId = records.fact<string>(id, "containerId");
    if (containerId !== undefined) await forgetRestore(containerId);
    const mark = records.fact<string>(id, "imageMark");
    if (mark !== undefined) await engine.unnameImage(mark);
    records.forget(id);
    await cleanUp(id);
  }

  async function destroy(id: string): Promise<void> {
    const reservation = reservations.get(id);
    reservation?.cancelled.abort(new UmsError("CANCELLED", "The migration is undone."));
    if (reservation?.containerId !== undefined && reservation.state !== "restoring" && reservation.state !== "restored")
      await letGo(reservation.containerId, "give-up");
    const act = async () => {
      if (isCommitted(id)) throw new UmsError("TOO_LATE", `Migration ${id} is committed here.`);
      reservation?.memory?.close();
      await destroyCopy(id, records.fact<string>(id, "containerId"));
      records.end(id, "gone");
      records.forget(id);
      reservations.delete(id);
    };
    await (reservation ? inTurn(reservation, act) : act());
  }

  /** What follows the durable commit, and can be repeated. */
  async function takeOver(id: string): Promise<void> {
    const namespace = records.fact<string>(id, "networkNamespace");
    const containerId = records.fact<string>(id, "containerId");
    const service = records.fact<ContainerNeed>(id, "need")?.spec.name;
    const peer = records.peerOf(id);
    const letIn = async () => {
      // In this order: a client that is not led away any more must not meet the hold.
      if (namespace !== undefined) await releaseNamespace(namespace);
      if (service !== undefined && peer !== undefined) await parts.reclaim(service, peer);
    };
    await Promise.all([letIn(), containerId === undefined ? undefined : parts.marks.clear(containerId)]);
  }

  const lease = setInterval(() => {
    for (const reservation of reservations.values()) {
      const silentMs = Date.now() - reservation.seenAt;
      if ((reservation.state === "reserved" || reservation.state === "armed") && silentMs > parts.leaseMs) {
        log.warn({ id: reservation.id, silentMs }, "the source is silent: its reservation is released");
        destroy(reservation.id).catch((cause: unknown) => log.warn({ id: reservation.id, cause }, "a reservation could not be released"));
      }
    }
  }, 1000);
  lease.unref();

  return {
    check: async (peer, asked, signal) => (await understand(peer, asked, signal)).answer,

    async reserve(id, peer, asked) {
      if (records.ended(id)) throw new UmsError("COPY_IS_GONE", `Migration ${id} has ended here.`);
      if (!reservations.has(id)) {
        let opening = openings.get(id);
        if (!opening) {
          expectFree(peer);
          opening = { peer, opened: openReservation(id, peer, asked).finally(() => openings.delete(id)) };
          openings.set(id, opening);
        }
        await opening.opened;
      }
      const owned = mine(id, peer);
      return inTurn(owned, async () => {
        const { image } = owned.need;
        if (await engine.findImage(image.id)) return {};
        const isWanted = ({ id: pulledId }: Image) => asked.kind === "Pod" || pulledId === image.id;
        const pulled = await pull(id, image.digests, { isWanted, signal: owned.cancelled.signal });
        if (asked.kind === "Pod") {
          if (!pulled) throw new UmsError("IMAGE_NOT_IN_REGISTRY", `This host could not pull ${image.digests.join(", ")}.`);
          const { need } = containerOfPod(asked, { image: pulled, left: parts.left(owned.need.spec.name, peer) });
          owned.need = (await keepLog(engine, need)).need;
          records.setFact(id, "need", owned.need);
        }
        if (pulled) return {};
        await mkdir(path.join(blobsDirectory(id), "blobs/sha256"), { recursive: true });
        const held = new Set((await engine.images()).flatMap(({ layers }) => layers));
        return { layers: image.layers.filter((layer) => !held.has(layer)) };
      });
    },

    loadImage: (id, peer) =>
      inTurn(mine(id, peer), async () => {
        const { need, cancelled } = mine(id, peer);
        if (await engine.findImage(need.image.id)) return;
        records.setFact(id, "imageMark", imageMark(id));
        await engine.loadImage(need.image, blobsDirectory(id), { mark: imageMark(id), signal: cancelled.signal });
        await rm(blobsDirectory(id), { recursive: true, force: true });
        if (!(await engine.findImage(need.image.id)))
          throw new UmsError("PEER_FAILED", "The image that came over is not the one that was announced.");
      }),

    create: (id, peer) =>
      inTurn(mine(id, peer), async () => {
        const reservation = mine(id, peer);
        if (reservation.containerId !== undefined) return {};
        const { need } = reservation;
        for (const { name, labels } of need.volumes) {
          if (await engine.findVolume(name)) throw new UmsError("VOLUME_EXISTS", `Volume ${name} exists at the destination.`);
          records.setFact(id, "volumes", [...(records.fact<string[]>(id, "volumes") ?? []), name]);
          await engine.createVolume(name, { labels, migration: id });
        }
        await nameImage(id, need);
        await expectNoLinks(need.spec);
        // Known by its name until it has an id, so that a crash in between leaves nothing behind.
        records.setFact(id, "containerId", need.spec.name);
        reservation.containerId = await engine.createTwin(need.spec, { migration: id });
        await parts.marks.set(reservation.containerId); // until the commit: its restart policy, or a reboot, would start a second, empty copy
        records.setFact(id, "containerId", reservation.containerId);
        const twin = await engine.find(reservation.containerId);
        if (twin) {
          reservation.places.set("changes", twin.changesDirectory).set("log", twin.logPath);
          for (const [at, { name }] of need.volumes.entries()) {
            const volume = twin.volumes.find((each) => each.name === name);
            if (volume) reservation.places.set(`volume:${at}`, volume.directory);
          }
        }
        if (twin && twin.runtime !== engine.restoringRuntime)
          throw new UmsError("SHIM_SILENT", `The destination's container got the runtime ${twin.runtime}.`);
        const unlike = twin ? unlikeness(reservation, twin.spec) : ["all"];
        if (unlike.length > 0) {
          log.warn({ id, unlike }, "the twin is unlike its source");
          throw new UmsError(
            "TWIN_DIFFERS",
            `The destination's container engine would give the service other settings: ${unlike.join(", ")}.`,
          );
        }
        return {};
      }),

    arm: (id, peer) =>
      inTurn(mine(id, peer), async () => {
        const reservation = mine(id, peer);
        if (reservation.state !== "armed") {
          expect(reservation, "reserved");
          await armOnce(reservation);
          if (reservation.networkNamespace !== undefined) records.setFact(id, "networkNamespace", reservation.networkNamespace);
        }
        const { asked, need } = reservation;
        if (asked.kind === "Container") return {};
        const keyed = need.spec.ports.map(({ containerPort, hostPort, protocol }) => [
          portKey({ port: containerPort, protocol }),
          hostPort,
        ]);
        return { ports: Object.fromEntries(keyed) as Record<string, number> };
      }),

    restore: (id, peer) =>
      inTurn(mine(id, peer), async () => {
        const reservation = mine(id, peer);
        if (reservation.state === "restored") return;
        // One action at a time: this one is that of a restore which has failed.
        if (reservation.state === "restoring") throw new UmsError("COPY_IS_GONE", `Migration ${id} could not be restored here.`);
        expect(reservation, "armed");
        await restoreOnce(reservation);
      }),

    async commit(id, peer) {
      if (records.ended(id) === "committed" && records.peerOf(id) === peer) return;
      const reservation = mine(id, peer);
      if (!isCommitted(id) && reservation.pid !== undefined && !existsSync(`/proc/${reservation.pid}`)) {
        await destroy(id);
        throw new UmsError("COPY_IS_GONE", "The restored copy ended before the commit.");
      }
      await inTurn(reservation, async () => {
        if (!isCommitted(id)) {
          expect(mine(id, peer), "restored");
          records.setFact(id, "committed", true);
        }
        await takeOver(id);
        records.end(id, "committed");
        reservations.delete(id);
      });
      // Not while clients wait. Where a crash comes first, the next start finds what is left.
      setTimeout(() => {
        void cleanUpCommitted(id).catch((cause: unknown) =>
          log.warn({ id, cause }, "the clean-up after a commit failed; it is repeated at the next start"),
        );
      }, 200).unref();
    },

    async destroy(id, peer) {
      const owner = reservations.get(id)?.peer ?? records.peerOf(id);
      if (owner !== undefined && owner !== peer) throw new UmsError("NOT_YOURS", `Migration ${id} is another site's.`);
      if (records.ended(id) === "gone") return;
      // An id never heard of is noted as gone, so that a late request of it is refused.
      if (owner === undefined) records.refuse(id, peer);
      else await destroy(id);
    },

    state(id, peer) {
      const ended = records.ended(id);
      if (ended && records.peerOf(id) === peer) return ended;
      return mine(id, peer).state;
    },

    async data(id, peer, socket, head) {
      const reservation = mine(id, peer);
      connections.add(socket);
      socket.on("error", () => undefined); // told by `receive`
      try {
        await receiveService(socket, head, {
          allowance: reservation.allowance,
          memory: () => reservation.memory,
          sinkFor: (content) => sinkFor(reservation, content),
          received: () => (reservation.seenAt = Date.now()),
          flushed() {
            records.progress(id, { state: reservation.state, bytes: reservation.allowance.bytes() });
          },
          signal: reservation.cancelled.signal,
        });
      } catch (cause) {
        if (!reservation.cancelled.signal.aborted) log.warn({ id, cause }, "the data connection ended with an error");
      } finally {
        connections.delete(socket);
        socket.destroy();
      }
    },

    async recover() {
      for (const id of records.unfinished()) {
        const containerId = records.fact<string>(id, "containerId");
        if (isCommitted(id)) {
          await takeOver(id);
          if (containerId !== undefined) await startAgain(engine, containerId);
          records.end(id, "committed");
          await cleanUpCommitted(id);
        } else {
          log.info({ id }, "a reservation that a crash left is destroyed");
          await destroy(id);
        }
      }
      const images = await Promise.all(parts.imageDirectories.map((directory) => readdir(directory).catch(() => [])));
      for (const id of new Set(images.flat())) if (records.ended(id) === "committed") await cleanUpCommitted(id);
      // After a reboot the directories of memory images don't tell it any more.
      for (const name of (await engine.images()).flatMap(({ names }) => names)) {
        const ended = records.ended(markedBy(name) ?? "");
        if (ended === "committed") await engine.unnameImage(name);
        if (ended === "gone") await engine.removeImage(name);
      }
    },

    async close() {
      clearInterval(lease);
      for (const socket of connections) socket.destroy();
    },
  };

  function sinkFor(reservation: Reservation, content: StreamContent): Sink {
    const { id, places, root } = reservation;
    if (content.kind === "image") {
      const file = path.join(blobsDirectory(id), content.file);
      if (!existsSync(path.dirname(file))) throw new UmsError("BAD_REQUEST", `Migration ${id} needs no image, or has it already.`);
      return fileSink(file, "w");
    }
    const place = places.get(content.kind === "tree" ? content.tree : content.kind);
    if (place === undefined) throw new UmsError("BAD_REQUEST", `Migration ${id} has no place here for what was sent.`);
    if (content.kind === "tree" && content.tree === "changes" && root !== undefined) reservation.staleRoot = root;
    return content.kind === "log" ? fileSink(place, "a") : unpack(place, content.deleted);
  }
}

/** A log whose driver this host lacks goes on by another one, and is no reason to stay away. */
async function keepLog(engine: ContainerEngine, need: ContainerNeed): Promise<{ need: ContainerNeed; note: CheckResult }> {
  const { log } = need.spec;
  const driver = await engine.logDriverFor(log.driver);
  if (driver === log.driver) return { need, note: noted("log", []) };
  const note = noted("log", [`This host has no ${log.driver}: from the move on the log is kept by the driver ${driver}.`]);
  return { need: { ...need, spec: { ...need.spec, log: { ...log, driver } } }, note };
}

/** Whoever can't come is told no more of this host than why. */
const withNote = (checks: readonly CheckResult[], note: CheckResult): CheckResult[] =>
  checks.every(({ ok }) => ok) ? [...checks, note] : [...checks];

/** Names of the settings in which the twin is not what it should be. */
function unlikeness({ asked, need: { spec } }: Pick<Reservation, "asked" | "need">, twin: ContainerSpec): string[] {
  const { sysctls, imageName } = spec; // Podman tells the ones of a container that runs; and knows the image, which is the same, by names of its own
  const got = { ...twin, sysctls, imageName };
  return asked.kind === "Container" ? differences(spec, got) : lacking(spec, got);
}

/** @throws UmsError POLICY where a link has come into the way of a bind mount since that was judged */
async function expectNoLinks(spec: ContainerSpec): Promise<void> {
  const linked = await linkedMounts(spec);
  if (linked.length > 0) throw new UmsError("POLICY", linked.join(" "));
}

/** The name by which an image is known to be of a migration that has not ended. */
const imageMark = (id: string) => `localhost/ums/${id}:latest`;
const markedBy = (name: string) => /^localhost\/ums\/([0-9a-f]{12}):latest$/.exec(name)?.[1];
