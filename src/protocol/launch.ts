/** How a container was started. */
import { type Static, Type } from "typebox";
import { AbsolutePath, closed, Text } from "./forms.ts";

const Id = Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1 });
/** 0: none. */
const Limit = Type.Integer({ minimum: 0 });

/** A bind mount, which CRIU doesn't dump: whoever restores must bring it. */
const ExternalMount = Type.Object(
  { destination: AbsolutePath, kind: Type.Union([Type.Literal("file"), Type.Literal("directory")]) },
  closed,
);
export type ExternalMount = Static<typeof ExternalMount>;

/** How a container was started: in words that every engine knows, since each writes them into the bundle. */
export const Launch = Type.Object(
  {
    args: Type.Array(Text, { minItems: 1, maxItems: 4096 }),
    env: Type.Record(Type.String({ maxLength: 4096 }), Text),
    workDirectory: Type.String({ maxLength: 4096 }),
    uid: Id,
    gid: Id,
    groups: Type.Array(Id, { maxItems: 1024 }),
    mounts: Type.Array(ExternalMount, { maxItems: 256 }),
    limits: Type.Object({ memoryBytes: Limit, cpuShares: Limit, cpuPeriodUs: Limit, cpuQuotaUs: Limit }, closed),
  },
  closed,
);
export type Launch = Static<typeof Launch>;
