/** The form in which a site says what it takes of services that others send; docs/configuration.md is written from it. */
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "./errors.ts";

const closed = { additionalProperties: false } as const;
const texts = (pattern: string, maxLength = 512) =>
  Type.Optional(Type.Array(Type.String({ pattern, minLength: 1, maxLength }), { maxItems: 64 }));
const isAccepted = Type.Optional(Type.Boolean());

export const Accept = Type.Object(
  {
    /** How a service can be made here: each way puts something of its own on the machine, or into the service. */
    approaches: Type.Optional(Type.Array(Type.Enum(["container-level", "orchestrator-level"]), { maxItems: 2 })),
    namespaces: texts("^[a-z0-9*-]+$", 63),
    images: texts("^[a-zA-Z0-9*._:/@-]+$"),
    bindMounts: texts("^/[^\\u0000]*$", 4096),
    capabilities: texts("^CAP_[A-Z_]+$", 64),
    sysctls: texts("^[a-z0-9_./-]+$", 253),
    unconfined: isAccepted,
    privileged: isAccepted,
    hostPorts: isAccepted,
    probeHosts: isAccepted,
  },
  closed,
);
export type Accept = Static<typeof Accept>;

export const isAccept = (content: unknown): content is Accept => Value.Check(Accept, content);

/**
 * What a person or a ConfigMap says: `none`, or JSON.
 * @param where it stands
 * @throws UmsError BAD_CONFIGURATION
 */
export function readAccept(text: string, where: string): Accept {
  if (text.trim() === "none") return { approaches: [] };
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw new UmsError("BAD_CONFIGURATION", `${where} is neither “none” nor JSON.`, { cause });
  }
  if (isAccept(content)) return content;
  const [first] = Value.Errors(Accept, content);
  const field = first?.instancePath.slice(1).replaceAll("/", ".");
  // That is how TypeBox reports a key that a closed object has not.
  const reason = first?.message === "schema is false" ? "is no field of it" : first?.message;
  throw new UmsError("BAD_CONFIGURATION", field ? `${where}: “${field}” ${reason}.` : `${where}: it ${reason}.`);
}
