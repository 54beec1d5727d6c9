/** What a program may have found its CPU to offer, and may go on to use after it moved. */
import { readFile } from "node:fs/promises";

/**
 * Flags of x86's /proc/cpuinfo that stand for instructions or registers which user space can use (Linux 6.18,
 * arch/x86/include/asm/cpufeatures.h). The other flags tell of the kernel, of mitigations, of virtualisation.
 */
const x86Instructions =
  /^(3dnow|3dnowext|3dnowprefetch|abm|adx|aes|amx_\w+|avx\w*|bmi[12]|cldemote|clflush|clflushopt|clwb|clzero|cmov|cx16|cx8|enqcmd|erms|f16c|fma4?|fpu|fsgsbase|fsrm|fxsr|fxsr_opt|gfni|hle|lahf_lm|lm|misalignsse|mmx|mmxext|monitorx|mov(be|diri|dir64b)|pclmulqdq|pku|pni|popcnt|rdpid|rdrand|rdseed|rdtscp|rtm|serialize|sha\w*|sm[34]|sse\w*|ssse3|syscall|tbm|tsc|user_shstk|vaes|vpclmulqdq|waitpkg|xgetbv1|xop|xsave\w*)$/;

export async function cpuFeatures(): Promise<string[]> {
  return featuresOf(await readFile("/proc/cpuinfo", "utf8"));
}

/** Of the first CPU: Linux shows what all of them have. ARM's list is of user space's features only. */
export function featuresOf(cpuinfo: string): string[] {
  const x86 = /^flags\s*:\s*(.*)$/m.exec(cpuinfo)?.[1];
  const arm = /^Features\s*:\s*(.*)$/m.exec(cpuinfo)?.[1];
  const words = (text: string) => text.split(/\s+/).filter(Boolean).toSorted();
  if (x86 !== undefined) return words(x86).filter((flag) => x86Instructions.test(flag));
  return words(arm ?? "");
}
