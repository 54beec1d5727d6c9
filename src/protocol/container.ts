/** A container as another site asks for it, validated where it comes in. */
import { type Static, Type } from "typebox";
import { ContainerSpec } from "./container-spec.ts";
import { Bytes, closed, Digest, ImageByDigest } from "./forms.ts";
import { Launch } from "./launch.ts";
import { measures } from "./measures.ts";

const ImageNeed = Type.Object(
  {
    id: Type.String({ pattern: "^[0-9a-f]{64}$" }),
    names: Type.Array(Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}$" }), { maxItems: 64 }),
    /** Each may be pulled: so each names one image, and no other. */
    digests: Type.Array(ImageByDigest, { maxItems: 64 }),
    layers: Type.Array(Digest, { maxItems: 512 }),
    sizeBytes: Bytes,
    format: Type.Union([Type.Literal("oci"), Type.Literal("docker")]),
  },
  closed,
);

/** All that the destination must know beforehand: of `check`, which changes nothing, and of the reservation. */
export const ContainerNeed = Type.Object(
  {
    kind: Type.Literal("Container"),
    spec: ContainerSpec,
    image: ImageNeed,
    volumes: Type.Array(
      Type.Object(
        { name: Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$" }), labels: Type.Record(Type.String(), Type.String()) },
        closed,
      ),
      {
        maxItems: 64,
      },
    ),
    launch: Launch,
    ...measures,
  },
  closed,
);
export type ContainerNeed = Static<typeof ContainerNeed>;

/** `layers`: those which the destination lacks; absent when it has the whole image. */
export const ReserveAnswer = Type.Object({ layers: Type.Optional(Type.Array(Digest, { maxItems: 512 })) }, closed);
export type ReserveAnswer = Static<typeof ReserveAnswer>;
