/** What an OCI runtime remembers of a container that it has made: runc and crun keep it as JSON below their root. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "../errors.ts";

/** What is the same for both. */
export type RuntimeState = Readonly<{
  /** Of the container's init. */
  pid: number;
  bundle: string;
  /** What its standard input, output and error were when it was made: `pipe:[123]`, `/dev/null`. */
  descriptors: readonly string[];
}>;

const Descriptors = Type.Array(Type.String());
/** runc's (libcontainer/container_linux.go, State); other fields are nobody's business here. */
const RuncState = Type.Object({
  init_process_pid: Type.Integer({ minimum: 1 }),
  external_descriptors: Descriptors,
  config: Type.Object({ labels: Type.Array(Type.String()) }),
});
/** crun's (src/libcrun/status.c). */
const CrunStatus = Type.Object({ pid: Type.Integer({ minimum: 1 }), bundle: Type.String(), external_descriptors: Type.String() });

/**
 * @param root of the runtime
 * @throws UmsError DUMP_FAILED where no runtime that is known here has this container
 */
export async function readRuntimeState(containerId: string, root: string | undefined): Promise<RuntimeState> {
  const directory = path.join(root ?? "/nonexistent", containerId);
  const [runc, crun] = await Promise.all(["state.json", "status"].map((file) => json(path.join(directory, file))));
  if (Value.Check(RuncState, runc)) {
    const bundle = runc.config.labels.find((label) => label.startsWith(bundleLabel))?.slice(bundleLabel.length);
    if (bundle !== undefined) return { pid: runc.init_process_pid, bundle, descriptors: runc.external_descriptors };
  }
  if (Value.Check(CrunStatus, crun)) {
    const descriptors: unknown = JSON.parse(crun.external_descriptors);
    if (Value.Check(Descriptors, descriptors)) return { pid: crun.pid, bundle: crun.bundle, descriptors };
  }
  throw new UmsError("DUMP_FAILED", `Neither runc nor crun knows a container ${containerId}.`);
}

const bundleLabel = "bundle=";

async function json(file: string): Promise<unknown> {
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
  });
  return text === undefined ? undefined : JSON.parse(text);
}
