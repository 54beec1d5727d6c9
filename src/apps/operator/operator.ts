/**
 * Gives the migrations that leave this cluster their turns. One instance works at a time; its successor takes up what it
 * finds, from the journals in the objects.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { TakenOver } from "../../engine/ports.ts";
import { UmsError } from "../../errors.ts";
import { isSource, keyOf, migrationFinalizer, type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";
import type { Trust } from "../../trust/trust.ts";
import { type CarrierParts, createCarrier } from "./carrier.ts";
import { createForwardings } from "./forwardings.ts";
import { collectOrphans } from "./orphans.ts";
import { createSites } from "./sites.ts";

export type OperatorParts = Pick<CarrierParts, "cluster" | "interfaces" | "limits" | "breakpoints" | "log"> &
  Readonly<{
    trust: Trust;
    /** Where this site's own coordinator answers. */
    coordinatorAddress: string;
    maxConcurrentMigrations: number;
  }>;

const troubleMs = 5_000;
const tendEveryMs = 2_000;
const orphansEveryMs = 15_000;

type Running = { readonly controller: AbortController; finished: Promise<void>; waits: boolean };

/** Works until the signal aborts, which it does when another instance leads. @param owner names this tenure in the journals */
export async function operate(parts: OperatorParts, { signal, owner }: { signal: AbortSignal; owner: string }): Promise<void> {
  const { cluster, trust, interfaces, log } = parts;
  const objects = new Map<string, MigrationObject>();
  const running = new Map<string, Running>();
  const queue: string[] = [];
  const known = () => [...objects.values()];
  const sites = createSites(trust, parts);
  const forwardings = createForwardings({ cluster, interfaces, siteName: trust.siteName, known, log, signal });
  const carrier = createCarrier({ ...parts, sites, forwardings, signal, owner });

  /** What an earlier instance has begun holds or may hold a service, so it doesn't wait for its turn. */
  const isBegun = (key: string) => objects.get(key)?.status?.owner !== undefined;
  const isFull = () => [...running.values()].filter(({ waits }) => !waits).length >= parts.maxConcurrentMigrations;

  async function run(key: string, turn: Running): Promise<void> {
    const object = objects.get(key);
    if (!object) return;
    await carrier.run(object, {
      cancelled: turn.controller.signal,
      annotations: () => objects.get(key)?.metadata.annotations ?? {},
      others: () => ({ all: known(), turns: [...running.keys()] }),
      waits() {
        if (turn.waits) return;
        turn.waits = true;
        next();
      },
    });
  }

  function next(): void {
    while (queue.length > 0 && !signal.aborted && (isBegun(queue[0] as string) || !isFull())) {
      const key = queue.shift() as string;
      const controller = new AbortController();
      const onStop = () => controller.abort(new UmsError("INTERRUPTED", "The operator is stopping."));
      signal.addEventListener("abort", onStop, { once: true });
      const turn: Running = { controller, finished: Promise.resolve(), waits: false };
      running.set(key, turn);
      turn.finished = run(key, turn)
        .catch(async (cause: unknown) => {
          if (signal.aborted || cause instanceof TakenOver) return;
          log.error({ migration: key, cause }, "a migration stopped at an error that nobody expected");
          await sleep(troubleMs, undefined, { signal }).catch(() => undefined);
        })
        .finally(() => {
          signal.removeEventListener("abort", onStop);
          running.delete(key);
          const object = objects.get(key);
          if (object) consider(object);
          next();
        });
    }
  }

  function consider(object: MigrationObject): void {
    const key = keyOf(object);
    if (!isSource(object)) return;
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
  void forwardings.followServices();
  void every(orphansEveryMs, () => collectOrphans({ ...parts, sites, known, signal }));
  for await (const { type, object } of cluster.watch(migrations, {
    namespace: undefined,
    signal,
    onTrouble: (cause) => log.warn({ cause }, "the migrations can't be watched"),
  })) {
    if (type === "gone") objects.delete(keyOf(object));
    else {
      objects.set(keyOf(object), object);
      consider(object);
    }
  }
  await Promise.all([...running.values()].map(({ finished }) => finished));
  sites.close();
}
