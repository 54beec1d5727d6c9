/** What of this machine a service takes with it, or must find again where it goes. */
import { release } from "node:os";
import { freezerOf } from "../checkpoint/freezer.ts";
import type { Measures } from "../protocol/measures.ts";
import { cpuFeatures } from "./cpu.ts";

/** What of a machine a dumped process remembers. */
export async function machineMeasures(): Promise<Pick<Measures, "kernel" | "cpuFeatures" | "cgroupVersion">> {
  const [features, { version }] = await Promise.all([cpuFeatures(), freezerOf(process.pid)]);
  return { kernel: release(), cpuFeatures: features, cgroupVersion: version };
}
