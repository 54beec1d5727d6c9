/**
 * Carries the migrations that leave this cluster to their ends. One instance works at a time; its successor takes up
 * what it finds, from the journals in the objects.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { type CreateAnswer, dataTarget } from "../../approaches/protocol.ts";
import { createOutgoingPod, type PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import { createRestoring, type SnapshotFacts } from "../../approaches/orchestrator-level/restoring.ts";
import { withBreakpoint } from "../../breakpoint.ts";
import { AlreadyCommitted, migrate, type Outcome, resolveWithoutDestination, Unfinished } from "../../engine/migrate.ts";
import { TakenOver } from "../../engine/ports.ts";
import { createReport, type Report } from "../../engine/report.ts";
import { codeOf, errorTable, UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import { type MigrationRecord, openRecord } from "../../platforms/kubernetes/journal.ts";
import {
  destinationIsGone,
  migrationFinalizer,
  type MigrationObject,
  migrations,
  newMigrationId,
} from "../../platforms/kubernetes/migration.ts";
import { interfacePort } from "../../cluster-settings.ts";
import { tell } from "../../platforms/kubernetes/story.ts";
import { parseAddress } from "../../trust/address.ts";
import { createForwardings } from "./forwardings.ts";
import { createPeerClient, createSelfClient, type PeerClient } from "../../trust/peer-client.ts";
import type { Peer, Trust } from "../../trust/trust.ts";

export type OperatorParts = Readonly<{
  cluster: Cluster;
  trust: Trust;
  interfaces: Interfaces;
  /** Where this site's own coordinator answers. */
  coordinatorAddress: string;
  maxConcurrentMigrations: number;
  limits: Readonly<{ preflightMs: number; reserveMs: number; transferMs: number; restoreMs: number; requestMs: number }>;
  /** For tests: objects may have {@link breakpointAnnotation}. */
  breakpoints: boolean;
  log: Logger;
}>;

const breakpointAnnotation = "ums.dev/breakpoint";

const firstRetryMs = 500;
const lastRetryMs = 5_000;
const tendEveryMs = 2_000;
const orphansEveryMs = 15_000;

type Running = { readonly controller: AbortController; finished: Promise<void>; waits: boolean };

/** Works until the signal aborts, which it does when another instance leads. @param owner names this tenure in the journals */
export async function operate(parts: OperatorParts, { signal, owner }: { signal: AbortSignal; owner: string }): Promise<void> {
  const { cluster, trust, interfaces, limits, log } = parts;
  const known = new Map<string, MigrationObject>();
  const running = new Map<string, Running>();
  const queue: string[] = [];
  const peers = new Map<string, PeerClient>();
  const keyOf = ({ metadata }: MigrationObject) => `${metadata.namespace}/${metadata.name}`;

  const peerClient = (name: string) => {
    let client = peers.get(name);
    if (!client) {
      client =
        name === trust.siteName
          ? createSelfClient(trust, { who: "This site's coordinator", address: parts.coordinatorAddress })
          : createPeerClient(trust, name);
      peers.set(name, client);
    }
    return client;
  };

  /** The site that an object's `destination` means: its name, an address given at the pairing, or this one. */
  function siteOf(destination: string): Pick<Peer, "name" | "addresses"> {
    const wanted = destination.toLowerCase();
    if (wanted === trust.siteName) return { name: wanted, addresses: [parts.coordinatorAddress] };
    const found = trust.peers().find(({ name, addresses }) => name === wanted || addresses.some((each) => each.toLowerCase() === wanted));
    if (!found) throw new UmsError("SITE_NOT_FOUND", `No paired site is called ${destination} or has that address.`);
    return found;
  }

  const all = () => [...known.values()];
  const forwardings = createForwardings({ cluster, interfaces, siteName: trust.siteName, known: all, log, signal });

  /** Two at once would dump the same pod twice, and each would think that the other's copy is none. */
  function expectAlone({ metadata, spec, status }: MigrationObject): void {
    const others = all().filter(
      (other) => other.metadata.uid !== metadata.uid && (other.spec.role ?? "Source") === "Source" && other.status?.endedAt === undefined,
    );
    const turns = [...running.keys()];
    const own = turns.indexOf(`${metadata.namespace}/${metadata.name}`);
    const comesFirst = (other: MigrationObject) => {
      const turn = turns.indexOf(keyOf(other));
      return turn < 0 ? other.status?.owner !== undefined : turn < own;
    };
    const rival = others.find(
      (other) => other.metadata.namespace === metadata.namespace && other.spec.pod === spec.pod && comesFirst(other),
    );
    if (rival) throw new UmsError("ALREADY_MIGRATING", `Pod ${spec.pod} is being migrated by ${rival.status?.id ?? rival.metadata.name}.`);
    const id = status?.id ?? spec.id;
    if (id !== undefined && all().some((other) => other.metadata.uid !== metadata.uid && isSameId(other, id)))
      throw new UmsError("BAD_REQUEST", `Another migration has the id ${id}.`);
    if (spec.keep === true || spec.redirect !== undefined) throw new UmsError("BAD_REQUEST", "keep and redirect are not there yet.");
  }

  async function run(key: string, controller: AbortController): Promise<void> {
    const object = known.get(key);
    if (!object) return;
    const { namespace = "default", name = "" } = object.metadata;
    if (!object.metadata.finalizers?.includes(migrationFinalizer)) {
      const finalizers = [...(object.metadata.finalizers ?? []), migrationFinalizer];
      await cluster.patch(migrations, name, { metadata: { finalizers } }, { namespace, signal });
    }
    const record = await openRecord({ cluster, namespace, name, owner, signal });
    const id = object.status?.id ?? object.spec.id ?? newMigrationId();
    const startedAt = object.status?.startedAt ?? new Date().toISOString();
    record.report({ id, startedAt, phase: "Pending" });
    await record.flush();
    try {
      // One that has begun holds its pod: then it is the others that are refused.
      if (!record.journal.isStarted("admit")) expectAlone(object);
      const outcome = await carry(object, record, { id, controller });
      if (outcome) await finish(object, record, outcome);
    } catch (cause) {
      // Refused before there was anything to undo; otherwise it is tried again.
      if (cause instanceof UmsError && !record.journal.isStarted("reserve"))
        await finish(object, record, { outcome: "rolledBack", cause, report: undefined });
      else throw cause;
    }
  }

  type Ended = { outcome: "succeeded" | "rolledBack"; cause?: Error; report: Report | undefined };

  /** @returns undefined when another instance, or a later start, carries on */
  async function carry(
    object: MigrationObject,
    record: MigrationRecord,
    { id, controller }: { id: string; controller: AbortController },
  ): Promise<Ended | undefined> {
    const { namespace = "default" } = object.metadata;
    const site = siteOf(object.spec.destination);
    const isOwnSite = site.name === trust.siteName;
    const peerHost = () => parseAddress(site.addresses[0] ?? "").host;
    const plan = { id, service: object.spec.pod, destination: site.name };
    const report = createReport(() => performance.now());
    const factsAs = <F extends { need: { memoryBytes: number } }>(name: string) => ({
      get: () => record.fact(name) as F | undefined,
      async set(facts: F) {
        await record.setFact(name, facts);
        record.report({ memoryBytes: facts.need.memoryBytes });
      },
    });
    const common = {
      peer: peerClient(site.name),
      namespace,
      node: interfaces.node,
      isOwnSite,
      // Within the cluster the node itself is called: behind the port of every node there may be another one.
      dataTarget: (created: CreateAnswer) =>
        dataTarget(created, { site: site.name, host: peerHost(), ...(isOwnSite ? { ownPort: interfacePort } : {}) }),
      arrived: ({ metadata, ...pod }: Pod) => {
        // Long, and nobody's business but the API server's.
        const { managedFields: _, ...kept } = metadata as Record<string, unknown>;
        record.report({ destinationPod: { metadata: kept, ...pod } });
      },
      limits,
      sent: (bytesSent: number) => record.report({ bytesSent }),
    };
    const { snapshot, node: wantedNode } = object.spec;
    const bound = snapshot
      ? createRestoring(plan, { ...common, snapshot, wantedNode, facts: factsAs<SnapshotFacts>("snapshot") })
      : createOutgoingPod(plan, {
          ...common,
          cluster,
          nodes: async () => interfaces.all(),
          wanted: { name: object.spec.rename, node: wantedNode },
          peerHost,
          takeSlot: async () => forwardings.takeSlot(object.metadata.uid ?? ""),
          facts: factsAs<PodFacts>("source"),
          measured: (part, milliseconds) => log.debug({ migration: id, part, milliseconds }, "part of a step"),
        });
    const told = (): Report => {
      const { heldMs, ...times } = report.report();
      // A snapshot has no clients.
      return snapshot || heldMs === undefined ? times : { ...times, heldMs };
    };
    const wanted = async () => known.get(keyOf(object))?.metadata.annotations?.[breakpointAnnotation] ?? "";
    const reached = (step: string, moment: string) => {
      log.info({ migration: id, step, moment }, "at the breakpoint");
      record.report({ waiting: `at the breakpoint ${step} ${moment}` });
    };
    const engine = {
      plan,
      ...(parts.breakpoints ? withBreakpoint(bound, { wanted, reached }) : bound),
      journal: record.journal,
      clock: () => performance.now(),
      observe(progress: Parameters<typeof report.observe>[0]) {
        report.observe(progress);
        if (progress.kind !== "phase") return;
        log.info({ migration: id, phase: progress.phase }, "phase");
        record.report({ phase: progress.phase, ...figures(told()) });
      },
    };
    /** Said by a person; not any more once the destination turned out to have committed. */
    let committed = false;
    const isSaidGone = () => !committed && known.get(keyOf(object))?.metadata.annotations?.[destinationIsGone] !== undefined;
    for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, lastRetryMs)) {
      try {
        const outcome: Outcome =
          isSaidGone() && (await isSilent(site.name)) ? await resolveWithoutDestination(engine) : await migrate(engine, controller.signal);
        return { ...outcome, report: told() };
      } catch (cause) {
        if (cause instanceof AlreadyCommitted) {
          committed = true;
          continue;
        }
        if (!(cause instanceof Unfinished)) throw cause;
        if (cause.cause instanceof TakenOver) return undefined;
        const why = cause.cause instanceof Error ? cause.cause.message : String(cause.cause);
        log.warn({ migration: id, step: cause.step, direction: cause.direction, cause: cause.cause }, "the migration waits");
        record.report({ waiting: `${cause.step} is tried again (${cause.direction}): ${why}` });
        // Others need not wait with it.
        const runs = running.get(keyOf(object));
        if (runs && !runs.waits) {
          runs.waits = true;
          next();
        }
        await sleep(retryMs, undefined, { signal }).catch(() => undefined);
        if (signal.aborted) return undefined;
      }
    }
  }

  async function finish(object: MigrationObject, record: MigrationRecord, { outcome, cause, report }: Ended): Promise<void> {
    const untouched = !record.journal.isStarted("reserve");
    const phase = outcome === "succeeded" ? "Succeeded" : untouched ? "Failed" : "RolledBack";
    const reason = cause && (cause.name === "AbortError" ? new UmsError("CANCELLED", "The migration was cancelled.") : cause);
    const code = reason && codeOf(reason);
    const endedAt = new Date().toISOString();
    record.report({
      phase,
      endedAt,
      waiting: undefined,
      message: reason?.message ?? `${object.spec.pod} ${did(object)}`,
      ...(report ? figures(report) : {}),
      ...(reason && code ? { error: { code, message: reason.message, cure: errorTable[code].cure } } : {}),
    });
    await record.flush();
    log.info({ migration: record.opened.status?.id, phase, error: reason?.message, report }, "the migration has ended");
    if (reason && !(reason instanceof UmsError)) log.warn({ cause: reason }, "why it was undone");
    await tell(cluster, {
      namespace: object.metadata.namespace ?? "default",
      pod: object.spec.pod,
      reason: outcome === "succeeded" ? "ready" : "error",
      message:
        reason?.message ?? (object.spec.snapshot ? `Restored from ${object.spec.snapshot.path}` : `Moved to ${object.spec.destination}`),
    }).catch((trouble: unknown) => log.warn({ cause: trouble }, "an event could not be written"));
  }

  /** What an earlier instance has begun holds or may hold a service, so it doesn't wait for its turn. */
  const isBegun = (key: string) => known.get(key)?.status?.owner !== undefined;
  const isFull = () => [...running.values()].filter(({ waits }) => !waits).length >= parts.maxConcurrentMigrations;

  function next(): void {
    while (queue.length > 0 && !signal.aborted && (isBegun(queue[0] as string) || !isFull())) {
      const key = queue.shift() as string;
      const controller = new AbortController();
      const onStop = () => controller.abort(new UmsError("INTERRUPTED", "The operator is stopping."));
      signal.addEventListener("abort", onStop, { once: true });
      const finished = run(key, controller)
        .catch(async (cause: unknown) => {
          if (signal.aborted || cause instanceof TakenOver) return;
          log.error({ migration: key, cause }, "a migration stopped at an error that nobody expected");
          await sleep(lastRetryMs, undefined, { signal }).catch(() => undefined);
        })
        .finally(() => {
          signal.removeEventListener("abort", onStop);
          running.delete(key);
          const object = known.get(key);
          if (object) consider(object);
          next();
        });
      running.set(key, { controller, finished, waits: false });
    }
  }

  /** A destination that a person said was gone, and which answers after all, may still hold a copy: frozen out, but there. */
  async function collectOrphans(): Promise<void> {
    for (const { metadata, spec, status } of known.values()) {
      const said = metadata.annotations?.[destinationIsGone] !== undefined && status?.phase === "RolledBack";
      if (!said || status.id === undefined || status.facts?.["answered"] === true) continue;
      const request = { method: "DELETE", path: `/peer/migrations/${status.id}`, timeoutMs: limits.requestMs, signal };
      try {
        await peerClient(siteOf(spec.destination).name).request(request);
      } catch (cause) {
        if (cause instanceof UmsError && cause.code === "TOO_LATE") await tellOfTwo(metadata, spec.pod);
        else log.debug({ migration: status.id, cause }, "the destination is still gone");
        continue;
      }
      const patch = { status: { facts: { answered: true } } };
      await cluster.patch(migrations, metadata.name ?? "", patch, { namespace: metadata.namespace, subresource: "status" });
      log.info({ migration: status.id }, "the destination that was said to be gone has destroyed its copy");
    }
  }

  /** Whoever said that the destination was gone was wrong: it had committed. */
  async function tellOfTwo({ namespace = "default", name = "" }: MigrationObject["metadata"], pod: string): Promise<void> {
    const message = "The destination that was said to be gone had committed: there are two copies. Delete one of them.";
    log.error({ migration: name }, message);
    const error = { code: "TOO_LATE", message, cure: "Decide which copy is to live, and delete the other pod." };
    const patch = { status: { message, error, facts: { answered: true } } };
    await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
    await tell(cluster, { namespace, pod, reason: "error", message });
  }

  /** Nobody's word alone thaws a copy beside one that may live: a site that answers is not gone. */
  async function isSilent(site: string): Promise<boolean> {
    return await peerClient(site)
      .request({ method: "GET", path: "/peer/healthcheck", timeoutMs: limits.requestMs, signal })
      .then(
        () => false,
        (cause: unknown) => cause instanceof UmsError && (cause.code === "SITE_UNREACHABLE" || cause.code === "TIMED_OUT"),
      );
  }

  function consider(object: MigrationObject): void {
    const key = keyOf(object);
    if ((object.spec.role ?? "Source") !== "Source") return;
    const deleted = object.metadata.deletionTimestamp !== undefined;
    const ended = object.status?.endedAt !== undefined;
    const runs = running.get(key);
    if (runs) {
      if (deleted || object.spec.cancel === true) runs.controller.abort(new UmsError("CANCELLED", "The migration was cancelled."));
    } else if (ended) {
      if (deleted && object.metadata.finalizers?.includes(migrationFinalizer))
        void forwardings
          .forget(object)
          .catch((cause: unknown) => log.warn({ migration: key, cause }, "what a migration keeps could not be removed"));
    } else if (!queue.includes(key)) {
      if (isBegun(key)) queue.unshift(key);
      else queue.push(key);
      next();
    }
  }

  const every = async (pauseMs: number, act: () => Promise<void>) => {
    for (; !signal.aborted; await sleep(pauseMs, undefined, { signal }).catch(() => undefined))
      await act().catch((cause: unknown) => signal.aborted || log.warn({ cause }, "what is done from time to time has failed"));
  };
  void every(tendEveryMs, forwardings.tend);
  void every(orphansEveryMs, collectOrphans);
  for await (const { type, object } of cluster.watch(migrations, {
    namespace: undefined,
    signal,
    onTrouble: (cause) => log.warn({ cause }, "the migrations can't be watched"),
  })) {
    if (type === "gone") known.delete(keyOf(object));
    else {
      known.set(keyOf(object), object);
      consider(object);
    }
  }
  await Promise.all([...running.values()].map(({ finished }) => finished));
  for (const client of peers.values()) client.close();
}

/** What has become of its pod, for people. */
const did = ({ spec: { destination, snapshot } }: MigrationObject) =>
  snapshot ? `was restored at ${destination} from ${snapshot.path} of node ${snapshot.node}` : `has moved to ${destination}`;

const isSameId = ({ spec, status }: MigrationObject, id: string) => (spec.role ?? "Source") === "Source" && (status?.id ?? spec.id) === id;

const figures = ({ heldMs, totalMs, remainderMs, phases, steps }: Report) => ({
  ...(heldMs === undefined ? {} : { heldMs: Math.round(heldMs) }),
  totalMs: Math.round(totalMs),
  phases: { ...rounded(phases), remainder: Math.round(remainderMs) },
  stepsMs: rounded(steps),
});
const rounded = (record: Readonly<Record<string, number | undefined>>) =>
  Object.fromEntries(Object.entries(record).flatMap(([key, value]) => (value === undefined ? [] : [[key, Math.round(value)]])));
