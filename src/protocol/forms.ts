/** What single values that cross between sites, or between the parts of one, look like. */
import { type Static, Type } from "typebox";

/** A field that the schema does not name is refused. */
export const closed = { additionalProperties: false } as const;
export const Bytes = Type.Integer({ minimum: 0 });
export const Digest = Type.String({ pattern: "^sha256:[0-9a-f]{64}$" });
export const ImageByDigest = Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_./:-]{0,511}@sha256:[0-9a-f]{64}$" });
export const Port = Type.Integer({ minimum: 1, maximum: 65_535 });
/** Those by which clients are led. */
export const Protocol = Type.Union([Type.Literal("tcp"), Type.Literal("udp")]);
export type Protocol = Static<typeof Protocol>;
/** RFC 1123 label, as Kubernetes names containers and volumes. */
export const Label = Type.String({ pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" });
export const IPv4 = Type.String({ pattern: "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$" });
/** Absolute, without a `..` that leads elsewhere. */
export const AbsolutePath = Type.String({ pattern: "^/(?!.*(^|/)\\.\\.(/|$))[^\\u0000]*$", maxLength: 4096 });
export const Text = Type.String({ maxLength: 131_072 });
