/** A real API server with its etcd, on this machine's loopback: Kubernetes without nodes. It lives as long as the process that made it. */
import { type ChildProcess, spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, statSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";

export type ApiServer = AsyncDisposable &
  Readonly<{
    /** Of an administrator. */
    kubeconfig: string;
    /** Runs kubectl as that administrator. @returns what it printed */
    kubectl(...args: readonly string[]): Promise<string>;
    /** The same server, for somebody else. */
    kubeconfigFor(token: string): Promise<string>;
    /** Kills the API server; its etcd goes on. */
    stop(): Promise<void>;
    /** Resolves when it answers again. */
    start(): Promise<void>;
  }>;

const startLimitMs = 120_000;

/** The programs' newest builds in the cache; undefined where nobody has made them. */
export function apiServerPrograms(): { etcd: string; kubeApiserver: string } | undefined {
  const etcd = newest("cluster-node", "root/usr/bin/etcd");
  const kubeApiserver = newest("programs-kubernetes", "kube-apiserver");
  return etcd !== undefined && kubeApiserver !== undefined ? { etcd, kubeApiserver } : undefined;
}

function newest(shelf: string, program: string): string | undefined {
  const directory = join("/var/cache/ums", shelf);
  if (!existsSync(directory)) return undefined;
  const paths = readdirSync(directory)
    .filter((name) => /^[0-9a-f]{16}$/.test(name))
    .map((name) => join(directory, name, program))
    .filter((path) => existsSync(path));
  return paths.toSorted((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

/** Resolves when the API server is ready. */
export async function startApiServer({ etcd, kubeApiserver }: { etcd: string; kubeApiserver: string }): Promise<ApiServer> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "ums-api-server-"));
  // Outlives this process, whose end closes the pipe, and removes what is left.
  const janitor = spawn("sh", ["-c", 'cat >/dev/null; sleep 0.5; rm -rf "$1"', "sh", directory], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  undo.defer(async () => {
    await rm(directory, { recursive: true, force: true });
    janitor.stdin.end();
  });

  const [clients, peers, port] = [await freePort(), await freePort(), await freePort()];
  const etcdUrl = `http://127.0.0.1:${clients}`;
  const peerUrl = `http://127.0.0.1:${peers}`;
  const store = await run(
    etcd,
    [
      ...["--data-dir", join(directory, "etcd"), "--listen-client-urls", etcdUrl, "--advertise-client-urls", etcdUrl],
      ...["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl, "--initial-cluster", `default=${peerUrl}`],
      ...["--unsafe-no-fsync", "--log-level", "error"],
    ],
    directory,
  );
  undo.defer(store);

  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const path = (name: string) => join(directory, name);
  await writeFile(path("account.pub"), publicKey.export({ type: "spki", format: "pem" }));
  await writeFile(path("account.key"), privateKey.export({ type: "pkcs8", format: "pem" }));
  const token = randomBytes(16).toString("hex");
  await writeFile(path("tokens.csv"), `${token},admin,admin,"system:masters"\n`);
  const args = [
    ...["--etcd-servers", etcdUrl, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", String(port)],
    // Makes its certificate itself.
    ...["--cert-dir", directory, "--token-auth-file", path("tokens.csv"), "--authorization-mode", "RBAC"],
    ...["--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", path("account.pub")],
    ...["--service-account-signing-key-file", path("account.key"), "--service-cluster-ip-range", "10.96.0.0/16"],
    // No controller makes the default account that this one asks for. What DaemonSets may do is allowed per server.
    ...["--disable-admission-plugins", "ServiceAccount", "--allow-privileged", "--profiling=false", "--endpoint-reconciler-type", "none"],
  ];
  let end: (() => Promise<void>) | undefined;
  const server = `https://127.0.0.1:${port}`;
  const stop = async () => {
    await end?.();
    end = undefined;
  };
  const start = async () => {
    end ??= await run(kubeApiserver, args, directory);
    await ready(server, token, path("apiserver.crt"));
  };
  undo.defer(stop);
  await start();

  const ca = await readFile(path("apiserver.crt"));
  const kubeconfigFor = async (bearer: string) => {
    const file = path(`${randomBytes(4).toString("hex")}.kubeconfig`);
    await writeFile(
      file,
      JSON.stringify({
        apiVersion: "v1",
        kind: "Config",
        clusters: [{ name: "test", cluster: { server, "certificate-authority-data": ca.toString("base64") } }],
        users: [{ name: "test", user: { token: bearer } }],
        contexts: [{ name: "test", context: { cluster: "test", user: "test", namespace: "default" } }],
        "current-context": "test",
      }),
    );
    return file;
  };
  const kubeconfig = await kubeconfigFor(token);
  const owned = undo.move();
  return {
    kubeconfig,
    kubectl: async (...args) => {
      const { stdout } = await execa(join(dirname(kubeApiserver), "kubectl"), ["--kubeconfig", kubeconfig, ...args], {
        // Its cache of what the server knows.
        env: { HOME: directory },
        timeout: 60_000,
      });
      return stdout;
    },
    kubeconfigFor,
    stop,
    start,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Runs a program that dies with this process. @returns what ends it */
async function run(program: string, args: readonly string[], directory: string): Promise<() => Promise<void>> {
  const child: ChildProcess = spawn("setpriv", ["--pdeathsig", "KILL", "--", program, ...args], {
    cwd: directory,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4_096)));
  const exited = once(child, "exit");
  await once(child, "spawn");
  // One that refuses its arguments does so at once.
  await Promise.race([sleep(200), exited]);
  if (child.exitCode !== null) throw new Error(`${program} ended: ${said}`);
  return async () => {
    child.kill("SIGKILL");
    await exited;
  };
}

async function ready(server: string, token: string, certificate: string): Promise<void> {
  const { request } = await import("node:https");
  for (const until = performance.now() + startLimitMs; performance.now() < until; await sleep(100)) {
    if (!existsSync(certificate)) continue;
    const ca = await readFile(certificate);
    const status = await new Promise<number | undefined>((resolve) => {
      request(`${server}/readyz`, { ca, headers: { authorization: `Bearer ${token}` }, timeout: 5_000 }, (response) => {
        response.resume();
        resolve(response.statusCode);
      })
        .on("error", () => resolve(undefined))
        .end();
    });
    if (status === 200) return;
  }
  throw new Error("The API server did not become ready.");
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
