/** A minimal Debian in a directory, as a place to install packages in: what is changed there is gone with it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { cached } from "../setup/cache.ts";
import { debianMirror } from "../setup/debian.ts";
import { type Place, placeAt } from "./place.ts";

/** Its apt has the mirror's lists, and the packages that this will need, but installed is none of them. */
function minimalDebian(suite: string, needed: string): Promise<string> {
  return cached({
    name: `debian-${suite}`,
    inputs: [suite, needed],
    make: async (directory) => {
      const options = ['APT::Install-Recommends "false"', 'Acquire::Languages "none"', 'Acquire::Check-Valid-Until "false"'];
      const download = `APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get satisfy --yes --download-only '${needed}'`;
      await execa(
        "mmdebstrap",
        [
          ...["--quiet", "--variant=minbase", "--mode=root", "--skip=check/empty,cleanup/apt/lists,cleanup/apt/cache"],
          ...options.map((option) => `--aptopt=${option}`),
          ...[`--customize-hook=${download}`, suite, directory, await debianMirror()],
        ],
        { timeout: 5 * 60_000 },
      );
    },
  });
}

export type DebianRoot = Place & AsyncDisposable & Readonly<{ /** Its files, as the test runner sees them. */ files: string }>;

/**
 * Enters a fresh copy; it ends with the test runner at the latest.
 * @param options.needed what packages will need there, as a field Depends has it
 */
export async function createDebianRoot({ suite, needed }: { suite: string; needed: string }): Promise<DebianRoot> {
  const lower = await minimalDebian(suite, needed);
  const work = await mkdtemp(join(tmpdir(), "ums-debian-"));
  await Promise.all(["root", "upper", "work", "containers"].map((name) => mkdir(join(work, name), { mode: 0o755 })));
  const mounts = `set -e; cd ${work}
    mount -t overlay -o lowerdir=${lower},upperdir=upper,workdir=work overlay root
    mkdir -p root/var/lib/containers; mount --bind containers root/var/lib/containers
    mount -t proc proc root/proc; mount --rbind /sys root/sys; mount --rbind /dev root/dev; mount -t tmpfs tmpfs root/run
    cp /etc/resolv.conf root/etc/resolv.conf
    echo ready; exec cat`;
  const holder = spawn("unshare", ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(holder, "exit");
  await Promise.race([once(holder.stdout, "data"), exited.then(() => Promise.reject(new Error(`${work} can't be entered`)))]);
  const first = (await readFile(`/proc/${holder.pid}/task/${holder.pid}/children`, "utf8")).trim();
  const root = join(work, "root");
  const enter = () => ["nsenter", `--target=${first}`, "--mount", "--pid", "chroot", root];
  return {
    ...placeAt({ address: "127.0.0.1", enter, forks: true }),
    files: `/proc/${first}/root${root}`,
    [Symbol.asyncDispose]: async () => {
      holder.stdin.end();
      await exited;
      await rm(work, { recursive: true, force: true });
    },
  };
}
