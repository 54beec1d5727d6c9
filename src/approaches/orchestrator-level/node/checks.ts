/** Whether a node can take in a pod that its source has measured. */
import { summary } from "../../../preflight/check.ts";
import { disk, memory, sameMachine } from "../../../preflight/machine.ts";
import { criuChecks } from "../../../preflight/site.ts";
import type { CheckResult, Measures } from "../../../protocol/measures.ts";

/** Room for what nobody can foresee: logs, and what the service writes while it moves. */
const diskSlackBytes = 64 << 20;

export async function nodeChecks(
  measures: Measures,
  { criu, imageDirectories, stagingDirectory }: { criu: string; imageDirectories: readonly string[]; stagingDirectory: string },
  signal: AbortSignal,
): Promise<CheckResult[]> {
  const [programs, same, memoryRoom, diskRoom] = await Promise.all([
    criuChecks(criu, signal),
    sameMachine(measures),
    memory(imageDirectories, measures),
    disk([{ directory: stagingDirectory, bytes: measures.fileBytes + diskSlackBytes }]),
  ]);
  return [...summary("CRIU", programs), ...same, memoryRoom, diskRoom];
}
