/** Containers as a stock Podman makes them, by crun and with their log in the journal: they move as others do, there and back. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { PlanReport } from "../src/apps/coordinator/schema.ts";
import { startClient } from "./client.ts";
import { imageReference } from "./images.ts";
import { redisPort } from "./redis.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

let sites: Sites;

beforeAll(async () => {
  sites = await createSites({ images: ["redis", "base"] });
});
afterAll(() => sites[Symbol.asyncDispose]());
afterEach(async () => {
  for (const { host, json, ums } of [sites.a, sites.b]) {
    for (const { migration } of await json<{ migration: string }[]>(["release"])) await ums(["release", migration]);
    await host.podman(["rm", "--force", "--all", "--time", "0"]);
    await host.podman(["volume", "rm", "--force", "--all"]);
  }
});

const crun = (site: TestSite, args: readonly string[]) => site.host.podman(["--runtime", "crun", ...args]);
const inspected = async ({ host }: TestSite, name: string, format: string) =>
  (await host.podman(["inspect", "--format", format, name])).stdout;

async function move(name: string, from: TestSite, to: TestSite): Promise<void> {
  const { exitCode, stdout, stderr } = await from.ums(["migrate", name, "--to", to.name]);
  expect(exitCode, stdout + stderr).toBe(0);
}

test("Redis with a volume and a published port moves there and back under a writing client", async () => {
  const { a, b, hosts } = sites;
  const cli = (site: TestSite, ...args: string[]) => site.host.podman(["exec", "redis", "redis-cli", ...args]);
  await crun(a, [
    ...["run", "--detach", "--name", "redis", "--publish", `${redisPort}:${redisPort}`, "--volume", "data:/data", "--restart", "always"],
    ...["--health-cmd", "redis-cli ping", "--health-interval", "disable", "--tmpfs", "/scratch", "--sysctl", "net.core.somaxconn=333"],
    ...[imageReference("redis"), "redis-server", "--protected-mode", "no", "--appendonly", "yes"],
  ]);
  expect(await inspected(a, "redis", "{{.OCIRuntime}}")).toBe("crun");
  await expect.poll(async () => (await cli(a, "ping")).stdout).toBe("PONG");
  await cli(a, "set", "kept", "in memory");
  await a.host.podman(["exec", "redis", "sh", "-c", "echo scratched >/scratch/file; echo changed >/etc/motd"]);
  const client = await startClient(hosts.wan, { host: a.host.address, port: redisPort });

  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    await move("redis", from, to);
    expect((await cli(to, "get", "kept")).stdout).toBe("in memory");
    expect((await to.host.podman(["exec", "redis", "cat", "/scratch/file", "/etc/motd"])).stdout).toBe("scratched\nchanged");
    expect((await to.host.podman(["healthcheck", "run", "redis"])).exitCode).toBe(0);
    expect(await client.verify()).toMatchObject({ lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0, failedConnections: 0 });
  }
  expect((await client.stop()).acknowledgedWrites).toBeGreaterThan(100);

  // An ordinary container of its host from then on.
  const processId = await inspected(a, "redis", "{{.State.Pid}}");
  await a.host.podman(["pause", "redis"]);
  await a.host.podman(["unpause", "redis"]);
  await a.host.podman(["restart", "--time", "5", "redis"]);
  expect(await inspected(a, "redis", "{{.State.Pid}}")).not.toBe(processId);
  // From the volume alone.
  await expect.poll(async () => (await cli(a, "get", "kept")).stdout).toBe("in memory");
  await a.host.podman(["stop", "--time", "5", "redis"]);
  await a.host.podman(["start", "redis"]);
  await a.host.podman(["rm", "--force", "--time", "0", "redis"]);
});

test("what a container is confined by, and what it sees of its host, is the same after the move", async () => {
  const { a, b } = sites;
  await crun(a, [
    ...[
      "run",
      "--detach",
      "--name",
      "box",
      "--read-only",
      "--user",
      "1000:1000",
      "--cap-drop",
      "all",
      "--security-opt",
      "no-new-privileges",
    ],
    ...["--hostname", "crunbox", "--volume", "data:/var/run/data", "--init"],
    ...[imageReference("base"), "sh", "-c", "while :; do sleep 1; done"],
  ]);
  // Of the mounts their paths alone: their options are each runtime's own. The image has few programs.
  const seen = async (site: TestSite) => {
    const look = "id; cat /proc/sys/kernel/hostname; ulimit -n; ls /dev /proc/acpi; cat /proc/1/status; cat /proc/self/mountinfo";
    const { stdout } = await site.host.podman(["exec", "box", "sh", "-c", look]);
    const isTold = (line: string) => !/^\w+:\t/.test(line) || /^(Cap\w+|NoNewPrivs|Seccomp):/.test(line);
    const place = (line: string) => (line.includes(" - ") ? `mounted: ${line.split(" ")[4]}` : line);
    const lines = stdout.split("\n").filter(isTold).map(place);
    return lines.filter((line) => !line.startsWith("mounted")).concat(lines.filter((line) => line.startsWith("mounted")).toSorted());
  };
  const before = await seen(a);
  expect(before).toEqual(expect.arrayContaining(["crunbox", "mounted: /run/data", expect.stringMatching(/^Seccomp:\s2/) as string]));
  await move("box", a, b);
  expect(await seen(b)).toEqual(before);
  await move("box", b, a);
  expect(await seen(a)).toEqual(before);
});

describe("a log in the journal", () => {
  const tick = ["sh", "-c", "while :; do n=$((n + 1)); echo tick $n; sleep 0.1; done"];
  const ticks = async ({ host }: TestSite) =>
    [...(await host.podman(["logs", "ticker"])).stdout.matchAll(/tick (\d+)/g)].map(([, number]) => Number(number));
  const notes = (from: TestSite, to: TestSite) => ({
    source: { site: from.name, detail: expect.stringContaining("journalctl CONTAINER_NAME=ticker") as string },
    destination: { site: to.name, detail: expect.stringContaining("has no journald") as string },
  });
  /** One that a journal is kept by, as systemd starts it. */
  async function startJournal({ host }: TestSite): Promise<void> {
    if ((await host.exec(["test", "-S", "/run/systemd/journal/socket"], { reject: false })).exitCode === 0) return;
    await host.exec(["sh", "-c", "[ -s /etc/machine-id ] || systemd-machine-id-setup; mkdir -p /run/log/journal"]);
    await host.spawn(["/lib/systemd/systemd-journald"]);
    await expect.poll(async () => (await host.exec(["test", "-S", "/run/systemd/journal/socket"], { reject: false })).exitCode).toBe(0);
  }

  test("goes on as a file where the destination has no journal, and that is a note", async () => {
    const { a, b } = sites;
    await startJournal(a);
    await crun(a, ["run", "--detach", "--name", "ticker", "--log-driver", "journald", imageReference("base"), ...tick]);
    const { source, destination } = notes(a, b);
    const plan = await a.json<PlanReport>(["plan", "ticker", "--to", b.name]);
    expect(plan).toMatchObject({ refusals: [], notes: [source, destination] });
    const noted = plan.checks.filter(({ verdict }) => verdict === "note").map(({ site, name }) => `${site} ${name}`);
    expect(noted).toEqual([`${a.name} log`, `${b.name} log`]);

    expect(await a.json(["migrate", "ticker", "--to", b.name])).toMatchObject({ phase: "Succeeded", notes: [source, destination] });
    expect(await inspected(b, "ticker", "{{.HostConfig.LogConfig.Type}}")).toBe("k8s-file");
    const [first = 0] = await ticks(b);
    expect(first).toBeGreaterThan(1); // those before are where they were written
    await expect.poll(async () => (await ticks(b)).length).toBeGreaterThan(10);
    // It has a file now, which moves with it.
    expect((await b.json<PlanReport>(["plan", "ticker", "--to", a.name])).notes).toEqual([]);
    await move("ticker", b, a);
    expect((await ticks(a))[0]).toBe(first);
  });

  test("goes on in the destination's journal", async () => {
    const { a, b } = sites;
    for (const site of [a, b]) await startJournal(site);
    await crun(a, ["run", "--detach", "--name", "ticker", "--log-driver", "journald", imageReference("base"), ...tick]);
    await expect.poll(async () => (await ticks(a)).length).toBeGreaterThan(3);
    const before = await ticks(a);
    expect(await a.json(["migrate", "ticker", "--to", b.name])).toMatchObject({ phase: "Succeeded", notes: [notes(a, b).source] });
    expect(await inspected(b, "ticker", "{{.HostConfig.LogConfig.Type}}")).toBe("journald");
    await expect.poll(async () => (await ticks(b)).length).toBeGreaterThan(3);
    expect((await ticks(b))[0]).toBeGreaterThanOrEqual(before.length);
  });
});
