/** What a site takes of services that others send: the form in which it says so, for all others and for each of them. */
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "./errors.ts";

/** How a service can be made here: each way puts something of its own on the machine, or into the service. */
export const approaches = ["container-level", "orchestrator-level"] as const;

const closed = { additionalProperties: false } as const;
const texts = (pattern: string, maxLength = 512) =>
  Type.Optional(Type.Array(Type.String({ pattern, minLength: 1, maxLength }), { maxItems: 64 }));
const isAccepted = Type.Optional(Type.Boolean());

/** As it is written. What a peer's says counts instead of what the site's says; docs/configuration.md is written from this. */
export const Accept = Type.Object(
  {
    approaches: Type.Optional(Type.Array(Type.Enum([...approaches]), { maxItems: approaches.length })),
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

/** The same, complete. */
export type Accepting = Readonly<Required<Accept>>;

const usual: Accepting = {
  approaches: [...approaches],
  namespaces: ["*"],
  images: ["*"],
  bindMounts: [],
  capabilities: [],
  sysctls: [],
  unconfined: false,
  privileged: false,
  hostPorts: false,
  probeHosts: false,
};

/** @param said by the site, then for the peer: what comes later counts */
export const accepting = (...said: readonly (Accept | undefined)[]): Accepting => Object.assign({}, usual, ...said) as Accepting;

/** Takes no service at all. */
export const nothing: Accept = { approaches: [] };

/**
 * What a person or a ConfigMap says: `none`, or JSON.
 * @param where it stands
 * @throws UmsError BAD_CONFIGURATION
 */
export function readAccept(text: string, where: string): Accept {
  if (text.trim() === "none") return nothing;
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw new UmsError("BAD_CONFIGURATION", `${where} is neither “none” nor JSON.`, { cause });
  }
  if (Value.Check(Accept, content)) return content;
  const [first] = Value.Errors(Accept, content);
  const field = first?.instancePath.slice(1).replaceAll("/", ".");
  // That is how TypeBox reports a key that a closed object has not.
  const reason = first?.message === "schema is false" ? "is no field of it" : first?.message;
  throw new UmsError("BAD_CONFIGURATION", field ? `${where}: “${field}” ${reason}.` : `${where}: it ${reason}.`);
}
