/** The images that a cluster itself needs, under the names that Kubernetes' own manifests use. */
import { copyFile, mkdir } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cached } from "../../setup/cache.ts";
import { coreDnsProgram, kubernetesPrograms } from "../../setup/cluster-programs.ts";
import type { NamedImage } from "../../setup/container-images.ts";
import { packImage, packLayer } from "../image-layout.ts";

export const coreDnsImage = `registry.k8s.io/coredns/coredns:${coreDnsVersion()}`;
/** What containerd 2.4 asks for unless told otherwise. */
const pauseImage = "registry.k8s.io/pause:3.10.2";

export async function systemImages(): Promise<NamedImage[]> {
  const [kubernetes, coreDns] = await Promise.all([kubernetesPrograms(), coreDnsProgram()]);
  const programs = { pause: join(kubernetes, "pause"), coredns: join(coreDns, "coredns") };
  const layouts = await cached({
    name: "system-images",
    inputs: [readFileSync(fileURLToPath(import.meta.url)), kubernetes, coreDns],
    make: async (target) => {
      for (const [name, program] of Object.entries(programs)) {
        const work = join(target, `work-${name}`);
        await mkdir(join(work, "root"), { recursive: true });
        await copyFile(program, join(work, "root", name));
        const layer = await packLayer(join(work, "root"), [name], work);
        await packImage({ name, layers: [layer], entrypoint: [`/${name}`], command: [], work, target });
      }
    },
  });
  return [
    { reference: pauseImage, layout: join(layouts, "pause") },
    { reference: coreDnsImage, layout: join(layouts, "coredns") },
  ];
}

function coreDnsVersion(): string {
  const module = readFileSync(join(import.meta.dirname, "../../tools/coredns/go.mod"), "utf8");
  return /github\.com\/coredns\/coredns (v[\d.]+)/.exec(module)?.[1] ?? "latest";
}
