import { execa } from "execa";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, onTestFinished, test, vi } from "vitest";
import { UmsError } from "../../errors.ts";
import { openDatabase } from "../../platforms/podman-host/database.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { createFakeCoordinator } from "../coordinator/fake-coordinator.ts";
import { pair, startSite, type TestSite } from "../coordinator/site-for-tests.ts";

vi.setConfig({ testTimeout: 20_000 });
const main = join(import.meta.dirname, "main.ts");

/** A real `ums`, against the site's socket. It dies with the test. */
function start(socketPath: string, args: readonly string[]) {
  const child = execa(process.execPath, [main, ...args], {
    reject: false,
    env: { UMS_SOCKET: socketPath },
    input: "",
    forceKillAfterDelay: 500,
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}

async function ums(site: { socketPath: string }, ...args: string[]) {
  const { stdout, stderr, exitCode } = await start(site.socketPath, args);
  expect(stderr).not.toMatch(/^\s+at /m);
  return { stdout, stderr, exitCode, last: () => JSON.parse(stdout.split("\n").at(-1)!) };
}

async function startPair(fake = createFakeCoordinator()): Promise<TestSite> {
  const [a, b] = [await startSite("alpha", { fake }), await startSite("beta")];
  await pair(a, b);
  return a;
}

/** Waits until `migrate` or `watch` follows the migration. */
const followed = (site: TestSite) => vi.waitFor(() => expect(site.watchers("m0000001")).toBe(1), { timeout: 10_000 });
const steps = { phases: { Preflight: 10, Frozen: 5, Transferring: 80, remainder: 1 } };

test("where no `ums serve` runs, it says so and how to cure it", async () => {
  const answer = await ums({ socketPath: join(temporaryDirectory(), "none.sock") }, "list");
  expect(answer.exitCode).toBe(5);
  expect(answer.stderr).toMatch(/^ums: No `ums serve` answers on .*none.sock. Start `ums serve`, or give its socket with --socket.$/);
  const json = await ums({ socketPath: "/nonexistent" }, "status", "--json");
  expect(json).toMatchObject({ exitCode: 5 });
  expect(json.last()).toEqual({ error: { code: "SERVE_NOT_RUNNING", message: expect.any(String), cure: expect.any(String) } });
});

test("help shows every verb and the exit codes; no verb, a wrong one or a wrong option is wrong usage", async () => {
  const site = { socketPath: "/nonexistent" };
  const help = await ums(site, "--help");
  expect(help.exitCode).toBe(0);
  for (const verb of "serve pair sites list plan migrate status watch cancel release resolve doctor completion".split(" ")) {
    expect(help.stdout).toMatch(new RegExp(`^  ${verb} `, "m"));
  }
  expect(help.stdout).toContain("130  detached");
  const wrong = [[], ["moove"], ["migrate", "redis"], ["migrate", "--to", "beta"], ["list", "--fast"], ["resolve", "m0000001"]];
  await Promise.all(wrong.map(async (args) => expect((await ums(site, ...args)).exitCode, args.join(" ")).toBe(2)));
});

test("names are checked before anything is sent", async () => {
  const site = await startPair();
  const wrong = [
    ["migrate", "a;b", "--to", "beta"],
    ["migrate", "redis", "--to", "../x"],
    ["migrate", "redis", "--to", "beta", "--bind-mount", "srv"],
    ["plan", "$(id)", "--to", "beta"],
    ["plan", "redis", "--to", "beta", "-n", "Shop"],
    ["cancel", "../m1"],
    ["watch", "x"],
    ["sites", "--remove", "A B"],
    ["pair", "--with", "host"],
    ["pair", "--accept", "some"],
    ["sites", "beta"],
    ["sites", "--accept", "none"],
    ["migrate", "redis", "--to", "beta", "--patience", "long"],
  ];
  await Promise.all(wrong.map(async (args) => expect((await ums(site, ...args)).exitCode, args.join(" ")).toBe(2)));
  expect(site.calls).toEqual([]);
});

test("services, sites, migrations and forwards are shown as tables and as JSON", async () => {
  const site = await startPair();
  site.end("m0000001", "Succeeded", { heldMs: 120 });
  expect((await ums(site, "list")).stdout).toMatch(/^NAME .*\nredis +running +yes/);
  expect((await ums(site, "list", "--json")).last()).toEqual([expect.objectContaining({ name: "redis" })]);
  expect((await ums(site, "sites")).stdout).toMatch(/beta +yes +127\.0\.0\.1:\d+ +([0-9A-F]{2}:){31}/);
  expect((await ums(site, "status")).stdout).toMatch(/m0000001 +redis +alpha → beta +Succeeded +120 ms/);
  expect((await ums(site, "status", "m0000001", "--json")).last()).toMatchObject({ id: "m0000001" });
  expect((await ums(site, "status", "m0000009")).exitCode).toBe(1);
  expect((await ums(site, "release")).stdout).toMatch(/m0000001 +redis +6379\/tcp +beta/);
  expect(await ums(site, "release", "m0000001", "--json")).toMatchObject({ exitCode: 0, stdout: '{"released":"m0000001"}' });
});

const pod = { name: "redis", migratable: true, status: "Running", image: "redis", ports: ["6379/tcp"] };
const twoNamespaces = { services: async () => ["default", "shop"].map((namespace) => ({ ...pod, namespace })) };

test("where there are namespaces, each pod is shown with its own", async () => {
  const forwards = () => [{ migration: "m0000001", service: "redis", namespace: "shop", ports: ["6379/tcp"], to: "beta" }];
  const site = await startPair(createFakeCoordinator({ ...twoNamespaces, forwards }));
  site.put({ id: "m0000001", namespace: "shop" });
  expect((await ums(site, "list")).stdout).toMatch(/^NAMESPACE +NAME .*\ndefault +redis +Running .*\nshop +redis +Running /);
  expect((await ums(site, "status")).stdout).toMatch(/^ID +NAMESPACE +SERVICE .*\nm0000001 +shop +redis /);
  expect((await ums(site, "release")).stdout).toMatch(/^MIGRATION +NAMESPACE +SERVICE .*\nm0000001 +shop +redis /);
});

test("what a site may send is said when it is paired, or later, and shown", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta")];
  const offer = (await ums(b, "pair", "--accept", "none", "--json")).last();
  const accept = '{"namespaces": ["team-*"], "capabilities": ["CAP_NET_ADMIN"]}';
  const { stdout } = await ums(a, "pair", "--with", b.address, "--code", offer.code, "--accept", accept);
  expect(stdout).toMatch(/^it may send +namespaces team-\*; capabilities CAP_NET_ADMIN$/m);
  expect((await ums(b, "sites")).stdout).toMatch(/MAY SEND\nalpha +yes .* nothing$/);
  expect((await ums(b, "sites", "alpha", "--accept", "default")).stdout).toBe("Site alpha may send: as any.");
  expect((await ums(b, "sites", "--json")).last()).toMatchObject([
    { name: "alpha", accept: { approaches: ["container-level", "orchestrator-level"] } },
  ]);
  expect(await ums(b, "sites", "alpha", "--accept", '{"hostNetwork": true}')).toMatchObject({ exitCode: 2 });
});

test("two sites pair by what the verbs print and ask", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta")];
  const offer = (await ums(b, "pair", "--json")).last();
  expect(offer).toMatchObject({ site: "beta", fingerprint: b.trust.fingerprint });
  const wrong = await ums(a, "pair", "--with", b.address, "--code", "0000-0000-0000-0000-0000-0000");
  expect(wrong).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("Get a new code with `ums pair`") });
  const child = start(a.socketPath, ["pair", "--with", b.address]);
  expect((await ums(a, "pair", "--with", b.address, "--code", offer.code)).stdout).toContain(b.trust.fingerprint);
  expect((await child).exitCode).toBe(2);
  expect((await ums(b, "pair")).stdout).toMatch(new RegExp(`ums pair --with ${b.address} --code ([0-9A-Z]{4}-){5}[0-9A-Z]{4}$`));
  expect((await ums(a, "pair", "--with", "127.0.0.1:1", "--code", offer.code)).exitCode).toBe(5);
  expect((await ums(a, "sites", "--remove", "beta")).exitCode).toBe(0);
  expect(a.trust.peers()).toEqual([]);
});

test("migrate follows to the end: a line a phase when piped", async () => {
  const site = await startPair();
  const child = start(site.socketPath, ["migrate", "redis", "--to", "beta", "--bind-mount", "/srv/a", "--bind-mount", "/srv/b"]);
  await followed(site);
  site.put({ id: "m0000001", phase: "Transferring" });
  site.end("m0000001", "Succeeded", { ...steps, heldMs: 212, totalMs: 3100, bytesSent: 268_435_456 });
  const { stdout, exitCode } = await child;
  expect(exitCode).toBe(0);
  expect(stdout.split("\n")).toEqual([
    "m0000001 Pending: waiting for its turn",
    "m0000001 Transferring: sending memory and changes",
    "m0000001 Succeeded: moved",
    "redis is on beta (clients waited 212 ms, 3100 ms in all, 256 MiB sent).",
    "Preflight 10 ms · Frozen 5 ms · Transferring 80 ms · remainder 1 ms",
  ]);
  expect(site.calls).toEqual([["migrate", { name: "redis", to: "beta", bindMounts: ["/srv/a", "/srv/b"] }]]);
});

test("a pod of another namespace than default is named as kubectl names it, and followed to the end like any other", async () => {
  const site = await startPair();
  expect((await ums(site, "plan", "redis", "-n", "shop", "--to", "beta")).exitCode).toBe(0);
  const child = start(site.socketPath, ["migrate", "redis", "--to", "beta", "--namespace", "shop"]);
  await followed(site);
  site.end("m0000001", "Succeeded", steps);
  const { stdout, exitCode } = await child;
  expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: expect.stringContaining("redis is on beta.") });
  const request = { name: "redis", namespace: "shop", to: "beta" };
  expect(site.calls).toEqual([
    ["plan", request],
    ["migrate", request],
  ]);
});

test("a namespace where there are none is wrong usage, and what to do is said", async () => {
  const refuse = async () => await Promise.reject(new UmsError("NO_NAMESPACES", "This site is a host."));
  const site = await startPair(createFakeCoordinator({ plan: refuse, migrate: refuse }));
  for (const verb of ["plan", "migrate"]) {
    const stderr = "ums: This site is a host. Leave the namespace (--namespace) out.";
    expect(await ums(site, verb, "redis", "--to", "beta", "-n", "shop")).toMatchObject({ exitCode: 2, stderr });
  }
});

test.each([
  ["Succeeded", undefined, steps, 0],
  ["RolledBack", "TIMED_OUT", steps, 4],
  ["RolledBack", "CANCELLED", steps, 4],
  ["Failed", "INTERNAL", steps, 1],
  ["RolledBack", "SOME_REFUSAL", { phases: { Preflight: 3 } }, 3],
  ["RolledBack", "SITE_UNREACHABLE", { phases: { Preflight: 3 } }, 5],
] as const)("migrate --json that ended %s with %s prints the migration alone", async (phase, code, more, exitCode) => {
  const site = await startPair();
  const child = start(site.socketPath, ["migrate", "redis", "--to", "beta", "--json"]);
  await followed(site);
  site.end("m0000001", phase, { ...more, ...(code && { error: { code, message: "It was so.", cure: "Do this." } }) });
  const answer = await child;
  expect(answer.exitCode).toBe(exitCode);
  expect(answer.stdout.split("\n")).toHaveLength(1);
  expect(JSON.parse(answer.stdout)).toMatchObject({ id: "m0000001", phase });
});

test("a second migration of the same service is a conflict", async () => {
  const fake = createFakeCoordinator({
    migrate: async () => await Promise.reject(new UmsError("ALREADY_MIGRATING", "redis is on its way as m0000001.")),
  });
  const site = await startPair(fake);
  const answer = await ums(site, "migrate", "redis", "--to", "beta");
  expect(answer).toMatchObject({ exitCode: 6, stderr: "ums: redis is on its way as m0000001. Watch that migration, or cancel it." });
  expect((await ums(site, "migrate", "redis", "--to", "nowhere")).exitCode).toBe(1);
});

test("Ctrl-C leaves the migration alone and says how to cancel it", async () => {
  const site = await startPair();
  const child = start(site.socketPath, ["migrate", "redis", "--to", "beta"]);
  await followed(site);
  child.kill("SIGINT");
  const { stdout, exitCode } = await child;
  expect(exitCode).toBe(130);
  expect(stdout).toMatch(/The migration goes on; `ums watch m0000001` shows it, `ums cancel m0000001` cancels it.$/);
  expect(site.coordinator.migration("m0000001").endedAt).toBeUndefined();
  expect(site.calls.map(([name]) => name)).toEqual(["migrate"]);
  await vi.waitFor(() => expect(site.watchers("m0000001")).toBe(0));
});

test("--detach does not wait", async () => {
  const site = await startPair();
  const answer = await ums(site, "migrate", "redis", "--to", "beta", "--detach", "--json");
  expect(answer.exitCode).toBe(0);
  expect(answer.last()).toMatchObject({ id: "m0000001", phase: "Pending" });
});

test("a migration that waits for the other site is left after --patience, and shown as waiting", async () => {
  const site = await startPair();
  site.put({ id: "m0000001", phase: "CuttingOver", waiting: "Site beta does not answer." });
  const answer = await ums(site, "watch", "m0000001", "--patience", "0.2");
  expect(answer.exitCode).toBe(7);
  expect(answer.stdout).toContain("Migration m0000001 of redis to beta waits: Site beta does not answer.");
  expect((await ums(site, "status", "m0000001")).exitCode).toBe(7);
});

test("watch outlives a restart of `ums serve`", async () => {
  const site = await startPair();
  site.put({ id: "m0000001", phase: "Transferring" });
  const child = start(site.socketPath, ["watch", "m0000001", "--json"]);
  await followed(site);
  await site.localApi.close();
  await sleep(700);
  site.end("m0000001", "RolledBack", { ...steps, error: { code: "INTERRUPTED", message: "It stopped.", cure: "-" } });
  await site.listenAgain();
  const { stdout, exitCode } = await child;
  expect(exitCode).toBe(4);
  expect(JSON.parse(stdout)).toMatchObject({ phase: "RolledBack" });
});

test("cancel and resolve answer with the migration; resolve wants the person's word", async () => {
  const site = await startPair();
  site.put({ id: "m0000001", phase: "CuttingOver" });
  expect((await ums(site, "resolve", "m0000001", "--destination-is-gone", "--json")).last()).toMatchObject({ id: "m0000001" });
  expect((await ums(site, "cancel", "m0000001", "--json")).last()).toMatchObject({ phase: "RolledBack" });
  expect(site.calls).toEqual([
    ["resolve", "m0000001"],
    ["cancel", "m0000001"],
  ]);
});

test("plan and doctor exit with 3 where a check refuses", async () => {
  const refusal = { code: "NO_ROOM", site: "beta", detail: "1 GiB is missing.", cause: "Too little memory.", cure: "Free some." };
  const fake = createFakeCoordinator({
    plan: async (request) => ({
      service: request.name,
      source: "alpha",
      destination: request.to,
      checks: [{ site: "beta", name: "room", ok: false, verdict: "refused" }],
      refusals: [refusal],
      notes: [],
      memoryBytes: 0,
      fileBytes: 0,
      imageBytes: 0,
    }),
    doctor: async () => [{ name: "criu", ok: false, found: "3.17", code: "CRIU_OLD", cure: "Install 4.2.1." }],
  });
  const site = await startPair(fake);
  const plan = await ums(site, "plan", "redis", "--to", "beta");
  expect(plan).toMatchObject({ exitCode: 3, stdout: expect.stringContaining("NO_ROOM (beta): 1 GiB is missing. Free some.") });
  expect((await ums(site, "plan", "redis", "--to", "beta", "--json")).last().refusals).toEqual([refusal]);
  expect(await ums(site, "doctor")).toMatchObject({ exitCode: 3, stdout: "refused  criu: 3.17 Install 4.2.1." });
  const good = await startPair();
  const movable = await ums(good, "plan", "redis", "--to", "beta");
  expect(movable).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("note     alpha: Clients of 127.0.0.1 are not led.") });
  expect((await ums(good, "doctor")).exitCode).toBe(0);
  expect((await ums(good, "doctor", "--containers")).exitCode).toBe(0);
  expect(good.calls.filter(([name]) => name === "doctor")).toEqual([["doctor"], ["doctor", "containers"]]);
});

test("plan and doctor exit with 0 where a check has only a note, and show it once", async () => {
  const fake = createFakeCoordinator({
    plan: async (request) => ({
      service: request.name,
      source: "alpha",
      destination: request.to,
      checks: [
        { site: "alpha", name: "room", ok: true, verdict: "ok" },
        { site: "beta", name: "log", ok: true, verdict: "note" },
      ],
      refusals: [],
      notes: [{ site: "beta", detail: "It has no journal." }],
      memoryBytes: 0,
      fileBytes: 0,
      imageBytes: 0,
    }),
    doctor: async () => [{ name: "runc", ok: true, found: "1.1.5", notes: ["Some commands fail."] }],
  });
  const site = await startPair(fake);
  const { exitCode, stdout } = await ums(site, "plan", "redis", "--to", "beta");
  expect({ exitCode, lines: stdout.split("\n").slice(0, -1) }).toEqual({
    exitCode: 0,
    lines: ["ok       alpha: room", "note     beta: It has no journal."],
  });
  expect((await ums(site, "plan", "redis", "--to", "beta", "--json")).last()).toMatchObject({
    checks: [{ verdict: "ok" }, { verdict: "note", ok: true }],
    notes: [{ site: "beta", detail: "It has no journal." }],
  });
  expect(await ums(site, "doctor")).toMatchObject({ exitCode: 0, stdout: "note     runc: 1.1.5 Some commands fail." });
  expect((await ums(site, "doctor", "--json")).last()).toEqual([expect.objectContaining({ notes: ["Some commands fail."] })]);
});

test("a migration tells its notes where it has moved, and in JSON in any case", async () => {
  const site = await startPair();
  const notes = [{ site: "beta", detail: "It has no \u001b[2Jjournal." }];
  site.end("m0000001", "Succeeded", { notes });
  expect((await ums(site, "status", "m0000001")).stdout).toMatch(/\nnote {2}beta: It has no \ufffd\[2Jjournal\.$/);
  expect((await ums(site, "status", "m0000001", "--json")).last()).toMatchObject({ notes });
  site.end("m0000002", "RolledBack", { notes });
  expect((await ums(site, "status", "m0000002")).stdout).not.toContain("journal");
});

test("serve with a bad configuration names the field", async () => {
  const file = join(temporaryDirectory(), "config.json");
  writeFileSync(file, '{"listen": {"port": "x"}}');
  const answer = await ums({ socketPath: "/nonexistent" }, "serve", "--config", file);
  expect(answer).toMatchObject({ exitCode: 2, stderr: expect.stringContaining(`${file}: “listen.port” must be integer.`) });
});

test("the package may be changed only while no migration is open, and removed only when no client is led from here", async () => {
  const stateDirectory = temporaryDirectory();
  const config = join(stateDirectory, "config.json");
  writeFileSync(config, JSON.stringify({ stateDirectory }));
  const may = (change: string) => ums({ socketPath: "/nonexistent" }, "__may", change, "--config", config);
  expect(await may("upgrade")).toMatchObject({ exitCode: 0, stdout: "", stderr: "" });
  expect(existsSync(join(stateDirectory, "journal.db"))).toBe(false);

  const database = openDatabase(join(stateDirectory, "journal.db"));
  onTestFinished(() => database.close());
  database.create({ id: "m0000001", role: "source", service: "redis", peer: "beta", request: {} });
  database.create({ id: "m0000002", role: "destination", service: "web", peer: "gamma", request: {} });
  for (const change of ["upgrade", "remove"]) {
    const { exitCode, stderr } = await may(change);
    expect({ change, exitCode }).toEqual({ change, exitCode: 3 });
    expect(stderr).toContain("m0000001 (redis to beta), m0000002 (web from gamma). Wait until it has ended, or end it by `ums cancel ID`");
  }
  for (const id of ["m0000001", "m0000002"]) database.end(id, { phase: "Succeeded" });
  database.addForward({ migration: "m0000001", service: "redis", ports: ["6379/tcp"], to: "beta" });
  expect(await may("upgrade")).toMatchObject({ exitCode: 0 });
  const led = { exitCode: 3, stderr: expect.stringContaining("redis (m0000001). End that with `ums release ID`") };
  expect(await may("remove")).toMatchObject(led);
});

test.each(["bash", "zsh", "fish"])("the completion for %s has the verbs and asks for names", async (shell) => {
  const site = await startPair();
  const { stdout, exitCode } = await ums(site, "completion", shell);
  expect(exitCode).toBe(0);
  expect(stdout).toContain("migrate");
  expect(stdout).not.toContain(" __names -d");
  expect(stdout).toContain("ums __names sites");
  expect((await ums(site, "__names", "sites")).stdout).toBe("beta");
  expect(stdout).toContain("ums __names namespaces");
  expect((await ums(site, "__names", "namespaces")).stdout).toBe("");
});

test("completion knows a cluster's namespaces, each once", async () => {
  const site = await startPair(createFakeCoordinator(twoNamespaces));
  expect((await ums(site, "__names", "namespaces")).stdout).toBe("default\nshop");
  expect((await ums(site, "__names", "services")).stdout).toBe("redis");
});

test("bash takes the completion script and completes a verb", async () => {
  const { stdout: script } = await ums({ socketPath: "/nonexistent" }, "completion", "bash");
  const { stdout } = await execa("bash", ["-c", `${script}\nCOMP_WORDS=(ums mig); COMP_CWORD=1; _ums; echo "\${COMPREPLY[@]}"`]);
  expect(stdout).toBe("migrate");
});
