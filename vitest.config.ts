import { defineConfig } from "vitest/config";

const ofClusters = ["e2e/{clusters,cluster-host,kubernetes*}.e2e.test.ts"];
const bareClusters = ["e2e/clusters.e2e.test.ts"];
const machines = ["e2e/stock-machine.e2e.test.ts"];
const machineSites = ["e2e/machines.e2e.test.ts"];
const clusterKills = ["e2e/kubernetes-kills.e2e.test.ts"];
// What a test waits for comes when the machine has time for it: by itself, vitest waits for a second, and asks twenty times.
const patient = { expect: { poll: { timeout: 20_000, interval: 200 } } };
// Each file has hosts, or clusters, of its own, and two of a kind at once would fall over each other's timing.
const oneByOne = { fileParallelism: false, testTimeout: 180_000, hookTimeout: 180_000, ...patient };

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["{src,setup,e2e,bench}/**/*.test.ts"],
          exclude: ["**/*.e2e.test.ts"],
          testTimeout: 30_000,
          ...patient,
          sequence: { groupOrder: 0 },
        },
      },
      // After the unit tests, which would disturb what is timed here.
      {
        test: {
          name: "hosts",
          include: ["e2e/**/*.e2e.test.ts"],
          exclude: [...ofClusters, ...machines, ...machineSites],
          sequence: { groupOrder: 1 },
          ...oneByOne,
        },
      },
      // It looks for what clusters leave on the machine: before others come and go beside it.
      { test: { name: "clusters", include: bareClusters, sequence: { groupOrder: 1 }, ...oneByOne } },
      {
        test: {
          name: "kubernetes",
          include: ofClusters,
          exclude: [...bareClusters, ...clusterKills],
          sequence: { groupOrder: 2 },
          ...oneByOne,
        },
      },
      // Emulated machines, on which everything takes some ten times as long: alone, after all others.
      {
        test: {
          name: "machines",
          include: machines,
          sequence: { groupOrder: 3 },
          ...oneByOne,
          testTimeout: 10 * 60_000,
          hookTimeout: 10 * 60_000,
        },
      },
      // Not of `npm test` yet (docs/progress.md): `npx vitest run --project machine-sites`.
      { test: { name: "machine-sites", include: machineSites, ...oneByOne, testTimeout: 15 * 60_000, hookTimeout: 10 * 60_000 } },
      { test: { name: "cluster-kills", include: clusterKills, sequence: { groupOrder: 2 }, ...oneByOne } },
    ],
  },
});
