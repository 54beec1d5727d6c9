import packageFile from "../../../package.json" with { type: "json" };
import { run } from "./program.ts";

const { stdin, stdout, stderr } = process;
// A reader that has seen enough, such as `head`, is no failure.
stdout.on("error", () => undefined);
process.exitCode = await run(process.argv.slice(2), {
  stdin,
  stdout,
  stderr,
  version: packageFile.version,
  environment: process.env,
});
