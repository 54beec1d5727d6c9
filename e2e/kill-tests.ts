import { afterAll, beforeAll, expect, test } from "vitest";
import { nameOf, type Tried } from "./disturbance.ts";

type Ground<Case> = AsyncDisposable & Readonly<{ tryCase(which: Case): Promise<Tried> }>;
type Named = Parameters<typeof nameOf>[0];

/** One test for each case, all of them on one ground as long as none fails. */
export function testKills<Case extends Named>(
  cases: readonly Case[],
  { createGround, timeoutMs }: { createGround: () => Promise<Ground<Case>>; timeoutMs: number },
): void {
  let ground: Ground<Case> | undefined;
  beforeAll(async () => {
    ground = await createGround();
  }, timeoutMs);
  afterAll(() => ground?.[Symbol.asyncDispose]());

  test.each(cases.map((which) => [nameOf(which), which] as const))(
    "a migration that loses %s ends by itself: one copy, every write, nothing left behind",
    async (_, which) => {
      ground ??= await createGround();
      try {
        let tried = await ground.tryCase(which);
        // Who looks for a process that lives for a tenth of a second may miss it, and nothing has been disturbed then.
        for (let again = 0; !tried.disturbed && again < 2; again++) tried = await ground.tryCase(which);
        expect(tried).toMatchObject({ disturbed: true });
      } catch (cause) {
        // The ground may hold anything now: the next case gets a new one.
        await ground[Symbol.asyncDispose]();
        ground = undefined;
        throw cause;
      }
    },
    timeoutMs,
  );
}
