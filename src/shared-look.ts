/**
 * Runs one call at a time, however many ask: whoever asks while one is under way shares the next, so that each is given
 * what was looked up after it had asked.
 */
export function sharedLook<T>(look: () => Promise<T>): () => Promise<T> {
  let running: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | undefined;
  return () =>
    (next ??= running.then(() => {
      next = undefined;
      const now = look();
      running = now.catch(() => undefined);
      return now;
    }));
}
