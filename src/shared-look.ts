import { setTimeout as sleep } from "node:timers/promises";

/**
 * Runs one call at a time, however many ask: whoever asks while one is under way shares the next, so that each is given
 * what was looked up after it had asked.
 * @param options.everyMs how often a call begins, at most
 */
export function sharedLook<T>(look: () => Promise<T>, { everyMs = 0 }: { everyMs?: number } = {}): () => Promise<T> {
  let running: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | undefined;
  let begunAt = -Infinity;
  const begin = async () => {
    await running;
    const pauseMs = begunAt + everyMs - performance.now();
    if (pauseMs > 0) await sleep(pauseMs, undefined, { ref: false });
    next = undefined;
    begunAt = performance.now();
    const now = look();
    running = now.catch(() => undefined);
    return await now;
  };
  return () => (next ??= begin());
}
