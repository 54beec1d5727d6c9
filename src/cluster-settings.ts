/** What the parts of UMS in a cluster are told by their environment (ConfigMap `migration-env` and the downward API). */
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "./errors.ts";
import { siteNamePattern } from "./protocol/names.ts";

const Port = (value: number) => Type.Integer({ minimum: 1, maximum: 65_535, default: value });
const Text = (value: string) => Type.String({ maxLength: 4096, default: value });

/** The original's names where it had them. Everything is text; numbers and lists are read from it. */
const Environment = Type.Object({
  KUBERNETES_SERVICE_HOST: Type.Optional(Type.String()),
  KUBERNETES_SERVICE_PORT: Type.Optional(Type.String()),
  /** For a process outside of a cluster: tests, and a person who tries something. */
  KUBECONFIG: Type.Optional(Type.String()),
  SITE_NAME: Type.Optional(Type.String({ pattern: siteNamePattern })),
  ADVERTISE: Text(""),
  SSU_INTERFACE_ENABLE: Text(""),
  SSU_INTERFACE_SERVICE: Text("ssu-interface"),
  SSU_INTERFACE_HOST: Type.Optional(Type.String()),
  SSU_INTERFACE_NODEPORT: Port(30_002),
  /** Where the operator finds its own site's coordinator: a URL, as the original had it, of which host and port count. */
  SYNC_HOST: Type.Optional(Type.String({ pattern: "^((https?://)?[a-zA-Z0-9.-]+(:[0-9]{1,5})?/?)?$" })),
  LOG_LEVEL: Type.Enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"], { default: "info" }),
  POD_NAME: Text("ums"),
  POD_NAMESPACE: Type.Optional(Type.String()),
  NODE_NAME: Text(""),
  HOST_IP: Text(""),
  /** What other sites may send: JSON, as `accept` of a host's configuration. The coordinator reads it. */
  ACCEPT: Text("{}"),
  MAX_CONCURRENT_MIGRATIONS: Type.Integer({ minimum: 1, maximum: 1000, default: 4 }),
  /** That come from other sites; one of several paired sites has half of it. */
  MAX_INCOMING_MIGRATIONS: Type.Integer({ minimum: 1, maximum: 1000, default: 64 }),
  /** `signal`: containerd is started again by whatever supervises it when it ends; otherwise systemd is asked. */
  CONTAINERD_RESTART: Type.Enum(["systemd", "signal"], { default: "systemd" }),
  /** For tests: the annotation `ums.dev/breakpoint` of a Migration makes it wait at a step (src/breakpoint.ts). */
  BREAKPOINTS: Text(""),
  /** Serves the original's API without TLS and without asking who calls. Unsafe: see docs/kubernetes.md. */
  UNSAFE_HTTP: Type.Boolean({ default: false }),
});
export type ClusterSettings = Static<typeof Environment>;

/** @throws UmsError BAD_CONFIGURATION */
export function readClusterSettings(environment: NodeJS.ProcessEnv): ClusterSettings {
  const given = Object.fromEntries(
    Object.keys(Environment.properties).flatMap((key) => (environment[key] === undefined ? [] : [[key, environment[key]]])),
  );
  const settings = Value.Convert(Environment, Value.Default(Environment, given));
  if (Value.Check(Environment, settings)) return settings;
  const [first] = Value.Errors(Environment, settings);
  throw new UmsError("BAD_CONFIGURATION", `The environment's ${first?.instancePath.slice(1) ?? ""} ${first?.message ?? "can't be used"}.`);
}

/** Host and port at which the operator calls its own site's coordinator. */
export function ownCoordinator({ SYNC_HOST }: ClusterSettings, namespace: string): string {
  const host = SYNC_HOST?.replace(/^https?:\/\//, "").replace(/\/$/, "") || `migration-coordinator.${namespace}.svc`;
  return /:\d+$/.test(host) ? host : `${host}:${coordinatorServicePort}`;
}

/** Of UMS itself, as deploy/kubernetes/rbac.yml names them. */
export const ownAccounts = ["ums-coordinator", "ums-operator", "ums-interface"] as const;
/** Labels `app` of its parts but the interface, as deploy/kubernetes/deployment.yml has them. */
export const ownApps = ["migration-coordinator", "migration-operator"] as const;

/** Limits of a migration between clusters, in milliseconds. */
export const clusterLimits = {
  preflightMs: 120_000,
  reserveMs: 300_000,
  transferMs: 600_000,
  restoreMs: 120_000,
  requestMs: 20_000,
  scheduleMs: 60_000,
  /** A container that waits longer is made anew by the kubelet, and waits again. */
  armMs: 240_000,
  /** How long a destination waits for a source that says nothing: longer than a source needs between two requests. */
  leaseMs: 3_600_000,
} as const;

/** Where the interfaces listen on their nodes. */
export const interfacePort = 7444;
/** Where the coordinator listens in its pod, as the original's did. */
export const coordinatorPort = 5000;
/** Of its Service. */
export const coordinatorServicePort = 80;
export const coordinatorNodePort = 30_001;
/** Where coordinator and operator answer their kubelet's probes, in their pods; no Service leads there. */
export const healthPort = 8080;
/** Where the interface does, on its node's own loopback: it has the node's network. */
export const interfaceHealth = { host: "127.0.0.1", port: 7445 } as const;
