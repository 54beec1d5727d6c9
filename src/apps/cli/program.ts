import { Command, CommanderError } from "commander";
import { createInterface } from "node:readline/promises";
import { UmsError } from "../../errors.ts";
import { createClient } from "./client.ts";
import { exitCodeHelp, exitCodeOfError, exitCodes } from "./exit-codes.ts";
import { createTerminal } from "./terminal.ts";
import type { Act, Session, Verb } from "./verb.ts";
import { cancel } from "./verbs/cancel.ts";
import { cluster } from "./verbs/cluster.ts";
import { completion } from "./verbs/completion.ts";
import { doctor } from "./verbs/doctor.ts";
import { list } from "./verbs/list.ts";
import { may } from "./verbs/may.ts";
import { migrate } from "./verbs/migrate.ts";
import { pair } from "./verbs/pair.ts";
import { plan } from "./verbs/plan.ts";
import { release } from "./verbs/release.ts";
import { resolve } from "./verbs/resolve.ts";
import { serve } from "./verbs/serve.ts";
import { sites } from "./verbs/sites.ts";
import { status } from "./verbs/status.ts";
import { watch } from "./verbs/watch.ts";

const verbs: readonly Verb[] = [
  serve,
  cluster,
  pair,
  sites,
  list,
  plan,
  migrate,
  status,
  watch,
  cancel,
  release,
  resolve,
  doctor,
  completion,
  may,
];

type Common = { json?: true; socket: string };

const defaultSocket = "/run/ums/ums.sock";

/**
 * Gives the command `ums` all that it can do; how it behaves, its verbs take over from it as it is now.
 * @param options.act makes of a verb's action what the command calls
 * @param options.socket where `ums serve` answers, unless told
 */
export function addVerbs(program: Command, { act, socket = defaultSocket }: { act: Act; socket?: string }): void {
  program
    .description("Moves a running service, with its memory, files and clients, from one site to another.")
    .addHelpText("after", exitCodeHelp);
  verbs.forEach((verb) => verb(program, act));
  for (const command of program.commands)
    command.option("--json", "print the result as one line of JSON").option("--socket <path>", "the socket of `ums serve`", socket);
}

/** Runs one command line and answers its exit code. Throws nothing that a person would have to read as a stack trace. */
export async function run(
  argv: readonly string[],
  {
    stdin,
    stdout,
    stderr,
    version,
    environment,
  }: Pick<NodeJS.Process, "stdin" | "stdout" | "stderr"> & { version: string; environment: NodeJS.ProcessEnv },
): Promise<number> {
  let code: number = exitCodes.ok;
  const act: Act =
    (action) =>
    async (...values) => {
      // Commander passes the arguments, the options and the command itself.
      const command = values.pop() as Command;
      const { json, socket } = command.opts<Common>();
      const terminal = createTerminal({ json: json === true, stdout, stderr });
      const session: Session = {
        terminal,
        client: createClient(socket),
        environment,
        interrupted: interruption,
        readLine: async (question) => await askLine(question, stdin, stderr),
      };
      try {
        code = (await action(session, ...values)) ?? exitCodes.ok;
      } catch (error) {
        const problem =
          error instanceof UmsError
            ? error
            : new UmsError("INTERNAL", `Something unforeseen happened: ${String(error)}.`, { cause: error });
        terminal.error(problem);
        code = exitCodeOfError(problem.code);
      }
    };

  const program = new Command("ums")
    .version(version)
    .showHelpAfterError("`ums --help` shows how it is used.")
    .configureOutput({ writeOut: (text) => void stdout.write(text), writeErr: (text) => void stderr.write(text) })
    .exitOverride();
  addVerbs(program, { act, socket: environment["UMS_SOCKET"] ?? defaultSocket });
  try {
    await program.parseAsync(argv, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  return code;
}

/** The first Ctrl-C aborts; the second ends the program as if nobody had listened. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  process.once("SIGINT", () => controller.abort());
  return controller.signal;
}

async function askLine(question: string, input: NodeJS.ReadStream, output: NodeJS.WriteStream): Promise<string> {
  const lines = createInterface({ input, output });
  try {
    const { promise, resolve: answered } = Promise.withResolvers<string>();
    lines.on("close", () => answered(""));
    lines.question(question).then(answered, () => answered(""));
    return (await promise).trim();
  } finally {
    lines.close();
  }
}
