/** Sets the machine up and runs all tests, or those that vitest's own arguments choose. The last line counts passes and failures. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { prepareClusters } from "../e2e/clusters.ts";
import { buildImages } from "../e2e/images.ts";
import { prepareStockMachines } from "../e2e/stock-machine.ts";
import { providePackageParts } from "./package.ts";
import { setUp } from "./setup.ts";

type Results = Readonly<{
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: readonly Readonly<{ status: string; assertionResults: readonly unknown[] }>[];
}>;
type Counts = Readonly<{ passed: number; failed: number; skipped: number }>;

const checkout = resolve(import.meta.dirname, "..");

/** @param projects of vitest.config.ts @param name before each line that it prints */
async function run(name: string, projects: readonly string[], directory: string): Promise<Counts> {
  const outputFile = join(directory, `${name}.json`);
  const options = [
    ...projects.flatMap((project) => ["--project", project]),
    "--reporter=default",
    "--reporter=json",
    `--outputFile=${outputFile}`,
    // What a person asks for may all be in the other run.
    "--passWithNoTests",
  ];
  const vitest = execa(process.execPath, [join(checkout, "node_modules/vitest/vitest.mjs"), "run", ...options, ...process.argv.slice(2)], {
    cwd: checkout,
    stdin: "ignore",
    all: true,
    buffer: false,
    reject: false,
    env: process.stdout.isTTY ? { FORCE_COLOR: "1" } : {},
  });
  for await (const line of vitest.iterable({ from: "all" })) console.log(`${name.padEnd(8)} ${line}`);
  const { failed } = await vitest;
  const results = JSON.parse(await readFile(outputFile, "utf8").catch(() => "{}")) as Partial<Results>;
  // A file that fails before its first test has no test to count.
  const brokenFiles = results.testResults?.filter((file) => file.status === "failed" && file.assertionResults.length === 0).length ?? 0;
  const counted = (results.numFailedTests ?? 0) + brokenFiles;
  return {
    passed: results.numPassedTests ?? 0,
    // Whatever else vitest complains about (an unhandled rejection) is a failure as well.
    failed: failed ? Math.max(1, counted) : counted,
    skipped: (results.numPendingTests ?? 0) + (results.numTodoTests ?? 0),
  };
}

await setUp({ purpose: "tests" });
await providePackageParts();
await buildImages(["redis", "services"]);
await prepareClusters();
// Stock machines are made for this kind of processor only.
const machines = process.arch === "x64" ? ["machines"] : [];
if (machines.length > 0) await prepareStockMachines();
else console.log(`No tests on stock machines: they need x64, and this is ${process.arch}.`);
const directory = await mkdtemp(join(tmpdir(), "ums-test-"));
try {
  // Side by side, since tests between clusters wait for most of their time. In each, one file after another, and about as long.
  const both = await Promise.all([
    run("hosts", ["unit", "hosts", "cluster-kills"], directory),
    run("clusters", ["clusters", "kubernetes"], directory),
  ]);
  // These need the whole machine: they are slow as it is.
  const all = machines.length > 0 ? [...both, await run("machines", machines, directory)] : both;
  const sum = (count: keyof Counts) => all.reduce((total, each) => total + each[count], 0);
  const [passed, failed, skipped] = [sum("passed"), sum("failed"), sum("skipped")];
  const isNothing = passed + failed + skipped === 0;
  if (isNothing) console.error("No test is called like that.");
  process.exitCode = failed > 0 || isNothing ? 1 : 0;
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
} finally {
  await rm(directory, { recursive: true, force: true });
}
