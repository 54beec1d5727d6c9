import type { FastifyBaseLogger, FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { errorTable, UmsError } from "../errors.ts";

/** Turns whatever a handler threw into an error of the table; what nobody foresaw goes to the log and is not shown. */
export function asUmsError(error: unknown, log: FastifyBaseLogger): UmsError {
  if (error instanceof UmsError) return error;
  // A wait that was aborted; the reason is what happened.
  if (error instanceof Error && error.name === "AbortError" && error.cause instanceof UmsError) return error.cause;
  const { statusCode, validation, validationContext, message } = error as Partial<FastifyError>;
  if (validation) {
    const [first] = validation;
    const unknown = first?.keyword === "additionalProperties" ? ` (${String(first.params["additionalProperty"])})` : "";
    return new UmsError(
      "BAD_REQUEST",
      `${validationContext ?? "request"}${first?.instancePath ?? ""} ${first?.message ?? message}${unknown}.`,
    );
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new UmsError("BAD_REQUEST", message ?? "", { cause: error });
  log.error({ err: error }, "a request failed for a reason that is in no table");
  return new UmsError("INTERNAL", "Something failed that UMS did not foresee.", { cause: error });
}

/** The HTTP status of an error: the framework's own for a malformed request (413, 415), else the table's. */
function statusOf(error: UmsError): number {
  const { statusCode } = (error.cause ?? {}) as Partial<FastifyError>;
  return error.code === "BAD_REQUEST" && statusCode !== undefined ? statusCode : errorTable[error.code].http;
}

/** Answers with `{code, message, cure}`. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const problem = asUmsError(error, request.log);
  return reply.code(statusOf(problem)).send({ code: problem.code, message: problem.message, cure: problem.cure });
}

/** What both servers validate by: nothing is coerced, dropped or filled in. */
export const strictValidation = {
  customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allErrors: false },
} as const;
