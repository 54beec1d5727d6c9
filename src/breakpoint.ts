/**
 * For tests of what happens when something dies at a certain moment: while `wanted` tells `STEP before` or `STEP after`, a
 * migration that comes to this moment waits; `STEP after 2000` ends after so many milliseconds by itself. The steps have
 * the names that reports give them.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Destination, Source } from "./engine/ports.ts";

type Sides = Readonly<{ source: Source; destination: Destination }>;

const pollMs = 10;
const longestMs = 600_000;

/** Both sides of a migration, with the breakpoint around each of their actions. */
export function withBreakpoint(
  { source, destination }: Sides,
  { wanted, reached }: { wanted: () => Promise<string>; reached: (step: string, moment: string) => void },
): Sides {
  async function stop(step: string, moment: "before" | "after", signal: AbortSignal | undefined): Promise<void> {
    const limitMs = async () => {
      const [at, when, forMs = String(longestMs)] = (await wanted()).trim().split(" ");
      return at === step && when === moment ? Number(forMs) : 0;
    };
    if ((await limitMs()) === 0) return;
    reached(step, moment);
    for (const since = Date.now(); Date.now() - since < (await limitMs()); await sleep(pollMs)) signal?.throwIfAborted();
  }
  const around =
    <Args extends readonly unknown[]>(step: string, action: (...args: Args) => Promise<void>) =>
    async (...args: Args): Promise<void> => {
      const signal = args.find((arg) => arg instanceof AbortSignal);
      await stop(step, "before", signal);
      await action(...args);
      await stop(step, "after", signal);
    };
  const { preCopy } = source;
  return {
    source: {
      ...source,
      admit: around("admit", source.admit),
      ...(preCopy ? { preCopy: { run: around("pre-copy", preCopy.run), discard: around("undo pre-copy", preCopy.discard) } } : {}),
      holdClients: around("hold-clients", source.holdClients),
      releaseClients: around("undo hold-clients", source.releaseClients),
      freeze: around("freeze", source.freeze),
      thaw: around("undo freeze", source.thaw),
      transfer: around("transfer", source.transfer),
      forwardClients: around("forward-clients", source.forwardClients),
      remove: around("remove-source", source.remove),
      cleanUp: around("clean-up", source.cleanUp),
    },
    destination: {
      ...destination,
      reserve: around("reserve", destination.reserve),
      release: around("undo reserve", destination.release),
      restore: around("restore", destination.restore),
      destroyRestored: around("undo restore", destination.destroyRestored),
      commit: around("commit", destination.commit),
    },
  };
}
