/** The journal of one migration in its object's status, and whatever else of it must survive. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Journal, TakenOver } from "../../engine/ports.ts";
import { codeOf, type ErrorCode, UmsError } from "../../errors.ts";
import { type Cluster, ClusterError, type PatchOperation } from "./client.ts";
import { conditionsOf, type MigrationObject, migrations, type MigrationStatus, type Step } from "./migration.ts";

/** The journal, and durable facts beside it. */
export type MigrationRecord = Readonly<{
  journal: Journal;
  /** The status as it was when the record was opened. */
  opened: MigrationObject;
  fact(name: string): unknown;
  /** Durable when it resolves; `undefined` removes. Rejects like the journal's writes. */
  setFact(name: string, value: unknown): Promise<void>;
  /** Writes what people see, soon and at most twice a second, never the engine's wait; the newest of each field wins. */
  report(fields: Partial<Reportable>): void;
  /** Resolves when everything reported so far is written. Rejects like the journal's writes. */
  flush(): Promise<void>;
}>;

type Shown = { [K in keyof Omit<MigrationStatus, "journal" | "facts" | "owner">]: MigrationStatus[K] | undefined };
/** What {@link MigrationRecord.report} may write; `undefined` takes a field away. The conditions follow from the phase. */
export type Reportable = Omit<Shown, "conditions">;

const reportEveryMs = 500;
const firstPauseMs = 50;
const longestPauseMs = 2_000;

/**
 * Takes the migration over for `owner`: from then on every write of an earlier owner is refused.
 *
 * Writes go on trying while the API server can't be reached, until the signal aborts. They reject with
 * {@link TakenOver} once the object has another owner, or is gone.
 * @param owner unique to one tenure of one instance
 * @throws UmsError MIGRATION_NOT_FOUND, ClusterError, TakenOver
 */
export async function openRecord({
  cluster,
  namespace,
  name,
  owner,
  signal,
  now = () => new Date(),
}: {
  cluster: Cluster;
  namespace: string;
  name: string;
  owner: string;
  signal: AbortSignal;
  now?: () => Date;
}): Promise<MigrationRecord> {
  const opened = await takeOver({ cluster, namespace, name, owner, signal });
  const { uid } = opened.metadata;
  const steps: Record<string, Step> = structuredClone(opened.status?.journal?.steps ?? {});
  const facts: Record<string, unknown> = structuredClone(opened.status?.facts ?? {});
  const found = opened.status?.journal?.failure;
  let failure: Error | undefined = found && new UmsError(found.code as ErrorCode, found.message);
  /** Steps whose done has not been written. */
  const unwritten = new Set<string>();

  async function write(operations: readonly PatchOperation[]): Promise<void> {
    const riding = [...unwritten].map((step): PatchOperation => add(["journal", "steps", step], steps[step]));
    const patch: PatchOperation[] = [
      // Judged together with the write itself, so nobody can take over between the two.
      { op: "test", path: "/metadata/uid", value: uid },
      { op: "test", path: "/status/owner", value: owner },
      ...riding,
      ...operations,
    ];
    const ridden = [...unwritten];
    await untilWritten(signal, async () => {
      try {
        await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
      } catch (error) {
        throw (await isOurs()) ? error : new TakenOver(`Migration ${name} is no longer run by ${owner}.`, { cause: error });
      }
    });
    for (const step of ridden) unwritten.delete(step);
  }

  /** Asked after a refused write only: a patch whose test fails and one that the schema refuses look alike. */
  async function isOurs(): Promise<boolean> {
    const current = await cluster.get(migrations, name, { namespace, signal });
    return current?.metadata.uid === uid && current?.status?.owner === owner;
  }

  const mark = (mark: keyof Step) => async (step: string) => {
    const marked: Step = { ...steps[step], [mark]: steps[step]?.[mark] ?? now().toISOString() };
    await write([add(["journal", "steps", step], marked)]);
    steps[step] = marked;
  };

  const journal: Journal = {
    isStarted: (step) => steps[step]?.startedAt !== undefined,
    isDone: (step) => steps[step]?.doneAt !== undefined,
    isUndone: (step) => steps[step]?.undoneAt !== undefined,
    failure: () => failure,
    start: mark("startedAt"),
    async done(step) {
      steps[step] = { ...steps[step], doneAt: steps[step]?.doneAt ?? now().toISOString() };
      unwritten.add(step);
    },
    undone: mark("undoneAt"),
    async fail(cause) {
      if (failure) return;
      await write([add(["journal", "failure"], { code: codeOf(cause), message: cause.message })]);
      failure = cause;
    },
  };

  let pending: Partial<Shown> = {};
  let conditions = opened.status?.conditions;
  let reporting: Promise<void> | undefined;
  let written = Promise.resolve();
  let lastReportAt = -Infinity;
  /** What the status has, so that nothing is removed that isn't there: RFC 6902 makes that an error. */
  const shown = new Set(Object.keys(opened.status ?? {}));

  /** One after the other, so that an older report never comes over a newer one. */
  function writeReport(): Promise<void> {
    const mine = written.then(writePending);
    written = mine.catch(() => undefined);
    return mine;
  }

  async function writePending(): Promise<void> {
    const fields = pending;
    pending = {};
    const entries = Object.entries(fields).filter(([field, value]) => value !== undefined || shown.has(field));
    if (entries.length === 0) return;
    lastReportAt = performance.now();
    try {
      await write(entries.map(([field, value]) => (value === undefined ? remove([field]) : add([field], value))));
    } catch (error) {
      pending = { ...fields, ...pending };
      throw error;
    }
    for (const [field, value] of entries) {
      if (value === undefined) shown.delete(field);
      else shown.add(field);
    }
  }

  async function reportSoon(): Promise<void> {
    // Again where more was reported while it was being written.
    for (let isWritten = true; isWritten && Object.keys(pending).length > 0;) {
      const pauseMs = lastReportAt + reportEveryMs - performance.now();
      if (pauseMs > 0) await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
      // What was refused is written with the next report, or never: the journal's own writes say what is the matter.
      isWritten = await writeReport().then(
        () => true,
        () => false,
      );
    }
  }

  return {
    journal,
    opened,
    fact: (fact) => structuredClone(facts[fact]),
    async setFact(fact, value) {
      if (value === undefined) {
        if (!(fact in facts)) return;
        await write([remove(["facts", fact])]);
        delete facts[fact];
      } else {
        const copy = structuredClone(value);
        await write([add(["facts", fact], copy)]);
        facts[fact] = copy;
      }
    },
    report(fields) {
      pending = { ...pending, ...fields };
      if (fields.phase) {
        conditions = conditionsOf({
          phase: fields.phase,
          message: fields.message ?? fields.error?.message ?? "",
          before: conditions,
          now: now(),
        });
        pending.conditions = conditions;
      }
      reporting ??= reportSoon().finally(() => (reporting = undefined));
    },
    async flush() {
      await writeReport();
      if (unwritten.size > 0) await write([]);
    },
  };
}

/** Tries again where the API server could not be reached, or others wrote the same object all the time. */
async function untilWritten<T>(signal: AbortSignal, act: () => Promise<T>): Promise<T> {
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    try {
      return await act();
    } catch (error) {
      const isPassing = error instanceof ClusterError && ["API_SERVER_UNREACHABLE", "OBJECT_CHANGED"].includes(error.code);
      if (!isPassing || signal.aborted) throw error;
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
      signal.throwIfAborted();
    }
  }
}

async function takeOver({
  cluster,
  namespace,
  name,
  owner,
  signal,
}: {
  cluster: Cluster;
  namespace: string;
  name: string;
  owner: string;
  signal: AbortSignal;
}): Promise<MigrationObject> {
  return await untilWritten(signal, async () => {
    const current = await cluster.get(migrations, name, { namespace, signal });
    if (!current) throw new UmsError("MIGRATION_NOT_FOUND", `no migration ${namespace}/${name}`);
    const { resourceVersion, uid } = current.metadata;
    // Makes the places, too, into which the patches write.
    const status = { owner, journal: { steps: {} }, facts: {} };
    const patch = { metadata: { resourceVersion, uid }, status };
    return await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
  });
}

function add(path: readonly string[], value: unknown): PatchOperation {
  return { op: "add", path: pointerTo(path), value };
}

function remove(path: readonly string[]): PatchOperation {
  return { op: "remove", path: pointerTo(path) };
}

function pointerTo(path: readonly string[]): string {
  return ["", "status", ...path].map((part) => part.replaceAll("~", "~0").replaceAll("/", "~1")).join("/");
}
