import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { makePackage } from "../setup/package.ts";
import { ownArchitecture } from "../setup/platforms.ts";
import { openDatabase } from "../src/platforms/podman-host/database.ts";
import { createDebianRoot, type DebianRoot } from "./debian-root.ts";

// On a new machine Debian and Node come over the network first.
vi.setConfig({ testTimeout: 240_000, hookTimeout: 480_000 });
const suite = process.env["SUITE"] ?? "trixie";
const directory = mkdtempSync(join(tmpdir(), "ums-package-"));
const settings = "/etc/containers/containers.conf.d/ums.conf";
const hook = "/usr/share/containers/oci/hooks.d/ums.json";
let debian: DebianRoot;
let packages: readonly string[];

beforeAll(async () => {
  const made = await makePackage({ architecture: ownArchitecture(), directory, compression: "quick" });
  const { stdout: needed } = await execa("dpkg-deb", ["--field", made, "Depends"]);
  debian = await createDebianRoot({ suite, needed });
  packages = [made, await later(made)];
  for (const file of packages) await copyFile(file, join(debian.files, "root", basename(file)));
});
afterAll(async () => {
  await debian[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

/** The same, as a version that comes after it. */
async function later(file: string): Promise<string> {
  const root = join(directory, "later");
  await execa("dpkg-deb", ["--raw-extract", file, root]);
  const control = join(root, "DEBIAN/control");
  writeFileSync(control, readFileSync(control, "utf8").replace(/^Version: .*$/m, "Version: 999"));
  await execa("dpkg-deb", ["--root-owner-group", "-Znone", "--build", root, join(directory, "ums_999.deb")]);
  return join(directory, "ums_999.deb");
}

/** What packages' own scripts say comes by apt's output. */
async function apt(...args: string[]): Promise<{ exitCode: number | undefined; said: string }> {
  const { exitCode, stdout, stderr } = await debian.exec(["apt-get", "--quiet", "--yes", ...args], {
    env: { DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C.UTF-8" },
    reject: false,
    timeoutMs: 200_000,
  });
  return { exitCode, said: `${stdout}\n${stderr}` };
}
const install = (index: number) => apt("install", `/root/${basename(packages[index] ?? "")}`);
const state = async () =>
  (await debian.exec(["dpkg-query", "--show", "--showformat=${Version} ${Status}", "ums"], { reject: false })).stdout;
const there = async (file: string) => (await debian.exec(["test", "-e", file], { reject: false })).exitCode === 0;
/** Changes the journal as `ums serve` would have; SQLite itself can't open what only another mount namespace has. */
async function journalled(change: (database: ReturnType<typeof openDatabase>) => void): Promise<void> {
  const file = join(directory, "journal.db");
  const database = openDatabase(file);
  change(database);
  database.close();
  mkdirSync(join(debian.files, "var/lib/ums"), { recursive: true, mode: 0o700 });
  await copyFile(file, join(debian.files, "var/lib/ums/journal.db"));
}

test("apt installs it on a minimal Debian with all that it depends on, and its programs run", async () => {
  expect(await install(0)).toMatchObject({ exitCode: 0 });
  expect(await state()).toMatch(/^\d\S* install ok installed$/);
  expect((await debian.exec(["ums", "--version"])).stdout).toMatch(/^\d+\.\d+\.\d+$/);
  expect((await debian.exec(["/opt/ums/criu/criu", "--version"])).stdout).toMatch(/^Version: [4-9]\.\d/m);
  expect((await debian.exec(["/opt/ums/bin/ums-runc", "--version"])).stdout).toMatch(/^runc version /);
  expect((await debian.exec(["podman", "--runtime", "ums", "info", "--format", "{{.Host.OCIRuntime.Name}}"])).stdout).toBe("ums");
  // Enabled for the next boot, though no systemd runs here.
  expect(await there("/etc/systemd/system/multi-user.target.wants/ums.service")).toBe(true);
  expect((await debian.exec(["dpkg", "--verify", "ums"])).stdout).toBe("");
});

test("an upgrade is refused while a migration is open, with the cure; afterwards it goes through and keeps what was set", async () => {
  await debian.exec(["sh", "-c", `echo '# mine' >>${settings}`]);
  await journalled((database) => database.create({ id: "m0000001", role: "source", service: "redis", peer: "beta", request: {} }));
  const before = await state();
  const refused = await install(1);
  expect(refused).toMatchObject({ exitCode: 100 });
  expect(refused.said).toContain("m0000001 (redis to beta)");
  expect(refused.said).toContain("`ums cancel ID`");
  expect(await state()).toBe(before);
  await journalled((database) => database.end("m0000001", { phase: "Succeeded" }));
  expect(await install(1)).toMatchObject({ exitCode: 0 });
  expect(await state()).toBe("999 install ok installed");
  expect((await debian.exec(["tail", "-n1", settings])).stdout).toBe("# mine");
});

test("a removal is refused while a container has UMS's runtime; afterwards Podman works without it, and a purge leaves nothing", async () => {
  const bare = ["--network=none", "--log-driver=k8s-file", "--rootfs", "/root", "true"];
  await debian.exec(["podman", "--runtime", "ums", "create", "--name", "came", ...bare]);
  const refused = await apt("remove", "ums");
  expect(refused).toMatchObject({ exitCode: 100 });
  expect(refused.said).toMatch(/runtime: came\. .*`podman rm`/);
  expect(await state()).toBe("999 install ok installed");
  await debian.exec(["podman", "rm", "came"]);
  expect(await apt("remove", "ums")).toMatchObject({ exitCode: 0 });
  expect([await there("/opt/ums"), await there(hook), await there(settings), await there("/var/lib/ums")]).toEqual([
    false,
    false,
    true,
    true,
  ]);
  // The settings that stay name a runtime that is gone.
  await debian.exec(["podman", "--runtime", "runc", "create", "--name", "other", ...bare]);
  await debian.exec(["podman", "rm", "other"]);
  expect(await apt("purge", "ums")).toMatchObject({ exitCode: 0 });
  const { stdout } = await debian.exec(["sh", "-c", "find / -xdev -path /root -prune -o -name 'ums*' -print -o -name .ums -print"]);
  expect(stdout.split("\n").filter((file) => !/^\/(proc|sys|var\/(log|lib\/dpkg\/info))\//.test(file))).toEqual([""]);
});

test("what was installed by hand from a checkout, and would hide it, is named", async () => {
  await debian.exec(["sh", "-c", "mkdir -p /etc/systemd/system && touch /etc/systemd/system/ums.service"]);
  const refused = await install(0);
  expect(refused).toMatchObject({
    exitCode: 100,
    said: expect.stringContaining("/etc/systemd/system/ums.service is from an installation by hand"),
  });
  await debian.exec(["rm", "/etc/systemd/system/ums.service"]);
  expect(await install(0)).toMatchObject({ exitCode: 0 });
});
