/** CRIU from Debian testing in a directory of its own: Debian 12 has 3.17 and Debian 13 4.1, and neither dumps TCP sockets on kernels from 6.16 on. */
import { existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { debianMirror } from "./debian.ts";
import { isAtLeast } from "../src/machine/version.ts";

const directory = "/opt/ums/criu";
const minimum = "4.2.1";
const platforms: Partial<Record<NodeJS.Architecture, { triplet: string; loader: string }>> = {
  x64: { triplet: "x86_64-linux-gnu", loader: "ld-linux-x86-64.so.2" },
  arm64: { triplet: "aarch64-linux-gnu", loader: "ld-linux-aarch64.so.1" },
};

/** Installs CRIU, its wrapper and the preload where they are missing or too old. @returns what was done, and CRIU's version */
export async function setUpCriu(): Promise<{ done: string[]; version: string }> {
  const platform = platforms[process.arch];
  if (!platform) throw new Error(`UMS brings CRIU for x64 and arm64 only, not for ${process.arch}.`);
  const done: string[] = [];
  if (!existsSync(join(directory, "criu.bin"))) {
    await install(platform);
    done.push("CRIU installed into /opt/ums/criu");
  }
  const template = readFileSync(join(import.meta.dirname, "criu.sh"), "utf8");
  if (await writeIfChanged(join(directory, "criu"), template.replace("@LOADER@", platform.loader))) done.push("wrapper of CRIU written");
  if (await compilePreload()) done.push("preload of CRIU compiled");
  let version = await installedVersion();
  if (!isAtLeast(version, minimum)) {
    await install(platform);
    await writeIfChanged(join(directory, "criu"), template.replace("@LOADER@", platform.loader));
    await compilePreload();
    version = await installedVersion();
    done.push(`CRIU replaced by ${version}`);
  }
  if (!isAtLeast(version, minimum))
    throw new Error(`CRIU is ${version}, and UMS needs ${minimum}: the Debian mirror of this machine lags behind.`);
  return { done, version };
}

async function installedVersion(): Promise<string> {
  const { stdout } = await execa(join(directory, "criu"), ["--version"]);
  return /Version: (\S+)/.exec(stdout)?.[1] ?? "0";
}

async function install({ triplet, loader }: { triplet: string; loader: string }): Promise<void> {
  await mkdir("/opt/ums", { recursive: true });
  const work = await mkdtemp("/opt/ums/criu-");
  try {
    const root = join(work, "root");
    const options = ['APT::Install-Recommends "false"', 'Acquire::Languages "none"', 'Acquire::Check-Valid-Until "false"'];
    const aptOptions = options.map((option) => `--aptopt=${option}`);
    await execa("mmdebstrap", [
      ...["--quiet", "--variant=extract", "--mode=root", "--skip=check/empty", ...aptOptions],
      ...["--include=criu,libc6", "testing", root, await debianMirror()],
    ]);
    const libraries = join(root, "usr/lib", triplet);
    const made = join(work, "criu");
    await mkdir(join(made, "lib"), { recursive: true });
    await copyFile(join(root, "usr/sbin/criu"), join(made, "criu.bin"));
    await chmod(join(made, "criu.bin"), 0o755);
    await copyFile(join(libraries, loader), join(made, "lib", loader));
    await chmod(join(made, "lib", loader), 0o755);
    const { stdout } = await execa(join(libraries, loader), ["--library-path", libraries, "--list", join(made, "criu.bin")]);
    for (const [, name = "", path = ""] of stdout.matchAll(/^\s*(\S+) => (\/\S+)/gm)) {
      if (!name.includes("ld-linux")) await copyFile(path, join(made, "lib", name));
    }
    await rm(directory, { recursive: true, force: true });
    await rename(made, directory);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function compilePreload(): Promise<boolean> {
  const source = join(import.meta.dirname, "criu-without-sys-resource.c");
  const target = join(directory, "lib/criu-without-sys-resource.so");
  const record = `${target}.source`;
  if (existsSync(target) && existsSync(record) && readFileSync(record, "utf8") === readFileSync(source, "utf8")) return false;
  await execa("gcc", ["-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-o", `${target}.new`, source, "-ldl"]);
  await rename(`${target}.new`, target);
  await copyFile(source, record);
  return true;
}

/** Replaces an executable as a whole: it may be running. @returns whether there was anything to do */
export async function writeIfChanged(path: string, content: string): Promise<boolean> {
  if (existsSync(path) && readFileSync(path, "utf8") === content) return false;
  await writeFile(`${path}.new`, content, { mode: 0o755 });
  await chmod(`${path}.new`, 0o755);
  await rename(`${path}.new`, path);
  return true;
}
