/** Calls preflight functions inside a test host: reads a list of calls from standard input, prints the list of answers. */
import { text } from "node:stream/consumers";
import { marksIn } from "../src/checkpoint/marks.ts";
import { type Config, parseConfig } from "../src/config.ts";
import { createPodman } from "../src/container-engines/podman/podman.ts";
import { ensurePodmanService } from "../src/container-engines/podman/service.ts";
import { destinationChecks, type LedPort } from "../src/preflight/destination.ts";
import { describeNeed } from "../src/preflight/need.ts";
import { serviceChecks } from "../src/preflight/service.ts";
import { doctorChecks } from "../src/preflight/doctor.ts";
import { containerLines } from "../src/preflight/source.ts";
import { siteChecks } from "../src/preflight/site.ts";
import { accepting } from "../src/accept.ts";
import type { ContainerNeed } from "../src/protocol/container.ts";

export type Call =
  | { call: "site" | "doctor"; config?: object }
  | { call: "containers"; migrating?: string }
  | { call: "service"; name: string; bindMounts?: string[] }
  | { call: "need"; name: string }
  | { call: "destination"; need: ContainerNeed; led?: LedPort[]; config?: object };

const requests = JSON.parse(await text(process.stdin)) as Call[];
const usual = { siteName: "test" };
const { podmanSocket } = parseConfig(usual);
const signal = AbortSignal.timeout(50_000);
const podman = await ensurePodmanService(podmanSocket);
const engineOf = ({ podmanSocket: socketPath, shimPath, stateDirectory }: Config) =>
  createPodman({ socketPath, shimPath, marksDirectory: marksIn(stateDirectory) });
const engine = engineOf(parseConfig(usual));

async function find(name: string) {
  const container = await engine.find(name, signal);
  if (!container) throw new Error(`there is no container ${name}`);
  return container;
}

async function siteOf(settings: Config, lines: typeof siteChecks) {
  const itsEngine = engineOf(settings);
  try {
    return await lines({ settings, engine: itsEngine, signal });
  } finally {
    await itsEngine.close();
  }
}

async function answer(request: Call): Promise<unknown> {
  switch (request.call) {
    case "site":
      return siteOf(parseConfig({ ...usual, ...request.config }), siteChecks);
    case "doctor":
      return siteOf(parseConfig({ ...usual, ...request.config }), doctorChecks);
    case "containers":
      return containerLines({
        settings: parseConfig(usual),
        engine,
        migrating: (name) => (name === request.migrating ? "0123456789ab" : undefined),
        signal,
      });
    case "service":
      return serviceChecks({ engine, container: await find(request.name), bindMounts: request.bindMounts ?? [], signal });
    case "need":
      return describeNeed({ engine, container: await find(request.name), signal });
    case "destination": {
      const config = parseConfig({ ...usual, ...request.config });
      return destinationChecks({
        need: request.need,
        engine,
        settings: config,
        accept: accepting(config.accept),
        led: request.led ?? [],
        signal,
      });
    }
  }
}

try {
  const answers = [];
  for (const request of requests) answers.push(await answer(request));
  process.stdout.write(JSON.stringify(answers));
} finally {
  await engine.close();
  await podman.close();
}
