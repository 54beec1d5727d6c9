/** The coordinator of a cluster: what people ask becomes `Migration` objects, which the operator carries out. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { examinePod } from "../../approaches/orchestrator-level/outgoing.ts";
import { podRefusals } from "../../approaches/orchestrator-level/pod.ts";
import { errorTable, UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import {
  destinationIsGone,
  migrationIdOf as idOf,
  migrationName,
  type MigrationObject,
  migrations,
  newMigrationId,
} from "../../platforms/kubernetes/migration.ts";
import { pods } from "../../platforms/kubernetes/kinds.ts";
import { verdictOf } from "../../preflight/check.ts";
import { createPeerClient } from "../../trust/peer-client.ts";
import { peersCalled, type Trust } from "../../trust/trust.ts";
import { createChanges, watchMigration } from "./changes.ts";
import { examineNodes } from "./nodes.ts";
import type { Coordinator } from "./coordinator.ts";
import type { Migration, Service } from "./schema.ts";

const seenMs = 10_000;
const resolvedMs = 60_000;

/** Resolves when it knows the migrations that there are. */
export async function createClusterCoordinator({
  cluster,
  trust,
  interfaces,
  limits,
  log,
  signal,
}: {
  cluster: Cluster;
  trust: Trust;
  interfaces: Interfaces;
  limits: Readonly<{ preflightMs: number; reserveMs: number; transferMs: number; restoreMs: number; requestMs: number }>;
  log: Logger;
  signal: AbortSignal;
}): Promise<Coordinator> {
  const known = new Map<string, MigrationObject>();
  const changes = createChanges();
  const note = (object: MigrationObject) => known.set(object.metadata.uid ?? "", object);

  (await cluster.list(migrations, { namespace: undefined, signal })).items.forEach(note);
  void (async () => {
    const onTrouble = (cause: unknown) => log.warn({ cause }, "the migrations can't be watched");
    for await (const { type, object } of cluster.watch(migrations, { namespace: undefined, signal, onTrouble })) {
      if (type === "gone") known.delete(object.metadata.uid ?? "");
      else note(object);
      changes.tell();
    }
  })();

  const find = (id: string): MigrationObject => {
    // Of a pod that moves within the cluster there are two; the source's half can be cancelled.
    const [found] = [...known.values()]
      .filter((object) => idOf(object) === id)
      .toSorted((one, other) => Number(one.spec.role === "Destination") - Number(other.spec.role === "Destination"));
    if (!found) throw new UmsError("MIGRATION_NOT_FOUND", `There is no migration ${id}.`);
    return found;
  };
  const isOpen = ({ status }: MigrationObject) => status?.endedAt === undefined;
  const siteName = (destination: string) => {
    const [found, ...others] = peersCalled(trust.peers(), destination);
    return found && others.length === 0 ? found.name : destination;
  };

  function show(object: MigrationObject): Migration {
    const { metadata, spec, status = {} } = object;
    const role = spec.role === "Destination" ? "destination" : "source";
    const { error } = status;
    return {
      id: idOf(object),
      role,
      service: spec.pod,
      namespace: metadata.namespace ?? "default",
      source: role === "source" ? trust.siteName : (spec.peer ?? ""),
      destination: role === "source" ? siteName(spec.destination) : trust.siteName,
      phase: status.phase ?? "Pending",
      ...(status.waiting === undefined ? {} : { waiting: status.waiting }),
      startedAt: status.startedAt ?? metadata.creationTimestamp ?? new Date().toISOString(),
      ...(status.endedAt === undefined ? {} : { endedAt: status.endedAt }),
      memoryBytes: status.memoryBytes ?? 0,
      bytesSent: status.bytesSent ?? 0,
      ...(status.heldMs === undefined ? {} : { heldMs: status.heldMs }),
      ...(status.totalMs === undefined ? {} : { totalMs: status.totalMs }),
      phases: status.phases ?? {},
      steps: status.stepsMs ?? {},
      ...(error ? { error } : {}),
      ...(status.notes ? { notes: status.notes } : {}),
      ...(status.destinationPod ? { destinationPod: status.destinationPod } : {}),
    };
  }

  return {
    async services(stopped) {
      const open = new Map(
        [...known.values()].filter(isOpen).map((object) => [`${object.metadata.namespace}/${object.spec.pod}`, idOf(object)]),
      );
      const { items } = await cluster.list(pods, { namespace: undefined, signal: stopped });
      return items.map((pod): Service => {
        const { name = "", namespace = "default" } = pod.metadata ?? {};
        const migration = open.get(`${namespace}/${name}`);
        return {
          name,
          namespace,
          migratable: migration === undefined && podRefusals(pod).length === 0,
          status: pod.status?.phase ?? "Unknown",
          image: pod.spec?.containers[0]?.image ?? "",
          ports: (pod.spec?.containers ?? []).flatMap(({ ports = [] }) =>
            ports.map(({ containerPort, protocol = "TCP" }) => `${containerPort}/${protocol.toLowerCase()}`),
          ),
          ...(migration === undefined ? {} : { migration }),
        };
      });
    },

    async plan({ name, namespace = "default", to }, stopped) {
      const peer = createPeerClient(trust, to);
      try {
        const parts = { cluster, peer, namespace, node: interfaces.node, nodes: async () => interfaces.all(), limits };
        const { facts, refusals, notes } = await examinePod(parts, name, stopped);
        const site = (side: "source" | "destination") => (side === "source" ? trust.siteName : to);
        return {
          service: name,
          source: trust.siteName,
          destination: to,
          checks: (["source", "destination"] as const).map((side) => {
            const ok = refusals.every((refusal) => refusal.site !== side);
            const noted = notes.flatMap((note) => (note.site === side ? [note.detail] : []));
            return { site: site(side), name: "the pod", ok, verdict: verdictOf({ ok, notes: noted }) };
          }),
          refusals: refusals.map(({ site: side, code, detail }) => ({
            code,
            site: site(side),
            detail,
            cause: errorTable[code].cause,
            cure: errorTable[code].cure,
          })),
          notes: notes.map(({ site: side, detail }) => ({ site: site(side), detail })),
          memoryBytes: facts?.need.memoryBytes ?? 0,
          fileBytes: facts?.need.fileBytes ?? 0,
          imageBytes: 0,
        };
      } finally {
        peer.close();
      }
    },

    async migrate({ name, namespace = "default", to }) {
      if (!trust.peer(to)) throw new UmsError("SITE_NOT_FOUND", `No site called “${to}” is paired.`);
      if (!(await cluster.get(pods, name, { namespace, signal })))
        throw new UmsError("SERVICE_NOT_FOUND", `There is no pod ${name} in namespace ${namespace}.`);
      const open = [...known.values()].find(
        (object) => isOpen(object) && object.spec.pod === name && object.metadata.namespace === namespace,
      );
      if (open) throw new UmsError("ALREADY_MIGRATING", `Pod ${name} is being migrated by ${idOf(open)}.`);
      const id = newMigrationId();
      const object: MigrationObject = {
        apiVersion: migrations.apiVersion,
        kind: migrations.kind,
        metadata: { name: migrationName(id), namespace },
        spec: { role: "Source", pod: name, destination: to, id },
      };
      const made = await cluster.create(migrations, object, { namespace, signal });
      note(made);
      return show(made);
    },

    migrations: () => [...known.values()].map(show),
    migration: (id) => show(find(id)),

    watch: (id, stopped) => watchMigration(changes, () => show(find(id)), AbortSignal.any([stopped, signal])),
    changes: (stopped) => changes.follow(AbortSignal.any([stopped, signal])),

    async cancel(id) {
      const object = find(id);
      if (object.spec.role === "Destination")
        throw new UmsError("NOT_YOURS", `Migration ${id} comes from ${object.spec.peer}: cancel it there.`);
      if (!isOpen(object) || object.status?.phase === "CuttingOver")
        throw new UmsError("TOO_LATE", `Migration ${id} can't be cancelled any more.`);
      const { namespace, name = "" } = object.metadata;
      await cluster.patch(migrations, name, { spec: { cancel: true } }, { namespace, signal });
      return show(object);
    },

    async resolve(id) {
      const object = find(id);
      const { namespace, name = "" } = object.metadata;
      if (!isOpen(object) || object.status?.waiting === undefined)
        throw new UmsError("NOT_STUCK", `Migration ${id} does not wait for its destination.`);
      const site = siteName(object.spec.destination);
      const peer = createPeerClient(trust, site);
      try {
        const answers = await peer.request({ method: "GET", path: "/peer/healthcheck", timeoutMs: 5_000 }).then(
          () => true,
          (cause: unknown) => !(cause instanceof UmsError && (cause.code === "SITE_UNREACHABLE" || cause.code === "TIMED_OUT")),
        );
        if (answers) throw new UmsError("NOT_STUCK", `Site ${site} answers.`);
      } finally {
        peer.close();
      }
      log.warn({ migration: id, destination: site }, "the destination is said to be gone for good");
      const annotations = { [destinationIsGone]: new Date().toISOString() };
      note(await cluster.patch(migrations, name, { metadata: { annotations } }, { namespace, signal }));
      for (const until = Date.now() + resolvedMs; Date.now() < until && isOpen(find(id));) await sleep(100);
      return show(find(id));
    },

    forwards: () =>
      [...known.values()].flatMap((object) => {
        const source = object.status?.facts?.["source"] as
          { forwarding?: { to: string; ports: { port: number; toPort: number }[] } } | undefined;
        if (!source?.forwarding || object.status?.phase !== "Succeeded") return [];
        const { to, ports } = source.forwarding;
        const { namespace = "default" } = object.metadata;
        return [{ migration: idOf(object), service: object.spec.pod, namespace, ports: ports.map(({ port }) => `${port}/tcp`), to }];
      }),

    async release(id) {
      const { namespace, name = "" } = find(id).metadata;
      if (isOpen(find(id))) throw new UmsError("TOO_LATE", `Migration ${id} has not ended.`);
      await cluster.delete(migrations, name, { namespace, signal });
      for (const until = Date.now() + seenMs; Date.now() < until && [...known.values()].some((object) => idOf(object) === id);)
        await sleep(50);
    },

    async doctor({ containers }, stopped) {
      if (containers) throw new UmsError("BAD_REQUEST", "This site is a cluster: `ums plan POD --to SITE` says whether a pod could move.");
      return await examineNodes(interfaces, stopped);
    },
  };
}
