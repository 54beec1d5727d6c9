/** Sets the machine up, then runs the named test projects (see vitest.config.ts). The last line counts passes and failures. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { prepareClusters } from "../e2e/clusters.ts";
import { buildImages } from "../e2e/images.ts";
import { setUp } from "./setup.ts";

type Results = Readonly<{
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: readonly Readonly<{ status: string; assertionResults: readonly unknown[] }>[];
}>;

const checkout = resolve(import.meta.dirname, "..");
const projects = process.argv.slice(2).filter((argument) => !argument.startsWith("-") && ["unit", "e2e"].includes(argument));
const rest = process.argv.slice(2).filter((argument) => !projects.includes(argument));

await setUp();
if (projects.includes("e2e")) {
  await buildImages(["redis", "services"]);
  await prepareClusters();
}
const directory = await mkdtemp(join(tmpdir(), "ums-test-"));
try {
  const outputFile = join(directory, "results.json");
  const options = [
    ...projects.flatMap((project) => ["--project", project]),
    "--reporter=default",
    "--reporter=json",
    `--outputFile=${outputFile}`,
  ];
  const vitest = [join(checkout, "node_modules/vitest/vitest.mjs"), "run", ...options, ...rest];
  const { failed } = await execa(process.execPath, vitest, { cwd: checkout, stdio: "inherit", reject: false });
  const results = JSON.parse(await readFile(outputFile, "utf8").catch(() => "{}")) as Partial<Results>;
  // A file that fails before its first test has no test to count.
  const brokenFiles = results.testResults?.filter((file) => file.status === "failed" && file.assertionResults.length === 0).length ?? 0;
  const counted = (results.numFailedTests ?? 0) + brokenFiles;
  // Whatever else vitest complains about (an unhandled rejection) is a failure as well.
  const failures = failed ? Math.max(1, counted) : counted;
  const skipped = (results.numPendingTests ?? 0) + (results.numTodoTests ?? 0);
  process.exitCode = failures > 0 ? 1 : 0;
  console.log(`${results.numPassedTests ?? 0} passed, ${failures} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
} finally {
  await rm(directory, { recursive: true, force: true });
}
