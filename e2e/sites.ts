/** Two hosts that are paired sites: what the demo, the tests and the benchmark start from. */
import { bundle } from "../setup/bundle.ts";
import { createHosts, type Host, type Hosts, type HostsOptions } from "./hosts.ts";
import type { RunningProcess } from "./place.ts";
import { type ImageName, loadImage, runOnce } from "./images.ts";
import { type UmsCommand, umsCommand } from "./ums-command.ts";

const umsPath = new URL("../bin/ums", import.meta.url).pathname;
/** Where `ums serve` of a test host listens. */
export const sitePort = 7443;

/** A host with `ums serve` on it. */
export type TestSite = UmsCommand &
  Readonly<{
    host: Host;
    name: string;
    /** The `ums serve` that runs now. */
    serve(): RunningProcess;
    /** Starts `ums serve` anew, after it was killed or the host came back. */
    restart(): Promise<void>;
    stop(): Promise<void>;
  }>;

export type Sites = AsyncDisposable & Readonly<{ hosts: Hosts; a: TestSite; b: TestSite }>;

export type SitesOptions = HostsOptions & Readonly<{ images?: readonly ImageName[]; configuration?: Readonly<Record<string, unknown>> }>;

/** Makes two hosts, gives both the images, starts `ums serve` on each and pairs them. */
export async function createSites({ images = ["redis"], configuration = {}, ...options }: SitesOptions = {}): Promise<Sites> {
  await bundle(); // `bin/ums` prefers it to the sources, and it is quicker
  const hosts = await createHosts(options);
  try {
    const [a, b] = await Promise.all([hosts.hosts[0], hosts.hosts[1]].map((host) => createSite(host, images, configuration)));
    if (!a || !b) throw new Error("There are no two hosts.");
    const { code } = await b.json<{ code: string }>(["pair"]);
    await a.json(["pair", "--with", `${b.host.address}:${sitePort}`, "--code", code]);
    return { hosts, a, b, [Symbol.asyncDispose]: () => hosts[Symbol.asyncDispose]() };
  } catch (cause) {
    await hosts[Symbol.asyncDispose]();
    throw cause;
  }
}

/** Starts `ums serve` on a host. */
export async function createSite(
  host: Host,
  images: readonly ImageName[],
  configuration: Readonly<Record<string, unknown>>,
): Promise<TestSite> {
  let process: RunningProcess | undefined;
  const { name } = host;
  const config = { siteName: name, listen: { host: host.address, port: sitePort }, logLevel: "debug", ...configuration };
  await host.exec(["mkdir", "-p", "/etc/ums"]);
  await host.exec(["tee", "/etc/ums/config.json"], { input: JSON.stringify(config) });
  for (const image of images) await runOnce(host, await loadImage(host, image));
  const site: TestSite = {
    host,
    name,
    serve() {
      if (!process) throw new Error(`ums serve does not run on ${name}.`);
      return process;
    },
    async restart() {
      // With the umask of deploy/host/ums.service.
      process = await host.spawn(["sh", "-c", 'umask 0077 && exec "$0" serve', umsPath]);
      await process.waitForLine(/"msg":"serving"/, 30_000);
    },
    async stop() {
      process?.kill("SIGTERM");
      await process?.exited;
    },
    ...umsCommand((args, { timeoutMs }) => host.exec([umsPath, ...args], { timeoutMs, reject: false })),
  };
  await site.restart();
  return site;
}
