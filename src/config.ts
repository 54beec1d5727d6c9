import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { Accept } from "./accept-form.ts";
import { UmsError } from "./errors.ts";
import { closed } from "./protocol/forms.ts";
import { addressPattern, siteNamePattern } from "./protocol/names.ts";

const Path = (value: string, description: string) =>
  Type.String({ pattern: "^/[^\\u0000]*$", maxLength: 4096, default: value, description });
const Seconds = (value: number, description: string) => Type.Number({ exclusiveMinimum: 0, maximum: 604_800, default: value, description });
const Count = (value: number, description: string) => Type.Integer({ minimum: 1, maximum: 1000, default: value, description });

/** The configuration file. Every field may be left out. docs/configuration.md is written from this. */
const ConfigFile = Type.Object(
  {
    siteName: Type.Optional(
      Type.String({ pattern: siteNamePattern, description: "The name under which other sites know this one; default: the host's name" }),
    ),
    listen: Type.Object(
      {
        host: Type.String({ minLength: 1, maxLength: 253, default: "0.0.0.0" }),
        port: Type.Integer({ minimum: 1, maximum: 65_535, default: 7443 }),
      },
      { ...closed, default: {}, description: "Where other sites reach this one (TLS)" },
    ),
    advertise: Type.Array(Type.String({ pattern: addressPattern }), {
      maxItems: 16,
      default: [],
      description: "host:port under which others may call this site; empty: listen.host, or the address that the other site sees",
    }),
    socketPath: Path("/run/ums/ums.sock", "The socket for the people of this host, at most 107 bytes"),
    socketGroup: Type.Optional(
      Type.String({ minLength: 1, maxLength: 32, description: "Group whose members may use the socket; default: root alone" }),
    ),
    stateDirectory: Path("/var/lib/ums", "Keys, peers and the journal; on a disk that survives a reboot"),
    imageDirectories: Type.Array(Type.String({ pattern: "^/[^\\u0000]*$" }), {
      minItems: 1,
      maxItems: 16,
      default: ["/dev/shm/ums", "/run/ums/images", "/var/lib/ums/images"],
      description: "Where memory images may lie; the first with room is taken",
    }),
    podmanSocket: Path("/run/ums/podman.sock", "UMS's own instance of Podman's API, started by `ums serve`"),
    accept: Type.Object(Accept.properties, {
      ...closed,
      default: {},
      description:
        "What other sites may send beyond a container as Podman makes any. With most of it, whoever administers a paired site may be root here",
    }),
    maxConcurrentMigrations: Count(2, "Migrations from this site at once; more are queued"),
    maxIncoming: Count(4, "Migrations to this site at once, at most half of them from one site where several are paired; more are refused"),
    criuPath: Path("/opt/ums/criu/criu", "CRIU, at least 4.2.1"),
    runcPath: Type.String({ minLength: 1, maxLength: 4096, default: "runc" }),
    shimPath: Path("/opt/ums/bin/ums-runc", "The OCI runtime that restores instead of creating"),
    breakpointFile: Type.Optional(
      Type.String({
        pattern: "^/[^\\u0000]*$",
        description: "For tests: while it holds `STEP before` or `STEP after`, migrations wait there",
      }),
    ),
    logLevel: Type.Enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"], { default: "info" }),
    limits: Type.Object(
      {
        reservationLeaseSeconds: Seconds(60, "A reservation whose source is silent for so long, and has no grant, is released"),
        preflightSeconds: Seconds(120, "All checks of both sides"),
        reserveSeconds: Seconds(900, "Image and storage at the destination"),
        preCopySeconds: Seconds(3600, "What is sent while the service runs"),
        transferSeconds: Seconds(600, "Dump and transfer while it is frozen"),
        restoreSeconds: Seconds(120, "Restore and health check"),
        peerRequestSeconds: Seconds(30, "One request to another site"),
      },
      { ...closed, default: {}, description: "Limits of time" },
    ),
  },
  closed,
);

/** The configuration of a site, complete. */
export type Config = Readonly<Omit<Static<typeof ConfigFile>, "siteName"> & { siteName: string }>;

/** Where the configuration lies when nobody says otherwise. */
const defaultConfigPath = "/etc/ums/config.json";

/**
 * Reads the configuration file; without a path, the default one where it is there.
 * @throws UmsError BAD_CONFIGURATION naming the file and the field
 */
export function loadConfig(path?: string): Config {
  const file = path ?? defaultConfigPath;
  let text = "{}";
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (path !== undefined || (cause as NodeJS.ErrnoException).code !== "ENOENT") {
      throw new UmsError("BAD_CONFIGURATION", `${file} can't be read.`, { cause });
    }
  }
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw new UmsError("BAD_CONFIGURATION", `${file} is not JSON: ${(cause as Error).message}.`, { cause });
  }
  return parseConfig(content, file);
}

/**
 * Checks what a configuration file says, and adds the defaults.
 * @throws UmsError BAD_CONFIGURATION
 */
export function parseConfig(content: unknown, file = "the configuration"): Config {
  const complete = Value.Default(ConfigFile, structuredClone(content));
  if (!Value.Check(ConfigFile, complete)) {
    const [first] = Value.Errors(ConfigFile, complete);
    const field = first?.instancePath.split("/").slice(1).join(".");
    // That is how TypeBox reports a key that a closed object has not.
    const reason = first?.message === "schema is false" ? "is no field of the configuration" : first?.message;
    throw new UmsError("BAD_CONFIGURATION", field ? `${file}: “${field}” ${reason}.` : `${file}: it ${reason}.`);
  }
  if (Buffer.byteLength(complete.socketPath) > 107) {
    throw new UmsError("BAD_CONFIGURATION", `${file}: “socketPath” is longer than the 107 bytes that a unix socket's path may have.`);
  }
  const siteName = complete.siteName ?? hostname().replace(/\..*/, "").toLowerCase();
  if (!new RegExp(siteNamePattern).test(siteName)) {
    throw new UmsError("BAD_CONFIGURATION", `${file}: the host's name “${siteName}” can't be a site's name, so “siteName” is needed.`);
  }
  return { ...complete, siteName };
}

/** The addresses that this site tells others; none where it listens everywhere and nobody configured any. */
export function advertisedAddresses({ advertise, listen }: Pick<Config, "advertise" | "listen">): string[] {
  if (advertise.length > 0) return advertise;
  if (listen.host === "0.0.0.0" || listen.host === "::") return [];
  return [listen.host.includes(":") ? `[${listen.host}]:${listen.port}` : `${listen.host}:${listen.port}`];
}
