/** The container images of `images/`, built by Podman in a storage of their own, and kept as OCI layouts. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { bundle } from "./bundle.ts";
import { cached } from "./cache.ts";
import { debianMirror } from "./debian.ts";

/** An image as it is on disk, and the name by which users know it. */
export type NamedImage = Readonly<{ reference: string; /** An OCI image layout. */ layout: string }>;

const checkout = resolve(import.meta.dirname, "..");
const storage = "/var/cache/ums/podman";
const base = "docker.io/library/debian:trixie-slim";
const installedCriu = "/opt/ums/criu";

const images = {
  memhog: { reference: "ghcr.io/hpcclab/nims/memhog:main", files: ["images/memhog"], from: undefined, contexts: {} },
  ums: {
    reference: "ghcr.io/hpcclab/ums/ums:main",
    files: ["images/ums", "bin/ums", "dist", `node_modules/node-linux-${process.arch}/package.json`],
    from: undefined,
    contexts: {},
  },
  "ssu-interface": {
    reference: "ghcr.io/hpcclab/ums/ssu-interface:main",
    files: ["images/ssu-interface", "src/checkpoint/ums-runc", "src/checkpoint/refuse-held"],
    from: "ums",
    contexts: { criu: installedCriu },
  },
} as const satisfies Record<string, Image>;

type Image = Readonly<{
  reference: string;
  /** What the build copies, below the checkout. */
  files: readonly string[];
  /** The image of ours that it starts from. */
  from: string | undefined;
  /** Directories outside the checkout, by the names that the Containerfile gives them. */
  contexts: Readonly<Record<string, string>>;
}>;

export type ContainerImage = keyof typeof images;

/** Builds what is not there yet. It needs the machine set up (`setup.ts`). */
export async function containerImages(names: readonly ContainerImage[]): Promise<NamedImage[]> {
  if (names.some((name) => name !== "memhog")) await bundle();
  const built: NamedImage[] = [];
  for (const name of names) built.push((await build(name)).image);
  return built;
}

async function build(name: ContainerImage): Promise<{ image: NamedImage; inputs: readonly string[] }> {
  const image: Image = images[name];
  const below = image.from === undefined ? undefined : await build(image.from as ContainerImage);
  const content = [...image.files.map((file) => join(checkout, file)), ...Object.values(image.contexts)].map(digestOf);
  const inputs = [...(below?.inputs ?? []), ...content, process.arch];
  const layout = await cached({
    name: `image-${name}`,
    inputs,
    make: async (directory) => {
      console.log(`Building the image ${name} …`);
      await provideBase();
      // An image below may be in the cache, and no longer in Podman's storage.
      if (below) {
        const { stdout } = await podman(["pull", "--quiet", `oci:${below.image.layout}`]);
        await podman(["tag", stdout.trim(), below.image.reference]);
      }
      const contexts = Object.entries(image.contexts).map(([context, path]) => `--build-context=${context}=${path}`);
      await podman([
        "build",
        "--quiet",
        // A build on the machine's own network reaches the mirror that the machine reaches.
        "--network=host",
        "--isolation=chroot",
        "--pull=never",
        "--timestamp=0",
        ...contexts,
        `--file=${join(checkout, "images", name, "Containerfile")}`,
        `--tag=${image.reference}`,
        checkout,
      ]);
      await podman(["push", "--quiet", image.reference, `oci:${directory}`]);
    },
  });
  return { image: { reference: image.reference, layout }, inputs };
}

/** From its registry; where that cannot be reached, the same packages from the machine's mirror. */
async function provideBase(): Promise<void> {
  const there = await podman(["image", "exists", base], { reject: false });
  if (there.exitCode === 0) return;
  const pulled = await podman(["pull", "--quiet", base], { reject: false, timeoutMs: 60_000 });
  if (pulled.exitCode === 0) return;
  const work = await mkdtemp(join(storage, "base-"));
  const root = join(work, "root");
  const kept = ["copyright"].map((name) => `--dpkgopt=path-include=/usr/share/doc/*/${name}`);
  const leftOut = ["doc", "man", "info", "locale", "groff", "lintian", "linda"].map(
    (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
  );
  const options = ['Acquire::Languages "none"', 'APT::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"'];
  try {
    await execa(
      "mmdebstrap",
      [
        ...["--quiet", "--variant=minbase", "--mode=root", "--skip=check/empty", ...leftOut, ...kept],
        ...options.map((option) => `--aptopt=${option}`),
        ...["trixie", root, await debianMirror()],
      ],
      { timeout: 10 * 60_000 },
    );
    const archive = join(work, "root.tar");
    await execa("tar", ["--create", "--numeric-owner", "--file", archive, "--directory", root, "."]);
    await podman(["import", "--quiet", "--change=CMD=bash", archive, base]);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

type PodmanOptions = Readonly<{ reject?: boolean; timeoutMs?: number }>;

/** In a storage of its own: the machine's Podman has no part in this. */
async function podman(args: readonly string[], { reject = true, timeoutMs = 10 * 60_000 }: PodmanOptions = {}) {
  await mkdir(storage, { recursive: true });
  const places = ["--root", join(storage, "storage"), "--runroot", join(storage, "run"), "--storage-driver", "overlay"];
  return execa("podman", [...places, "--cgroup-manager=cgroupfs", "--events-backend=file", ...args], { reject, timeout: timeoutMs });
}

/** Of all that is below, by path and content; source maps and packages are no part of an image. */
function digestOf(path: string): string {
  const hash = createHash("sha256");
  const visit = (file: string, name: string) => {
    if (!existsSync(file) || /\.(map|deb)$/.test(name)) return;
    if (statSync(file).isDirectory()) {
      for (const entry of readdirSync(file).toSorted()) visit(join(file, entry), `${name}/${entry}`);
    } else hash.update(`${name}\0`).update(readFileSync(file)).update("\0");
  };
  visit(path, "");
  return hash.digest("hex");
}
