import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { createArrivalPlaces } from "./arrival-places.ts";

/** Places for 8, 4 of one site, and records as an API server keeps them: a list tells what was there when it was asked for. */
function site() {
  const records = new Map<string, string>();
  let lists = 0;
  const places = createArrivalPlaces({
    most: 8,
    mostOf: (peer) => (peer === "self" ? undefined : 4),
    async open() {
      lists++;
      const told = [...records].map(([id, peer]) => ({ id, peer }));
      await turn();
      await turn();
      return told;
    },
  });
  const reserve = (id: string, peer: string) =>
    places.during({ id, peer }, async () => {
      await turn();
      records.set(id, peer);
    });
  return { records, reserve, places, lists: () => lists };
}

/** @returns how many of so many that come at once are taken, and why the others are not */
async function crowd(reserve: (id: string, peer: string) => Promise<void>, peer: string, count = 50) {
  const all = await Promise.allSettled(Array.from({ length: count }, (_, at) => reserve(`${peer}-${at}`, peer)));
  const refused = all.filter((each) => each.status === "rejected").map(({ reason }) => reason as { code: string; detail: string });
  return { taken: count - refused.length, refused };
}

test("a site that asks for all places at once gets its own, and other sites theirs", async () => {
  const { reserve, records } = site();
  const { taken, refused } = await crowd(reserve, "b");
  expect(taken).toBe(4);
  expect(new Set(refused.map(({ code }) => code))).toEqual(new Set(["SITE_BUSY"]));
  await reserve("other", "c");
  expect(records.get("other")).toBe("c");
});

test("all sites together get no more than there are, also while records are being made", async () => {
  const { reserve, records, lists } = site();
  const crowds = await Promise.all(["b", "c", "d"].map((peer) => crowd(reserve, peer)));
  expect(crowds.reduce((sum, { taken }) => sum + taken, 0)).toBe(8);
  expect(records.size).toBe(8);
  expect(lists()).toBeLessThan(5);
});

test("waves that meet lists under way pass no bound", async () => {
  const { reserve, records } = site();
  const waves: Promise<unknown>[] = [];
  for (let wave = 0; wave < 12; wave++) {
    waves.push(...["x", "y"].map((half) => reserve(`${wave}${half}`, "b").catch(() => undefined)));
    await turn();
  }
  await Promise.all(waves);
  expect(records.size).toBe(4);
});

test("an end frees a place, and so does a reservation that is refused", async () => {
  const { reserve, records, places } = site();
  const refused = () => places.during({ id: "refused", peer: "b" }, () => Promise.reject(new Error("no quota")));
  for (let tries = 0; tries < 10; tries++) await expect(refused()).rejects.toThrow("no quota");
  await crowd(reserve, "b");
  await expect(reserve("late", "b")).rejects.toMatchObject({ code: "SITE_BUSY" });
  records.delete([...records.keys()][0]!);
  await reserve("late", "b");
  expect(records.size).toBe(4);
});

test("what moves within the cluster needs no place and takes none", async () => {
  const { reserve } = site();
  expect((await crowd(reserve, "self", 20)).taken).toBe(20);
  expect((await crowd(reserve, "b")).taken).toBe(4);
});
