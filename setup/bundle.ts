/** UMS in as few files as it takes: for hosts and images, and because it starts faster than its parts. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const checkout = resolve(import.meta.dirname, "..");
const entry = join(checkout, "src/apps/cli/main.ts");
const target = join(checkout, "dist/ums.mjs");
/** Files that the program reads at run time, from beside itself. */
const assets = ["src/preflight/probe.pl"];

/** Bundles `ums` where a source is newer than the bundle. @returns whether there was anything to do */
export async function bundle(): Promise<boolean> {
  if (existsSync(target)) {
    const made = statSync(target).mtimeMs;
    const sources = readdirSync(join(checkout, "src"), { recursive: true, encoding: "utf8" }).map((path) => join(checkout, "src", path));
    if ([...sources, join(checkout, "package-lock.json")].every((path) => statSync(path).mtimeMs < made)) return false;
  }
  await bundleInto(dirname(target), { sourceMaps: true });
  return true;
}

/**
 * Bundles `ums` into a directory.
 * @param options.sourceMaps with them, what is made depends on where it is made
 * @returns the packages of npm that have a part in it, as directories of the checkout
 */
export async function bundleInto(directory: string, { sourceMaps }: { sourceMaps: boolean }): Promise<string[]> {
  const { build } = await import("esbuild");
  const { metafile } = await build({
    entryPoints: [entry],
    outdir: directory,
    // What is made must not tell where.
    absWorkingDir: checkout,
    metafile: true,
    entryNames: "ums",
    // What one verb needs alone is loaded by it alone: half the time and memory of one file. Chunks are never removed, so
    // that an `ums serve` which still runs finds its own.
    splitting: true,
    chunkNames: "[name]-[hash]",
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    sourcemap: sourceMaps && "linked",
    logLevel: "warning",
    // CommonJS dependencies call require() for Node's own modules.
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
  });
  for (const asset of assets) await copyFile(join(checkout, asset), join(directory, basename(asset)));
  const packages = Object.keys(metafile.inputs).flatMap((file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file) ?? []);
  return [...new Set(packages)].toSorted();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundle();
