/** What a program of this machine says of itself or of the machine. */
import { execa } from "execa";

const commandMs = 10_000;

export type Said = Readonly<{ ran: boolean; succeeded: boolean; output: string }>;

export async function ask(file: string, args: readonly string[], options: { input?: string; signal?: AbortSignal } = {}): Promise<Said> {
  const { input, signal } = options;
  const {
    stdout,
    stderr,
    failed: unsuccessful,
    code,
  } = await execa(file, args, {
    ...(input === undefined ? { stdin: "ignore" as const } : { input }),
    ...(signal ? { cancelSignal: signal } : {}),
    timeout: commandMs,
    reject: false,
    env: { LC_ALL: "C" },
  });
  return { ran: code !== "ENOENT" && code !== "EACCES", succeeded: !unsuccessful, output: stdout.trim() || stderr.trim() };
}
