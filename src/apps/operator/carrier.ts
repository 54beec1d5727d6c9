/** Carries one migration to its end, from wherever its journal says that it is. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { createOutgoingPod, type Examined, type PodFacts, type Rescued } from "../../approaches/orchestrator-level/outgoing.ts";
import { createRestoring, type SnapshotFacts } from "../../approaches/orchestrator-level/restoring.ts";
import { withBreakpoint } from "../../breakpoint.ts";
import { interfacePort } from "../../cluster-settings.ts";
import { AlreadyCommitted, migrate, type Outcome, resolveWithoutDestination, Unfinished } from "../../engine/migrate.ts";
import { TakenOver } from "../../engine/ports.ts";
import { isEnd } from "../../engine/progress.ts";
import { createReport, type Report } from "../../engine/report.ts";
import { codeOf, errorTable, UmsError } from "../../errors.ts";
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import { type MigrationRecord, openRecord } from "../../platforms/kubernetes/journal.ts";
import { type Pod, services } from "../../platforms/kubernetes/kinds.ts";
import {
  destinationIsGone,
  heirIdOf,
  migrationFinalizer,
  migrationIdOf,
  type MigrationObject,
  migrationName,
  migrations,
} from "../../platforms/kubernetes/migration.ts";
import { tell } from "../../platforms/kubernetes/story.ts";
import { parseAddress } from "../../protocol/address.ts";
import { type CreateAnswer, dataTarget } from "../../protocol/conversation.ts";
import type { Forwardings } from "./forwardings.ts";
import { makeMigrationOnce } from "./make-migration.ts";
import { expectOwnFacts, ownPorts } from "./own-facts.ts";
import { expectAlone, type Heir, heirFact } from "./rivals.ts";
import type { Sites } from "./sites.ts";

export type CarrierParts = Readonly<{
  cluster: Cluster;
  sites: Sites;
  interfaces: Interfaces;
  forwardings: Pick<Forwardings, "takeSlot" | "endEarlier">;
  limits: Readonly<{ preflightMs: number; reserveMs: number; transferMs: number; restoreMs: number; requestMs: number }>;
  /** For tests: objects may have {@link breakpointAnnotation}. */
  breakpoints: boolean;
  log: Logger;
  /** Aborts when another instance leads. */
  signal: AbortSignal;
  /** Names this tenure in the journals. */
  owner: string;
}>;

/** What a migration that has its turn is told by whoever gave it, and tells. */
export type Turn = Readonly<{
  cancelled: AbortSignal;
  /** Of its object as they are now. */
  annotations(): Readonly<Record<string, string>>;
  /** See {@link expectAlone}. */
  others(): Parameters<typeof expectAlone>[1];
  /** It waits for somebody who doesn't answer: others need not wait with it. */
  waits(): void;
}>;

export type Carrier = Readonly<{
  /** Resolves when the migration has ended, or another instance, or a later turn, carries on. */
  run(object: MigrationObject, turn: Turn): Promise<void>;
}>;

const breakpointAnnotation = "ums.dev/breakpoint";
/** On a Migration that makes a pod again of its dump: how many such there have been for it. */
const attemptAnnotation = "ums.dev/attempt";
const attempts = 5;
const firstRetryMs = 500;
const lastRetryMs = 5_000;

type Restore = Readonly<{ namespace: string; pod: string; rescued: Rescued; attempt: number }>;
type Ended = { outcome: "succeeded" | "rolledBack"; cause?: Error; report: Report | undefined };

export function createCarrier(parts: CarrierParts): Carrier {
  const { cluster, sites, interfaces, forwardings, limits, log, signal, owner } = parts;

  async function run(object: MigrationObject, turn: Turn): Promise<void> {
    const { namespace = "default", name = "" } = object.metadata;
    if (!object.metadata.finalizers?.includes(migrationFinalizer)) {
      const finalizers = [...(object.metadata.finalizers ?? []), migrationFinalizer];
      await cluster.patch(migrations, name, { metadata: { finalizers } }, { namespace, signal });
    }
    const record = await openRecord({ cluster, namespace, name, owner, signal });
    // The watch may not have told of its end yet.
    if (record.opened.status?.endedAt !== undefined) return;
    const id = migrationIdOf(object);
    const startedAt = object.status?.startedAt ?? new Date().toISOString();
    record.report({ id, startedAt, phase: "Pending" });
    await record.flush();
    const ended = await carried(object, record, { id, turn });
    if (!ended) return;
    if (ended.outcome === "rolledBack") await tryAgain(object, record, { cause: ended.cause, turn });
    if (signal.aborted) return;
    await finish(object, record, ended);
    await tellEnd(object, ended);
  }

  /** While this one has not ended, so that an operator that takes over meanwhile tries again, too. */
  async function tryAgain(object: MigrationObject, record: MigrationRecord, { cause, turn }: { cause: Error | undefined; turn: Turn }) {
    const again = nextAttempt(object, cause);
    const isOver = AbortSignal.any([signal, turn.cancelled]);
    if (!again || isOver.aborted) return;
    const pauseMs = (again.attempt - 1) * lastRetryMs;
    record.report({ waiting: `it is tried again in ${pauseMs / 1000} s: ${cause?.message}` });
    turn.waits();
    if (!(await sleep(pauseMs, true, { signal: isOver }).catch(() => false))) return;
    await record.setFact(heirFact, { migration: again.rescued.migration } satisfies Heir);
    await restoreRescued(again);
  }

  /** As {@link carry}, for one that may also be refused. */
  async function carried(object: MigrationObject, record: MigrationRecord, which: { id: string; turn: Turn }): Promise<Ended | undefined> {
    try {
      await keepOwnFacts(object, record);
      // One that has begun holds its pod: then it is the others that are refused.
      if (!record.journal.isStarted("admit")) {
        expectAlone(object, which.turn.others());
        if (object.spec.keep === true || object.spec.redirect !== undefined)
          throw new UmsError("BAD_REQUEST", "keep and redirect are not there yet.");
      }
      return await carry(object, record, which);
    } catch (cause) {
      // Refused before there was anything to undo, or by a journal that nothing may be undone by; otherwise it is tried again.
      const isRefused = cause instanceof UmsError && (cause.code === "JOURNAL_CONTRADICTS" || !record.journal.isStarted("reserve"));
      if (!isRefused) throw cause;
      return { outcome: "rolledBack", cause, report: undefined };
    }
  }

  /** The destination; where several sites say that they have its address, the one with which the migration has begun. */
  function siteOf(object: MigrationObject, record: MigrationRecord) {
    const facts = ["source", "snapshot"].map((name) => record.fact(name) as Partial<PodFacts> | undefined);
    return sites.find(object.spec.destination, facts.find((each) => each?.target)?.target?.site);
  }

  /** What the journal of an earlier start says is believed as far as it is this migration's own. @throws UmsError JOURNAL_CONTRADICTS */
  async function keepOwnFacts(object: MigrationObject, record: MigrationRecord): Promise<void> {
    const { namespace = "default" } = object.metadata;
    const facts = record.opened.status?.facts;
    if (facts && Object.keys(facts).length > 0) expectOwnFacts(object, facts, siteOf(object, record).name);
    const source = record.fact("source") as PodFacts | undefined;
    if (!source?.forwarding) return;
    const { items } = await cluster.list(services, { namespace, signal });
    const ports = ownPorts(source.forwarding.ports, items);
    if (ports.length < source.forwarding.ports.length)
      await record.setFact("source", { ...source, forwarding: { ...source.forwarding, ports } } satisfies PodFacts);
  }

  /** @returns undefined when another instance, or a later start, carries on */
  async function carry(
    object: MigrationObject,
    record: MigrationRecord,
    { id, turn }: { id: string; turn: Turn },
  ): Promise<Ended | undefined> {
    const { namespace = "default" } = object.metadata;
    const site = siteOf(object, record);
    const isOwnSite = site.name === sites.ownName;
    const peerHost = () => parseAddress(site.addresses[0] ?? "").host;
    const plan = { id, service: object.spec.pod, destination: site.name };
    const { startedAt, undoneAt } = record.opened.status?.journal?.steps["hold-clients"] ?? {};
    const heldForMs = startedAt === undefined || undoneAt !== undefined ? undefined : Date.now() - Date.parse(startedAt);
    const report = createReport(() => performance.now(), { heldForMs });
    const factsAs = <F extends { need: { memoryBytes: number } }>(name: string) => ({
      get: () => record.fact(name) as F | undefined,
      async set(facts: F) {
        await record.setFact(name, facts);
        record.report({ memoryBytes: facts.need.memoryBytes });
      },
    });
    const common = {
      peer: sites.client(site.name),
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
      noted: (notes: Examined["notes"]) =>
        record.report({
          notes: notes.map(({ site: side, detail }) => ({ site: side === "source" ? sites.ownName : site.name, detail })),
        }),
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
          takeSlot: () => forwardings.takeSlot(object.metadata.uid ?? ""),
          endEarlierForwardings: (pod) => forwardings.endEarlier({ namespace, pod }),
          late(connections) {
            // A kubelet's probe comes by the service's own address, too.
            if (connections > 0) log.info({ migration: id, connections }, "connections to the service's own address could not be held");
          },
          owner: {
            apiVersion: migrations.apiVersion,
            kind: migrations.kind,
            name: object.metadata.name ?? "",
            uid: object.metadata.uid ?? "",
          },
          facts: factsAs<PodFacts>("source"),
          heir: heirIdOf(object),
          restoreRescued: (pod, rescued) => restoreRescued({ namespace, pod, rescued, attempt: 1 }),
          measured: (part, milliseconds) => log.debug({ migration: id, part, milliseconds }, "part of a step"),
        });
    const told = (): Report => {
      const { heldMs, ...times } = report.report();
      // A snapshot has no clients.
      return snapshot || heldMs === undefined ? times : { ...times, heldMs };
    };
    // One that leads no more hears nothing of its objects: it goes on, to be refused, and stands for leader again.
    const wanted = async () => (signal.aborted ? "" : (turn.annotations()[breakpointAnnotation] ?? ""));
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
        // The last one is told with all that people want to know then.
        if (progress.kind !== "phase" || isEnd(progress.phase)) return;
        log.info({ migration: id, phase: progress.phase }, "phase");
        record.report({ phase: progress.phase, ...figures(told()) });
      },
    };
    /** Said by a person; not any more once the destination turned out to have committed. */
    let committed = false;
    const isSaidGone = () => !committed && turn.annotations()[destinationIsGone] !== undefined;
    for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, lastRetryMs)) {
      try {
        const outcome: Outcome =
          isSaidGone() && (await isSilent(site.name)) ? await resolveWithoutDestination(engine) : await migrate(engine, turn.cancelled);
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
        turn.waits();
        await sleep(retryMs, undefined, { signal }).catch(() => undefined);
        if (signal.aborted) return undefined;
      }
    }
  }

  /** Where the cluster itself refuses (a namespace that ends, a quota), the snapshot stays, and a person finds it. */
  async function restoreRescued({ namespace, pod, rescued: { migration: id, node, path }, attempt }: Restore): Promise<void> {
    const annotations = { [attemptAnnotation]: String(attempt) };
    const spec = { id, pod, destination: sites.ownName, snapshot: { node, path, temporary: true } };
    try {
      await makeMigrationOnce(cluster, spec, { namespace, annotations });
      log.warn({ pod, namespace, node, path, migration: id, attempt }, "a pod that had no copy left is made again of its dump");
    } catch (cause) {
      if (!(cause instanceof ClusterError && [403, 404, 422].includes(cause.status ?? 0))) throw cause;
      log.error({ pod, namespace, node, path, cause }, "a pod that had no copy left can't be made again of its snapshot");
    }
  }

  /** A pod that has no other copy is not given up because an operator has died, or a node was busy. */
  function nextAttempt(object: MigrationObject, cause: Error | undefined): Restore | undefined {
    const { metadata, spec } = object;
    const { snapshot, pod } = spec;
    const said = Number(metadata.annotations?.[attemptAnnotation] ?? 1);
    // Anybody may have written it: what is no count of ours ends the chain.
    const attempt = Number.isInteger(said) && said >= 1 ? said : attempts;
    const isHopeless = cause !== undefined && ["SNAPSHOT_NOT_FOUND", "JOURNAL_CONTRADICTS"].includes(codeOf(cause));
    if (!snapshot?.temporary || isHopeless || attempt >= attempts) return undefined;
    const rescued = { node: snapshot.node, path: snapshot.path, migration: heirIdOf(object) };
    return { namespace: metadata.namespace ?? "default", pod, rescued, attempt: attempt + 1 };
  }

  async function finish(object: MigrationObject, record: MigrationRecord, { outcome, cause, report }: Ended): Promise<void> {
    const reason = cause && reasonOf(cause);
    const code = reason && codeOf(reason);
    const isForeign = code === "JOURNAL_CONTRADICTS";
    const untouched = isForeign || !record.journal.isStarted("reserve");
    const phase = outcome === "succeeded" ? "Succeeded" : untouched ? "Failed" : "RolledBack";
    const { rescued } = isForeign ? {} : ((record.fact("source") as PodFacts | undefined) ?? {});
    const saved =
      rescued &&
      `The pod had no copy left: ${migrationName(rescued.migration)} makes it again of its dump, ${rescued.path} on node ${rescued.node}.`;
    const message = [reason?.message ?? `${object.spec.pod} ${did(object)}`, saved].filter(Boolean).join(" ");
    const endedAt = new Date().toISOString();
    record.report({
      phase,
      endedAt,
      waiting: undefined,
      message,
      ...(report ? figures(report) : {}),
      ...(reason && code ? { error: { code, message: reason.message, cure: errorTable[code].cure } } : {}),
    });
    await record.flush();
    log.info({ migration: migrationIdOf(object), phase, error: reason?.message, report }, "the migration has ended");
    if (reason && !(reason instanceof UmsError)) log.warn({ cause: reason }, "why it was undone");
  }

  /** Events: people may miss one, so nothing waits for them. */
  async function tellEnd(object: MigrationObject, { outcome, cause }: Ended): Promise<void> {
    const { snapshot, destination } = object.spec;
    const success = snapshot ? `Restored from ${snapshot.path}` : `Moved to ${destination}`;
    await tell(cluster, object, {
      reason: outcome === "succeeded" ? "ready" : "error",
      message: cause ? reasonOf(cause).message : success,
    }).catch((trouble: unknown) => log.warn({ cause: trouble }, "an event could not be written"));
  }

  /** Nobody's word alone thaws a copy beside one that may live: a site that answers is not gone. */
  async function isSilent(site: string): Promise<boolean> {
    return await sites
      .client(site)
      .request({ method: "GET", path: "/peer/healthcheck", timeoutMs: limits.requestMs, signal })
      .then(
        () => false,
        (cause: unknown) => cause instanceof UmsError && (cause.code === "SITE_UNREACHABLE" || cause.code === "TIMED_OUT"),
      );
  }

  return { run };
}

const reasonOf = (cause: Error) => (cause.name === "AbortError" ? new UmsError("CANCELLED", "The migration was cancelled.") : cause);

/** What has become of its pod, for people. */
const did = ({ spec: { destination, snapshot } }: MigrationObject) =>
  snapshot ? `was restored at ${destination} from ${snapshot.path} of node ${snapshot.node}` : `has moved to ${destination}`;

const figures = ({ heldMs, totalMs, remainderMs, phases, steps }: Report) => ({
  ...(heldMs === undefined ? {} : { heldMs: Math.round(heldMs) }),
  totalMs: Math.round(totalMs),
  phases: { ...rounded(phases), remainder: Math.round(remainderMs) },
  stepsMs: rounded(steps),
});
const rounded = (record: Readonly<Record<string, number | undefined>>) =>
  Object.fromEntries(Object.entries(record).flatMap(([key, value]) => (value === undefined ? [] : [[key, Math.round(value)]])));
