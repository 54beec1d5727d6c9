import { testKills } from "./kill-tests.ts";
import { createClusterGround, onePerClusterStep } from "./kubernetes-disturbance.ts";

// An outage of the API server takes 20 s, and the kubelet as long again to find its way back.
testKills(onePerClusterStep, { createGround: createClusterGround, timeoutMs: 400_000 });
