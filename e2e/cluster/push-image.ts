/**
 * Pushes OCI image layouts by the registry's own API, from inside the network where it listens.
 * push-image.ts ADDRESS (REFERENCE LAYOUT)...
 */
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

type Descriptor = Readonly<{ digest: string; mediaType: string; size: number }>;
type Manifest = Readonly<{ mediaType?: string; config?: Descriptor; layers?: readonly Descriptor[]; manifests?: readonly Descriptor[] }>;

const [address = "", ...pairs] = process.argv.slice(2);
const origin = `http://${address}`;

type Sent = Readonly<{ method: string; url: string; type?: string; body?: string | Buffer | { file: string } }>;

async function send({ method, url, type, body }: Sent): Promise<{ status: number; location: string | undefined }> {
  const file = typeof body === "object" && "file" in body ? body.file : undefined;
  const length = file !== undefined ? statSync(file).size : Buffer.byteLength((body as string | Buffer | undefined) ?? "");
  return new Promise((resolve, reject) => {
    const call = request(url, { method, headers: { "content-length": length, ...(type === undefined ? {} : { "content-type": type }) } });
    call.on("error", reject).on("response", (response) => {
      response.resume().on("end", () => resolve({ status: response.statusCode ?? 0, location: response.headers.location }));
    });
    if (file === undefined) call.end(body as string | Buffer | undefined);
    else pipeline(createReadStream(file), call).catch(reject);
  });
}

async function expect(status: number, sent: Sent): Promise<{ location: string | undefined }> {
  const answer = await send(sent);
  if (answer.status !== status) throw new Error(`${sent.method} ${sent.url}: ${answer.status}`);
  return answer;
}

async function pushBlob(repository: string, layout: string, { digest }: Descriptor): Promise<void> {
  const { status } = await send({ method: "HEAD", url: `${origin}/v2/${repository}/blobs/${digest}` });
  if (status === 200) return;
  const { location = "" } = await expect(202, { method: "POST", url: `${origin}/v2/${repository}/blobs/uploads/` });
  const url = new URL(location, origin);
  url.searchParams.set("digest", digest);
  const file = blobOf(layout, digest);
  await expect(201, { method: "PUT", url: url.href, type: "application/octet-stream", body: { file } });
}

function blobOf(layout: string, digest: string): string {
  return join(layout, "blobs", digest.replace(":", "/"));
}

async function pushManifest(repository: string, layout: string, { digest, mediaType }: Descriptor, tag: string): Promise<void> {
  const text = readFileSync(blobOf(layout, digest));
  const { config, layers = [], manifests = [] } = JSON.parse(text.toString()) as Manifest;
  for (const manifest of manifests) await pushManifest(repository, layout, manifest, manifest.digest);
  await Promise.all([...(config ? [config] : []), ...layers].map((blob) => pushBlob(repository, layout, blob)));
  await expect(201, { method: "PUT", url: `${origin}/v2/${repository}/manifests/${tag}`, type: mediaType, body: text });
}

for (const deadline = Date.now() + 10_000; ; await sleep(20)) {
  const answer = await send({ method: "GET", url: `${origin}/v2/` }).catch(() => undefined);
  if (answer?.status === 200) break;
  if (Date.now() > deadline) throw new Error(`no registry answers at ${address}`);
}
for (let at = 0; at < pairs.length; at += 2) {
  const [reference = "", layout = ""] = pairs.slice(at, at + 2);
  // Nodes ask this registry in the place of the one in the name, by what follows it.
  const parts = /^(?:[^/]*[.:][^/]*\/|localhost\/)?([^:]+):([^/:]+)$/.exec(reference);
  if (!parts || !existsSync(join(layout, "index.json"))) throw new Error(`${reference} or ${layout} is no image`);
  const [, repository = "", tag = ""] = parts;
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as { manifests: readonly Descriptor[] };
  const [manifest] = index.manifests;
  if (!manifest) throw new Error(`${layout} holds no image`);
  await pushManifest(repository, layout, manifest, tag);
}
