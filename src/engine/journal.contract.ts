import { afterEach, describe, expect, test } from "vitest";
import type { Journal } from "./ports.ts";

/** One migration's journal, and the way to open it anew as after a crash. */
export type JournalUnderTest = Readonly<{ open(): Journal | Promise<Journal>; dispose(): void | Promise<void> }>;

/** What every journal must hold to. `create` makes an empty one. */
export function describeJournal(name: string, create: () => JournalUnderTest | Promise<JournalUnderTest>): void {
  describe(`${name} keeps the journal's contract:`, () => {
    const created: JournalUnderTest[] = [];
    afterEach(async () => {
      for (const journal of created.splice(0)) await journal.dispose();
    });
    const createJournal = async () => {
      const journal = await create();
      created.push(journal);
      return journal;
    };

    test("a new journal has nothing started, done, undone or failed", async () => {
      const journal = await (await createJournal()).open();
      expect(journal.isStarted("freeze")).toBe(false);
      expect(journal.isDone("freeze")).toBe(false);
      expect(journal.isUndone("freeze")).toBe(false);
      expect(journal.failure()).toBeUndefined();
    });

    test("a started step is found again after a crash", async () => {
      const place = await createJournal();
      await (await place.open()).start("freeze");
      const found = await place.open();
      expect(found.isStarted("freeze")).toBe(true);
      expect(found.isDone("freeze")).toBe(false);
      expect(found.isStarted("restore")).toBe(false);
    });

    test("a step is done at once for the journal that was told", async () => {
      const journal = await (await createJournal()).open();
      await journal.start("commit");
      await journal.done("commit");
      expect(journal.isDone("commit")).toBe(true);
    });

    test.each(["start", "undone", "fail"] as const)("%s makes every earlier done durable", async (write) => {
      const place = await createJournal();
      const journal = await place.open();
      await journal.start("commit");
      await journal.done("commit");
      if (write === "fail") await journal.fail(new Error("late"));
      else await journal[write]("other");
      expect((await place.open()).isDone("commit")).toBe(true);
    });

    test("an undone step is found again after a crash, and stays started", async () => {
      const place = await createJournal();
      const journal = await place.open();
      await journal.start("freeze");
      await journal.undone("freeze");
      expect(journal.isUndone("freeze")).toBe(true);
      const found = await place.open();
      expect(found.isUndone("freeze")).toBe(true);
      expect(found.isStarted("freeze")).toBe(true);
      expect(found.isUndone("reserve")).toBe(false);
    });

    test("the failure is the very error until a crash, and has the same message after it", async () => {
      const place = await createJournal();
      const journal = await place.open();
      const cause = new Error("the link broke");
      await journal.fail(cause);
      expect(journal.failure()).toBe(cause);
      expect((await place.open()).failure()?.message).toBe("the link broke");
    });

    test("the first failure is kept", async () => {
      const place = await createJournal();
      const journal = await place.open();
      await journal.fail(new Error("first"));
      await journal.fail(new Error("second"));
      expect(journal.failure()?.message).toBe("first");
      const found = await place.open();
      await found.fail(new Error("third"));
      expect(found.failure()?.message).toBe("first");
      expect((await place.open()).failure()?.message).toBe("first");
    });

    test("starting, ending and undoing a step twice changes nothing", async () => {
      const place = await createJournal();
      for (const journal of [await place.open(), await place.open()]) {
        await journal.start("clean-up");
        await journal.start("clean-up");
        await journal.done("clean-up");
        await journal.done("clean-up");
        await journal.undone("clean-up");
        await journal.undone("clean-up");
      }
      const found = await place.open();
      expect(found.isStarted("clean-up") && found.isDone("clean-up") && found.isUndone("clean-up")).toBe(true);
    });
  });
}
