import { expect, test } from "vitest";
import { ioUring } from "../machine/io-uring.ts";
import { verdictOf } from "./check.ts";
import { costLine, execCost, pipeCost } from "./doctor.ts";

test("versions that cost a moved service something have a note, newer ones have none, and what has no version has no line", () => {
  expect(["1.1.15+ds1", "1.2.0", "1.4.0-rc.1"].flatMap((version) => costLine(execCost, version)).map(verdictOf)).toEqual([
    "note",
    "ok",
    "ok",
  ]);
  expect(["4.2.1", "4.3", "5.0"].flatMap((version) => costLine(pipeCost, version)).map(verdictOf)).toEqual(["note", "ok", "ok"]);
  expect([costLine(execCost, undefined), costLine(pipeCost, undefined)]).toEqual([[], []]);
});

test("the kernel says whether it opens an io_uring", async () => {
  expect(["absent", "off", "privileged", "open"]).toContain(await ioUring());
});
