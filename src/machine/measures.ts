/** What of this machine a service takes with it, or must find again where it goes. */
import { release } from "node:os";
import { cgroupVersion } from "../checkpoint/cgroups.ts";
import type { Measures } from "../protocol/measures.ts";
import { cpuFeatures } from "./cpu.ts";

/** What of a machine a dumped process remembers. */
export async function machineMeasures(): Promise<Pick<Measures, "kernel" | "cpuFeatures" | "cgroupVersion">> {
  const [features, version] = await Promise.all([cpuFeatures(), cgroupVersion()]);
  return { kernel: release(), cpuFeatures: features, cgroupVersion: version };
}
