/**
 * What a container is, in words that every engine knows: enough to create its twin at the destination.
 * It crosses between sites, so it is a schema, closed, and validated where it comes in.
 */
import { type Static, Type } from "typebox";
import { AbsolutePath, closed, Port, Text } from "./forms.ts";

const Name = Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$" });
const TextRecord = Type.Record(Type.String({ maxLength: 4096 }), Text);

export const PortMapping = Type.Object(
  {
    hostIp: Type.String({ pattern: "^[0-9a-fA-F.:]*$" }),
    hostPort: Port,
    containerPort: Port,
    protocol: Type.Union([Type.Literal("tcp"), Type.Literal("udp"), Type.Literal("sctp")]),
  },
  closed,
);
export type PortMapping = Static<typeof PortMapping>;

export const ContainerSpec = Type.Object(
  {
    name: Name,
    imageId: Type.String({ pattern: "^[0-9a-f]{64}$" }),
    imageName: Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}$" }),
    entrypoint: Type.Array(Text),
    command: Type.Array(Text),
    env: TextRecord,
    user: Type.String({ maxLength: 256 }),
    groups: Type.Array(Type.String({ maxLength: 64 })),
    workDirectory: Type.String({ maxLength: 4096 }),
    labels: TextRecord,
    annotations: TextRecord,
    hostname: Type.Optional(Type.String({ maxLength: 253 })),
    ports: Type.Array(PortMapping, { maxItems: 256 }),
    volumes: Type.Array(
      Type.Object({ name: Name, destination: AbsolutePath, options: Type.Array(Text), readOnly: Type.Boolean() }, closed),
      {
        maxItems: 64,
      },
    ),
    binds: Type.Array(
      Type.Object({ source: AbsolutePath, destination: AbsolutePath, options: Type.Array(Text), readOnly: Type.Boolean() }, closed),
      {
        maxItems: 64,
      },
    ),
    tmpfs: TextRecord,
    shmBytes: Type.Integer({ minimum: 0 }),
    restartPolicy: Type.Object({ name: Type.String({ pattern: "^[a-z-]*$" }), retries: Type.Integer() }, closed),
    health: Type.Optional(
      Type.Object(
        {
          test: Type.Array(Text),
          intervalNs: Type.Integer(),
          timeoutNs: Type.Integer(),
          startPeriodNs: Type.Integer(),
          retries: Type.Integer(),
          onFailure: Type.String(),
        },
        closed,
      ),
    ),
    stopSignal: Type.Integer(),
    stopTimeoutS: Type.Integer(),
    limits: Type.Object(
      {
        memoryBytes: Type.Integer(),
        memorySwapBytes: Type.Integer(),
        memoryReservationBytes: Type.Integer(),
        memorySwappiness: Type.Integer(),
        oomKillDisable: Type.Boolean(),
        cpuShares: Type.Integer(),
        cpuPeriod: Type.Integer(),
        cpuQuota: Type.Integer(),
        cpusetCpus: Text,
        cpusetMems: Text,
        pids: Type.Integer(),
        blkioWeight: Type.Integer(),
      },
      closed,
    ),
    oomScoreAdj: Type.Integer(),
    ulimits: Type.Array(Type.Object({ name: Type.String({ pattern: "^[A-Z_]+$" }), soft: Type.Integer(), hard: Type.Integer() }, closed)),
    capAdd: Type.Array(Type.String({ pattern: "^[A-Za-z_]+$" })),
    capDrop: Type.Array(Type.String({ pattern: "^[A-Za-z_]+$" })),
    securityOptions: Type.Array(Text),
    readOnly: Type.Boolean(),
    init: Type.Boolean(),
    dns: Type.Object({ servers: Type.Array(Text), search: Type.Array(Text), options: Type.Array(Text) }, closed),
    extraHosts: Type.Array(Text),
    sysctls: TextRecord,
    log: Type.Object({ driver: Type.String({ maxLength: 64 }), size: Type.String({ maxLength: 32 }), tag: Text }, closed),
    timezone: Text,
    umask: Type.String({ maxLength: 8 }),
    networks: Type.Record(Name, Type.Object({ aliases: Type.Array(Text) }, closed)),
  },
  closed,
);
export type ContainerSpec = Static<typeof ContainerSpec>;
