/** What takes minutes to make and depends on its inputs alone, kept outside the checkout under a hash of them. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

const cacheDirectory = "/var/cache/ums";
/** Another checkout of this machine may need what this one has no recipe for; after this long without use nobody does. */
const keptMs = 7 * 24 * 60 * 60_000;

export type Recipe = Readonly<{
  name: string;
  /** All that the result depends on. */
  inputs: readonly (string | Buffer)[];
  /** Fills an empty directory. */
  make(directory: string): Promise<void>;
}>;

/** Tells one make of a thing from another. */
export function keyOf(inputs: Recipe["inputs"]): string {
  const hash = createHash("sha256");
  for (const input of inputs) hash.update(`${input.length}:`).update(input);
  return hash.digest("hex").slice(0, 16);
}

/** Makes it if nobody has, one process at a time. @returns its directory, which nobody may write to */
export async function cached({ name, inputs, make }: Recipe): Promise<string> {
  const shelf = join(cacheDirectory, name);
  const result = join(shelf, keyOf(inputs));
  if (!existsSync(result)) {
    await mkdir(shelf, { recursive: true });
    await using _lock = await locked(join(shelf, "lock"));
    if (!existsSync(result)) {
      await removeUnused(shelf);
      const work = await mkdtemp(join(shelf, "work-"));
      try {
        await make(work);
        await rename(work, result);
      } finally {
        await rm(work, { recursive: true, force: true });
      }
    }
  }
  await utimes(result, new Date(), new Date());
  return result;
}

async function removeUnused(shelf: string): Promise<void> {
  for (const name of await readdir(shelf)) {
    const directory = join(shelf, name);
    // Under the lock, so whoever worked there is dead.
    const abandoned = name.startsWith("work-");
    const unused = /^[0-9a-f]{16}$/.test(name) && (await stat(directory)).mtimeMs < Date.now() - keptMs;
    if (abandoned || unused) await rm(directory, { recursive: true });
  }
}

/** The kernel drops the lock with its holder, and the holder ends with this process, however that ends. */
async function locked(file: string): Promise<AsyncDisposable> {
  const holder: ChildProcess = spawn("flock", [file, "sh", "-c", "echo locked; exec cat >/dev/null"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(holder, "exit");
  if (!holder.stdout || !holder.stdin) throw new Error("flock has no pipes");
  const { stdin } = holder;
  await Promise.race([once(holder.stdout, "data"), exited.then(() => Promise.reject(new Error(`${file} could not be locked`)))]);
  return {
    [Symbol.asyncDispose]: async () => {
      stdin.end();
      await exited;
    },
  };
}
