/**
 * Container images for tests, made without any registry: Debian packages from the machine's own mirror,
 * packed as OCI layouts, kept outside the checkout under a hash of their recipe. Equal on every host that
 * loads them, so that a destination can have an image, lack it, or have its base layer only.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { debianMirror } from "../setup/debian.ts";
import type { Host } from "./hosts.ts";
import { type Layer, packImage, packLayer } from "./image-layout.ts";

/** `base` is the lower layer of both others. */
export type ImageName = "base" | "redis" | "services";

const suite = "bookworm";
const servicesDirectory = resolve(import.meta.dirname, "services");
const cacheDirectory = process.env.UMS_E2E_CACHE ?? "/var/cache/ums-e2e/images";

const packages = {
  redis: ["coreutils", "dash", "libc6", "redis-server", "redis-tools", "util-linux"],
  services: ["coreutils", "dash", "libc6", "openjdk-17-jre-headless", "postgresql-15", "postgresql-client-15", "python3", "util-linux"],
};

/** What a container never needs; perl comes with redis-server's maintainer scripts, LLVM with PostgreSQL's JIT. */
const unneeded =
  /^(boot|dev|proc|sys|run|tmp\/|home|media|mnt|usr\/(games|include|src)|var\/(cache|log|lib\/(apt|dpkg|systemd))|usr\/share\/(?!postgresql|zoneinfo|java|python)|usr\/lib\/(?:[^/]+\/)?perl|usr\/lib\/[^/]+\/(gconv|perl|lib(LLVM|perl|z3|clang))|usr\/lib\/postgresql\/15\/lib\/(bitcode|llvmjit)|usr\/bin\/perl|etc\/(init\.d|rc|apt|cron|logrotate|pam))/;
const ofRedis = /redis|jemalloc|liblzf|libatomic/;

const users = {
  passwd: ["root:x:0:0:root:/root:/bin/sh", "redis:x:999:999::/var/lib/redis:/bin/sh", "postgres:x:998:998::/var/lib/postgresql:/bin/sh"],
  group: ["root:x:0:", "redis:x:999:", "postgres:x:998:"],
};

/** The name under which a host knows the image. */
export function imageReference(name: ImageName): string {
  return `localhost/ums-e2e/${name}:latest`;
}

/** Makes what is not there yet; one process at a time. */
export async function buildImages(names: readonly ImageName[] = ["redis"]): Promise<void> {
  if (names.every((name) => existsSync(layoutOf(name)))) return;
  await mkdir(cacheDirectory, { recursive: true });
  const lock = join(cacheDirectory, "lock");
  await execa("flock", [lock, process.execPath, fileURLToPath(import.meta.url), "build", ...names], { timeout: 15 * 60_000 });
}

/** The image as it is on disk. */
export async function imageLayout(name: ImageName): Promise<string> {
  await buildImages([name]);
  return layoutOf(name);
}

/** Gives a host the image, as if it had been pulled. */
export async function loadImage(host: Host, name: ImageName = "redis"): Promise<string> {
  await buildImages([name]);
  // By a path of the machine, which hosts see as they see its /usr.
  const { stdout } = await host.podman(["pull", "--quiet", `oci:${layoutOf(name)}`]);
  const id = stdout.trim();
  await host.podman(["tag", id, imageReference(name)]);
  // Podman 4 has named it after that path, and Podman 5 has not.
  const { stdout: names } = await host.podman(["image", "inspect", "--format", '{{join .RepoTags "\\n"}}', id]);
  const given = `localhost${layoutOf(name)}`;
  if (names.split("\n").some((each) => each.startsWith(given))) await host.podman(["untag", id, given]);
  return imageReference(name);
}

/**
 * Runs and removes one container. Podman leaves chains, cgroups and files behind with its first container:
 * an inventory taken after this shows only what later ones leave.
 */
export async function runOnce(host: Host, image: string): Promise<void> {
  await host.podman(["run", "--rm", "--publish", "65000:65000", image, "true"]);
}

function layoutOf(name: ImageName): string {
  return join(cacheDirectory, recipeHash(), name);
}

function recipeHash(): string {
  const hash = createHash("sha256");
  const own = [fileURLToPath(import.meta.url), join(import.meta.dirname, "image-layout.ts")];
  for (const file of [...own, ...readdirSync(servicesDirectory).map((name) => join(servicesDirectory, name))]) {
    hash.update(readFileSync(file));
  }
  return hash.digest("hex").slice(0, 16);
}

async function build(names: readonly string[]): Promise<void> {
  const target = join(cacheDirectory, recipeHash());
  // The recipe changed: what older ones made is of no use any more.
  for (const entry of readdirSync(cacheDirectory)) {
    if (/^[0-9a-f]{16}$/.test(entry) && join(cacheDirectory, entry) !== target) await rm(join(cacheDirectory, entry), { recursive: true });
  }
  await mkdir(target, { recursive: true });
  await using work = await temporaryDirectory(join(cacheDirectory, "work-"));
  if (!existsSync(join(target, "redis"))) await buildRedis(work.path, target);
  if (names.includes("services") && !existsSync(join(target, "services"))) await buildServices(work.path, target);
}

async function buildRedis(work: string, target: string): Promise<void> {
  const root = join(work, "redis-root");
  await installPackages(root, packages.redis);
  await addOwnFiles(root, []);
  const all = listFiles(root);
  const baseFiles = all.filter((path) => !ofRedis.test(path));
  const base = await packLayer(root, baseFiles, work);
  const redis = await packLayer(
    root,
    all.filter((path) => ofRedis.test(path)),
    work,
  );
  await writeFile(join(target, "base-files.json"), JSON.stringify(baseFiles));
  await packImage({ name: "base", layers: [base], command: ["sh"], work, target });
  await packImage({
    name: "redis",
    layers: [base, redis],
    // A service that answers whoever reaches it, and writes no snapshots of its own accord.
    command: ["redis-server", "--protected-mode", "no", "--save", "", "--dir", "/var/lib/redis", "--enable-debug-command", "yes"],
    work,
    target,
  });
}

async function buildServices(work: string, target: string): Promise<void> {
  const root = join(work, "services-root");
  await installPackages(root, packages.services);
  await addOwnFiles(root, ["Count.java", "greet.py", "steal.py", "threads.py", "postgres.sh"]);
  const inBase = new Set(JSON.parse(readFileSync(join(target, "base-files.json"), "utf8")) as string[]);
  const rest = listFiles(root).filter((path) => !inBase.has(path));
  const base = layerOfLayout(join(target, "base"));
  await packImage({ name: "services", layers: [base, await packLayer(root, rest, work)], command: ["sh"], work, target });
}

async function installPackages(root: string, include: readonly string[]): Promise<void> {
  const options = ["APT::Install-Recommends false", "Acquire::Languages none", "Acquire::Check-Valid-Until false"];
  await execa("mmdebstrap", [
    "--quiet",
    // Unpacked only: no maintainer script runs, and none of the essential packages come along.
    "--variant=extract",
    "--mode=root",
    "--skip=check/empty",
    ...options.map((option) => `--aptopt=${option.replace(/ (.*)$/, ' "$1"')}`),
    `--include=${include.join(",")}`,
    suite,
    root,
    await debianMirror(),
  ]);
}

async function addOwnFiles(root: string, services: readonly string[]): Promise<void> {
  await mkdir(join(root, "etc"), { recursive: true });
  await writeFile(join(root, "etc/passwd"), `${users.passwd.join("\n")}\n`);
  await writeFile(join(root, "etc/group"), `${users.group.join("\n")}\n`);
  for (const directory of ["var/lib/redis", "var/lib/postgresql", "srv", "root"]) await mkdir(join(root, directory), { recursive: true });
  // Of base-files, which has to be configured to be complete.
  await mkdir(join(root, "tmp"), { recursive: true });
  await chmod(join(root, "tmp"), 0o1777);
  if (!existsSync(join(root, "var/run"))) await symlink("/run", join(root, "var/run"));
  for (const service of services) await copyFile(join(servicesDirectory, service), join(root, "srv", service));
  // update-alternatives would have made this link.
  const java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
  if (existsSync(join(root, java))) await symlink(java, join(root, "usr/bin/java"));
}

function listFiles(root: string): string[] {
  // Node's own recursion goes through links to directories.
  const below = (directory: string): string[] =>
    readdirSync(join(root, directory), { withFileTypes: true }).flatMap((entry) => {
      const path = join(directory, entry.name);
      return entry.isDirectory() ? [path, ...below(path)] : [path];
    });
  return below("")
    .filter((path) => !unneeded.test(path))
    .toSorted();
}

function layerOfLayout(layout: string): Layer {
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as { manifests: [{ digest: string }] };
  const blob = (digest: string) => join(layout, "blobs/sha256", digest.replace("sha256:", ""));
  const manifest = JSON.parse(readFileSync(blob(index.manifests[0].digest), "utf8")) as { layers: [{ digest: string; size: number }] };
  const [{ digest, size }] = manifest.layers;
  return { file: blob(digest), digest, bytes: size };
}

async function temporaryDirectory(prefix: string): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(prefix);
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === "build") await build(process.argv.slice(3));
