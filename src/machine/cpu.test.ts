import { describe, expect, test } from "vitest";
import { featuresOf } from "./cpu.ts";

describe("CPU features", () => {
  test("are those that programs can use, not those of kernels and hypervisors", () => {
    expect(featuresOf("processor : 0\nflags\t\t: fpu avx2 vmx ibpb avx512_vnni hypervisor sse4_2 arch_capabilities\n")).toEqual([
      "avx2",
      "avx512_vnni",
      "fpu",
      "sse4_2",
    ]);
    expect(featuresOf("Features\t: fp asimd sve\n")).toEqual(["asimd", "fp", "sve"]);
  });
});
