import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createStreamStore, sendKept } from "./kept-streams.ts";

let directory: string;
beforeEach(() => (directory = mkdtempSync(path.join(tmpdir(), "ums-kept-"))));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** What a sender was given. */
function listener() {
  const heard: [unknown, string | undefined][] = [];
  const sender = {
    async stream(what: unknown, content: Readable | undefined) {
      heard.push([what, content && Buffer.concat((await content.toArray()) as Buffer[]).toString()]);
    },
  };
  return { heard, sender };
}

test("streams are sent as they came, in their order, as often as wanted", async () => {
  const store = createStreamStore(directory);
  const sent: [object, string | undefined][] = [
    [{ tree: "changes", deleted: [] }, "x".repeat(3_000_000)],
    [{ tree: "changes", deleted: ["./gone"] }, undefined],
    [{ kind: "log" }, ""],
    [{ tree: "volume:0", deleted: [] }, "files"],
  ];
  for (const [what, content] of sent) await store.stream(what, content === undefined ? undefined : Readable.from([Buffer.from(content)]));
  expect(readdirSync(directory).toSorted()).toEqual(["0", "2", "3"]);
  for (let times = 0; times < 2; times++) {
    const { heard, sender } = listener();
    await sendKept(sender, directory, JSON.parse(JSON.stringify(store.kept())) as ReturnType<typeof store.kept>);
    expect(heard).toEqual(sent);
  }
});

test("what breaks while it is read is told, and so is a file that is missing when it is sent", async () => {
  const store = createStreamStore(directory);
  const broken = Readable.from(
    (function* () {
      yield Buffer.from("a");
      throw new Error("the disk");
    })(),
  );
  await expect(store.stream({}, broken)).rejects.toThrow("the disk");
  await expect(sendKept(listener().sender, directory, [{ what: {}, file: "7" }])).rejects.toThrow("ENOENT");
});
