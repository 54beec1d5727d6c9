import { createGround, onePerStep } from "./disturbance.ts";
import { testKills } from "./kill-tests.ts";

testKills(onePerStep, { createGround, timeoutMs: 180_000 });
