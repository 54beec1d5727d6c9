import type { Journal } from "./ports.ts";

/** What a disk would hold of one journal: what has been made durable. For tests only. */
export type MemoryDisk = { started: Set<string>; done: Set<string>; undone: Set<string>; failure: string | undefined };

export function createMemoryDisk(): MemoryDisk {
  return { started: new Set(), done: new Set(), undone: new Set(), failure: undefined };
}

/** Opens the journal on a disk. With `buffersDone`, a crash loses each `done` that no later write has taken along. */
export function openMemoryJournal(disk: MemoryDisk, { buffersDone = true } = {}): Journal {
  const done = new Set(disk.done);
  let failure = disk.failure === undefined ? undefined : new Error(disk.failure);
  const flush = () => {
    for (const step of done) disk.done.add(step);
  };
  return {
    isStarted: (step) => disk.started.has(step),
    isDone: (step) => done.has(step),
    isUndone: (step) => disk.undone.has(step),
    failure: () => failure,
    async start(step) {
      flush();
      disk.started.add(step);
    },
    async done(step) {
      done.add(step);
      if (!buffersDone) flush();
    },
    async undone(step) {
      flush();
      disk.undone.add(step);
    },
    async fail(cause) {
      flush();
      failure ??= cause;
      disk.failure ??= cause.message;
    },
  };
}
