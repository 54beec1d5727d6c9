/** What a hostile service, a hostile paired site and a hostile local user can't do; each was possible once. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { ContainerNeed } from "../src/protocol/container.ts";
import { moved } from "./disturbance.ts";
import { askAs, type HostileAnswer, type Request } from "./hostile-peer.ts";
import { imageReference } from "./images.ts";
import { createSites, sitePort, type Sites, type TestSite } from "./sites.ts";

let sites: Sites;
let a: TestSite;
let b: TestSite;
let need: ContainerNeed;

beforeAll(async () => {
  sites = await createSites({ images: ["redis", "services"], configuration: { accept: { bindMounts: ["/tmp/shared"] } } });
  ({ a, b } = sites);
  await a.host.podman(["run", "--detach", "--name", "shop", "--volume", "data:/data", imageReference("redis"), "sleep", "infinity"]);
  const calls = JSON.stringify([{ call: "need", name: "shop" }]);
  const { stdout } = await a.host.exec([process.execPath, new URL("preflight-calls.ts", import.meta.url).pathname], { input: calls });
  [need] = JSON.parse(stdout) as [ContainerNeed];
});
afterAll(() => sites[Symbol.asyncDispose]());
afterEach(async () => {
  for (const { host } of [a, b]) await host.podman(["rm", "--force", "--ignore", "--time", "0", "victim", "thief", "bank"]);
});

const asA = (...requests: Request[]): Promise<HostileAnswer[]> => askAs(a, b, requests);
let ids = 0;
const newId = () => (++ids).toString(16).padStart(12, "e");
const put = (id: string, changes: object = {}, more: object = {}) => ({
  method: "PUT",
  path: `/peer/migrations/${id}`,
  body: { ...need, ...more, spec: { ...need.spec, ...changes } },
});
const post = (id: string, action: string) => ({ method: "POST", path: `/peer/migrations/${id}/${action}` });
const destroy = (id: string) => ({ method: "DELETE", path: `/peer/migrations/${id}` });
const codes = (answers: readonly HostileAnswer[]) => answers.map(({ code }) => code);
const isServing = async (site: TestSite) => expect((await site.ums(["sites"])).exitCode).toBe(0);

test("a service that exchanges its directories with links gets nothing of its host read for it", async () => {
  const secret = "secret of the host";
  await a.host.exec(["sh", "-c", `umask 077; echo '${secret}' >/etc/canary-secret`]);
  const options = ["--volume", "stolen:/w", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
  await a.host.podman([
    ...["run", "--detach", "--name", "thief", ...options, imageReference("services")],
    ...["python3", "-u", "/srv/steal.py", "/etc", "canary-secret"],
  ]);
  await expect.poll(async () => (await a.host.podman(["logs", "thief"])).stdout).toContain("ready");
  // It may or may not be moved while its files behave so; nothing of the host is in what has come.
  await a.ums(["migrate", "thief", "--to", b.name]);
  const { stdout } = await b.host.exec(["sh", "-c", "cat /var/lib/containers/storage/volumes/stolen/_data/t/*/canary-secret || true"]);
  expect(stdout).not.toContain(secret);
  await b.host.exec(["sh", "-c", "test ! -e /etc/canary-secret"]);
  for (const { host } of [a, b]) {
    await host.podman(["rm", "--force", "--ignore", "--time", "0", "thief"]);
    await host.podman(["volume", "rm", "--force", "stolen"]);
  }
});

test("an undo leaves alone what has only the name of what it would have made", async () => {
  const id = newId();
  expect(codes(await asA(put(id, { name: "victim", volumes: [] }, { volumes: [] })))).toEqual([undefined]);
  await b.host.podman(["run", "--detach", "--name", "victim", imageReference("redis"), "sleep", "infinity"]);
  expect(codes(await asA(post(id, "create"), destroy(id)))).toEqual(["NAME_TAKEN", undefined]);
  expect((await b.host.podman(["ps", "--format", "{{.Names}} {{.Status}}"])).stdout).toMatch(/victim Up/);
});

test("two migrations that arrive have no name, volume or port in common", async () => {
  const [first, ...others] = [newId(), newId(), newId(), newId()];
  const port = (hostIp: string) => ({ ports: [{ hostIp, hostPort: 18_181, containerPort: 80, protocol: "tcp" }] });
  const answers = await asA(
    put(first, { name: "one", ...port("") }),
    put(others[0], { name: "one", volumes: [] }, { volumes: [] }),
    put(others[1], { name: "two" }),
    put(others[2], { name: "three", volumes: [], ...port(b.host.address) }, { volumes: [] }),
    destroy(first),
  );
  expect(codes(answers)).toEqual([undefined, "NAME_TAKEN", "VOLUME_EXISTS", "PORT_TAKEN", undefined]);
});

test("thirty reservations at once are no more than the site takes", async () => {
  const all = Array.from({ length: 30 }, () => newId());
  const [answer] = await asA({ together: all.map((id, at) => put(id, { name: `crowd-${at}`, volumes: [] }, { volumes: [] })) });
  const answers = answer?.body as HostileAnswer[];
  await asA(...all.map(destroy));
  expect(answers.filter(({ code }) => code === undefined)).toHaveLength(4);
  expect(answers.filter(({ code }) => code === "SITE_BUSY")).toHaveLength(26);
});

test("what a machine acts upon doesn't cross: not as the source's, and not as a hostile site's", async () => {
  const annotation = { "org.criu.config": "/srv/evil.conf" };
  await a.host.podman([
    "run",
    "--detach",
    "--name",
    "thief",
    "--annotation",
    "org.criu.config=/srv/evil.conf",
    imageReference("redis"),
    "sleep",
    "9999",
  ]);
  const plan = await a.json<{ refusals: { code: string; detail: string }[] }>(["plan", "thief", "--to", b.name]);
  expect(plan.refusals).toContainEqual(
    expect.objectContaining({ code: "UNSUPPORTED_SETTING", detail: expect.stringContaining("org.criu.config") }),
  );
  const bind = { source: "/", destination: "/host", options: [], readOnly: false };
  const hostile = [
    { annotations: annotation },
    { binds: [bind] },
    { capAdd: ["CAP_SYS_ADMIN"] },
    { securityOptions: ["seccomp=unconfined"] },
  ];
  expect(codes(await asA(...hostile.map((changes) => put(newId(), changes))))).toEqual(hostile.map(() => "POLICY"));
});

test("a link that a service makes in a directory that it may mount leads no bind mount out of it", async () => {
  for (const { host } of [a, b]) await host.exec(["mkdir", "-p", "/tmp/shared/below"]);
  const run = ["run", "--detach", "--volume"];
  await a.host.podman([...run, "/tmp/shared:/shared", "--name", "bank", imageReference("redis"), "sleep", "infinity"]);
  const bank = await a.json<{ phase: string }>(["migrate", "bank", "--to", b.name, "--bind-mount", "/tmp/shared"]);
  expect(bank.phase).toBe("Succeeded");
  const id = newId();
  const below = { name: "victim", volumes: [], binds: [{ source: "/tmp/shared/below", destination: "/x", options: [], readOnly: false }] };
  expect(codes(await asA(put(id, below, { volumes: [] })))).toEqual([undefined]);
  await b.host.podman(["exec", "bank", "sh", "-c", "rmdir /shared/below && ln -s /etc /shared/below"]);
  expect(codes(await asA(post(id, "create"), destroy(id), put(newId(), below, { volumes: [] })))).toEqual(["POLICY", undefined, "POLICY"]);
  await a.host.podman([...run, "/tmp/shared/below:/x", "--name", "thief", imageReference("redis"), "sleep", "infinity"]);
  const { exitCode, stdout } = await a.ums(["migrate", "thief", "--to", b.name, "--bind-mount", "/tmp/shared/below"]);
  expect({ exitCode, stdout }).toEqual({ exitCode: 3, stdout: expect.stringContaining("a link leads from there to /etc") as string });
  expect((await b.host.podman(["ps", "--all", "--quiet", "--filter", "name=thief"])).stdout).toBe("");
});

test("a volume that was not announced can't be mounted: it would be another service's", async () => {
  await b.host.podman(["volume", "create", "victims-data"]);
  const volumes = [{ name: "victims-data", destination: "/stolen", options: [], readOnly: false }];
  expect(codes(await asA(put(newId(), { volumes }, { volumes: [] })))).toEqual(["BAD_REQUEST"]);
});

test("an image that comes with a service takes no name that another one has here", async () => {
  const idOf = async (name: string) => (await b.host.podman(["image", "inspect", "--format", "{{.Id}}", name])).stdout;
  const before = await idOf(imageReference("services"));
  await a.host.podman(["tag", imageReference("redis"), imageReference("services")]);
  await b.host.podman(["rmi", "--force", imageReference("redis")]);
  await a.host.podman(["run", "--detach", "--name", "bank", imageReference("redis"), "sleep", "infinity"]);
  await moved(a, b, "bank");
  expect(await idOf(imageReference("services"))).toBe(before);
  expect(await idOf(imageReference("redis"))).not.toBe(before);
});

test("a site that may send nothing is refused, at the check and at the reservation, and takes services in as before", async () => {
  await a.host.podman(["run", "--detach", "--name", "bank", imageReference("redis"), "sleep", "infinity"]);
  const id = newId();
  expect(codes(await asA(put(id, { name: "victim", volumes: [] }, { volumes: [] })))).toEqual([undefined]);
  expect((await b.json<{ accept: object }>(["sites", a.name, "--accept", "none"])).accept).toMatchObject({ approaches: [] });
  const [check, reservation] = await asA(
    { method: "POST", path: "/peer/check", body: need },
    put(newId(), { volumes: [] }, { volumes: [] }),
  );
  expect((check?.body as { checks: object[] }).checks).toEqual([expect.objectContaining({ code: "POLICY", name: "policy" })]);
  expect(reservation).toMatchObject({ code: "POLICY", message: expect.stringContaining("accept.approaches") as string });
  // What had begun can be undone.
  expect(codes(await asA({ method: "GET", path: `/peer/migrations/${id}` }, destroy(id)))).toEqual([undefined, undefined]);
  expect((await a.ums(["migrate", "bank", "--to", b.name])).exitCode).toBe(3);
  expect((await a.host.podman(["ps", "--format", "{{.Names}}"])).stdout).toContain("bank");

  await b.host.podman(["run", "--detach", "--name", "victim", imageReference("redis"), "sleep", "infinity"]);
  await moved(b, a, "victim");
  await b.json(["sites", a.name, "--accept", "default"]);
  await moved(a, b, "bank");
});

test("frames that nobody should send end their connection, and not the site", async () => {
  const id = newId();
  const frame = (header: object) => {
    const json = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeUInt32BE(json.length, 0);
    return Buffer.concat([prefix, json]);
  };
  const open = frame({ kind: "open", stream: 0, what: { kind: "tree", tree: "changes", deleted: ["../../x"] } });
  const many = Buffer.concat(
    Array.from({ length: 200 }, () => frame({ kind: "open", stream: 0, what: { kind: "tree", tree: "changes", deleted: [] } })),
  );
  await asA(
    put(id, { volumes: [] }, { volumes: [] }),
    post(id, "create"),
    ...[open, many, Buffer.from("this is no frame at all")].map((bytes) => ({ id, data: bytes.toString("base64") })),
    destroy(id),
  );
  await isServing(b);
  await expect.poll(async () => (await b.host.exec(["pgrep", "--count", "bwrap"], { reject: false })).stdout).toBe("0");
});

test("ids that a peer gives up before anybody has heard of them are forgotten, and are no migrations", async () => {
  const ids = Array.from({ length: 600 }, () => newId());
  const known = await b.json<unknown[]>(["status"]);
  await asA(...ids.map(destroy));
  expect((await b.json<unknown[]>(["status"])).length).toBeLessThanOrEqual(known.length);
  const program =
    "import sqlite3; print(sqlite3.connect('/var/lib/ums/journal.db').execute('SELECT count(*) FROM migrations').fetchone()[0])";
  expect(Number((await b.host.exec(["python3", "-c", program])).stdout)).toBeLessThan(known.length + 300);
});

test("a peer that keeps its reservations for ever leaves room for others, and opens no more than two connections for each", async () => {
  const third = { host: a.host, name: "third" };
  const directory = "/var/lib/third";
  const { code } = await b.json<{ code: string }>(["pair"]);
  const asThird = (...requests: Request[]) => askAs(third, b, requests, directory);
  const one = (name: string) => [{ name, volumes: [] }, { volumes: [] }] as const;
  const ids = [newId(), newId(), newId(), newId()];
  try {
    await asThird({ pair: { address: `${b.host.address}:${sitePort}`, code } });
    const greedy = await asA(...ids.map((id, at) => put(id, ...one(`greedy-${at}`))));
    expect(codes(greedy)).toEqual([undefined, undefined, "SITE_BUSY", "SITE_BUSY"]);
    const [stay] = await asA({ id: ids[0] ?? "", data: "", times: 40 });
    expect(stay?.body).toBe(2);
    const own = newId();
    expect(codes(await asThird(put(own, ...one("modest")), destroy(own)))).toEqual([undefined, undefined]);
  } finally {
    await asA(...ids.map(destroy));
    await b.ums(["sites", "--remove", "third"]);
  }
});

test("a directory for memory images that somebody else has made is not used", async () => {
  await b.stop();
  await b.host.exec(["rm", "-rf", "/dev/shm/ums"]);
  await b.host.exec(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "mkdir", "/dev/shm/ums"]);
  await b.restart();
  await a.host.podman(["run", "--detach", "--name", "bank", imageReference("redis"), "sleep", "infinity"]);
  const look = "find /dev/shm/ums -mindepth 1 -maxdepth 1 2>/dev/null";
  const watch = await b.host.spawn(["timeout", "60", "sh", "-c", `while sleep 0.01; do ${look}; done`]);
  await moved(a, b, "bank");
  watch.kill("SIGTERM");
  await watch.exited;
  expect(watch.output()).toBe("");
  expect((await b.host.exec(["stat", "--format", "%u", "/dev/shm/ums"])).stdout).toBe("65534");
  await b.host.exec(["rm", "-rf", "/dev/shm/ums"]);
});

test("nobody but root reads what a site remembers", async () => {
  for (const { host } of [a, b]) {
    const { exitCode } = await host.exec(
      ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", "/var/lib/ums/journal.db", "/var/lib/ums/journal.db-wal"],
      { reject: false },
    );
    expect(exitCode).not.toBe(0);
    expect((await host.exec(["stat", "--format", "%a", "/var/lib/ums"])).stdout).toBe("700");
  }
});
