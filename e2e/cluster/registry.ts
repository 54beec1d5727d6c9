/** The registry that the nodes of test clusters pull from, whatever registry an image's name tells. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { registryProgram } from "../../setup/cluster-programs.ts";
import type { NamedImage } from "../../setup/container-images.ts";
import type { Place } from "../place.ts";

export type Registry = Readonly<{
  /** Host and port, plain HTTP. */
  address: string;
  push(images: readonly NamedImage[]): Promise<void>;
}>;

type RegistryParts = Readonly<{ wan: Place; directory: string; stack: AsyncDisposableStack }>;

const port = 5000;

/** Runs in the wan, as long as the stack. */
export async function startRegistry({ wan, directory, stack }: RegistryParts): Promise<Registry> {
  const address = `${wan.address}:${port}`;
  mkdirSync(directory, { recursive: true });
  const configuration = join(directory, "config.json");
  writeFileSync(
    configuration,
    JSON.stringify({
      version: "0.1",
      log: { level: "warn", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: join(directory, "storage") }, delete: { enabled: true } },
      http: { addr: address },
    }),
  );
  const server = await wan.spawn([join(await registryProgram(), "registry"), "serve", configuration]);
  stack.defer(async () => {
    server.kill("SIGKILL");
    await server.exited;
  });
  return {
    address,
    push: async (images) => {
      const pairs = images.flatMap(({ reference, layout }) => [reference, layout]);
      const pushing = wan.exec([process.execPath, join(import.meta.dirname, "push-image.ts"), address, ...pairs], { timeoutMs: 120_000 });
      const ended = server.exited.then(() => Promise.reject(new Error(`the registry ended: ${server.output()}`)));
      await Promise.race([pushing, ended]);
    },
  };
}
