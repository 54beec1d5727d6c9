import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";

/** The original's API somewhere, and a pod there that can move. */
export type OriginalApiUnderTest = Readonly<{
  /** @param body as it is where it is a string, else JSON */
  call(method: string, path: string, body?: unknown): Promise<Readonly<{ status: number; type: string; text: string }>>;
  /** Reads what comes until it is closed. */
  stream(path: string): Promise<Readonly<{ type: string; text(): string; close(): void | Promise<void> }>>;
  pod: Readonly<{ name: string; namespace: string }>;
  /** A paired site's address, to which the pod can move. */
  destinationUrl: string;
  /** How many migrations there have ever been. */
  migrations(): Promise<number>;
  /** Whether the pod is here. */
  isHere(): Promise<boolean>;
}>;

/** Keys of the original's answer; every one is there, with null for what an approach has not. */
const parts = [
  ...["checkpoint", "pre_checkpoint", "checkpoint_files_transfer", "checkpoint_files_delay", "file_system_transfer"],
  ...["file_system_delay", "volume_transfer", "volume_delay", "save_image", "image_layers_transfer", "image_layers_delay", "load_image"],
];

/** What users of the original rely on, in a cluster. The pod has moved away when it has ended. */
export function describeOriginalApi(name: string, open: () => OriginalApiUnderTest | Promise<OriginalApiUnderTest>, waitMs = 30_000): void {
  describe(`${name} keeps the contract of the original's API:`, { timeout: waitMs }, () => {
    let opened: Promise<OriginalApiUnderTest> | undefined;
    const api = () => (opened ??= Promise.resolve(open()));
    const request = async () => {
      const { pod, destinationUrl } = await api();
      return { ...pod, destinationUrl };
    };

    test("GET / says where and what it is", async () => {
      const { status, text } = await (await api()).call("GET", "/");
      expect(status).toBe(200);
      expect(JSON.parse(text)).toEqual({
        url: expect.stringMatching(/^https?:\/\/./),
        os: "linux",
        ssu_host: expect.stringMatching(/./),
        ssu_port: expect.any(Number),
      });
    });

    test("GET /healthcheck answers", async () => {
      expect((await (await api()).call("GET", "/healthcheck")).status).toBe(200);
    });

    test("GET /list has the pod", async () => {
      const { call, pod } = await api();
      const { status, text } = await call("GET", "/list");
      expect(status).toBe(200);
      expect(JSON.parse(text)).toContainEqual(expect.objectContaining({ ...pod, migratable: true, status: expect.any(String) }));
    });

    test.each<[string, (good: object) => unknown]>([
      ["no JSON", () => "{"],
      ["nothing", () => ""],
      ["a list", () => []],
      ["no destination", () => ({ name: "redis", namespace: "default" })],
      ["a number for a name", (good) => ({ ...good, name: 7 })],
      ["a shell's semicolon in a name", (good) => ({ ...good, name: "redis; touch /tmp/x" })],
      ["a shell's substitution in a name", (good) => ({ ...good, name: "$(touch /tmp/x)" })],
      ["backticks in a name", (good) => ({ ...good, name: "`id`" })],
      ["a path in a name", (good) => ({ ...good, name: "../../nodes" })],
      ["a pipe in a namespace", (good) => ({ ...good, namespace: "default|id" })],
      ["a shell's substitution in a destination", (good) => ({ ...good, destinationUrl: "$(id):30001" })],
      ["`keep`, which clusters can't yet", (good) => ({ ...good, keep: "true" })],
      ["`redirect`, which sites do by themselves", (good) => ({ ...good, redirect: "http://example.com" })],
    ])("POST /migrate refuses %s with 400 in plain text, and touches nothing", async (_what, body) => {
      const { call, migrations, isHere } = await api();
      const before = await migrations();
      const { status, type, text } = await call("POST", "/migrate", body(await request()));
      expect(status, text).toBe(400);
      expect(type).toContain("text/plain");
      expect(text).toMatch(/\w/);
      expect([await migrations(), await isHere()]).toEqual([before, true]);
    });

    test("POST /migrate reads no body of 10 MB, and touches nothing", async () => {
      const { call, migrations, isHere } = await api();
      const before = await migrations();
      const { status } = await call("POST", "/migrate", { ...(await request()), redirect: "x".repeat(10_000_000) });
      // The connection ends with the answer, and whoever still writes may see its end alone (0), or that it might begin (100).
      expect([400, 0, 100]).toContain(status);
      expect([await migrations(), await isHere()]).toEqual([before, true]);
    });

    test("POST /migrate knows neither a pod nor a site that isn't there: 404 in plain text", async () => {
      const { call, migrations } = await api();
      const before = await migrations();
      for (const change of [{ name: "nobody" }, { destinationUrl: "192.0.2.1:30001" }]) {
        const { status, type } = await call("POST", "/migrate", { ...(await request()), ...change });
        expect([status, type]).toEqual([404, expect.stringContaining("text/plain")]);
      }
      expect(await migrations()).toBe(before);
    });

    test("POST /migrate moves the pod and answers with every key; a second one meanwhile gets 409; GET /demo tells it", async () => {
      const { call, stream, isHere, pod } = await api();
      const demo = await stream("/demo");
      expect(demo.type).toContain("text/event-stream");
      const answer = call("POST", "/migrate", await request());
      await sleep(500);
      expect(await call("POST", "/migrate", await request())).toMatchObject({ status: 409, type: expect.stringContaining("text/plain") });

      const { status, text } = await answer;
      expect(status, text).toBe(200);
      const body = JSON.parse(text);
      expect(Object.keys(body).toSorted()).toEqual(["des_pod", "message", "migration_id", "migration_interface", "overhead"]);
      expect(body).toMatchObject({ migration_interface: "ssu", migration_id: expect.any(String), des_pod: { metadata: pod } });
      const { overhead } = body;
      const keys = ["checkpoint_and_transfer", "checkpoint_and_transfer_total", "creation", "restoration", "total"];
      expect(Object.keys(overhead).toSorted()).toEqual(keys);
      expect(Object.keys(overhead.checkpoint_and_transfer).toSorted()).toEqual(parts.toSorted());
      const { checkpoint_and_transfer: each, ...totals } = overhead;
      for (const seconds of Object.values(each)) expect(seconds === null || (typeof seconds === "number" && seconds < 600)).toBe(true);
      for (const seconds of Object.values(totals)) expect(seconds).toEqual(expect.any(Number));
      expect(each).toMatchObject({ checkpoint: expect.any(Number), checkpoint_files_transfer: expect.any(Number), save_image: null });
      expect(await isHere()).toBe(false);

      const words = () => [...demo.text().matchAll(/^data: (\w+)$/gm)].map(([, word]) => word);
      await expect.poll(words, { timeout: 5_000 }).toEqual(["RESERVED", "CHECKPOINTED", "RESTORED", "DONE"]);
      expect(demo.text()).toContain(`id: ${body.migration_id}\n`);
      await demo.close();
    });
  });
}
