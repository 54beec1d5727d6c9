import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["{src,setup,e2e,bench}/**/*.test.ts"], exclude: ["**/*.e2e.test.ts"], testTimeout: 30_000 } },
      {
        test: {
          name: "e2e",
          include: ["{src,e2e}/**/*.e2e.test.ts"],
          // Each file has hosts of its own, and they would share two cores.
          fileParallelism: false,
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
