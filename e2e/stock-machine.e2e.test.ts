import { spawn } from "node:child_process";
import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { execa } from "execa";
import { createStockMachines, type StockMachines } from "./stock-machine.ts";

describe("two stock machines", () => {
  let machines: StockMachines;
  beforeAll(async () => void (machines = await createStockMachines()));
  afterAll(() => machines[Symbol.asyncDispose]());
  const said = async (...args: string[]) => (await machines.a.exec(args, { reject: false })).stdout;

  test("are what a person has who installs Debian and Podman: systemd, cgroup version 2, AppArmor, crun, journald, and nothing of UMS", async () => {
    expect(await said("systemctl", "is-system-running")).toBe("running");
    expect(await said("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME; hostname; cat /sys/module/apparmor/parameters/enabled")).toBe(
      "trixie\nhost-a\nY",
    );
    const format = "{{.Host.OCIRuntime.Name}} {{.Host.LogDriver}} {{.Host.CgroupsVersion}} {{.Host.CgroupManager}}";
    expect(await said("podman", "info", "--format", format)).toBe("crun journald v2 systemd");
    expect(
      await said("sh", "-c", "command -v ums runc conntrack; ls -d /opt/ums /etc/ums /var/lib/ums /etc/containers/containers.conf.d"),
    ).toBe("");
  });

  test("resolve what UMS depends on from a repository of their own, with no way out", async () => {
    expect(await said("apt-get", "--simulate", "install", "runc", "conntrack", "bubblewrap")).toMatch(/^Inst runc /m);
    expect(await said("ip", "route", "get", "192.0.2.1")).toContain(`via ${machines.wan.address}`);
    expect((await machines.a.exec(["ping", "-c", "1", "-W", "2", "192.0.2.1"], { reject: false })).exitCode).toBe(1);
  });

  test("are two, with the right time, and see each other", async () => {
    const numbers = await Promise.all([machines.a, machines.b].map(async (each) => (await each.exec(["cat", "/etc/machine-id"])).stdout));
    expect(new Set(numbers).size).toBe(2);
    const clock = Number(await said("date", "+%s"));
    expect(Math.abs(clock - Date.now() / 1000)).toBeLessThan(machines.a.patience(1_000) / 1_000);
    await machines.a.exec(["ping", "-c", "1", machines.b.name]);
  });

  test("take words as they are, and wait longer the slower they are", async () => {
    expect(await said("printf", "%s|", "it's", 'a "b" $HOME', "")).toBe('it\'s|a "b" $HOME||');
    expect(machines.a.slowness()).toBeGreaterThanOrEqual(1);
    const { exitCode, timedOut } = await machines.a.exec(["sleep", "600"], { timeoutMs: 100, reject: false });
    expect({ exitCode, timedOut }).toEqual({ exitCode: undefined, timedOut: true });
  });

  test("lose what was not written when the power goes, and come back", async () => {
    await machines.b.exec(["sh", "-c", "echo kept >/root/kept; sync; echo lost >/run/lost"]);
    await machines.b.powerOff();
    await expect(machines.b.exec(["true"])).rejects.toThrow();
    await machines.b.powerOn();
    expect((await machines.b.exec(["sh", "-c", "cat /root/kept; ls /run/lost"], { reject: false })).stdout).toBe("kept");
    expect((await machines.b.exec(["hostname"])).stdout).toBe(machines.b.name);
  });
});

test("when the test runner is killed, machines vanish by themselves", async () => {
  const program = `
    import { createStockMachines } from ${JSON.stringify(new URL("stock-machine.ts", import.meta.url).href)};
    await createStockMachines();
    console.log("up");
    setInterval(() => {}, 1000);`;
  const runner = spawn(process.execPath, ["--input-type=module", "--eval", program], { stdio: ["ignore", "pipe", "inherit"] });
  const run = `/var/tmp/ums-e2e/${runner.pid}-`;
  const processesOfRun = async () =>
    (await execa("pgrep", ["--full", "--list-name", run], { reject: false })).stdout.split("\n").filter(Boolean);
  const directoriesOfRun = async () => (await execa("sh", ["-c", `ls -d ${run}*`], { reject: false })).stdout;
  await once(runner.stdout, "data");
  expect((await processesOfRun()).map((line) => line.split(" ")[1])).toEqual(expect.arrayContaining(["qemu-system-x86", "ssh"]));
  runner.kill("SIGKILL");
  await expect.poll(processesOfRun, { timeout: 10_000 }).toEqual([]);
  await expect.poll(directoriesOfRun, { timeout: 10_000 }).toBe("");
});
