/** What differs between hosts of cgroup version 2 and those of version 1, and must hold on both. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { startClient } from "./client.ts";
import {
  clearBreakpoint,
  copiesOn,
  createGround,
  expectNothingLost,
  expectOneCopy,
  type Ground,
  liveOn,
  moved,
  settled,
  startAndStopAt,
  watchCopies,
} from "./disturbance.ts";
import type { Host } from "./hosts.ts";
import { redisPort } from "./redis.ts";
import type { Sites, TestSite } from "./sites.ts";

let ground: Ground;
let sites: Sites;
let a: TestSite;
let b: TestSite;

beforeAll(async () => {
  ground = await createGround({ cgroupVersion: 2 });
  sites = ground.sites;
  ({ a, b } = sites);
});
afterAll(() => ground[Symbol.asyncDispose]());
beforeEach(() => ground.freshService());

const writingClient = async () => {
  const client = await startClient(sites.hosts.wan, { host: a.host.address, port: redisPort });
  onTestFinished(() => client.kill());
  return client;
};
const inspect = async ({ podman }: Host, format: string) => (await podman(["inspect", "--format", format, "redis"])).stdout;
const groupOf = (pid: number) => /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1];

/** What the service sees of its own group: its name, what is mounted at /sys/fs/cgroup, and who is in that. */
async function ownView({ podman }: Host): Promise<Record<string, unknown>> {
  const { stdout } = await podman(["exec", "redis", "cat", "/proc/1/cgroup", "/proc/1/mountinfo", "/sys/fs/cgroup/cgroup.procs"]);
  const lines = stdout.split("\n");
  return {
    group: lines.filter((line) => line.startsWith("0::")),
    mounts: lines.filter((line) => line.includes(" /sys/fs/cgroup")).map((line) => line.split(" ").slice(3, 6).join(" ")),
    processes: lines.includes("1"),
  };
}

test("a service is in its own container's group after each of three hops: it sees what it saw, and can be paused", async () => {
  const before = await ownView(a.host);
  expect(before).toMatchObject({ group: ["0::/"], mounts: [expect.stringMatching(/^\/ \/sys\/fs\/cgroup /)], processes: true });
  for (const [from, to] of [
    [a, b],
    [b, a],
    [a, b],
  ] as const) {
    await moved(from, to);
    const id = await inspect(to.host, "{{.Id}}");
    const copies = copiesOn(to.host);
    expect(copies).toMatchObject([{ container: `libpod-${id}`, state: "live" }]);
    expect(groupOf(copies[0]!.pid)).toMatch(new RegExp(`/libpod_parent/libpod-${id}$`));
    expect(await ownView(to.host)).toEqual(before);
    await to.host.podman(["pause", "redis"]);
    expect(copiesOn(to.host)).toMatchObject([{ state: "frozen" }]);
    await to.host.podman(["unpause", "redis"]);
  }
  await expectOneCopy(sites, b);
  expect(await ground.leftovers()).toEqual([]);
});

test("a service that has moved is still there when its next migration is undone after the restore, and no group of it is left", async () => {
  await moved(a, b);
  const id = await startAndStopAt({ a: b, b: a }, "restore", "after");
  expect((await b.ums(["cancel", id])).exitCode).toBe(0);
  clearBreakpoint(b.host);
  expect(await settled({ a: b, b: a }, id)).toMatchObject({ phase: "RolledBack", error: { code: "CANCELLED" } });
  await expectOneCopy(sites, b);
  expect(await ground.leftovers()).toEqual([]);
});

test.each([
  ["before the grant it starts afresh", "transfer", "RolledBack", () => a],
  ["after the grant it goes on at the destination, with its memory", "restore", "Succeeded", () => b],
] as const)("a frozen copy dies of SIGKILL at once, and not at its thaw: %s", async (_how, step, phase, owner) => {
  const client = await writingClient();
  const copies = watchCopies(() => liveOn([a.host, b.host]));
  onTestFinished(() => copies.stop());
  const id = await startAndStopAt(sites, step, "after");
  const [frozen] = copiesOn(a.host);
  process.kill(frozen!.pid, "SIGKILL");
  await expect.poll(() => copiesOn(a.host)).toEqual([]);
  await expect.poll(() => inspect(a.host, "{{.State.Status}}")).toBe("exited");
  if (phase === "RolledBack") expect((await a.ums(["cancel", id])).exitCode).toBe(0);
  clearBreakpoint(a.host);
  const migration: Migration = await settled(sites, id);
  expect(migration).toMatchObject({ phase });
  copies.expectNeverTwo();
  await expectOneCopy(sites, owner());
  if (phase === "Succeeded") await expectNothingLost(client);
  expect(await ground.leftovers()).toEqual([]);
});
