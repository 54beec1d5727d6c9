/** The log of each part: lines of JSON on standard output. */
import { ExecaError } from "execa";
import { type DestinationStream, type Logger, pino } from "pino";

/** The longest chain of causes that a line shows. */
const longestChain = 8;

type Shown = { type: string; code?: unknown; message: string; stack?: string | undefined; cause?: unknown };

/**
 * An error as a line shows it: type, code, message and stack, and the same of each cause. No other property is shown: those of
 * a command hold its input and its output, which may be a service's secrets.
 */
function show(cause: unknown, deeper = longestChain): unknown {
  if (!(cause instanceof Error)) return cause;
  const message = messageOf(cause);
  const shown: Shown = { type: cause.name, message, stack: cause.stack?.replace(cause.message, () => message) };
  if ("code" in cause) shown.code = cause.code;
  if (cause.cause !== undefined && deeper > 0) shown.cause = show(cause.cause, deeper - 1);
  return shown;
}

/** The message of a failed command ends with all that it printed: only its complaints are shown. */
const messageOf = (cause: Error) =>
  cause instanceof ExecaError
    ? [cause.shortMessage, cause.stderr].filter((part) => typeof part === "string" && part !== "").join("\n")
    : cause.message;

/** @param level one of pino's @param destination standard output, unless told */
export const createLog = (level: string, destination?: DestinationStream): Logger =>
  pino({ level, serializers: { err: (cause: unknown) => show(cause), cause: (cause: unknown) => show(cause) } }, destination);
