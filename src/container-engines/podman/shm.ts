import { stat } from "node:fs/promises";
import path from "node:path";
import type { OciConfig } from "./describe.ts";

/**
 * Podman gives each container a tmpfs for /dev/shm, mounts it on the host, and binds it into the container.
 * @returns the host's path; undefined where it is no mount of its own, or not there yet
 */
export async function shmOf({ mounts }: OciConfig): Promise<string | undefined> {
  const source = mounts?.find(({ destination }) => destination === "/dev/shm")?.source;
  if (source === undefined || !path.isAbsolute(source)) return undefined;
  const [own, above] = await Promise.all([source, path.dirname(source)].map((each) => stat(each).catch(() => undefined)));
  return own !== undefined && own.dev !== above?.dev ? source : undefined;
}
