import { defineConfig } from "vitest/config";

// Each file has hosts of its own, and two files at once would fall over each other's timing.
const onHosts = { fileParallelism: false, hookTimeout: 180_000 };

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["{src,setup,e2e,bench}/**/*.test.ts"],
          exclude: ["**/*.e2e.test.ts"],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      // After the unit tests, which would disturb what is timed here.
      { test: { name: "e2e", include: ["{src,e2e}/**/*.e2e.test.ts"], testTimeout: 180_000, sequence: { groupOrder: 1 }, ...onHosts } },
    ],
  },
});
