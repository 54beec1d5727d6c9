/** The coordinator of a host with Podman: the engine, the approach, the journal and the peers put together. */
import { randomBytes } from "node:crypto";
import path from "node:path";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { createIncoming, type Incoming, type IncomingRecords } from "../../approaches/container-level/incoming.ts";
import { createOutgoing, type SourceFacts } from "../../approaches/container-level/outgoing.ts";
import { startAgain } from "../../approaches/container-level/restart-policy.ts";
import { openDataConnection } from "../../approaches/data-connection.ts";
import { checkThere } from "../../approaches/destination.ts";
import { placesOfPeer, rememberedOfPeer } from "../../approaches/peer-bounds.ts";
import { withBreakpoint } from "../../breakpoint.ts";
import { createMarks, marksIn } from "../../checkpoint/marks.ts";
import { accepting } from "../../accept.ts";
import type { Config } from "../../config.ts";
import type { ContainerEngine } from "../../container-engines/engine.ts";
import { AlreadyCommitted, migrate, type Outcome, resolveWithoutDestination, Unfinished } from "../../engine/migrate.ts";
import type { Phase } from "../../engine/progress.ts";
import { createReport, type Report } from "../../engine/report.ts";
import { codeOf, type ErrorCode, errorTable, UmsError } from "../../errors.ts";
import type { Database, MigrationRecord } from "../../platforms/podman-host/database.ts";
import { openJournal } from "../../platforms/podman-host/journal.ts";
import { verdictOf } from "../../preflight/check.ts";
import { destinationChecks } from "../../preflight/destination.ts";
import { doctorChecks } from "../../preflight/doctor.ts";
import { type Note, notesOf } from "../../preflight/notes.ts";
import { containerLines, sourceChecks } from "../../preflight/source.ts";
import { parseAddress } from "../../protocol/address.ts";
import type { PeerState } from "../../protocol/conversation.ts";
import type { CheckResult } from "../../protocol/measures.ts";
import { endDatagramFlows, installForwarding, removeForwarding } from "../../traffic/forward.ts";
import { createPeerClient, type PeerClient } from "../../trust/peer-client.ts";
import type { Trust } from "../../trust/trust.ts";
import { createChanges, watchMigration } from "./changes.ts";
import type { Coordinator } from "./coordinator.ts";
import type { Migration, MigrationRequest, PlanReport, Refusal } from "./schema.ts";

const firstRetryMs = 500;
const lastRetryMs = 5_000;
const tickMs = 250;
const orphanCheckMs = 15_000;
const slots = 250;
/** For how long an ended migration is known. */
const rememberedMs = 30 * 86_400_000;
const pruneEveryMs = 3_600_000;

type Running = {
  readonly controller: AbortController;
  phase: Phase;
  report: Report | undefined;
  bytesSent: number;
  waiting?: string;
  /** Set while the migration waits to be tried again; ends that wait. */
  wake?: () => void;
  unfinished?: Unfinished;
  finished: Promise<void>;
  resolving: boolean;
};

export type HostCoordinator = Coordinator &
  Readonly<{ incoming: Incoming; recoverIncoming(): Promise<void>; resume(): void; close(): Promise<void> }>;

export function createHostCoordinator({
  config,
  trust,
  engine,
  database,
  log,
}: {
  config: Config;
  trust: Trust;
  engine: ContainerEngine;
  database: Database;
  log: Logger;
}): HostCoordinator {
  const marks = createMarks(marksIn(config.stateDirectory));
  const workDirectory = path.join(config.stateDirectory, "work");
  const running = new Map<string, Running>();
  const queue: string[] = [];
  const peers = new Map<string, PeerClient>();
  const changes = createChanges();
  const stopping = new AbortController();
  const clock = () => performance.now();
  const milliseconds = (seconds: number) => seconds * 1000;

  const changed = changes.tell;
  const ticker = setInterval(() => {
    if (running.size > 0) changed();
  }, tickMs);
  const orphanTimer = setInterval(() => void collectOrphans(), orphanCheckMs);
  const prune = () => database.prune(new Date(Date.now() - rememberedMs).toISOString());
  const pruneTimer = setInterval(prune, pruneEveryMs);

  const peerClient = (name: string): PeerClient => {
    let client = peers.get(name);
    if (!client) peers.set(name, (client = createPeerClient(trust, name)));
    return client;
  };
  const peerOf = (name: string) => {
    const peer = trust.peer(name);
    if (!peer) throw new UmsError("SITE_NOT_FOUND", `No site called “${name}” is paired.`);
    return peer;
  };

  const incoming = createIncoming({
    engine,
    marks,
    records: incomingRecords(database, changed),
    check(need, { peer, namespace }, signal) {
      const isBack = isOf(need.spec.name, peer);
      const others = led().filter((each) => !isBack(each));
      const ports = others.flatMap(({ migration, service, ports: ledPorts }) => ledPorts.map((port) => ({ ...port, service, migration })));
      return destinationChecks({
        need,
        engine,
        settings: config,
        accept: accepting(config.accept, trust.peer(peer)?.accept),
        namespace,
        led: ports,
        signal,
      });
    },
    imageDirectories: config.imageDirectories,
    workDirectory,
    leaseMs: milliseconds(config.limits.reservationLeaseSeconds),
    restoreTimeoutMs: milliseconds(config.limits.restoreSeconds),
    maxIncoming: config.maxIncoming,
    maxOfPeer: (peer) => placesOfPeer(peer, { peers: trust.peers(), all: config.maxIncoming }),
    left(service, peer) {
      const last = database.list().find((each) => each.role === "source" && each.service === service && each.peer === peer);
      return last?.phase === "Succeeded" ? database.fact<Partial<SourceFacts>>(last.id, "source")?.need : undefined;
    },
    async reclaim(service, peer) {
      for (const { migration, slot } of led().filter(isOf(service, peer))) {
        await removeForwarding(slot);
        database.removeForward(migration);
        // What waits at the other site may still be answered by the way that it came.
        setTimeout(
          () => void endDatagramFlows(slot).catch((cause: unknown) => log.warn({ migration, cause }, "old flows stay")),
          1_000,
        ).unref();
      }
    },
    log,
  });

  const forwardings = () =>
    database.forwards().flatMap(({ migration }) => {
      const facts = database.fact<SourceFacts>(migration, "source");
      return facts ? [{ migration, facts }] : [];
    });
  /** What leads the clients of services that have moved: by migration. */
  const led = () =>
    forwardings().flatMap(({ migration, facts: { forwarding } }) => {
      const record = database.get(migration);
      return forwarding && record ? [{ migration, service: record.service, peer: record.peer, ...forwarding }] : [];
    });
  /** Only the site to which a service went can bring that very one back. */
  const isOf = (name: string, from: string) => (each: ReturnType<typeof led>[number]) => each.service === name && each.peer === from;

  function takeSlot(): number {
    const open = [...database.forwards().map(({ migration }) => migration), ...database.unfinished().map(({ id }) => id)];
    const taken = new Set(open.map((id) => database.fact<SourceFacts>(id, "source")?.forwarding?.slot));
    for (let slot = 1; slot <= slots; slot++) if (!taken.has(slot)) return slot;
    throw new UmsError("SITE_BUSY", `This host keeps ${slots} forwardings.`);
  }

  /** Both sides' checks. @returns also what the service needs, where it could be found out */
  async function examine({ name, to, bindMounts = [] }: MigrationRequest, signal: AbortSignal) {
    const container = await engine.find(name, signal);
    if (!container) throw new UmsError("SERVICE_NOT_FOUND", `There is no container called ${name}.`);
    peerOf(to);
    const { checks: own, need } = await sourceChecks(container, { settings: config, engine, bindMounts, signal });
    // What refuses the service here may be what the destination would stumble over.
    const theirs = need && (await checkThere(peerClient(to), need, { timeoutMs: milliseconds(config.limits.preflightSeconds), signal }));
    return { container, own, theirs, need };
  }

  const notesOfBoth = (to: string, { own, theirs }: Pick<Awaited<ReturnType<typeof examine>>, "own" | "theirs">) => [
    ...notesOf(trust.siteName, own),
    ...notesOf(to, theirs?.checks ?? []),
  ];

  const refusalOf = (site: string, { name, code = "PEER_FAILED", detail = name }: CheckResult): Refusal => {
    const known = Object.hasOwn(errorTable, code) ? (code as ErrorCode) : "PEER_FAILED";
    return { code: known, site, detail, cause: errorTable[known].cause, cure: errorTable[known].cure };
  };

  function outgoingOf(record: MigrationRecord) {
    const { id, peer: destination } = record;
    const request = record.request as MigrationRequest;
    return createOutgoing(
      { id, service: record.service, destination },
      {
        engine,
        criu: [config.criuPath],
        marks,
        peer: peerClient(destination),
        imageDirectories: config.imageDirectories,
        workDirectory,
        async admit(signal) {
          const limited = AbortSignal.any([signal, AbortSignal.timeout(milliseconds(config.limits.preflightSeconds))]);
          const examined = await examine(request, limited);
          const { container, own, theirs, need } = examined;
          const refused = [...own, ...(theirs?.checks ?? [])].find(({ ok }) => !ok);
          if (refused) {
            const { code, detail } = refusalOf(own.includes(refused) ? trust.siteName : destination, refused);
            throw new UmsError(code as ErrorCode, detail);
          }
          if (!need) throw new UmsError("SERVICE_NOT_RUNNING", `Container ${record.service} does not run.`);
          database.update(id, { memoryBytes: need.memoryBytes });
          const notes = notesOfBoth(destination, examined);
          if (notes.length > 0) database.setFact(id, "notes", notes);
          return { container, need };
        },
        openData: (target, signal) => openDataConnection(trust, target, { migrationId: id, signal }),
        peerHost: () => parseAddress(peerOf(destination).addresses[0] ?? "").host,
        takeSlot,
        async endEarlierForwardings() {
          for (const { migration } of led().filter(({ service }) => service === record.service)) await release(migration);
        },
        facts: {
          get: () => database.fact<SourceFacts>(id, "source"),
          set: (facts) => database.setFact(id, "source", facts),
          imageDirectory: () => database.fact<string>(id, "imageDirectory"),
          setImageDirectory: (directory) => database.setFact(id, "imageDirectory", directory),
        },
        keepForwarding: ({ ports, to }) =>
          database.addForward({
            migration: id,
            service: record.service,
            ports: ports.map(({ hostPort, protocol }) => `${hostPort}/${protocol}`),
            to: `${destination} (${to})`,
          }),
        late(connections) {
          // A kubelet's probe comes by the service's own address, too.
          if (connections > 0) log.info({ migration: id, connections }, "connections to the service's own address could not be held");
        },
        measured: (part, ms) => log.debug({ migration: id, part, milliseconds: ms }, "part of a step"),
        limits: {
          reserveMs: milliseconds(config.limits.reserveSeconds),
          transferMs: milliseconds(config.limits.transferSeconds),
          restoreMs: milliseconds(config.limits.restoreSeconds),
          requestMs: milliseconds(config.limits.peerRequestSeconds),
        },
      },
    );
  }

  /** Runs a migration to its end, however often it must be taken up again; ends early only when the process stops. */
  async function run(id: string, state: Running): Promise<void> {
    const record = database.get(id);
    if (!record) return;
    const journal = openJournal(database, id);
    const plan = { id, service: record.service, destination: record.peer };
    const started = Date.now();
    const heldAt = database.stepStartedAt(id, "hold-clients");
    const report = createReport(clock, { heldForMs: heldAt && started - heldAt });
    const outgoing = outgoingOf(record);
    const { breakpointFile: file } = config;
    const reached = (step: string, moment: string) => log.info({ migration: id, step, moment }, "at the breakpoint");
    const parts = {
      plan,
      ...(file === undefined
        ? { source: outgoing.source, destination: outgoing.destination }
        : withBreakpoint(outgoing, { wanted: () => readFile(file, "utf8").catch(() => ""), reached })),
      journal,
      clock,
      observe(progress: Parameters<typeof report.observe>[0]) {
        report.observe(progress);
        state.report = report.report();
        state.bytesSent = Math.max(state.bytesSent, outgoing.bytesSent());
        if (progress.kind === "phase") {
          state.phase = progress.phase;
          log.info({ migration: id, phase: progress.phase }, "phase");
          changed();
        } else log.debug({ migration: id, ...progress }, "step");
      },
    };
    const bytes = setInterval(() => (state.bytesSent = Math.max(state.bytesSent, outgoing.bytesSent())), tickMs);
    try {
      let outcome: Outcome | undefined;
      for (let retryMs = firstRetryMs; !outcome; retryMs = Math.min(retryMs * 2, lastRetryMs)) {
        try {
          outcome = state.resolving ? await resolveWithoutDestination(parts) : await migrate(parts, state.controller.signal);
          if (state.resolving) database.setFact(id, "orphan", true);
        } catch (cause) {
          if (cause instanceof AlreadyCommitted) {
            state.resolving = false;
            continue;
          }
          if (!(cause instanceof Unfinished)) throw cause;
          state.unfinished = cause;
          state.waiting = sentenceOf(cause, plan.destination);
          log.warn({ migration: id, step: cause.step, direction: cause.direction, cause: cause.cause }, "the migration waits");
          changed();
          const woken = Promise.withResolvers<void>();
          state.wake = woken.resolve;
          await Promise.race([woken.promise, sleep(retryMs, undefined, { signal: stopping.signal }).catch(() => undefined)]);
          delete state.wake;
          if (stopping.signal.aborted) return;
        }
      }
      finish(id, outcome, { ...report.report() }, state, started);
    } finally {
      clearInterval(bytes);
      outgoing.close();
    }
  }

  const hasSecrets = (id: string) => {
    const { source, need } = database.facts(id) as { source?: Partial<SourceFacts>; need?: unknown };
    return need !== undefined || source?.container !== undefined;
  };

  /** What nobody needs of a migration that has ended: environments, arguments. A container that went to a cluster may come back as a Pod, and is known by them. */
  function forget(id: string): void {
    const record = database.get(id);
    if (record?.role === "destination") return database.setFact(id, "need", undefined);
    const { need, target, forwarding } = database.fact<Partial<SourceFacts>>(id, "source") ?? {};
    const isInCluster = target?.node !== undefined;
    const kept = { ...(isInCluster ? { need, target } : {}), ...(forwarding ? { forwarding } : {}) };
    database.setFact(id, "source", record?.phase === "Succeeded" ? kept : undefined);
  }

  function finish(id: string, outcome: Outcome, report: Report, state: Running, started: number): void {
    const untouched = !openJournal(database, id).isStarted("reserve");
    const phase = outcome.outcome === "succeeded" ? "Succeeded" : untouched ? "Failed" : "RolledBack";
    const cause =
      outcome.outcome === "rolledBack"
        ? outcome.cause.name === "AbortError"
          ? new UmsError("CANCELLED", "The migration was cancelled.")
          : outcome.cause
        : undefined;
    const end = database.end(id, {
      phase,
      report,
      bytesSent: state.bytesSent,
      ...(cause ? { error: { code: codeOf(cause), detail: cause.message } } : {}),
    });
    forget(id);
    database.scrub();
    log.info({ migration: id, phase: end.phase, error: end.error, report, elapsedMs: Date.now() - started }, "the migration has ended");
    if (cause && !(cause instanceof UmsError)) log.warn({ migration: id, cause }, "why it was undone");
  }

  function begin(id: string): void {
    const state: Running = {
      controller: new AbortController(),
      phase: "Pending",
      report: undefined,
      bytesSent: 0,
      finished: Promise.resolve(),
      resolving: false,
    };
    running.set(id, state);
    state.finished = run(id, state)
      .catch((cause: unknown) =>
        log.error({ migration: id, cause }, "the migration stopped at an error that nobody expected; it is taken up at the next start"),
      )
      .finally(() => {
        running.delete(id);
        changed();
        next();
      });
    changed();
  }

  function next(): void {
    while (queue.length > 0 && running.size < config.maxConcurrentMigrations && !stopping.signal.aborted) begin(queue.shift() as string);
  }

  /** A mark's removal is not durable: after a power loss it may be there again, and have kept its container from starting. */
  async function releaseStaleMarks(held: ReadonlySet<string | undefined>): Promise<void> {
    for (const id of await marks.all()) {
      const arriving = database
        .unfinished()
        .some((record) => record.role === "destination" && database.fact<string>(record.id, "containerId") === id);
      if (held.has(id) || arriving) continue;
      await marks.clear(id);
      await startAgain(engine, id);
    }
  }

  /** A destination that a person said was gone, and which answers after all, may still hold a copy: frozen out, but there. */
  async function collectOrphans(): Promise<void> {
    for (const record of database
      .list()
      .filter(({ id, endedAt }) => endedAt !== undefined && database.fact<boolean>(id, "orphan") === true)) {
      try {
        await peerClient(record.peer).request({
          method: "DELETE",
          path: `/peer/migrations/${record.id}`,
          timeoutMs: 30_000,
          signal: stopping.signal,
        });
        database.setFact(record.id, "orphan", undefined);
        log.info({ migration: record.id }, "the destination that was said to be gone has destroyed its copy");
      } catch (cause) {
        log.debug({ migration: record.id, cause }, "the destination is still gone");
      }
    }
  }

  async function release(id: string): Promise<void> {
    if (!database.forwards().some(({ migration }) => migration === id))
      throw new UmsError("MIGRATION_NOT_FOUND", `Nothing is forwarded for migration ${id}.`);
    const slot = database.fact<SourceFacts>(id, "source")?.forwarding?.slot;
    if (slot !== undefined) {
      await removeForwarding(slot);
      await endDatagramFlows(slot);
    }
    database.removeForward(id);
  }

  const mustExist = (id: string): MigrationRecord => {
    const record = database.get(id);
    if (!record) throw new UmsError("MIGRATION_NOT_FOUND", `There is no migration ${id}.`);
    return record;
  };

  function show(record: MigrationRecord): Migration {
    const state = running.get(record.id);
    const report = state?.report ?? record.report;
    const notes = database.fact<Note[]>(record.id, "notes");
    const { remainderMs, phases = {}, steps = {} } = report ?? {};
    return {
      id: record.id,
      role: record.role,
      service: record.service,
      source: record.role === "source" ? trust.siteName : record.peer,
      destination: record.role === "source" ? record.peer : trust.siteName,
      phase: record.endedAt === undefined ? (state?.phase ?? record.phase) : record.phase,
      ...(state?.waiting === undefined ? {} : { waiting: state.waiting }),
      startedAt: record.createdAt,
      ...(record.endedAt === undefined ? {} : { endedAt: record.endedAt }),
      memoryBytes: record.memoryBytes,
      bytesSent: Math.max(record.bytesSent, state?.bytesSent ?? 0),
      ...(report?.heldMs === undefined ? {} : { heldMs: round(report.heldMs) }),
      ...(report === undefined ? {} : { totalMs: round(report.totalMs) }),
      phases: { ...rounded(phases), ...(remainderMs === undefined ? {} : { remainder: round(remainderMs) }) },
      steps: rounded(steps),
      ...(record.error
        ? { error: { code: record.error.code, message: record.error.detail, cure: errorTable[record.error.code].cure } }
        : {}),
      ...(notes === undefined ? {} : { notes }),
    };
  }

  return {
    incoming,

    async services(signal) {
      const open = new Map(database.unfinished().map(({ service, id }) => [service, id]));
      return (await engine.list(signal)).map(({ name, image, state, ports }) => {
        const migration = open.get(name);
        return {
          name,
          namespace: "",
          migratable: state === "running" && migration === undefined,
          status: state,
          image,
          ports: [...ports],
          ...(migration === undefined ? {} : { migration }),
        };
      });
    },

    async plan(request, signal): Promise<PlanReport> {
      expectNoNamespace(request);
      const examined = await examine(request, signal);
      const { own, theirs, need } = examined;
      const all = [
        ...own.map((check) => ({ site: trust.siteName, check })),
        ...(theirs?.checks ?? []).map((check) => ({ site: request.to, check })),
      ];
      return {
        service: request.name,
        source: trust.siteName,
        destination: request.to,
        checks: all.map(({ site, check }) => ({ site, name: check.name, ok: check.ok, verdict: verdictOf(check) })),
        refusals: all.filter(({ check }) => !check.ok).map(({ site, check }) => refusalOf(site, check)),
        notes: notesOfBoth(request.to, examined),
        memoryBytes: need?.memoryBytes ?? 0,
        fileBytes: need?.fileBytes ?? 0,
        imageBytes: theirs?.imageBytes ?? 0,
      };
    },

    async migrate(request) {
      expectNoNamespace(request);
      peerOf(request.to);
      if (!(await engine.find(request.name))) throw new UmsError("SERVICE_NOT_FOUND", `There is no container called ${request.name}.`);
      const arriving = database.unfinished().find(({ role, service }) => role === "destination" && service === request.name);
      if (arriving) throw new UmsError("ALREADY_MIGRATING", `${request.name} is still arriving here by migration ${arriving.id}.`);
      const record = database.create({ id: newId(), role: "source", service: request.name, peer: request.to, request });
      queue.push(record.id);
      next();
      return show(record);
    },

    // Without what never was one: ids that a peer gave up before this site had heard of them.
    migrations: () =>
      database
        .list()
        .filter(({ service }) => service !== "")
        .map(show),
    migration: (id) => show(mustExist(id)),

    watch: (id, signal) => watchMigration(changes, () => show(mustExist(id)), signal),
    changes: changes.follow,

    async cancel(id) {
      const record = mustExist(id);
      const state = running.get(id);
      const reason = new UmsError("CANCELLED", "The migration was cancelled.");
      if (record.role === "destination") throw new UmsError("NOT_YOURS", `Migration ${id} comes from ${record.peer}: cancel it there.`);
      if (record.endedAt !== undefined || state?.phase === "CuttingOver")
        throw new UmsError("TOO_LATE", `Migration ${id} can't be cancelled any more.`);
      if (state) state.controller.abort(reason);
      else if (queue.includes(id)) {
        queue.splice(queue.indexOf(id), 1);
        database.end(id, { phase: "Failed", error: { code: "CANCELLED", detail: reason.message } });
        changed();
      }
      return show(mustExist(id));
    },

    async resolve(id) {
      const record = mustExist(id);
      const state = running.get(id);
      if (record.endedAt !== undefined || !state?.unfinished || state.unfinished.direction === "forward")
        throw new UmsError("NOT_STUCK", `Migration ${id} does not wait for its destination.`);
      const answers = await peerClient(record.peer)
        .request({ method: "GET", path: "/peer/healthcheck", timeoutMs: 5_000 })
        .then(
          () => true,
          (cause: unknown) => !(cause instanceof UmsError && (cause.code === "SITE_UNREACHABLE" || cause.code === "TIMED_OUT")),
        );
      if (answers) throw new UmsError("NOT_STUCK", `Site ${record.peer} answers.`);
      log.warn({ migration: id, destination: record.peer, by: "a person on this host" }, "the destination is said to be gone for good");
      state.resolving = true;
      state.wake?.();
      await Promise.race([state.finished, sleep(60_000, undefined, { ref: false })]);
      return show(mustExist(id));
    },

    forwards: () => database.forwards().map(({ migration, service, ports, to }) => ({ migration, service, ports, to })),
    release,

    async doctor({ containers }, signal) {
      const host = { settings: config, engine, signal };
      const migrating = (name: string) => database.unfinished().find(({ service }) => service === name)?.id;
      const lines = await Promise.all([doctorChecks(host), containers ? containerLines({ ...host, migrating }) : []]);
      return lines.flat();
    },

    async recoverIncoming() {
      for (const { facts } of forwardings()) if (facts.forwarding) await installForwarding(facts.forwarding);
      await endDatagramFlows();
      await incoming.recover();
    },

    resume() {
      prune();
      // Of those that ended just before this process did.
      for (const { id, endedAt } of database.list()) if (endedAt !== undefined && hasSecrets(id)) forget(id);
      database.scrub();
      const open = database.unfinished().filter(({ role }) => role === "source");
      const held = new Set(open.map(({ id }) => database.fact<SourceFacts>(id, "source")?.container.id));
      void releaseStaleMarks(held).catch((cause: unknown) => log.warn({ cause }, "marks that no migration needs could not be removed"));
      // Each of these holds or may hold a service, so none waits in the queue.
      for (const { id } of open) begin(id);
    },

    async close() {
      const interrupted = new UmsError("INTERRUPTED", "`ums serve` is stopping.");
      for (const state of running.values()) state.controller.abort(interrupted);
      await Promise.race([Promise.all([...running.values()].map(({ finished }) => finished)), sleep(20_000, undefined, { ref: false })]);
      stopping.abort();
      await Promise.race([Promise.all([...running.values()].map(({ finished }) => finished)), sleep(2_000, undefined, { ref: false })]);
      clearInterval(ticker);
      clearInterval(orphanTimer);
      clearInterval(pruneTimer);
      await incoming.close();
      for (const client of peers.values()) client.close();
    },
  };
}

/** The destination's half keeps its records beside the source's. */
function incomingRecords(database: Database, changed: () => void): IncomingRecords {
  const phaseOf: Partial<Record<PeerState, Phase>> = {
    reserved: "PreCopy",
    armed: "Transferring",
    restoring: "Restoring",
    restored: "Restoring",
  };
  const record = (id: string) => {
    const found = database.get(id);
    return found?.role === "destination" ? found : undefined;
  };
  return {
    create: ({ id, peer, need }) => {
      if (database.get(id)) throw new UmsError("COPY_IS_GONE", `Migration ${id} has been here before.`);
      database.create({ id, role: "destination", service: need.spec.name, peer, request: {} });
      database.update(id, { memoryBytes: need.memoryBytes, phase: "Preflight" });
      changed();
    },
    refuse: (id, peer) => {
      database.create({ id, role: "destination", service: "", peer, request: {} });
      database.end(id, { phase: "RolledBack" });
      database.pruneRefused(peer, rememberedOfPeer);
    },
    fact: (id, key) => (record(id) ? database.fact(id, key) : undefined),
    setFact: (id, key, value) => database.setFact(id, key, value),
    peerOf: (id) => record(id)?.peer,
    ended(id) {
      const found = record(id);
      if (found?.endedAt === undefined) return undefined;
      return found.phase === "Succeeded" ? "committed" : "gone";
    },
    end(id, outcome) {
      const ended = record(id) && database.end(id, { phase: outcome === "committed" ? "Succeeded" : "RolledBack" });
      if (ended && outcome === "gone") database.pruneRefused(ended.peer, rememberedOfPeer);
      changed();
    },
    forget(id) {
      if (record(id)) database.setFact(id, "need", undefined);
      database.scrub();
    },
    unfinished: () =>
      database
        .unfinished()
        .filter(({ role }) => role === "destination")
        .map(({ id }) => id),
    progress(id, { bytes, state }) {
      const phase = phaseOf[state];
      database.update(id, { bytesSent: bytes, ...(phase === undefined ? {} : { phase }) });
      changed();
    },
  };
}

/** Whoever names one means a pod of a cluster, and not the container that happens to be called like it. */
function expectNoNamespace({ name, namespace }: MigrationRequest): void {
  if (namespace !== undefined) throw new UmsError("NO_NAMESPACES", `This site is a host: it has no ${name} in a namespace ${namespace}.`);
}

function sentenceOf({ direction, step, cause }: Unfinished, destination: string): string {
  const why = cause instanceof Error ? cause.message : String(cause);
  const what = {
    back:
      step === "restore"
        ? `The service stays frozen until ${destination} has confirmed that its copy is destroyed`
        : `Undoing ${step} is tried again`,
    undecided: `The service stays frozen until ${destination} has said whether it has committed`,
    forward: `The service is at ${destination}; ${step} is tried again`,
  }[direction];
  return `${what}: ${why}`;
}

const newId = () => randomBytes(6).toString("hex");
const round = (value: number) => Math.round(value * 10) / 10;
const rounded = (record: Readonly<Record<string, number | undefined>>) =>
  Object.fromEntries(Object.entries(record).flatMap(([key, value]) => (value === undefined ? [] : [[key, round(value)]])));
