/** UMS on the machines that people have: stock Debian with systemd, cgroup version 2, Podman 5, crun and journald. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { startClient } from "./client.ts";
import { bringPackage, loadRedisInto, machineSite, type MachineSite, standingOf, typedInDocs } from "./machine-sites.ts";
import { createStockMachines, type StockMachines } from "./stock-machine.ts";

type Migration = Readonly<{ id: string; phase: string; error?: Readonly<{ code: string; message: string }> }>;

let machines: StockMachines;
let a: MachineSite;
let b: MachineSite;
/** The name by which the docs know it. */
const image = "docker.io/library/redis:latest";

beforeAll(async () => {
  machines = await createStockMachines();
  [a, b] = [machineSite(machines.a), machineSite(machines.b)];
  await bringPackage(machines);
});
afterEach(async ({ task }) => {
  if (task.result?.state !== "fail") return;
  for (const { machine } of [a, b]) {
    const { stdout } = await machine.exec(["journalctl", "--unit", "ums", "--output", "cat", "--lines", "60"], { reject: false });
    console.error(`${machine.name}, the last that ums serve said:\n${stdout}`);
  }
});
afterAll(() => machines[Symbol.asyncDispose]());

const unlimited = { memory: "max", cpu: "max 100000", pids: /^(max|\d+)$/ };

/** Asks for the result, and fails with what UMS said. */
async function moved(from: MachineSite, to: MachineSite, name: string): Promise<Migration> {
  const migration = await from.json<Migration>(["migrate", name, "--to", to.name]);
  expect(migration, `${name} from ${from.name} to ${to.name}`).toMatchObject({ phase: "Succeeded" });
  return migration;
}

/** It is the engine's, as a container that was started here would be. */
async function expectAtHome({ machine }: MachineSite, name: string, limits: { memory: string; cpu: string; pids: string | RegExp }) {
  const standing = await standingOf(machine, name);
  const own = `0::/machine.slice/${standing.scope}`;
  expect(standing).toMatchObject({
    groups: [expect.toSatisfy((group: string) => group === own || group.startsWith(`${own}/`), `in ${own}`)],
    scopeState: "active",
    limits: { ...limits, pids: expect.stringMatching(limits.pids) },
    stats: expect.stringMatching(/^[1-9][\d.]*[kM]B \/ \S+ [1-9]\d*$/),
    paused: "paused\nrunning",
    answer: "PONG",
    logs: expect.stringContaining(`said at ${machine.name}`),
  });
}

/** Types what docs/hosts.md says, and answers yes. @returns what it printed, at each machine */
async function type(site: MachineSite, line: string): Promise<string> {
  return (await site.machine.exec(["sh", "-c", `cd /root && ${line}`], { timeoutMs: 120_000, input: "y\n" })).stdout;
}

test("the first commands of docs/hosts.md install UMS on a stock machine, and `ums doctor` finds that it can take part", async () => {
  const lines = typedInDocs("## Install").map(({ line }) => line);
  expect(lines).toEqual(expect.arrayContaining([expect.stringMatching(/^apt install \.\/ums_\S+\.deb$/), "ums doctor"]));
  await Promise.all(
    [a, b].map(async (site) => {
      for (const line of lines) await type(site, line);
      expect((await site.machine.exec(["systemctl", "is-active", "ums"])).stdout).toBe("active");
    }),
  );
});

test("the kernel tells CRIU which pages were written since a pre-dump: the dump that follows is small", async () => {
  const script = `set -e
mkdir -p /root/tracked/1 /root/tracked/2
cd /root/tracked
setsid perl -e 'my $x = "x" x (128 << 20); open my $up, ">", "/root/tracked/up"; close $up; sleep 1 while 1' </dev/null >/dev/null 2>&1 &
pid=$!
until [ -e up ]; do sleep 0.1; done
criu=/opt/ums/criu/criu
for feature in mem_dirty_track pagemap_scan; do $criu check --feature $feature >&2; done
$criu pre-dump --track-mem --tree $pid --images-dir 1 >&2
$criu dump --track-mem --tree $pid --images-dir 2 --prev-images-dir ../1 >&2
for dump in 1 2; do cat $dump/pages-*.img | wc -c; done
`;
  const { stdout } = await a.machine.exec(["bash", "-c", script]);
  const [before = 0, after = 0] = stdout.split("\n").map((bytes) => Number(bytes) / 2 ** 20);
  expect(before).toBeGreaterThan(128);
  expect(after).toBeLessThan(8);
});

test("the walk-through of docs/hosts.md pairs both, and moves what a plain `podman run` made there and back; each time it is its engine's own", async () => {
  await loadRedisInto(a.machine, image);
  let code = "";
  let moves = 0;
  for (const { at, line } of typedInDocs("## A first walk-through")) {
    const site = at === "a" ? a : b;
    const printed = await type(site, line.replace("CODE", code));
    code ||= /^code +(\S+)$/m.exec(printed)?.[1] ?? "";
    const to = /^ums migrate redis --to (\S+)$/.exec(line)?.[1];
    if (to === undefined) continue;
    expect([a.name, b.name]).toContain(to);
    const there = to === a.name ? a : b;
    await expectAtHome(there, "redis", unlimited);
    expect((await site.machine.podman(["ps", "--all", "--format", "{{.Names}}"])).stdout).toBe("");
    const count = (await there.machine.podman(["exec", "redis", "redis-cli", "incr", "moves"])).stdout;
    expect(count).toBe(String(++moves));
  }
  expect(moves).toBe(2);
  await a.machine.podman(["rm", "--force", "--time", "0", "redis"]);
  for (const site of [a, b])
    for (const { migration } of await site.json<{ migration: string }[]>(["release"])) await site.ums(["release", migration]);
});

describe("a container with limits, a health check, a volume and a published port under a writing client", () => {
  const limits = { memory: String(300 * 1024 * 1024), cpu: "90000 100000", pids: "99" };
  const settings = [
    ...["--memory", "300m", "--cpus", "0.9", "--pids-limit", "99", "--restart", "always", "--volume", "data:/data"],
    ...["--health-cmd", "redis-cli ping", "--health-interval", "5s", "--publish", "6379:6379"],
  ];
  const running = async ({ machine }: MachineSite) =>
    (await machine.podman(["ps", "--filter", "name=^limited$", "--format", "{{.Names}}"])).stdout === "limited";
  const expectHealthy = async ({ machine }: MachineSite) => {
    const health = ["inspect", "--format", "{{.Id}} {{.State.Health.Status}} {{len .State.Health.Log}}", "limited"];
    await expect
      .poll(async () => (await machine.podman(health)).stdout, { timeout: machine.patience(10_000) })
      .toMatch(/^\w+ healthy [1-9]/);
    const [id = ""] = (await machine.podman(health)).stdout.split(" ");
    const timers = ["systemctl", "list-units", "--type=timer", "--no-legend", "--plain", `${id}*`];
    expect((await machine.exec(timers)).stdout).toMatch(/ active +(waiting|running|elapsed) /);
  };

  test("keeps them all there and back, through a restart of UMS in the middle and a reboot, and loses no acknowledged write", async () => {
    await a.machine.podman(["run", "--detach", "--name", "limited", ...settings, image]);
    await a.machine.podman(["exec", "limited", "sh", "-c", "echo kept >/data/note"]);
    const client = await startClient(machines.wan, { host: a.machine.address, port: 6379, everyMs: 50 });
    const wholeClient = { lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0 };
    await expectAtHome(a, "limited", limits);

    await moved(a, b, "limited");
    await expectAtHome(b, "limited", limits);
    await expectHealthy(b);
    expect((await b.machine.podman(["exec", "limited", "cat", "/data/note"])).stdout).toBe("kept");
    expect(await client.verify()).toMatchObject(wholeClient);

    const { id } = await b.json<Migration>(["migrate", "limited", "--to", a.name, "--detach"]);
    await b.machine.exec(["systemctl", "restart", "ums"]);
    const phase = async () => (await b.json<Migration>(["status", id])).phase;
    await expect.poll(phase, { timeout: b.machine.patience(30_000) }).toMatch(/^(Succeeded|RolledBack|Failed|Cancelled)$/);
    const [there, back] = [await running(b), await running(a)];
    expect([there, back].filter(Boolean), `${await phase()}: it runs at one of both`).toHaveLength(1);
    expect(await client.verify()).toMatchObject(wholeClient);
    if (there) await moved(b, a, "limited");
    await expectAtHome(a, "limited", limits);
    await expectHealthy(a);
    expect(await client.stop()).toMatchObject(wholeClient);

    await a.machine.exec(["systemctl", "enable", "podman-restart"]);
    await a.machine.reboot();
    await expect.poll(() => running(a), { timeout: a.machine.patience(30_000) }).toBe(true);
    expect((await a.machine.exec(["systemctl", "is-active", "ums"])).stdout).toBe("active");
    expect((await a.machine.podman(["exec", "limited", "cat", "/data/note"])).stdout).toBe("kept");
    await moved(a, b, "limited");
    await expectAtHome(b, "limited", limits);
  });
});
