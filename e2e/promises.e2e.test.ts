import { cpSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { writeCriuSettings } from "../src/checkpoint/criu.ts";
import { type LoadClient, startClient } from "./client.ts";
import {
  atBreakpoint,
  boot,
  clearBreakpoint,
  copiesOn,
  createGround,
  expectNothingLost,
  expectOneCopy,
  type Ground,
  setBreakpoint,
  settled,
  startAndStopAt,
  watchCopies,
  liveOn,
} from "./disturbance.ts";
import { redisPort } from "./redis.ts";
import type { Sites, TestSite } from "./sites.ts";

const small = "/run/ums/small";
let ground: Ground;
let sites: Sites;
let a: TestSite;
let b: TestSite;

beforeAll(async () => {
  ground = await createGround();
  sites = ground.sites;
  ({ a, b } = sites);
});
afterAll(() => ground[Symbol.asyncDispose]());
beforeEach(() => ground.freshService());

async function writingClient(): Promise<LoadClient> {
  const client = await startClient(sites.hosts.wan, { host: a.host.address, port: redisPort });
  onTestFinished(() => client.kill());
  return client;
}

const expectNothingLeft = async () => expect(await ground.leftovers()).toEqual([]);

test("a destination that never comes back after the grant: frozen until a person's word, which is refused while it answers", async () => {
  const client = await writingClient();
  const id = await startAndStopAt(sites, "restore", "after");
  const early = await a.json<{ error: { code: string } }>(["resolve", id, "--destination-is-gone"]);
  expect(early.error.code).toBe("NOT_STUCK");
  await b.host.powerOff();
  clearBreakpoint(a.host);

  await expect.poll(() => a.json<Migration>(["status", id]), { timeout: 60_000, interval: 500 }).toHaveProperty("waiting");
  expect((await a.json<Migration>(["status", id])).waiting).toContain("stays frozen");
  expect(copiesOn(a.host).map(({ state }) => state)).toEqual(["frozen"]);

  const { exitCode } = await a.ums(["resolve", id, "--destination-is-gone"]);
  expect(exitCode).toBe(0);
  await expect.poll(() => a.json<Migration>(["status", id]), { timeout: 30_000 }).toMatchObject({ phase: "RolledBack" });
  expect(a.serve().output()).toMatch(new RegExp(`"migration":"${id}".*said to be gone`));

  await boot(b);
  await a.serve().waitForLine(new RegExp(`"migration":"${id}".*has destroyed its copy`), 40_000);
  await expectOneCopy(sites, a);
  await expectNothingLost(client);
  await expectNothingLeft();
});

test("the client notices when the destination is restored from an older image", async () => {
  const older = "/var/lib/ums/older";
  await dumpNow(a, older);
  const client = await writingClient();
  await sleep(1_000);
  expect(await client.verify()).toMatchObject({ lostWrites: 0 });

  const id = await startAndStopAt(sites, "restore", "before");
  const image = b.host.path(`/dev/shm/ums/${id}`);
  rmSync(image, { recursive: true });
  cpSync(a.host.path(older), image, { recursive: true });
  clearBreakpoint(a.host);

  expect(await settled(sites, id)).toMatchObject({ phase: "Succeeded" });
  expect((await client.stop()).lostWrites).toBeGreaterThan(20);
  rmSync(a.host.path(older), { recursive: true });
});

/** Dumps the service as a migration would, and lets it run on. */
async function dumpNow({ host }: TestSite, directory: string): Promise<void> {
  const settings = `${directory}.conf`;
  const { stdout: id } = await host.podman(["inspect", "--format", "{{.Id}}", "redis"]);
  await host.exec(["mkdir", "-p", directory, `${directory}.work`]);
  await writeCriuSettings(host.path(settings));
  await host.podman(["pause", "redis"]);
  const environment = ["env", "PATH=/opt/ums/criu:/usr/sbin:/usr/bin:/sbin:/bin", `CRIU_CONFIG_FILE=${settings}`];
  const places = ["--image-path", directory, "--work-path", `${directory}.work`];
  await host.exec([...environment, "runc", "checkpoint", "--leave-running", "--file-locks", ...places, id]);
  await host.podman(["unpause", "redis"]);
  for (const done of [settings, `${directory}.work`]) rmSync(host.path(done), { recursive: true });
}

describe("while the source's copy is frozen nothing starts it again:", () => {
  const container = (verb: string, ...options: string[]) =>
    a.host.podman([verb, ...options, "redis"], { reject: false, timeoutMs: 40_000 });
  const attempts: Record<string, () => Promise<unknown>> = {
    "podman start": () => container("start"),
    "podman restart": () => container("restart", "--time", "1"),
    "podman stop": () => container("stop", "--time", "1"),
    "podman kill": () => container("kill"),
    "kill -9 of its init": async () => process.kill(copiesOn(a.host)[0]!.pid, "SIGKILL"),
  };
  test.each(Object.keys(attempts))("%s", async (name) => {
    const client = await writingClient();
    const copies = watchCopies(() => liveOn([a.host, b.host]));
    onTestFinished(() => copies.stop());
    const id = await startAndStopAt(sites, "restore", "before");
    await attempts[name]!();
    await sleep(1_000);
    expect(copiesOn(a.host).filter(({ state }) => state === "live")).toEqual([]);
    clearBreakpoint(a.host);
    const { phase } = await settled(sites, id);
    copies.expectNeverTwo();
    await expectOneCopy(sites, phase === "Succeeded" ? b : a);
    await expectNothingLost(client);
    await expectNothingLeft();
  });

  test("podman unpause thaws it, and the migration is undone", async () => {
    const client = await writingClient();
    const copies = watchCopies(() => liveOn([a.host, b.host]));
    onTestFinished(() => copies.stop());
    const id = await startAndStopAt(sites, "restore", "before");
    await container("unpause");
    clearBreakpoint(a.host);
    expect(await settled(sites, id)).toMatchObject({ phase: "RolledBack", error: { code: "THAWED" } });
    copies.expectNeverTwo();
    await expectOneCopy(sites, a);
    await expectNothingLost(client);
    await expectNothingLeft();
  });

  test.each([
    ["before the grant the service starts afresh", "transfer", () => a],
    ["after the grant it goes on at the destination, with its memory", "restore", () => b],
  ] as const)("a reboot, and Podman's start of every container that should always run: %s", async (_how, step, owner) => {
    const client = await writingClient();
    const copies = watchCopies(() => liveOn([a.host, b.host]));
    onTestFinished(() => copies.stop());
    const id = await startAndStopAt(sites, step, "after");
    await boot(a, { powerOffFirst: true });
    await settled(sites, id);
    copies.expectNeverTwo();
    await expectOneCopy(sites, owner());
    if (owner() === b) await expectNothingLost(client);
    await expectNothingLeft();
  });
});

test.each(["admit", "reserve", "pre-copy", "hold-clients", "freeze", "transfer", "restore"])(
  "a cancel during %s undoes the migration",
  async (step) => {
    const client = await writingClient();
    const id = await startAndStopAt(sites, step, "before");
    expect((await a.ums(["cancel", id])).exitCode).toBe(0);
    clearBreakpoint(a.host);
    expect(await settled(sites, id)).toMatchObject({ phase: step === "admit" ? "Failed" : "RolledBack", error: { code: "CANCELLED" } });
    await expectOneCopy(sites, a);
    await expectNothingLost(client);
    await expectNothingLeft();
  },
);

test("a cancel after the commit comes too late", async () => {
  const id = await startAndStopAt(sites, "forward-clients", "before");
  expect(await a.json(["cancel", id])).toMatchObject({ error: { code: "TOO_LATE" } });
  clearBreakpoint(a.host);
  expect(await settled(sites, id)).toMatchObject({ phase: "Succeeded" });
});

test("a disk that is full at the destination undoes the migration, and its code says so", async () => {
  const configuration = JSON.parse((await b.host.exec(["cat", "/etc/ums/config.json"])).stdout) as object;
  const configure = async (content: object) => {
    await b.host.exec(["tee", "/etc/ums/config.json"], { input: JSON.stringify(content) });
    await b.stop();
    await b.restart();
  };
  await b.host.exec(["mkdir", "-p", small]);
  await b.host.exec(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", small]);
  await configure({ ...configuration, imageDirectories: [`${small}/images`] });
  try {
    const client = await writingClient();
    const id = await startAndStopAt(sites, "transfer", "before");
    await b.host.exec(["dd", "if=/dev/zero", `of=${small}/filler`, "bs=1M"], { reject: false });
    clearBreakpoint(a.host);
    const { phase, error } = await settled(sites, id);
    expect({ phase, code: error?.code }).toEqual({ phase: "RolledBack", code: "NO_ROOM" });
    await expectOneCopy(sites, a);
    await expectNothingLost(client);
  } finally {
    await b.host.exec(["umount", "--lazy", small]);
    await b.host.exec(["rmdir", small]);
    await configure(configuration);
  }
  await expectNothingLeft();
});

test("a service moves once at a time, and one that is not there not at all", async () => {
  const id = await startAndStopAt(sites, "reserve", "before");
  const second = await a.ums(["migrate", "redis", "--to", b.name]);
  expect(second).toMatchObject({ exitCode: 6 });
  expect(second.stderr).toContain(id);
  const status = async (name: string) => {
    const body = JSON.stringify({ name, to: b.name });
    const options = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket", "/run/ums/ums.sock"];
    const request = ["--header", "content-type: application/json", "--data", body, "http://ums/migrations"];
    return (await a.host.exec(["curl", ...options, ...request])).stdout;
  };
  expect(await status("redis")).toBe("409");
  expect(await status("nobody")).toBe("404");
  setBreakpoint(a.host, "commit", "after");
  await atBreakpoint(a, id, "commit", "after");
  clearBreakpoint(a.host);
  expect(await settled(sites, id)).toMatchObject({ phase: "Succeeded" });
});
