/** Asks the `ums serve` of its host for one small thing over and over, and prints how long it waited, in milliseconds. */
import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const agent = new Agent({ keepAlive: true });

async function ask(): Promise<number> {
  const startedAt = performance.now();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const asked = request({ agent, socketPath: "/run/ums/ums.sock", path: "/forwards" });
  asked.on("response", (response) => void response.resume().on("end", resolve)).on("error", reject);
  asked.end();
  await promise;
  return performance.now() - startedAt;
}

for (; ; await sleep(5)) {
  // What this program itself could not do in time is not the other one's fault.
  const before = performance.eventLoopUtilization();
  const waited = await ask();
  console.log(`waited ${(waited - performance.eventLoopUtilization(before).active).toFixed()}`);
}
