/** That something has changed, for those who wait for it. */
import type { Migration } from "./schema.ts";

export type Changes = Readonly<{
  tell(): void;
  /** Yields at once and after each change, several of which may come as one, until the signal aborts: then it ends. */
  follow(signal: AbortSignal): AsyncGenerator<void, void, undefined>;
}>;

export function createChanges(): Changes {
  const followers = new Set<() => void>();
  return {
    tell() {
      for (const wake of followers) wake();
    },
    async *follow(signal) {
      let wake: () => void = () => undefined;
      const notify = () => wake();
      followers.add(notify);
      signal.addEventListener("abort", notify);
      try {
        while (!signal.aborted) {
          const news = new Promise<void>((resolve) => (wake = resolve));
          yield;
          await news;
        }
      } finally {
        followers.delete(notify);
        signal.removeEventListener("abort", notify);
      }
    },
  };
}

/** The migration now, then in each form that it takes, until it has ended. */
export async function* watchMigration(changes: Changes, look: () => Migration, signal: AbortSignal): AsyncGenerator<Migration> {
  let last = "";
  for await (const _ of changes.follow(signal)) {
    const migration = look();
    const text = JSON.stringify(migration);
    if (text !== last) yield migration;
    last = text;
    if (migration.endedAt !== undefined) return;
  }
}
