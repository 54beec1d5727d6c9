/** Asks the `ums serve` of its host for one small thing over and over, and prints the longest wait in milliseconds each second. */
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

for (let longest = 0, told = Date.now(); ; await sleep(5)) {
  // What this program itself could not do in time is not the other one's fault.
  const before = performance.eventLoopUtilization();
  const waited = await ask();
  const { active } = performance.eventLoopUtilization(before);
  longest = Math.max(longest, waited - active);
  if (Date.now() - told < 1_000) continue;
  console.log(`longest ${longest.toFixed()}`);
  [longest, told] = [0, Date.now()];
}
