import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { afterAll } from "vitest";
import { UmsError } from "../../errors.ts";
import { createFakeCoordinator } from "./fake-coordinator.ts";
import { createLocalApi } from "./http.ts";
import { createMetrics } from "./metrics.ts";
import { describeOriginalApi, type OriginalApiUnderTest } from "./original.contract.ts";

const closings: (() => Promise<void>)[] = [];
afterAll(async () => {
  for (const close of closings) await close();
});

/** A cluster whose pod moves within some milliseconds. */
async function open(): Promise<OriginalApiUnderTest> {
  const pod = { name: "redis", namespace: "default" };
  const destinationUrl = "10.1.2.3:30001";
  let here = true;
  const fake = createFakeCoordinator({
    services: async () => [{ ...pod, migratable: true, status: "Running", image: "redis", ports: [] }],
    async migrate({ name, to }) {
      if (name !== pod.name) throw new UmsError("SERVICE_NOT_FOUND", `There is no pod ${name}.`);
      if (fake.coordinator.migrations().length > 0) throw new UmsError("ALREADY_MIGRATING", "It is on its way.");
      const started = fake.put({ id: "m0000001", service: name, destination: to });
      void (async () => {
        for (const phase of ["Preflight", "PreCopy", "Frozen", "Transferring", "CuttingOver"] as const) {
          await sleep(150);
          fake.put({ id: started.id, phase });
        }
        here = false;
        const figures = { totalMs: 1500, phases: { Frozen: 20, Transferring: 200, Restoring: 100 }, steps: { reserve: 300 } };
        fake.end(started.id, "Succeeded", { ...figures, destinationPod: { metadata: pod } });
      })();
      return started;
    },
  });
  const trust = {
    peers: () => [{ name: "beta", addresses: [destinationUrl], certificate: "", pairedAt: "" }],
  } as unknown as Parameters<typeof createLocalApi>[0]["trust"];
  const { coordinator } = fake;
  const app = createLocalApi({
    coordinator,
    trust,
    pairing: {} as Parameters<typeof createLocalApi>[0]["pairing"],
    addresses: [],
    metrics: createMetrics(coordinator.migrations),
    log: pino({ level: "silent" }),
    original: { approach: "ssu", ssu: { host: undefined, port: 30_002 } },
  });
  await app.listen({ host: "127.0.0.1", port: 0 });
  closings.push(() => app.close());
  const { port } = app.server.address() as AddressInfo;

  async function ask(method: string, path: string, body?: unknown): Promise<IncomingMessage> {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json" };
    const request = httpRequest({ host: "127.0.0.1", port, method, path, headers });
    request.on("error", () => undefined); // it is answered before a body that is too long has been read
    request.end(text);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    return response;
  }
  return {
    pod,
    destinationUrl,
    async call(method, path, body) {
      const response = await ask(method, path, body);
      let text = "";
      for await (const chunk of response) text += String(chunk);
      return { status: response.statusCode ?? 0, type: response.headers["content-type"] ?? "", text };
    },
    async stream(path) {
      const response = await ask("GET", path);
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      return { type: response.headers["content-type"] ?? "", text: () => text, close: () => void response.destroy() };
    },
    migrations: async () => coordinator.migrations().length,
    isHere: async () => here,
  };
}

describeOriginalApi("the coordinator's API", open);
