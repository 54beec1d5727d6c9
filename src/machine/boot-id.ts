import { readFile } from "node:fs/promises";

/** Another one after each start of the machine: what a process, a cgroup or a tmpfs held before is gone, its number may be another's. */
export const bootId = async () => (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
