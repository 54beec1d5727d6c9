/** What the two halves of a migration say to each other, whatever the approach. */
import { type Static, type TSchema, Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "../errors.ts";
import { formatAddress } from "./address.ts";
import { Bytes, closed, IPv4, Label, Port } from "./forms.ts";
import { CheckResult } from "./measures.ts";
import { siteNamePattern } from "./names.ts";

export const CheckAnswer = Type.Object({ checks: Type.Array(CheckResult), imageBytes: Bytes }, closed);
export type CheckAnswer = Static<typeof CheckAnswer>;

/** A node's address, and what proves that its pod is meant. */
const DataToken = Type.String({ pattern: "^[0-9a-fA-F.:]{1,64}/[0-9a-f]{32}$" });

export type PeerState = "reserved" | "armed" | "restoring" | "restored" | "committed" | "gone";

/** Where the data goes: to the site's coordinator, or to the interface of one of its nodes. */
export const DataTarget = Type.Object(
  {
    site: Type.String({ pattern: siteNamePattern }),
    node: Type.Optional(
      Type.Object(
        {
          /** The first that answers is taken. */
          addresses: Type.Array(Type.String({ pattern: "^[a-zA-Z0-9.:\\[\\]-]{1,300}$" }), { minItems: 1, maxItems: 4 }),
          token: DataToken,
        },
        closed,
      ),
    ),
  },
  closed,
);
export type DataTarget = Static<typeof DataTarget>;

/** What the destination answers once it has made a place for the service. */
export const CreateAnswer = Type.Object(
  {
    /** Where an interface gets the data: `port` is that of every node, `token` names the one. Absent: the coordinator gets it. */
    data: Type.Optional(Type.Object({ token: DataToken, port: Port }, closed)),
  },
  closed,
);
export type CreateAnswer = Static<typeof CreateAnswer>;

/** What the destination answers once its copy waits for the memory. Where those ports are, it has proved by its certificate. */
export const ArmAnswer = Type.Object(
  {
    /** From a port of the service ({@link portKey}) to the destination's port that leads there. Absent: published as at the source. */
    ports: Type.Optional(Type.Record(Type.String({ pattern: "^[0-9]{1,5}/(tcp|udp)$" }), Port, { ...closed, maxProperties: 256 })),
    /** The copy's own, where it has one that is reachable from within its cluster. */
    podAddress: Type.Optional(IPv4),
  },
  closed,
);
export type ArmAnswer = Static<typeof ArmAnswer>;

/** What the destination answers when it has done what was asked and has nothing to tell. */
export const Done = Type.Object({});

/** What another site says is taken for nothing but what it should be. @throws UmsError PEER_FAILED */
export function expectForm<S extends TSchema>(schema: S, answer: unknown, what: string): Static<S> {
  if (Value.Check(schema, answer)) return answer;
  const [first] = Value.Errors(schema, answer);
  throw new UmsError(
    "PEER_FAILED",
    `The other site's answer to ${what} is not of the documented form${first ? `: ${first.instancePath} ${first.message}` : ""}.`,
  );
}

/** A port as {@link ArmAnswer} names it. */
export const portKey = ({ port, protocol }: { port: number; protocol: string }) => `${port}/${protocol}`;

/**
 * Where {@link CreateAnswer} says that the data goes.
 * @param host of the destination
 * @param ownPort of the interfaces, where the destination is this very site: then its node is called directly
 */
export function dataTarget({ data }: CreateAnswer, { site, host, ownPort }: { site: string; host: string; ownPort?: number }): DataTarget {
  if (!data) return { site };
  const [node = ""] = data.token.split("/");
  // The node itself, if it can be reached: any other one would have to pass everything on.
  const hosts = [...new Set([node, host])].map((each) => formatAddress({ host: each, port: data.port }));
  return { site, node: { addresses: ownPort === undefined ? hosts : [formatAddress({ host: node, port: ownPort })], token: data.token } };
}

/** What a stream of the data connection carries. A service of one container doesn't name it. */
export const StreamContent = Type.Union([
  Type.Object(
    {
      kind: Type.Literal("tree"),
      /** A volume is known by its place in the need's list. */
      tree: Type.String({ pattern: "^(shm|changes(:[a-z0-9-]{1,63})?|volume:[0-9]{1,3})$" }),
      deleted: Type.Array(Type.String()),
    },
    closed,
  ),
  Type.Object({ kind: Type.Literal("log"), container: Type.Optional(Label) }, closed),
  Type.Object(
    { kind: Type.Literal("image"), file: Type.String({ pattern: "^(blobs/sha256/)?[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$" }) },
    closed,
  ),
]);
export type StreamContent = Static<typeof StreamContent>;
