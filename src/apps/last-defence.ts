/** What nobody has caught ends the work that it belongs to, not the process with all its other migrations. */
import type { Logger } from "pino";

/** An exception that nobody catches may have left anything half done: that still ends the process, which is taken up at its next start. */
export function guardProcess(log: Pick<Logger, "error">): void {
  process.on("unhandledRejection", (cause) => log.error({ cause }, "something failed of which nobody has heard"));
}
