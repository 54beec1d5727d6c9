/** Real services, each moved there and back once on one pair of sites. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { lineFrom, startClient } from "./client.ts";
import { type Inventory, inventoryChanges } from "./hosts.ts";
import { imageReference } from "./images.ts";
import { startCommitting } from "./postgres.ts";
import { redisPort, startRedis } from "./redis.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

let sites: Sites;
let empty: readonly [Inventory, Inventory];

beforeAll(async () => {
  sites = await createSites({ images: ["redis", "services"] });
  empty = await Promise.all([sites.a.host.inventory(), sites.b.host.inventory()]);
});
afterAll(() => sites[Symbol.asyncDispose]());
afterEach(async () => {
  for (const { host, json, ums } of [sites.a, sites.b]) {
    for (const { migration } of await json<{ migration: string }[]>(["release"])) await ums(["release", migration]);
    await host.podman(["rm", "--force", "--all", "--time", "0"]);
    await host.podman(["volume", "rm", "--force", "--all"]);
  }
});

const postgresBin = "/usr/lib/postgresql/15/bin";

type Service = Readonly<{
  name: string;
  /** Makes it write this to its log; its first process's own output unless told. */
  log?(site: TestSite, text: string): Promise<unknown>;
  answers(site: TestSite): Promise<unknown>;
}>;

const log = async (site: TestSite, { name, log: own }: Service, text: string) =>
  own ? own(site, text) : site.host.podman(["exec", name, "sh", "-c", `echo ${text} >/proc/1/fd/1`]);

/** Both streams of its log, in their order. */
const logged = async ({ host }: TestSite, { name }: Service) =>
  (await host.exec(["sh", "-c", 'exec podman logs "$0" 2>&1', name])).stdout.split("\n");

async function inspect<T>({ host }: TestSite, name: string, format: string): Promise<T> {
  return JSON.parse((await host.podman(["inspect", "--format", `{{json ${format}}}`, name])).stdout) as T;
}

/** Moves the service, and checks all that is the same for every service. */
async function move(service: Service, from: TestSite, to: TestSite): Promise<void> {
  const { name } = service;
  const policy = await inspect(from, name, ".HostConfig.RestartPolicy");
  await log(from, service, `before-${from.name}`);
  const old = await logged(from, service);

  const { exitCode, stdout, stderr } = await from.ums(["migrate", name, "--to", to.name]);
  expect(exitCode, stdout + stderr).toBe(0);

  expect(await inspect(to, name, ".State")).toMatchObject({ Status: "running", Running: true, Paused: false });
  expect((await from.host.podman(["container", "exists", name], { reject: false })).exitCode).toBe(1);
  expect(await inspect(to, name, ".HostConfig.RestartPolicy")).toEqual(policy);
  await service.answers(from);
  await service.answers(to);
  expect((await to.host.podman(["exec", name, "echo", "hello"])).stdout.trim()).toBe("hello");
  await log(to, service, `after-${to.name}`);
  await expect.poll(async () => (await logged(to, service)).join("\n")).toContain(`after-${to.name}`);
  const lines = await logged(to, service);
  expect(lines.slice(0, old.length)).toEqual(old);
  expect(lines.filter((line) => line.endsWith(`before-${from.name}`))).toHaveLength(1);
  await expectOnlyForward(from);
}

/** What a clean-up after the commit removes is gone a moment later. */
async function expectLeft(site: TestSite, allowed: RegExp): Promise<void> {
  const before = site === sites.a ? empty[0] : empty[1];
  const left = async () =>
    inventoryChanges(before, await site.host.inventory()).filter((change) => !allowed.test(change) && !standing.test(change));
  await expect.poll(left, { timeout: 15_000, interval: 500 }).toEqual([]);
}
const expectOnlyForward = (site: TestSite) => expectLeft(site, /^\+ nftRules: /);
const nothing = /^$/;

/** Directories that stay, a cache of CRIU's, and what Podman makes with the first volume. */
const standing =
  /^\+ (files: (\/dev\/shm\/ums|\/run\/criu\.kdat|\/run\/ums\/restore|\/var\/lib\/ums\/(held|work))|layers: volumes\/backingFsBlockDev)$/;

/** Takes the service there and back, ends the forward, and looks what is left. */
async function thereAndBack(service: Service, check: () => Promise<unknown> = async () => undefined): Promise<void> {
  const { a, b } = sites;
  await move(service, a, b);
  await check();
  await move(service, b, a);
  await check();
  const forwards = await b.json<{ migration: string; service: string }[]>(["release"]);
  expect(forwards).toMatchObject([{ service: service.name }]);
  const { exitCode, stderr } = await b.ums(["release", forwards[0]?.migration ?? ""]);
  expect(exitCode, stderr).toBe(0);
  await expectLeft(b, nothing);
  expect(await a.json(["release"])).toEqual([]);
}

/** Removes the service where it is, and looks whether the host is as it was before it. */
async function expectNothingLeft({ name }: Service): Promise<void> {
  await sites.a.host.podman(["rm", "--force", "--time", "0", name]);
  await sites.a.host.podman(["volume", "rm", "--all"]);
  await expectLeft(sites.a, nothing);
}

const line = (site: TestSite, port: number) => lineFrom(sites.hosts.wan, { host: site.host.address, port });

test("Redis under a writing client moves there and back, and no acknowledged write is lost", async () => {
  const { a, hosts } = sites;
  await startRedis(a.host, { memoryMiB: 32 });
  const digest = async (site: TestSite) =>
    (await site.host.podman(["exec", "redis", "redis-cli", "debug", "digest-value", "key:7"])).stdout;
  const before = await digest(a);
  const client = await startClient(hosts.wan, { host: a.host.address, port: redisPort });
  const service: Service = {
    name: "redis",
    answers: async ({ host }) => {
      const probe = await startClient(hosts.wan, { host: host.address, port: redisPort });
      expect(await probe.stop()).toMatchObject({ lostWrites: 0, failedConnections: 0 });
    },
  };
  await thereAndBack(service, async () => {
    expect(await client.verify()).toMatchObject({ lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0, failedConnections: 0 });
  });
  expect(await digest(a)).toBe(before);
  const { acknowledgedWrites, lostWrites } = await client.stop();
  expect(acknowledgedWrites).toBeGreaterThan(500);
  expect(lostWrites).toBe(0);
  await expectNothingLeft(service);
});

test("a service that is asked by its unix socket again and again, as by a health check, moves between two questions", async () => {
  const { a, b } = sites;
  const server = ["redis-server", "--save", "", "--unixsocket", "/tmp/redis.sock"];
  await a.host.podman(["run", "--detach", "--name", "asked", imageReference("redis"), ...server]);
  const ask = "while :; do podman exec asked redis-cli -s /tmp/redis.sock blpop nothing 0.2; done";
  const asking = await a.host.spawn(["sh", "-c", ask]);
  const { exitCode, stdout, stderr } = await a.ums(["migrate", "asked", "--to", b.name]);
  asking.kill("SIGKILL");
  expect(exitCode, stdout + stderr).toBe(0);
  expect((await b.host.podman(["exec", "asked", "redis-cli", "-s", "/tmp/redis.sock", "ping"])).stdout).toBe("PONG");
});

test("PostgreSQL under a writing load moves there and back with every acknowledged commit", async () => {
  const { a, b, hosts } = sites;
  const image = imageReference("services");
  await a.host.podman([
    "run",
    "--detach",
    "--name",
    "postgres",
    "--restart",
    "on-failure:7",
    "--volume",
    "cluster:/var/lib/postgresql",
    "--publish",
    "5432:5432",
    image,
    "sh",
    "/srv/postgres.sh",
  ]);
  await a.host.podman([
    "exec",
    "postgres",
    "sh",
    "-c",
    `for i in $(seq 300); do ${postgresBin}/pg_isready -q -h 127.0.0.1 && exit; sleep 0.1; done; exit 1`,
  ]);
  const sql = async (site: TestSite, text: string) =>
    (await site.host.podman(["exec", "--user", "postgres", "postgres", `${postgresBin}/psql`, "-qAtc", text])).stdout.trim();
  // PostgreSQL writes to its own segments, so a file beside them shows that contents come along.
  const shared = async ({ host }: TestSite) =>
    (await host.podman(["exec", "postgres", "sh", "-c", "cd /dev/shm && cat marker && stat --format '%n %s %a %u %g' *"])).stdout;
  await a.host.podman(["exec", "postgres", "sh", "-c", "head -c 100000 /dev/urandom | sha256sum >/dev/shm/marker"]);
  const client = await startCommitting(hosts.wan, { host: a.host.address, port: 5432, connections: 3 });
  const started = await sql(a, "select pg_postmaster_start_time()");
  const sharedFiles = await shared(a);
  expect(sharedFiles).toContain("PostgreSQL.");
  const service: Service = {
    name: "postgres",
    log: (site, text) => sql(site, `do $$ begin raise log '${text}'; end $$`),
    answers: async ({ host }) => {
      const probe = await startCommitting(hosts.wan, { host: host.address, port: 5432, connections: 1 });
      expect((await probe.stop()).refused).toEqual([]);
    },
  };
  let at = b;
  await thereAndBack(service, async () => {
    await client.more(50);
    // The same process, not one that has recovered from its files.
    expect(await sql(at, "select pg_postmaster_start_time()")).toBe(started);
    expect(await shared(at)).toBe(sharedFiles);
    at = a;
  });
  const { table, acknowledged, refused, errors } = await client.stop();
  expect({ refused, errors }).toEqual({ refused: [], errors: [] });
  const stored = new Set((await sql(a, `select id from ${table}`)).split("\n").map(Number));
  expect(acknowledged.length).toBeGreaterThan(100);
  expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
  const check = [`${postgresBin}/pg_amcheck`, "--install-missing", "--heapallindexed", "--all"];
  await a.host.podman(["exec", "--user", "postgres", "postgres", ...check]);
  await expectNothingLeft(service);
});

test("a JVM moves there and back with the same heap, and counts on", async () => {
  const { a } = sites;
  const image = imageReference("services");
  await a.host.podman([
    "run",
    "--detach",
    "--name",
    "jvm",
    "--restart",
    "always",
    "--publish",
    "7100:7100",
    image,
    "java",
    "-Xmx160m",
    "/srv/Count.java",
  ]);
  await expect.poll(async () => (await a.host.podman(["logs", "jvm"])).stdout, { timeout: 30_000 }).toContain("ready");
  const ask = async (site: TestSite) => {
    const [count, checksum] = (await line(site, 7100)).split(" ");
    return { count: Number(count), checksum };
  };
  let last = await ask(a);
  const answers = async (site: TestSite) => {
    const { count, checksum } = await ask(site);
    expect(checksum).toBe(last.checksum);
    expect(count).toBeGreaterThan(last.count);
    last = { count, checksum };
  };
  const service: Service = { name: "jvm", answers };
  await thereAndBack(service);
  await expectNothingLeft(service);
});

test("a program with threads, a deleted open file, a pipe and a unix socket moves there and back", async () => {
  const { a } = sites;
  const image = imageReference("services");
  await a.host.podman([
    "run",
    "--detach",
    "--name",
    "threads",
    "--restart",
    "always",
    "--publish",
    "7101:7101",
    image,
    "python3",
    "/srv/threads.py",
  ]);
  await expect.poll(async () => (await a.host.podman(["logs", "threads"])).stdout, { timeout: 30_000 }).toContain("ready");
  let last = 0;
  const answers = async (site: TestSite) => {
    const [count, ...held] = (await line(site, 7101)).split(" ");
    expect(held).toEqual(["ghost", "pipe", "socket"]);
    expect(Number(count)).toBeGreaterThan(last);
    last = Number(count);
  };
  const service: Service = { name: "threads", answers };
  await answers(a);
  await thereAndBack(service);
  await expectNothingLeft(service);
});
