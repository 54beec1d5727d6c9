import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createHosts, type Host, type Hosts, inventoryChanges } from "./hosts.ts";
import { loadImage, runOnce } from "./images.ts";

let hosts: Hosts;
let a: Host;
let b: Host;
beforeAll(async () => {
  hosts = await createHosts();
  [a, b] = hosts.hosts;
});
afterAll(() => hosts[Symbol.asyncDispose]());

const listening = async (host: Host) => {
  const program = "import socket\ns = socket.create_server(('', 7000))\nprint('up', flush=True)\nwhile True: s.accept()[0].close()";
  const server = await host.spawn(["python3", "-c", program]);
  await server.waitForLine(/up/);
  return server;
};
const canReach = async (from: Pick<Host, "exec">, host: Host) => {
  const { exitCode } = await from.exec(["bash", "-c", `exec 3<>/dev/tcp/${host.address}/7000`], { reject: false, timeoutMs: 400 });
  return exitCode === 0;
};

test("a host sees its own processes, name, network and cgroups only", async () => {
  const { stdout } = await a.exec(["sh", "-c", "hostname; ls /sys/class/net; cat /proc/self/cgroup; cat /proc/1/cmdline"]);
  expect(stdout).toContain(`${a.name}\neth0\nlo\n`);
  expect(stdout).not.toContain("ums-e2e-");
  expect(stdout).toContain("catatonit");
});

test("on cgroup version 2 a host is a machine of its own, too: its own processes are in a group below its top", async () => {
  await using others = await createHosts({ cgroupVersion: 2 });
  const [host] = others.hosts;
  expect((await host.exec(["grep", "^0:", "/proc/self/cgroup", "/proc/1/cgroup"])).stdout.match(/0::.*/g)).toEqual([
    "0::/init",
    "0::/init",
  ]);
  expect((await host.exec(["cat", "/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/cgroup.procs"])).stdout).toBe(
    (await host.exec(["cat", "/sys/fs/cgroup/cgroup.controllers"])).stdout,
  );
});

test("a command that takes too long ends with what it started", async () => {
  const result = await a.exec(["sh", "-c", "sleep 77; true"], { timeoutMs: 200, reject: false });
  expect(result).toMatchObject({ timedOut: true, exitCode: undefined });
  await expect.poll(async () => (await a.inventory()).processes, { timeout: 20_000 }).not.toContain("sleep 77");
});

test("links are cut between the hosts, or around one, and come back", async () => {
  const server = await listening(a);
  expect([await canReach(hosts.wan, a), await canReach(b, a)]).toEqual([true, true]);
  await hosts.cutLink();
  expect([await canReach(hosts.wan, a), await canReach(b, a)]).toEqual([true, false]);
  await hosts.restoreLink();
  await a.cutLink();
  expect([await canReach(hosts.wan, a), await canReach(b, a)]).toEqual([false, false]);
  await a.restoreLink();
  await expect.poll(async () => [await canReach(hosts.wan, a), await canReach(b, a)], { timeout: 5_000 }).toEqual([true, true]);
  server.kill("SIGKILL");
});

test("a container that has come and gone leaves nothing in the inventory", async () => {
  const image = await loadImage(a);
  await runOnce(a, image);
  const before = await a.inventory();
  await a.podman(["run", "--detach", "--name", "redis", "--publish", "6379:6379", image]);
  expect(inventoryChanges(before, await a.inventory()).length).toBeGreaterThan(5);
  await a.podman(["rm", "--force", "--time", "0", "redis"]);
  expect(inventoryChanges(before, await a.inventory())).toEqual([]);
});

test("a reboot loses /run and every process, frozen ones too, and keeps the storage", async () => {
  const image = await loadImage(a);
  await a.podman(["run", "--detach", "--name", "paused", image]);
  await a.podman(["pause", "paused"]);
  await a.exec(["touch", "/run/lost", "/tmp/lost", "/dev/shm/lost", "/var/lib/ums/kept"]);
  await a.reboot();
  const { stdout } = await a.exec(["find", "/run", "/tmp", "/dev/shm", "/var/lib/ums", "-name", "lost", "-o", "-name", "kept"]);
  expect(stdout).toBe("/var/lib/ums/kept");
  expect((await a.inventory()).processes).toEqual(["catatonit -- sleep infinity", "sleep infinity"]);
  expect((await a.podman(["ps", "--all", "--format", "{{.Names}}"])).stdout).toBe("paused");
  await a.podman(["rm", "--force", "paused"]);
});

describe("when the test runner is killed", () => {
  test("hosts, storage and cgroups vanish by themselves", async () => {
    const program = `
      import { createHosts } from ${JSON.stringify(new URL("hosts.ts", import.meta.url).href)};
      const { hosts } = await createHosts();
      console.log(hosts[0].initPid());
      setInterval(() => {}, 1000);`;
    const runner = spawn(process.execPath, ["--input-type=module", "--eval", program], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await once(runner.stdout, "data")) as [Buffer];
    const initPid = line.toString().trim();
    const run = new RegExp(`^${runner.pid}-`);
    const ofRun = async () => (await execa("ls", ["/var/tmp/ums-e2e"])).stdout.split("\n").filter((name) => run.test(name));
    expect(existsSync(`/proc/${initPid}`)).toBe(true);
    expect(await ofRun()).toHaveLength(1);
    runner.kill("SIGKILL");
    await expect.poll(() => existsSync(`/proc/${initPid}`), { timeout: 5_000 }).toBe(false);
    await expect.poll(ofRun, { timeout: 10_000 }).toEqual([]);
    const { stdout } = await execa("find", ["/sys/fs/cgroup", "-maxdepth", "4", "-name", `ums-e2e-${runner.pid}-*`]);
    expect(stdout).toBe("");
  });
});
