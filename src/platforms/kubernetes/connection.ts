/** How the API server is reached, and as whom. */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { RequestOptions } from "node:https";
import { join } from "node:path";
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

/** As a kubeconfig's current context says. @throws UmsError BAD_CONFIGURATION */
export async function connectByKubeconfig(path: string): Promise<Connection> {
  // Loaded here alone: it brings the whole API's models, 85 MB of memory.
  const { KubeConfig } = await import("@kubernetes/client-node");
  const config = new KubeConfig();
  try {
    config.loadFromFile(path);
  } catch (cause) {
    throw new UmsError("BAD_CONFIGURATION", `${path} is no kubeconfig.`, { cause });
  }
  const cluster = config.getCurrentCluster();
  if (!cluster) throw new UmsError("BAD_CONFIGURATION", `${path} has no current cluster.`);
  if (cluster.proxyUrl !== undefined) throw new UmsError("BAD_CONFIGURATION", `${path} asks for a proxy, which UMS does not use.`);
  return {
    server: new URL(cluster.server),
    namespace: config.getContextObject(config.getCurrentContext())?.namespace ?? "default",
    async credentials() {
      const options: RequestOptions = {};
      await config.applyToHTTPSOptions(options);
      const { ca, cert, key, rejectUnauthorized, servername, headers } = options;
      return Object.fromEntries(
        Object.entries({ ca, cert, key, rejectUnauthorized, servername, headers }).filter(([, value]) => value !== undefined),
      );
    },
  };
}
