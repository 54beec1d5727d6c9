/** What a program of this machine says of itself or of the machine. */
import { execa } from "execa";

/** Only a hang takes this long, on a slow and busy machine too. */
const commandMs = 60_000;

/** @param answered whether it came to an end by itself */
export type Said = Readonly<{ ran: boolean; answered: boolean; succeeded: boolean; output: string }>;

export async function ask(file: string, args: readonly string[], options: { input?: string; signal?: AbortSignal } = {}): Promise<Said> {
  const { input, signal } = options;
  const {
    stdout,
    stderr,
    failed: unsuccessful,
    isTerminated,
    code,
  } = await execa(file, args, {
    ...(input === undefined ? { stdin: "ignore" as const } : { input }),
    ...(signal ? { cancelSignal: signal } : {}),
    timeout: commandMs,
    reject: false,
    env: { LC_ALL: "C" },
  });
  const ran = code !== "ENOENT" && code !== "EACCES";
  return { ran, answered: ran && !isTerminated, succeeded: !unsuccessful, output: stdout.trim() || stderr.trim() };
}
