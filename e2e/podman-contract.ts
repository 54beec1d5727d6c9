/** Runs the container engines' contract on the Podman of the host on which it is started; prints a JSON line for each case. */
import { readFile } from "node:fs/promises";
import { cgroupVersion } from "../src/checkpoint/cgroups.ts";
import { marksIn } from "../src/checkpoint/marks.ts";
import { parseConfig } from "../src/config.ts";
import { createPodman } from "../src/container-engines/podman/podman.ts";
import { ensurePodmanService } from "../src/container-engines/podman/service.ts";
import { contract } from "../src/container-engines/contract.ts";

const [socketPath = "", image = ""] = process.argv.slice(2);
const { shimPath, stateDirectory } = parseConfig({ siteName: "test" });
const service = await ensurePodmanService(socketPath);
const engine = createPodman({ socketPath, shimPath, marksDirectory: marksIn(stateDirectory) });
const hasPids =
  (await cgroupVersion()) === 1 || (await readFile("/sys/fs/cgroup/cgroup.controllers", "utf8")).trim().split(" ").includes("pids");
for (const [name, run] of Object.entries(contract)) {
  const failure = await run({ engine, image, network: "podman", unitLabel: "PODMAN_SYSTEMD_UNIT", hasPids }).then(
    () => undefined,
    (cause: unknown) => (cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)),
  );
  console.log(JSON.stringify({ name, failure }));
}
await engine.close();
await service.close();
