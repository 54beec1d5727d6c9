/** What a user can do wrong, said to a real `ums serve`: it answers with 4xx, and touches nothing. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Check } from "../src/preflight/check.ts";
import { type Inventory, inventoryChanges } from "./hosts.ts";
import { startRedis } from "./redis.ts";
import { createSites, type Sites } from "./sites.ts";

let sites: Sites;
let before: readonly [Inventory, Inventory];
const inventories = () => Promise.all([sites.a.host.inventory(), sites.b.host.inventory()]);

beforeAll(async () => {
  sites = await createSites();
  await startRedis(sites.a.host, { memoryMiB: 64 });
  before = await inventories();
});
afterAll(() => sites[Symbol.asyncDispose]());

/** Sends this text as it is. */
async function post(path: string, body: string): Promise<{ status: number; body: { code?: string; [key: string]: unknown } }> {
  const curl = ["curl", "--silent", "--max-time", "30", "--unix-socket", "/run/ums/ums.sock", "--header", "content-type: application/json"];
  const { stdout } = await sites.a.host.exec([...curl, "--write-out", "\n%{http_code}", "--data-binary", "@-", `http://ums${path}`], {
    input: body,
  });
  const lines = stdout.trimEnd().split("\n");
  const text = lines.slice(0, -1).join("\n");
  return { status: Number(lines.at(-1)), body: text === "" ? {} : (JSON.parse(text) as { code?: string }) };
}
const request = (name: unknown, more: object = {}) => JSON.stringify({ name, to: sites.b.name, ...more });

test.each([
  ["bad JSON", () => '{"name": "redis", ', 400],
  ["no body at all", () => "", 400],
  ["a name of the wrong type", () => request(7), 400],
  ["a name with shell characters", () => request("redis; touch /tmp/owned"), 400],
  ["a name that leaves its directory", () => request("../redis"), 400],
  ["a name that looks like an option", () => request("--all"), 400],
  ["bind mounts of the wrong type", () => request("redis", { bindMounts: "/etc" }), 400],
  ["a namespace, which a host has not", () => request("redis", { namespace: "default" }), 400],
  ["a body of 10 MB", () => request("x".repeat(10_000_000)), 413],
  ["a service that isn't there", () => request("nobody"), 404],
  ["a site that isn't paired", () => JSON.stringify({ name: "redis", to: "nowhere" }), 404],
])("%s is refused", async (_what, body, status) => {
  expect(await post("/migrations", body())).toMatchObject({ status });
});

test("a second migration of the same container is refused with the first one's id", async () => {
  const { a, hosts } = sites;
  await hosts.setRate(20); // slow enough for the second to come in between
  const first = await post("/migrations", request("redis"));
  expect(first.status).toBeLessThan(300);
  const second = await post("/migrations", request("redis"));
  expect(second.status).toBe(409);
  expect(JSON.stringify(second.body)).toContain(String(first.body.id));
  expect((await a.ums(["migrate", "redis", "--to", sites.b.name])).exitCode).toBe(6);
  const lines = await a.json<Check[]>(["doctor", "--containers"]);
  expect(lines.find(({ name }) => name === "container redis")).toMatchObject({ ok: false, code: "ALREADY_MIGRATING" });
  await a.ums(["cancel", String(first.body.id)]);
  expect((await a.ums(["watch", String(first.body.id)])).exitCode).toBe(4);
  await hosts.setRate(undefined);
});

test("nothing of all that is left, and the service runs", async () => {
  expect((await sites.a.host.podman(["exec", "redis", "redis-cli", "ping"])).stdout.trim()).toBe("PONG");
  // Directories that stay, a cache of CRIU's; and the service itself has grown older.
  const standing =
    /^(. containers: redis .* Up .*|\+ files: (\/dev\/shm\/ums|\/run\/criu\.kdat|\/run\/ums\/restore|\/var\/lib\/ums\/(held|work)))$/;
  const left = async () =>
    (await inventories())
      .flatMap((after, index) => inventoryChanges(before[index === 0 ? 0 : 1], after))
      .filter((line) => !standing.test(line));
  await expect.poll(left, { timeout: 15_000, interval: 500 }).toEqual([]);
});
