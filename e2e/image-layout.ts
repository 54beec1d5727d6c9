/** Packs directories as OCI image layouts (image-spec 1.0), the same bytes each time. */
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { copyFile, cp, link, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { execa } from "execa";

export type Layer = Readonly<{ file: string; digest: string; bytes: number }>;

/** A layer of those paths below the root, uncompressed: loading it costs a copy and no more. */
export async function packLayer(root: string, paths: readonly string[], work: string): Promise<Layer> {
  const file = join(work, `layer-${createHash("sha256").update(paths.join("\0")).digest("hex")}.tar`);
  const fixed = ["--mtime=@0", "--numeric-owner", "--owner=0", "--group=0", "--no-recursion", "--null"];
  await execa("tar", ["--create", "--file", file, "--directory", root, ...fixed, "--files-from=-"], { input: paths.join("\0") });
  return layerOf(file);
}

/** A tar archive as it is. */
export async function layerOf(file: string): Promise<Layer> {
  return { file, digest: await digestOf(file), bytes: statSync(file).size };
}

type ImageParts = Readonly<{
  name: string;
  layers: readonly Layer[];
  entrypoint?: readonly string[];
  command: readonly string[];
  work: string;
  target: string;
  /** Of the manifest. */
  annotations?: Readonly<Record<string, string>>;
}>;

/** Writes the layout `name` into the target directory. */
export async function packImage({ name, layers, entrypoint, command, work, target, annotations }: ImageParts): Promise<void> {
  const layout = join(work, name);
  const blobs = join(layout, "blobs/sha256");
  await mkdir(blobs, { recursive: true });
  for (const layer of layers) {
    const blob = join(blobs, layer.digest.replace("sha256:", ""));
    await link(layer.file, blob).catch(() => copyFile(layer.file, blob));
  }
  const writeBlob = async (content: unknown) => {
    const text = JSON.stringify(content);
    const hex = createHash("sha256").update(text).digest("hex");
    await writeFile(join(blobs, hex), text);
    return { digest: `sha256:${hex}`, size: Buffer.byteLength(text) };
  };
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  const config = await writeBlob({
    architecture,
    os: "linux",
    created: "2026-01-01T00:00:00Z",
    config: {
      ...(entrypoint ? { Entrypoint: entrypoint } : {}),
      Cmd: command,
      Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      WorkingDir: "/",
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.digest) },
  });
  const manifest = await writeBlob({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", ...config },
    layers: layers.map(({ digest, bytes }) => ({ mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size: bytes })),
    ...(annotations ? { annotations } : {}),
  });
  await writeFile(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  const entry = { mediaType: "application/vnd.oci.image.manifest.v1+json", ...manifest };
  await writeFile(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  await rename(layout, join(target, name));
}

/** The same files as another image: a label in its configuration makes its id another. @param target must not be there yet */
export async function labelImage(
  layout: string,
  { target, labels }: { target: string; labels: Readonly<Record<string, string>> },
): Promise<void> {
  await cp(layout, target, { recursive: true });
  const blob = (digest: string) => join(target, "blobs", digest.replace(":", "/"));
  const write = async <T extends Blob>(entry: T, content: object): Promise<T> => {
    const text = JSON.stringify(content);
    const digest = `sha256:${createHash("sha256").update(text).digest("hex")}`;
    await writeFile(blob(digest), text);
    return { ...entry, digest, size: Buffer.byteLength(text) };
  };
  const read = async <T>(digest: string) => JSON.parse(await readFile(blob(digest), "utf8")) as T;
  const index = JSON.parse(await readFile(join(target, "index.json"), "utf8")) as { manifests: Blob[] };
  index.manifests = await Promise.all(
    index.manifests.map(async (entry) => {
      const manifest = await read<{ config: Blob }>(entry.digest);
      const configuration = await read<{ config?: object }>(manifest.config.digest);
      const config = await write(manifest.config, { ...configuration, config: { ...configuration.config, Labels: labels } });
      return write(entry, { ...manifest, config });
    }),
  );
  await writeFile(join(target, "index.json"), JSON.stringify(index));
}

type Blob = Readonly<{ digest: string; size: number }>;

async function digestOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file), hash);
  return `sha256:${hash.digest("hex")}`;
}
