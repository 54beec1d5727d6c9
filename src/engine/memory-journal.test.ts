import { describeJournal } from "./journal.contract.ts";
import { createMemoryDisk, openMemoryJournal } from "./memory-journal.ts";

for (const buffersDone of [true, false]) {
  describeJournal(`The journal in memory (buffers done: ${buffersDone})`, () => {
    const disk = createMemoryDisk();
    return { open: () => openMemoryJournal(disk, { buffersDone }), dispose: () => {} };
  });
}
