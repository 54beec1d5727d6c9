/** A cluster and a host that are paired sites, on one wan. */
import { bundle } from "../setup/bundle.ts";
import { containerImages, type NamedImage } from "../setup/container-images.ts";
import { deploy, explain, type ClusterSite } from "./cluster-sites.ts";
import { prepareGround } from "./clusters.ts";
import { breakpointFile } from "./disturbance.ts";
import { addHost, type Host } from "./hosts.ts";
import { createSite, sitePort, type TestSite } from "./sites.ts";
import type { Wan } from "./wan.ts";

export type ClusterAndHost = AsyncDisposable & Readonly<{ wan: Wan; cluster: ClusterSite; host: TestSite }>;

/**
 * @param options.images known to the cluster and the host from the start, by the registry that both ask
 * @param options.configuration of the host's `ums serve`
 */
export async function createClusterAndHost({
  images,
  configuration = {},
}: {
  images: readonly NamedImage[];
  configuration?: Readonly<Record<string, unknown>>;
}): Promise<ClusterAndHost> {
  await bundle();
  const own = await containerImages(["ums", "ssu-interface"]);
  const stack = new AsyncDisposableStack();
  try {
    const ground = await prepareGround(stack, { images: [...own, ...images] });
    const { run, wan, registry } = ground;
    const [made, machine] = await Promise.all([ground.create("a"), addHost({ name: `host-${run.id}`, index: 0, run, wan, stack })]);
    await useRegistry(machine, { address: registry.address, images });
    const deployed = deploy(made).catch(async (cause: unknown) => {
      await explain(made);
      throw cause;
    });
    const [cluster, host] = await Promise.all([deployed, createSite(machine, ["base"], { breakpointFile, ...configuration })]);
    const { code } = await host.json<{ code: string }>(["pair"]);
    await cluster.json(["pair", "--with", `${machine.address}:${sitePort}`, "--code", code]);
    return { wan, cluster, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (cause) {
    await stack.disposeAsync();
    throw cause;
  }
}

/** Podman asks this registry in the place of the one in an image's name, as the nodes do. */
async function useRegistry(host: Host, { address, images }: { address: string; images: readonly NamedImage[] }): Promise<void> {
  const registries = [...new Set(images.map(({ reference }) => reference.split("/")[0] ?? ""))];
  const settings = registries.map((name) => `[[registry]]\nprefix = "${name}"\nlocation = "${address}"\ninsecure = true\n`);
  await host.exec(["mkdir", "-p", "/etc/containers/registries.conf.d"]);
  await host.exec(["tee", "/etc/containers/registries.conf.d/test.conf"], { input: settings.join("\n") });
}
