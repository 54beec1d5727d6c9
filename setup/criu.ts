/** CRIU from Debian testing in a directory of its own: Debian 12 has 3.17 and Debian 13 4.1, and neither dumps TCP sockets on kernels from 6.16 on. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { execa } from "execa";
import { isAtLeast } from "../src/machine/version.ts";
import { cached, keyOf, type Recipe } from "./cache.ts";
import { debianMirror } from "./debian.ts";
import { type Architecture, ownArchitecture, platforms } from "./platforms.ts";
import { provideBuildTools } from "./programs.ts";

const directory = "/opt/ums/criu";
const minimum = "4.2.1";
const wrapper = join(import.meta.dirname, "criu.sh");
const preload = join(import.meta.dirname, "criu-without-sys-resource.c");

/** Installs CRIU with its wrapper and its preload where they are missing or of another make. @returns what was done, and CRIU's version */
export async function setUpCriu(): Promise<{ done: string[]; version: string }> {
  const recipe = recipeFor(ownArchitecture());
  const record = join(directory, "recipe");
  const done: string[] = [];
  if (!existsSync(record) || readFileSync(record, "utf8") !== keyOf(recipe.inputs)) {
    await mkdir("/opt/ums", { recursive: true });
    const work = await mkdtemp("/opt/ums/criu-");
    try {
      const made = join(work, "criu");
      await cp(join(await cached(recipe), "criu"), made, { recursive: true });
      await writeFile(join(made, "recipe"), keyOf(recipe.inputs));
      await rm(directory, { recursive: true, force: true });
      await rename(made, directory);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    done.push("CRIU installed into /opt/ums/criu");
  }
  const { stdout } = await execa(join(directory, "criu"), ["--version"]);
  return { done, version: /Version: (\S+)/.exec(stdout)?.[1] ?? "0" };
}

/**
 * CRIU for one kind of machine: `criu/` is what lies in /opt/ums/criu, `doc/` has a directory for each Debian package that it may
 * have come from, with its copyright, and `sources` names their source packages, one `NAME (= VERSION)` a line.
 * @returns a directory that nobody may write to
 */
export const criuFor = (architecture: Architecture): Promise<string> => cached(recipeFor(architecture));

function recipeFor(architecture: Architecture): Recipe {
  return {
    name: `criu-${architecture}`,
    inputs: [wrapper, preload, import.meta.filename].map((file) => readFileSync(file)),
    make: (made) => make(made, architecture),
  };
}

async function make(made: string, architecture: Architecture): Promise<void> {
  const { triplet, loader } = platforms[architecture];
  const root = join(made, "root");
  await provideBuildTools(architecture);
  const options = ['APT::Install-Recommends "false"', 'Acquire::Languages "none"', 'Acquire::Check-Valid-Until "false"'];
  await execa("mmdebstrap", [
    // Nothing of it is run, so it may be another machine's.
    ...["--quiet", "--variant=extract", "--mode=root", "--skip=check/empty", `--architectures=${architecture}`],
    ...options.map((option) => `--aptopt=${option}`),
    ...["--include=criu,libc6", "testing", root, await debianMirror()],
  ]);
  const version = await keepDocumentation(join(root, "usr/share/doc"), made);
  if (!isAtLeast(version, minimum))
    throw new Error(`CRIU is ${version}, and UMS needs ${minimum}: the Debian mirror of this machine lags behind.`);

  const criu = join(made, "criu");
  await mkdir(join(criu, "lib"), { recursive: true });
  const install = async (from: string, to: string, mode: number) => {
    await copyFile(from, join(criu, to));
    await chmod(join(criu, to), mode);
  };
  const program = join(root, "usr/sbin/criu");
  const libraries = join(root, "usr/lib", triplet);
  await install(program, "criu.bin", 0o755);
  for (const name of await neededLibraries(program, libraries))
    await install(join(libraries, name), join("lib", name), name === loader ? 0o755 : 0o644);
  await writeFile(join(criu, "criu"), (await readFile(wrapper, "utf8")).replace("@LOADER@", loader), { mode: 0o755 });

  const flags = ["-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-s"];
  await execa(`${triplet}-gcc`, [...flags, "-o", join(criu, "lib/criu-without-sys-resource.so"), preload, "-ldl"]);
  await rm(root, { recursive: true });
}

/** Without running it, as `ldd` would have to. */
async function neededLibraries(program: string, directory: string): Promise<Set<string>> {
  const found = new Set<string>();
  const visit = async (file: string): Promise<void> => {
    const { stdout } = await execa("readelf", ["--dynamic", "--wide", file]);
    for (const [, name = ""] of stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)) {
      if (found.has(name)) continue;
      found.add(name);
      await visit(join(directory, name));
    }
  };
  await visit(program);
  return found;
}

/** @returns CRIU's version */
async function keepDocumentation(documentation: string, made: string): Promise<string> {
  const sources = new Map<string, string>();
  for (const name of readdirSync(documentation)) {
    const changelog = ["changelog.Debian.gz", "changelog.gz"].map((file) => join(documentation, name, file)).find(existsSync);
    const [, source, version] = /^(\S+) \((\S+)\)/.exec(changelog ? gunzipSync(await readFile(changelog)).toString() : "") ?? [];
    if (source === undefined || version === undefined) throw new Error(`${documentation}/${name} does not say of which version it is.`);
    sources.set(source, version);
    await mkdir(join(made, "doc", name), { recursive: true });
    await copyFile(join(documentation, name, "copyright"), join(made, "doc", name, "copyright"));
  }
  await writeFile(join(made, "sources"), [...sources].map(([source, version]) => `${source} (= ${version})\n`).join(""));
  return sources.get("criu") ?? "0";
}

/** Replaces an executable as a whole: it may be running. @returns whether there was anything to do */
export async function writeIfChanged(path: string, content: string): Promise<boolean> {
  if (existsSync(path) && readFileSync(path, "utf8") === content) return false;
  await writeFile(`${path}.new`, content, { mode: 0o755 });
  await chmod(`${path}.new`, 0o755);
  await rename(`${path}.new`, path);
  return true;
}
