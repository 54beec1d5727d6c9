/** How the API server is reached, and as whom. */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { RequestOptions } from "node:https";
import { dirname, join, resolve } from "node:path";
import { Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "../../errors.ts";

export type Connection = Readonly<{
  /** Its path, if any, comes before every request's. */
  server: URL;
  /** The namespace which the caller itself lives in, or the kubeconfig names. */
  namespace: string;
  /** TLS settings and headers; asked for each request, as tokens are replaced while UMS runs. */
  credentials(): Promise<Pick<RequestOptions, "ca" | "cert" | "key" | "rejectUnauthorized" | "servername" | "headers">>;
}>;

const accountDirectory = "/var/run/secrets/kubernetes.io/serviceaccount";
/** The kubelet replaces a token of an hour after 48 minutes, so one of a minute ago is good. */
const tokenLifeMs = 60_000;

/** As the service account of the pod that this process runs in. @throws UmsError BAD_CONFIGURATION outside of a pod */
export function connectInCluster({
  host,
  port,
  directory = accountDirectory,
}: {
  /** KUBERNETES_SERVICE_HOST */
  host: string | undefined;
  /** KUBERNETES_SERVICE_PORT */
  port: string | undefined;
  directory?: string;
}): Connection {
  if (!host || !port) throw new UmsError("BAD_CONFIGURATION", "This process runs in no pod, so it needs a kubeconfig.");
  let ca: string;
  let namespace: string;
  try {
    ca = readFileSync(join(directory, "ca.crt"), "utf8");
    namespace = readFileSync(join(directory, "namespace"), "utf8").trim();
  } catch (cause) {
    throw new UmsError("BAD_CONFIGURATION", "The pod has no service account token mounted.", { cause });
  }
  let token: { text: string; readAt: number } | undefined;
  return {
    server: new URL(`https://${host.includes(":") ? `[${host}]` : host}:${port}`),
    namespace,
    async credentials() {
      if (!token || performance.now() - token.readAt > tokenLifeMs) {
        token = { text: (await readFile(join(directory, "token"), "utf8")).trim(), readAt: performance.now() };
      }
      return { ca, headers: { authorization: `Bearer ${token.text}` } };
    },
  };
}

const Reference = Type.Object({ cluster: Type.String(), user: Type.String(), namespace: Type.Optional(Type.String()) });
const Cluster = Type.Object({
  server: Type.String({ pattern: "^https?://" }),
  "certificate-authority": Type.Optional(Type.String()),
  "certificate-authority-data": Type.Optional(Type.String()),
  "tls-server-name": Type.Optional(Type.String()),
  "insecure-skip-tls-verify": Type.Optional(Type.Boolean()),
});
const User = Type.Object({
  "client-certificate": Type.Optional(Type.String()),
  "client-certificate-data": Type.Optional(Type.String()),
  "client-key": Type.Optional(Type.String()),
  "client-key-data": Type.Optional(Type.String()),
  token: Type.Optional(Type.String()),
  tokenFile: Type.Optional(Type.String()),
});
/** The parts that UMS reads (kubernetes, client-go/tools/clientcmd/api/v1/types.go). */
const Kubeconfig = Type.Object({
  "current-context": Type.String(),
  contexts: Type.Array(Type.Object({ name: Type.String(), context: Reference })),
  clusters: Type.Array(Type.Object({ name: Type.String(), cluster: Cluster })),
  users: Type.Array(Type.Object({ name: Type.String(), user: User })),
});
/** What would have to be asked for credentials, or passed. */
const unused = ["exec", "auth-provider", "username", "password", "as", "proxy-url"];

/** As a kubeconfig's current context says, by a certificate or a token. @throws UmsError BAD_CONFIGURATION */
export async function connectByKubeconfig(file: string): Promise<Connection> {
  // Loaded here alone: no pod of UMS needs it.
  const { load } = await import("js-yaml");
  const config = await readFile(file, "utf8")
    .then((text) => load(text))
    .catch(() => undefined);
  if (!Value.Check(Kubeconfig, config)) throw new UmsError("BAD_CONFIGURATION", `${file} is no kubeconfig.`);
  const named = <T extends { name: string }>(list: readonly T[], name: string | undefined) => list.find((each) => each.name === name);
  const context = named(config.contexts, config["current-context"])?.context;
  const cluster = named(config.clusters, context?.cluster)?.cluster;
  const user = named(config.users, context?.user)?.user;
  if (!context || !cluster || !user) throw new UmsError("BAD_CONFIGURATION", `${file} has no current context with a cluster and a user.`);
  const asked = unused.find((key) => key in cluster || key in user);
  if (asked !== undefined) throw new UmsError("BAD_CONFIGURATION", `${file} asks for “${asked}”, which UMS does not use.`);
  const given = async (data: string | undefined, place: string | undefined): Promise<Buffer | undefined> => {
    if (data !== undefined) return Buffer.from(data, "base64");
    // As kubectl has it: beside the file that names it.
    return place === undefined ? undefined : await readFile(resolve(dirname(file), place));
  };
  return {
    server: new URL(cluster.server),
    namespace: context.namespace ?? "default",
    async credentials() {
      const token = user.tokenFile === undefined ? user.token : (await readFile(resolve(dirname(file), user.tokenFile), "utf8")).trim();
      const options = {
        ca: await given(cluster["certificate-authority-data"], cluster["certificate-authority"]),
        cert: await given(user["client-certificate-data"], user["client-certificate"]),
        key: await given(user["client-key-data"], user["client-key"]),
        rejectUnauthorized: cluster["insecure-skip-tls-verify"] === true ? false : undefined,
        servername: cluster["tls-server-name"],
        headers: token === undefined ? undefined : { authorization: `Bearer ${token}` },
      };
      return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    },
  };
}
