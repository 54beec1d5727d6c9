/** `ums` as a person runs it on a site. */
import type { ExecResult } from "./place.ts";

type Options = { timeoutMs?: number };

export type UmsCommand = Readonly<{
  /** Runs `ums`. @returns what it printed, and its exit code */
  ums(args: readonly string[], options?: Options): Promise<ExecResult>;
  /** Runs `ums … --json`. @returns its last line, parsed */
  json<T = unknown>(args: readonly string[], options?: Options): Promise<T>;
}>;

/** @param run starts `ums` there, and never rejects for its exit code */
export const umsCommand = (run: (args: readonly string[], options: Required<Options>) => Promise<ExecResult>): UmsCommand => {
  const ums: UmsCommand["ums"] = (args, { timeoutMs = 120_000 } = {}) => run(args, { timeoutMs });
  return {
    ums,
    async json<T>(args: readonly string[], options?: Options) {
      const { stdout, stderr, exitCode } = await ums([...args, "--json"], options);
      const last = stdout.trim().split("\n").at(-1) ?? "";
      if (last === "") throw new Error(`ums ${args.join(" ")} ended with ${exitCode}: ${stderr}`);
      return JSON.parse(last) as T;
    },
  };
};
