/** A busy service on one of two hosts, and clients that never leave it alone: what tests, the soak and the benchmark move about. */
import { type Crowd, createCrowd, type Served, startBusyClient, startUdpFlow } from "./busy-client.ts";
import { impatient, moved } from "./disturbance.ts";
import { imageReference } from "./images.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

const name = "greet";
const [tcpPort, udpPort] = [18_077, 18_078];

export type BusyService = AsyncDisposable &
  Readonly<{
    sites: Sites;
    crowd: Crowd;
    /** Moves the service to the other host and lets its clients go on for a moment. @returns what they met since the last look */
    hop(): Promise<Served>;
    /** Lines of both hosts' logs about connections that UMS could not hold. */
    late(): string[];
  }>;

/** With clients outside, and on the host where the service begins; all of them at that one's address. */
export async function createBusyService(): Promise<BusyService> {
  const sites = await createSites({ images: ["services"], configuration: impatient });
  const crowd = createCrowd();
  const dispose = async () => {
    await crowd.end();
    await sites[Symbol.asyncDispose]();
  };
  try {
    const { a, b, hosts } = sites;
    // As Ubuntu has it: loose filtering by reverse path, on every device.
    for (const { host } of [a, b]) await host.exec(["sysctl", "--write", "net.ipv4.conf.all.rp_filter=2"]);
    const publish = ["--publish", `${tcpPort}:8080`, "--publish", `${udpPort}:8081/udp`];
    await a.host.podman(["run", "--detach", "--name", name, ...publish, imageReference("services"), "python3", "-u", "/srv/greet.py"]);
    const target = { host: a.host.address, port: tcpPort };
    crowd.clients.set("outside", await startBusyClient(hosts.wan, { ...target, workers: 6 }));
    crowd.clients.set("on the host itself", await startBusyClient(a.host, { ...target, workers: 2 }));
    crowd.flows.set("outside", await startUdpFlow(hosts.wan, { host: a.host.address, port: udpPort }));
    crowd.flows.set("on the host itself", await startUdpFlow(a.host, { host: a.host.address, port: udpPort }));
    // What the first ones met while the service was still starting is forgotten.
    await crowd.look(0);
    let [from, to] = [a, b];
    return {
      sites,
      crowd,
      async hop() {
        const { heldMs = 0 } = await moved(from, to, name);
        [from, to] = [to, from];
        return await crowd.look(heldMs);
      },
      late: () => [a, b].flatMap(lateAt),
      [Symbol.asyncDispose]: () => dispose(),
    };
  } catch (cause) {
    await dispose();
    throw cause;
  }
}

const lateAt = ({ host, serve }: TestSite) =>
  serve()
    .output()
    .split("\n")
    .filter((line) => line.includes("could not be held"))
    .map((line) => `${host.name}: ${line}`);
