/** Whether programs here may open an io_uring, which CRIU can't dump. */
import { readFile } from "node:fs/promises";
import { ask } from "./ask.ts";

/** `privileged`: with CAP_SYS_ADMIN, or of the group that the kernel is told. */
export type IoUring = "absent" | "off" | "privileged" | "open";

/** The number of io_uring_setup is the same on every architecture (Linux 5.1). */
const program = 'my $p = "\\0" x 120; print syscall(425, 1, $p) >= 0 ? "open" : $!{ENOSYS} ? "absent" : $!{EPERM} ? "off" : "open"';

/** Asks the kernel for one, which ends with the program that asks. */
export async function ioUring(): Promise<IoUring> {
  const { output } = await ask("perl", ["-MErrno", "-e", program]);
  if (output === "absent" || output === "off") return output;
  // Linux 6.6; this process may do what others may not.
  const disabled = await readFile("/proc/sys/kernel/io_uring_disabled", "utf8").catch(() => "0");
  return disabled.trim() === "1" ? "privileged" : "open";
}
