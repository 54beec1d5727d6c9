import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { contract } from "../src/container-engines/contract.ts";
import { machineCgroupVersion } from "./cgroups.ts";
import { createHosts, type Hosts, inventoryChanges } from "./hosts.ts";
import { loadImage, runOnce } from "./images.ts";

const program = fileURLToPath(new URL("podman-contract.ts", import.meta.url));

describe.each([...new Set([machineCgroupVersion(), 2 as const])])("Podman with cgroup version %i", (cgroupVersion) => {
  let hosts: Hosts;
  const failures = new Map<string, string | undefined>();
  let left: string[];

  beforeAll(async () => {
    hosts = await createHosts({ cgroupVersion });
    const [host] = hosts.hosts;
    const image = await loadImage(host, "base");
    await runOnce(host, image);
    await host.exec(["mkdir", "-p", "/run/contract"]);
    const before = await host.inventory();
    const { stdout } = await host.exec([process.execPath, program, "/run/contract/podman.sock", image], { timeoutMs: 150_000 });
    for (const line of stdout.trim().split("\n")) {
      const { name, failure } = JSON.parse(line) as { name: string; failure?: string };
      failures.set(name, failure);
    }
    left = inventoryChanges(before, await host.inventory());
  });
  afterAll(() => hosts[Symbol.asyncDispose]());

  test.each(Object.keys(contract))("%s", (name) => {
    expect(failures.has(name)).toBe(true);
    expect(failures.get(name)).toBeUndefined();
  });

  test("keeps nothing of all that", () => {
    // Podman's own, with its first volume.
    expect(left.filter((line) => line !== "+ layers: volumes/backingFsBlockDev")).toEqual([]);
  });
});
