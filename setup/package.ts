/** `npm run package`: UMS as Debian packages, with all that a host needs and Debian lacks; what Debian has, they depend on. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { copyFile, cp, lstat, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { execa } from "execa";
import { calledPrograms, enginePrograms } from "../src/preflight/programs.ts";
import { bundleInto } from "./bundle.ts";
import { cached } from "./cache.ts";
import { criuFor } from "./criu.ts";
import { manPage } from "./man-page.ts";
import { type Architecture, platforms } from "./platforms.ts";
import { provideBuildTools } from "./programs.ts";

const checkout = resolve(import.meta.dirname, "..");
const { version, description } = JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as Record<
  "version" | "description",
  string
>;
const documents = [
  "README.md",
  ...["cli", "configuration", "crash-safety", "hosts", "performance", "security"].map((name) => `docs/${name}.md`),
];
const conffiles = ["/etc/containers/containers.conf.d/ums.conf"];

/** The last change of what is packed: the same commit makes the same package. */
type Commit = Readonly<{ date: Date; author: string; hash: string }>;
type Part = Readonly<{ root: string; architecture: Architecture; commit: Commit }>;

export type PackageOptions = Readonly<{
  architecture: Architecture;
  /** Where it is put. */
  directory: string;
  /** As small as can be, which takes a minute, or soon. */
  compression: "small" | "quick";
}>;

/** Makes the package for one kind of machine. @returns its path */
export async function makePackage({ architecture, directory, compression }: PackageOptions): Promise<string> {
  const commit = await lastCommit();
  await mkdir(directory, { recursive: true });
  const work = await mkdtemp(join(directory, ".package-"));
  try {
    const part: Part = { root: join(work, "root"), architecture, commit };
    await addProgram(part);
    await addNode(part);
    await addCriu(part);
    await addSettings(part);
    await addDocumentation(part);
    // Whatever the checkout's files have; symbolic links have no modes.
    await execa("chmod", ["-R", "u=rwX,go=rX", part.root]);
    await addControl(part);
    const made = join(directory, `ums_${version}_${architecture}.deb`);
    const how = compression === "small" ? ["-Zxz", "-z9", "-Sextreme", "--threads-max=1"] : ["-Zgzip", "-z1"];
    const env = { SOURCE_DATE_EPOCH: String(commit.date.getTime() / 1000) };
    await execa("dpkg-deb", ["--root-owner-group", ...how, "--build", part.root, made], { env });
    return made;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** What takes long to fetch, once and for all. */
export async function providePackageParts(): Promise<void> {
  for (const architecture of Object.keys(platforms) as Architecture[]) {
    await nodeFor(architecture);
    await criuFor(architecture);
  }
}

async function lastCommit(): Promise<Commit> {
  const { stdout } = await execa("git", ["log", "-1", "--format=%ct%n%an <%ae>%n%h"], { cwd: checkout });
  const [seconds = "", author = "", hash = ""] = stdout.split("\n");
  return { date: new Date(Number(process.env["SOURCE_DATE_EPOCH"] ?? seconds) * 1000), author, hash };
}

/** Puts a file of the checkout, or of any other place, into the package. */
async function put({ root }: Part, from: string, to: string): Promise<void> {
  await mkdir(dirname(join(root, to)), { recursive: true });
  await copyFile(resolve(checkout, from), join(root, to));
}

async function write({ root }: Part, to: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(join(root, to)), { recursive: true });
  await writeFile(join(root, to), content);
}

async function addProgram(part: Part): Promise<void> {
  const dist = join(part.root, "usr/lib/ums/dist");
  const packages = await bundleInto(dist, { sourceMaps: false });
  await put(part, "bin/ums", "usr/lib/ums/bin/ums");
  await mkdir(join(part.root, "usr/bin"), { recursive: true });
  await symlink("../lib/ums/bin/ums", join(part.root, "usr/bin/ums"));
  for (const directory of packages) {
    const name = directory.slice(directory.lastIndexOf("node_modules/") + "node_modules/".length);
    const licences = readdirSync(join(checkout, directory)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
    const words = await Promise.all(licences.map((file) => readFile(join(checkout, directory, file), "utf8")));
    const { license } = JSON.parse(await readFile(join(checkout, directory, "package.json"), "utf8")) as { license?: string };
    await write(part, `usr/share/doc/ums/third-party/npm/${name.replace("/", "+")}`, [`Licence: ${license}\n`, ...words].join("\n"));
  }
  const { stdout: ums } = await execa(process.execPath, [join(dist, "ums.mjs"), "completion", "bash"]);
  await write(part, "usr/share/bash-completion/completions/ums", `${ums}\n`);
  for (const [shell, to] of Object.entries({ zsh: "zsh/vendor-completions/_ums", fish: "fish/vendor_completions.d/ums.fish" })) {
    const { stdout } = await execa(process.execPath, [join(dist, "ums.mjs"), "completion", shell]);
    await write(part, `usr/share/${to}`, `${stdout}\n`);
  }
}

async function addNode(part: Part): Promise<void> {
  const made = await nodeFor(part.architecture);
  await put(part, join(made, "node"), "usr/lib/ums/bin/node");
  await put(part, join(made, "LICENSE"), "usr/share/doc/ums/third-party/node/LICENSE");
}

/** Node of the lock file, also for another kind of machine than this one. @returns a directory with `node` and `LICENSE` */
function nodeFor(architecture: Architecture): Promise<string> {
  const name = `node-linux-${platforms[architecture].node}`;
  const lock = JSON.parse(readFileSync(join(checkout, "package-lock.json"), "utf8")) as {
    packages: Record<string, { version: string; integrity: string } | undefined>;
  };
  const locked = lock.packages[`node_modules/${name}`];
  if (locked === undefined) throw new Error(`package-lock.json has no ${name}.`);
  return cached({
    name: `node-${architecture}`,
    inputs: [locked.integrity],
    make: async (directory) => {
      const wanted = `${name}@${locked.version}`;
      const { stdout } = await execa("npm", ["pack", wanted, "--json", `--pack-destination=${directory}`], { cwd: checkout });
      const [packed] = JSON.parse(stdout) as { filename: string }[];
      const archive = join(directory, basename(packed?.filename ?? ""));
      const integrity = `sha512-${createHash("sha512")
        .update(await readFile(archive))
        .digest("base64")}`;
      if (integrity !== locked.integrity) throw new Error(`${wanted} is not what package-lock.json says: ${integrity}.`);
      await execa("tar", ["-xzf", archive, "--strip-components=1", "-C", directory, "package/bin/node", "package/LICENSE"]);
      await rm(archive);
      await provideBuildTools(architecture);
      await execa(`${platforms[architecture].triplet}-strip`, ["-o", join(directory, "node"), join(directory, "bin/node")]);
      await rm(join(directory, "bin"), { recursive: true });
    },
  });
}

/** Into the same places as `setup.ts` does: Podman's settings, the nodes of clusters and people know those. */
async function addCriu(part: Part): Promise<void> {
  const made = await criuFor(part.architecture);
  await cp(join(made, "criu"), join(part.root, "opt/ums/criu"), { recursive: true });
  await cp(join(made, "doc"), join(part.root, "usr/share/doc/ums/third-party/debian"), { recursive: true });
  for (const name of ["ums-runc", "refuse-held"]) await put(part, `src/checkpoint/${name}`, `opt/ums/bin/${name}`);
}

async function addSettings(part: Part): Promise<void> {
  await put(part, "deploy/host/ums.service", "usr/lib/systemd/system/ums.service");
  // Podman up to 5 reads pieces of containers.conf in /etc alone. A runtime that is gone does no harm there.
  await put(part, "deploy/host/containers.conf.d/ums.conf", "etc/containers/containers.conf.d/ums.conf");
  // A hook that is gone keeps every container from starting: this file goes with the package, as no file in /etc would.
  await put(part, "deploy/host/hooks.d/ums.json", "usr/share/containers/oci/hooks.d/ums.json");
}

async function addDocumentation(part: Part): Promise<void> {
  const { date, author, hash } = part.commit;
  const packed = (content: string) => gzipSync(content, { level: 9 });
  const day = date.toUTCString().replace("GMT", "+0000");
  const changes = `ums (${version}) unstable; urgency=medium\n\n  * UMS ${version}, of commit ${hash}.\n\n -- ${author}  ${day}\n`;
  await write(part, "usr/share/man/man1/ums.1.gz", packed(manPage({ version, date })));
  await write(part, "usr/share/doc/ums/changelog.gz", packed(changes));
  await put(part, "deploy/debian/copyright", "usr/share/doc/ums/copyright");
  for (const document of documents) await put(part, document, `usr/share/doc/ums/${basename(document)}`);
}

async function addControl(part: Part): Promise<void> {
  const { root, architecture, commit } = part;
  const files = await filesOf(root);
  const sizes = await Promise.all(files.map(async (file) => (await lstat(join(root, file))).size));
  const sources = (await readFile(join(await criuFor(architecture), "sources"), "utf8")).trim().split("\n");
  const fields = {
    Package: "ums",
    Version: version,
    Architecture: architecture,
    Maintainer: commit.author,
    "Installed-Size": Math.ceil(sizes.reduce((sum, size) => sum + Math.ceil(size / 1024), 0)),
    Depends: (await dependencies(root)).join(", "),
    "Built-Using": sources.join(", "),
    Section: "admin",
    Priority: "optional",
    Description: `moves running containers, with memory, files and clients, to other hosts\n ${description}.\n This package is a host with Podman as such a site.`,
  };
  await write(
    part,
    "DEBIAN/control",
    Object.entries(fields)
      .map(([name, value]) => `${name}: ${value}\n`)
      .join(""),
  );
  await write(part, "DEBIAN/conffiles", conffiles.map((file) => `${file}\n`).join(""));
  const sums = await Promise.all(
    files
      .filter((file) => !conffiles.includes(`/${file}`) && file !== "usr/bin/ums")
      .map(
        async (file) =>
          `${createHash("md5")
            .update(await readFile(join(root, file)))
            .digest("hex")}  ${file}\n`,
      ),
  );
  await write(part, "DEBIAN/md5sums", sums.join(""));
  for (const name of ["preinst", "postinst", "prerm", "postrm"]) await put(part, `deploy/debian/${name}`, `DEBIAN/${name}`);
  await execa("chmod", ["-R", "u=rwX,go=rX", join(root, "DEBIAN")]);
}

/** Paths below the root, in order. */
async function filesOf(root: string): Promise<string[]> {
  const entries = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory());
  return entries.map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1)).toSorted();
}

/** Debian's packages with what each library of the C compiler is in. */
const libraryPackages: Readonly<Record<string, string>> = { "libstdc++.so.6": "libstdc++6", "libgcc_s.so.1": "libgcc-s1" };

async function dependencies(root: string): Promise<string[]> {
  const wanted = new Map([...calledPrograms, ...enginePrograms].filter((each) => !each.essential).map((each) => [each.package, ""]));
  for (const { package: name, minimum } of [...calledPrograms, ...enginePrograms])
    if (minimum !== undefined) wanted.set(name, ` (>= ${minimum})`);
  const node = join(root, "usr/lib/ums/bin/node");
  const { stdout } = await execa("readelf", ["--dynamic", "--version-info", "--wide", node]);
  for (const [, library = ""] of stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)) {
    const name = libraryPackages[library];
    if (name !== undefined) wanted.set(name, "");
    // The rest is the C library's own.
    else if (!/^(ld-linux-[\w-]+|lib(c|m|dl|rt|pthread))\.so\.\d$/.test(library))
      throw new Error(`Nobody knows what brings ${library} for Node.`);
  }
  const versions = [...stdout.matchAll(/\bGLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => [Number(major), Number(minor)] as const);
  const [newest] = versions.toSorted((a, b) => b[0] - a[0] || b[1] - a[1]);
  wanted.set("libc6", ` (>= ${newest?.join(".")})`);
  return [...wanted].map(([name, minimum]) => `${name}${minimum}`).toSorted();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await providePackageParts();
  const directory = join(checkout, "dist");
  const architectures = Object.keys(platforms) as Architecture[];
  const made = await Promise.all(architectures.map((architecture) => makePackage({ architecture, directory, compression: "small" })));
  for (const file of made) console.log(file);
}
