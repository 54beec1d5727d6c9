/**
 * Makes this machine able to run UMS, its demo and its tests. Safe to repeat, and quick when there is nothing to do.
 * Everything that it adds beside Debian packages is in /opt/ums.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { bundle } from "./bundle.ts";
import { setUpCriu, writeIfChanged } from "./criu.ts";
import { type Purpose, setUpPrograms } from "./programs.ts";

const checkout = resolve(import.meta.dirname, "..");
const installed = "/opt/ums";

/**
 * Sets the machine up, one process at a time; prints a line for each thing done.
 * @param options.purpose with what that needs besides
 */
export async function setUp({ purpose = "none" }: { purpose?: Purpose } = {}): Promise<void> {
  await mkdir(installed, { recursive: true });
  // The kernel drops this lock with its holder, however that ends.
  const command = [join(installed, "setup.lock"), process.execPath, fileURLToPath(import.meta.url), "--locked", purpose];
  const { failed } = await execa("flock", command, { stdio: ["ignore", "inherit", "inherit"], timeout: 10 * 60_000, reject: false });
  if (failed) throw new Error("The set-up failed; see above.");
}

async function setUpLocked({ purpose }: { purpose: Purpose }): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error("Set-up needs root: it installs packages and writes /opt/ums.");
  const say = (done: readonly string[]) => {
    for (const line of done) console.log(line);
  };
  const programs = await setUpPrograms({ purpose });
  say(programs.done);
  const criu = await setUpCriu();
  say(criu.done);
  await mkdir(join(installed, "bin"), { recursive: true });
  for (const name of ["ums-runc", "refuse-held"]) {
    const source = join(checkout, "src/checkpoint", name);
    if (existsSync(source) && (await writeIfChanged(join(installed, "bin", name), readFileSync(source, "utf8"))))
      say([`${name} installed`]);
  }
  if (existsSync(join(checkout, "src/apps/cli/main.ts")) && (await bundle())) say(["ums bundled into dist/ums.mjs"]);
  const versions = { ...programs.versions, criu: criu.version, node: process.versions.node };
  await writeIfChanged(join(installed, "versions.json"), `${JSON.stringify(versions, null, 2)}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === "--locked") await setUpLocked({ purpose: process.argv[3] as Purpose });
  else await setUp();
}
