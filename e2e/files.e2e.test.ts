/** Every kind of file arrives as it was, also while it is written to; and images arrive where they are missing. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { lineFrom } from "./client.ts";
import { imageReference, loadImage } from "./images.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

const program = readFileSync(join(import.meta.dirname, "files.py"), "utf8");

let sites: Sites;
beforeAll(async () => {
  sites = await createSites({ images: ["services"] });
});
afterAll(() => sites[Symbol.asyncDispose]());

const migrate = async (name: string, from: TestSite, to: TestSite) => {
  const moved = await from.json<{ phase?: string; bytesSent: number }>(["migrate", name, "--to", to.name]);
  expect(moved).toMatchObject({ phase: "Succeeded" });
  return moved;
};
const askFrom = (site: TestSite, port: number) => lineFrom(sites.hosts.wan, { host: site.host.address, port, timeoutMs: 60_000 });
const verify = async (site: TestSite) => JSON.parse(await askFrom(site, 7102)) as { differences: string[]; files: number; steps: number };

test("files of every kind move there and back while the service writes to them", async () => {
  const { a, b } = sites;
  const storage = ["--volume", "one:/data", "--volume", "two:/more", "--tmpfs", "/scratch:size=64m"];
  const ports = ["--publish", "7102:7102", "--publish", "7103:7103"];
  await a.host.podman(["run", "--detach", "--name", "files", ...storage, ...ports, imageReference("services"), "python3", "-c", program]);
  await expect
    .poll(async () => (await a.host.exec(["sh", "-c", "podman logs files 2>&1"])).stdout, { timeout: 30_000 })
    .toMatch(/ready|Error/);
  const before = await verify(a);
  expect(before.differences).toEqual([]);
  expect(before.files).toBeGreaterThan(200);
  for (const [from, to] of [[a, b] as const, [b, a] as const]) {
    await migrate("files", from, to);
    expect((await verify(to)).differences).toEqual([]);
  }
  expect((await verify(a)).steps).toBeGreaterThan(before.steps);
});

test("a change to a file of the image arrives, however late it comes", async () => {
  const { a, b, hosts } = sites;
  // A pass over the files takes a second then, and the destination has its file system mounted during the last one.
  await a.host.podman(["exec", "files", "touch", "/run/busy"]);
  await hosts.setRate(200);
  const migration = migrate("files", a, b);
  const late = (async () => {
    await b.host.exec([
      "sh",
      "-c",
      "for i in $(seq 3000); do ls /run/ums/restore/*/bundle >/dev/null 2>&1 && exit; sleep 0.01; done; exit 1",
    ]);
    expect(await askFrom(a, 7103)).toBe("changed");
  })();
  await Promise.all([migration, late]);
  await hosts.setRate(undefined);
  const { stdout } = await b.host.podman(["exec", "files", "cat", "/etc/passwd"]);
  expect(stdout).toContain("late:x:4242");
  await b.host.podman(["exec", "--user", "late", "files", "id"]);
  expect((await verify(b)).differences).toEqual([]);
  await b.host.podman(["rm", "--force", "--volumes", "--time", "0", "files"]);
});

test("an image goes over where it is missing, and only the layers which are", async () => {
  const { a, b } = sites;
  const image = await loadImage(a.host, "redis");
  const idOf = async ({ host }: TestSite) => (await host.podman(["image", "inspect", "--format", "{{.Id}} {{.RepoTags}}", image])).stdout;
  const start = (name: string) => a.host.podman(["run", "--detach", "--name", name, image, "sleep", "infinity"]);
  const sizeOf = async (format: string) => Number((await a.host.podman(["image", "inspect", "--format", format, image])).stdout);
  const whole = await sizeOf("{{.Size}}");
  await loadImage(b.host, "base");
  // Its base layer is the services' too.
  await start("one");
  const upper = await migrate("one", a, b);
  expect(await idOf(b)).toBe(await idOf(a));
  expect(upper.bytesSent).toBeLessThan(whole / 2);
  await b.host.podman(["rm", "--force", "--all", "--time", "0"]);
  await b.host.podman(["rmi", "--force", "--all"]);
  await start("two");
  const both = await migrate("two", a, b);
  expect(await idOf(b)).toBe(await idOf(a));
  expect(both.bytesSent).toBeGreaterThan(whole);
  expect((await b.host.podman(["exec", "two", "redis-server", "--version"])).stdout).toContain("Redis");
});
