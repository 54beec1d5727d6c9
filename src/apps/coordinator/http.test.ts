import { once } from "node:events";
import { statSync, writeFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { expect, test } from "vitest";
import { UmsError } from "../../errors.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { createFakeCoordinator } from "./fake-coordinator.ts";
import { createLocalApi, listenOnSocket } from "./http.ts";
import { createMetrics } from "./metrics.ts";
import { pair, startSite, type TestSite } from "./site-for-tests.ts";

async function open(site: TestSite, method: string, path: string, body?: unknown): Promise<IncomingMessage> {
  const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
  const headers = text === undefined ? {} : { "content-type": "application/json" };
  const request = httpRequest({ socketPath: site.socketPath, method, path, headers });
  request.on("error", () => undefined);
  request.end(text);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return response;
}

async function call(site: TestSite, method: string, path: string, body?: unknown) {
  const response = await open(site, method, path, body);
  response.setEncoding("utf8");
  let text = "";
  for await (const chunk of response) text += chunk as string;
  const type = response.headers["content-type"] ?? "";
  return { status: response.statusCode, type, text, body: type.includes("json") ? JSON.parse(text) : undefined };
}

/** Two paired sites; people talk to the first. */
async function startPair(fake = createFakeCoordinator()) {
  const [a, b] = [await startSite("alpha", { fake }), await startSite("beta")];
  await pair(a, b);
  return { a, b };
}

test("the socket is root's and the group's alone; a stale one is replaced, a served one is not", async () => {
  const a = await startSite("alpha");
  expect(statSync(a.socketPath).mode & 0o777).toBe(0o660);
  const { coordinator } = createFakeCoordinator();
  const parts = { ...a, coordinator, addresses: [], metrics: createMetrics(coordinator.migrations), log: pino({ level: "silent" }) };
  await expect(listenOnSocket(createLocalApi(parts), { path: a.socketPath })).rejects.toMatchObject({ code: "SERVE_RUNNING" });
  const stale = join(temporaryDirectory(), "ums.sock");
  writeFileSync(stale, "");
  await expect(listenOnSocket(createLocalApi(parts), { path: stale, group: "no-such-group" })).rejects.toMatchObject({
    code: "BAD_CONFIGURATION",
  });
  const app = createLocalApi(parts);
  await listenOnSocket(app, { path: stale, group: "0" });
  await app.close();
});

test("the original's small endpoints answer as they did", async () => {
  const a = await startSite("alpha");
  expect((await call(a, "GET", "/")).body).toEqual({ url: expect.any(String), os: "linux" });
  expect(await call(a, "GET", "/healthcheck")).toMatchObject({ status: 200, text: "OK" });
  expect((await call(a, "GET", "/list")).body).toEqual([
    expect.objectContaining({ name: "redis", namespace: "", migratable: true, status: "running" }),
  ]);
});

const overheadParts = [
  "checkpoint",
  "pre_checkpoint",
  "checkpoint_files_transfer",
  "checkpoint_files_delay",
  "file_system_transfer",
  "file_system_delay",
  "volume_transfer",
  "volume_delay",
  "save_image",
  "image_layers_transfer",
  "image_layers_delay",
  "load_image",
];

test("the original's POST /migrate waits for the end and answers with every key", async () => {
  const { a, b } = await startPair();
  const answer = call(a, "POST", "/migrate", { name: "redis", namespace: "default", destinationUrl: b.address, keep: "true" });
  await sleep(100);
  a.end("m0000001", "Succeeded", { totalMs: 1500, phases: { Frozen: 20, Transferring: 200, Restoring: 100 }, steps: { reserve: 300 } });
  const { status, body } = await answer;
  expect(status).toBe(200);
  expect(Object.keys(body).sort()).toEqual(["des_pod", "message", "migration_id", "migration_interface", "overhead"]);
  expect(body).toMatchObject({ migration_id: "m0000001", migration_interface: "pind", des_pod: null });
  const { checkpoint_and_transfer: parts, ...rest } = body.overhead;
  expect(Object.keys(parts).sort()).toEqual([...overheadParts].sort());
  expect(parts).toMatchObject({ checkpoint: 0.02, checkpoint_files_transfer: 0.2, pre_checkpoint: null, load_image: null });
  expect(rest).toEqual({ creation: 0.3, checkpoint_and_transfer_total: 0.22, restoration: 0.1, total: 1.5 });
  expect(a.calls).toEqual([["migrate", { name: "redis", to: "beta" }]]);
});

test.each([
  ["SITE_UNREACHABLE", 502],
  ["TIMED_OUT", 504],
  ["ALREADY_MIGRATING", 409],
  ["SERVICE_NOT_FOUND", 404],
  ["INTERNAL", 502],
] as const)("the original's POST /migrate tells %s as plain text with %i", async (code, status) => {
  const { a, b } = await startPair();
  const answer = call(a, "POST", "/migrate", { name: "redis", destinationUrl: b.address });
  await sleep(50);
  a.end("m0000001", "RolledBack", { error: { code, message: "It went wrong.", cure: "-" } });
  expect(await answer).toMatchObject({
    status,
    text: expect.stringMatching(/^It went wrong\. /),
    type: expect.stringContaining("text/plain"),
  });
});

test("a refusal before the start is plain text in the original's endpoint", async () => {
  const fake = createFakeCoordinator({
    migrate: async () => await Promise.reject(new UmsError("ALREADY_MIGRATING", "redis is on its way as m0000009.")),
  });
  const { a, b } = await startPair(fake);
  expect(await call(a, "POST", "/migrate", { name: "redis", destinationUrl: b.address })).toMatchObject({ status: 409 });
  expect(await call(a, "POST", "/migrate", { name: "redis", destinationUrl: "10.9.9.9:1" })).toMatchObject({ status: 404 });
  expect(await call(a, "POST", "/migrate", { name: "redis", destinationUrl: b.address, redirect: "http://x" })).toMatchObject({
    status: 400,
  });
  expect(await call(a, "POST", "/migrate", { name: "redis" })).toMatchObject({ status: 400, type: expect.stringContaining("text/plain") });
  expect(await call(a, "POST", "/migrate", "{")).toMatchObject({ status: 400, type: expect.stringContaining("text/plain") });
});

test("a client that hangs up ends no migration", async () => {
  const { a, b } = await startPair();
  const socket = connect(a.socketPath);
  const body = JSON.stringify({ name: "redis", destinationUrl: b.address });
  socket.write(`POST /migrate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  await sleep(100);
  socket.destroy();
  await sleep(100);
  expect(a.calls).toEqual([["migrate", { name: "redis", to: "beta" }]]);
  expect(a.coordinator.migration("m0000001").endedAt).toBeUndefined();
  a.end("m0000001", "Succeeded");
});

test("what is not of the documented form is refused before anybody is asked", async () => {
  const { a } = await startPair();
  const good = { name: "redis", to: "beta" };
  const bad: [string, string, unknown][] = [
    ["POST", "/migrations", "{"],
    ["POST", "/migrations", ""],
    ["POST", "/migrations", "null"],
    ["POST", "/migrations", []],
    ["POST", "/migrations", { to: "beta" }],
    ["POST", "/migrations", { ...good, name: 7 }],
    ["POST", "/migrations", { ...good, name: ["redis"] }],
    ["POST", "/migrations", { ...good, name: "a; rm -rf /" }],
    ["POST", "/migrations", { ...good, name: "$(id)" }],
    ["POST", "/migrations", { ...good, name: "../x" }],
    ["POST", "/migrations", { ...good, name: "-v" }],
    ["POST", "/migrations", { ...good, name: "redis\n" }],
    ["POST", "/migrations", { ...good, force: true }],
    ["POST", "/migrations", { ...good, bindMounts: ["relative"] }],
    ["POST", "/migrations", { ...good, bindMounts: ["/a/../b"] }],
    ["POST", "/migrations", { ...good, bindMounts: "/a" }],
    ["POST", "/migrations", JSON.stringify({ ...good, name: "x".repeat(10_000_000) })],
    ["POST", "/migrations", { ...good, to: "nowhere" }],
    ["POST", "/plan", { ...good, name: "`id`" }],
    ["POST", "/plan", { ...good, to: "nowhere" }],
    ["GET", "/migrations/..%2f..%2fetc", undefined],
    ["DELETE", "/migrations/a;b", undefined],
    ["POST", "/migrations/$(id)/resolve", undefined],
    ["DELETE", "/forwards/%00", undefined],
    ["DELETE", "/sites/A%20B", undefined],
    ["POST", "/sites/pair", { address: "host:1;id", code: "x" }],
    ["POST", "/sites/pair", { address: "127.0.0.1:99999", code: "x" }],
    ["PUT", "/migrations", good],
    ["GET", "/%", undefined],
  ];
  for (const [method, path, body] of bad) {
    const answer = await call(a, method, path, body);
    const what = `${JSON.stringify([method, path, body]).slice(0, 120)} → ${answer.text}`;
    expect(answer.status, what).toBeGreaterThanOrEqual(400);
    expect(answer.status, what).toBeLessThan(500);
    if (path !== "/%")
      expect(answer.body, what).toEqual({ code: expect.any(String), message: expect.any(String), cure: expect.any(String) });
  }
  expect(a.calls).toEqual([]);
});

test("another media type than JSON is refused", async () => {
  const { a } = await startPair();
  const request = httpRequest({ socketPath: a.socketPath, method: "POST", path: "/migrations", headers: { "content-type": "text/plain" } });
  request.end('{"name":"redis","to":"beta"}');
  const [response] = (await once(request, "response")) as [IncomingMessage];
  response.resume();
  expect(response.statusCode).toBe(400);
  expect(a.calls).toEqual([]);
});

test("migrations are started, shown, cancelled and resolved", async () => {
  const { a } = await startPair();
  const started = await call(a, "POST", "/migrations", { name: "redis", to: "beta", bindMounts: ["/srv/data"] });
  expect(started).toMatchObject({ status: 202, body: { id: "m0000001", phase: "Pending" } });
  expect((await call(a, "GET", "/migrations")).body).toHaveLength(1);
  expect((await call(a, "GET", "/migrations/m0000001")).body).toMatchObject({ service: "redis" });
  expect(await call(a, "GET", "/migrations/m0000002")).toMatchObject({ status: 404, body: { code: "MIGRATION_NOT_FOUND" } });
  expect((await call(a, "POST", "/migrations/m0000001/resolve")).status).toBe(200);
  expect((await call(a, "DELETE", "/migrations/m0000001")).body).toMatchObject({ phase: "RolledBack" });
  expect((await call(a, "POST", "/plan", { name: "redis", to: "beta" })).body).toMatchObject({ refusals: [] });
  expect((await call(a, "GET", "/forwards")).body).toHaveLength(1);
  expect((await call(a, "DELETE", "/forwards/m0000001")).status).toBe(204);
  expect((await call(a, "GET", "/doctor")).body).toEqual([{ name: "criu", ok: true, found: "4.2.1" }]);
  expect((await call(a, "GET", "/doctor?containers=true")).status).toBe(200);
  expect((await call(a, "GET", "/doctor?containers=yes")).status).toBe(400);
  expect(a.calls.map(([name]) => name)).toEqual(["migrate", "resolve", "cancel", "plan", "release", "doctor", "doctor"]);
  expect(a.calls.slice(-2)).toEqual([["doctor"], ["doctor", "containers"]]);
});

test("the event stream tells each change until the end, and leaves nothing when the client goes", async () => {
  const { a } = await startPair();
  a.put({ id: "m0000001" });
  const response = await open(a, "GET", "/migrations/m0000001/events");
  expect(response.headers["content-type"]).toBe("text/event-stream");
  await sleep(50);
  a.put({ id: "m0000001", phase: "Frozen", bytesSent: 5 });
  a.end("m0000001", "Succeeded");
  let text = "";
  for await (const chunk of response) text += String(chunk);
  const events = text.trim().split("\n\n");
  expect(events.map((event) => JSON.parse(event.split("\ndata: ")[1]!).phase)).toEqual(["Pending", "Frozen", "Succeeded"]);
  expect(events.every((event) => event.startsWith("event: migration\n"))).toBe(true);
  expect((await call(a, "GET", "/migrations/m0000009/events")).status).toBe(404);

  a.put({ id: "m0000002" });
  const left = await open(a, "GET", "/migrations/m0000002/events");
  left.on("error", () => undefined).resume();
  await sleep(50);
  expect(a.watchers("m0000002")).toBe(1);
  left.destroy();
  await sleep(50);
  expect(a.watchers("m0000002")).toBe(0);
});

test("sites are paired, shown with whether they answer, and removed unless a migration is under way", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta")];
  const offer = (await call(b, "POST", "/sites/pairing-code")).body;
  expect(offer).toMatchObject({ site: "beta", fingerprint: b.trust.fingerprint, addresses: [b.address] });
  const paired = await call(a, "POST", "/sites/pair", { address: b.address, code: offer.code });
  expect(paired.body).toMatchObject({ name: "beta", fingerprint: b.trust.fingerprint, addresses: [b.address] });
  expect(await call(a, "POST", "/sites/pair", { address: b.address, code: offer.code })).toMatchObject({ status: 401 });
  expect((await call(a, "GET", "/sites")).body).toMatchObject([{ name: "beta", reachable: true }]);
  await b.trust.removePeer("alpha");
  expect((await call(a, "GET", "/sites")).body).toMatchObject([{ name: "beta", reachable: false }]);
  a.put({ id: "m0000001" });
  expect(await call(a, "DELETE", "/sites/beta")).toMatchObject({ status: 409, body: { code: "SITE_BUSY" } });
  a.end("m0000001", "Succeeded");
  expect((await call(a, "DELETE", "/sites/beta")).status).toBe(204);
  expect((await call(a, "GET", "/sites")).body).toEqual([]);
});

test("what a site may send is said by either one when they pair, shown with it, and can be changed", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta")];
  const offer = (await call(b, "POST", "/sites/pairing-code", { accept: { approaches: [] } })).body;
  const accept = { namespaces: ["shop"] };
  const paired = await call(a, "POST", "/sites/pair", { address: b.address, code: offer.code, accept });
  expect(paired.body).toMatchObject({ name: "beta", accept: { namespaces: ["shop"], images: ["*"], privileged: false } });
  expect((await call(b, "GET", "/sites")).body).toMatchObject([{ name: "alpha", accept: { approaches: [] } }]);
  expect(b.trust.peer("alpha")?.accept).toEqual({ approaches: [] });
  const said = await call(b, "POST", "/sites/alpha/accept", { accept: { privileged: true } });
  expect(said.body).toMatchObject({ name: "alpha", accept: { privileged: true, namespaces: ["*"] } });
  expect((await call(b, "POST", "/sites/alpha/accept", {})).body).toMatchObject({ accept: { privileged: false } });
  expect(b.trust.peer("alpha")).not.toHaveProperty("accept");
  expect(await call(b, "POST", "/sites/gamma/accept", {})).toMatchObject({ status: 404, body: { code: "SITE_NOT_FOUND" } });
  for (const wrong of [{ accept: { hostNetwork: true } }, { accept: { approaches: ["magic"] } }, { accept: "none" }])
    expect((await call(b, "POST", "/sites/alpha/accept", wrong)).status, JSON.stringify(wrong)).toBe(400);
});

test("an unforeseen failure is told without its inside", async () => {
  const fake = createFakeCoordinator({ doctor: async () => await Promise.reject(new Error("secret /root/path")) });
  const a = await startSite("alpha", { fake });
  const answer = await call(a, "GET", "/doctor");
  expect(answer).toMatchObject({ status: 500, body: { code: "INTERNAL" } });
  expect(answer.text).not.toContain("secret");
});

test("the metrics count each ended migration once", async () => {
  const a = await startSite("alpha");
  a.end("m0000001", "Succeeded", { heldMs: 150, totalMs: 3000, bytesSent: 1000 });
  a.end("m0000002", "RolledBack");
  a.put({ id: "m0000003" });
  await call(a, "GET", "/metrics");
  const { text } = await call(a, "GET", "/metrics");
  expect(text).toContain('ums_migrations_total{role="source",outcome="Succeeded"} 1');
  expect(text).toContain('ums_migrations_total{role="source",outcome="RolledBack"} 1');
  expect(text).toContain('ums_migration_held_seconds_bucket{le="0.2"} 1');
  expect(text).toContain("ums_migration_total_seconds_sum 3");
  expect(text).toContain("ums_migration_sent_bytes_total 1000");
  expect(text).toContain("ums_migrations_running 1");
  expect(text).toMatch(/process_resident_memory_bytes [1-9]/);
});

test("the OpenAPI document is made of the schemas", async () => {
  const a = await startSite("alpha");
  const { body } = await call(a, "GET", "/openapi.json");
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining(["/migrate", "/list", "/migrations/{id}", "/migrations/{id}/events", "/sites/pair"]),
  );
  const schema = body.paths["/migrations"].post.requestBody.content["application/json"].schema;
  expect(schema.additionalProperties).toBe(false);
  expect(schema.properties.name.pattern).toBe("^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$");
});

test("closing the API ends its waits, and no migration", async () => {
  const { a, b } = await startPair();
  const waiting = call(a, "POST", "/migrate", { name: "redis", destinationUrl: b.address }).catch(() => undefined);
  await sleep(100);
  const events = await open(a, "GET", "/migrations/m0000001/events");
  events.on("error", () => undefined).resume();
  await sleep(50);
  expect(a.watchers("m0000001")).toBe(2);
  const started = Date.now();
  await a.localApi.close();
  await waiting;
  expect(Date.now() - started).toBeLessThan(1_000);
  expect(a.watchers("m0000001")).toBe(0);
  expect(a.coordinator.migration("m0000001").endedAt).toBeUndefined();
});
