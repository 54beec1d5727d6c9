/** What a service keeps to itself (environment, arguments, labels, its health check's command) is left nowhere by its migrations. */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import type { RunningProcess } from "./place.ts";
import { imageReference } from "./images.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

/** Not to be found in this checkout, which the hosts see. */
const secret = `hunter2-${randomBytes(8).toString("hex")}`;
let sites: Sites;
let a: TestSite;
let b: TestSite;
/** Every `ums serve` that has run, each at level debug. */
const served: RunningProcess[] = [];

beforeAll(async () => {
  sites = await createSites();
  ({ a, b } = sites);
  served.push(a.serve(), b.serve());
});
afterAll(() => sites[Symbol.asyncDispose]());

/** A service with the secret wherever it can have one. */
async function start(name: string, options: readonly string[] = []): Promise<void> {
  const told = ["--env", `PASSWORD=${secret}`, "--label", `token=${secret}`, "--annotation", `example.org/key=${secret}`];
  const command = ["sh", "-c", "sleep infinity & wait", `--password=${secret}`];
  await a.host.podman(["run", "--detach", "--name", name, ...told, ...options, imageReference("redis"), ...command]);
}

/** Everything that tells the secret, besides the container itself and what Podman keeps of it. */
async function leaks(said: readonly string[]): Promise<string[]> {
  const questions = [["status"], ["list"], ["release"], ["doctor"], ["doctor", "--containers"]].flatMap((words) => [
    words,
    [...words, "--json"],
  ]);
  const api = ["/migrations", "/metrics"].map((path) => ["curl", "--silent", "--unix-socket", "/run/ums/ums.sock", `http://ums${path}`]);
  const found = await Promise.all(
    [a, b].map(async (site) => {
      const ids = (await site.json<Migration[]>(["status"])).map(({ id }) => id);
      const of = ids.flatMap((id) => [
        ["status", id],
        ["watch", id, "--json"],
      ]);
      const answers = await Promise.all([
        ...[...questions, ...of].map(async (words) => ({ what: `ums ${words.join(" ")}`, ...(await site.ums(words)) })),
        ...api.map(async (words) => ({ what: words.at(-1), ...(await site.host.exec(words)) })),
      ]);
      const telling = answers.flatMap(({ what, stdout, stderr }) => (`${stdout}${stderr}`.includes(secret) ? [what] : []));
      const places = ["/var/lib/ums", "/run/ums", "/etc/ums", "/tmp", "/dev/shm", "/var/log"];
      const search = ["grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings", secret, ...places];
      const { stdout } = await site.host.exec(search, { reject: false });
      return [...telling, ...stdout.split("\n").filter(Boolean)].map((each) => `${site.name}: ${each}`);
    }),
  );
  const logged = served.flatMap((process) => process.output().split("\n")).filter((line) => line.includes(secret));
  return [...found.flat(), ...logged, ...said.filter((text) => text.includes(secret))];
}

const expectNoLeaks = async (...said: string[]) => await expect.poll(() => leaks(said), { timeout: 15_000, interval: 1_000 }).toEqual([]);

test("of a migration that succeeds nothing tells them", async () => {
  await start("keeper");
  const plan = await a.ums(["plan", "keeper", "--to", b.name]);
  const { exitCode, stdout, stderr } = await a.ums(["migrate", "keeper", "--to", b.name]);
  expect(exitCode, stderr).toBe(0);
  expect((await b.host.podman(["exec", "keeper", "printenv", "PASSWORD"])).stdout).toBe(secret);
  await expectNoLeaks(plan.stdout + plan.stderr, stdout + stderr);
});

test("of one whose copy fails its health check nothing does", async () => {
  await start("unwell", ["--health-cmd", `test ${secret} = well`, "--health-interval", "disable"]);
  const { exitCode, stdout, stderr } = await a.ums(["migrate", "unwell", "--to", b.name, "--json"]);
  expect(exitCode).not.toBe(0);
  expect((JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Migration).error?.code).toBe("UNHEALTHY");
  await expectNoLeaks(stdout + stderr);
});

test("of one whose twin differs nothing does, whatever it differs in", async () => {
  await b.stop();
  await b.host.exec(["mkdir", "-p", "/etc/containers/containers.conf.d"]);
  const settings = '[containers]\nenv = ["ADDED_HERE=yes"]\nannotations = ["example.org/added=here"]\n';
  await b.host.exec(["tee", "/etc/containers/containers.conf.d/zz-more.conf"], { input: settings });
  await b.restart();
  served.push(b.serve());
  await start("twin");
  const { exitCode, stdout, stderr } = await a.ums(["migrate", "twin", "--to", b.name, "--json"]);
  expect(exitCode).not.toBe(0);
  expect((JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Migration).error?.code).toBe("TWIN_DIFFERS");
  expect(b.serve().output()).toContain("the twin is unlike its source");
  await expectNoLeaks(stdout + stderr);
});
