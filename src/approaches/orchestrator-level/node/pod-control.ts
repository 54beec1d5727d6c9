/** What a checkpoint does to the pod itself: stands it still, dumps it, lets it go on. */
import { type Criu, dump } from "../../../checkpoint/dump.ts";
import { freezerOf, isGroupFrozen, memoryIn, parentOf, setFrozen } from "../../../checkpoint/freezer.ts";
import { dumpEnded } from "../../../checkpoint/criu.ts";
import { freezeUnvisited } from "../../../checkpoint/visitors.ts";
import { UmsError } from "../../../errors.ts";
import type { PodOnNode } from "../../../protocol/pod.ts";
import { allSettled } from "../../../settled.ts";
import { holdNamespace, isNamespaceHeld, releaseNamespace } from "../../../traffic/hold.ts";

type Container = PodOnNode["containers"][number];

export type PodControl = Readonly<{
  /**
   * Rejects where somebody else has frozen or held the pod, who alone may let it go.
   * @throws UmsError ALREADY_MIGRATING, SERVICE_NOT_RUNNING
   */
  expectUntouched(pod: PodOnNode): Promise<void>;
  /** Whether the pod is as a transfer has left it: nothing has run in it since its dump. */
  isAsDumped(pod: PodOnNode): Promise<boolean>;
  /** What a dump will write, at most. */
  memoryBytes(pod: PodOnNode): Promise<number>;
  /** From here on no client reaches it, and none is refused. */
  hold(pod: PodOnNode): Promise<void>;
  release(pod: PodOnNode): Promise<void>;
  /** When it has settled, nothing of it freezes any more. */
  freeze(pod: PodOnNode): Promise<void>;
  /** Can be repeated, and may meet a pod that has ended. */
  thaw(pod: PodOnNode): Promise<void>;
  /** Leaves the container frozen and whole. @throws UmsError DUMP_FAILED */
  dump(container: Container, places: { imageDirectory: string; workDirectory: string; timeoutMs: number }): Promise<void>;
  /** Resolves when nothing works on the dump with this work directory any more. @throws UmsError CRIU_REMAINS */
  dumpEnded(workDirectory: string): Promise<void>;
}>;

export function createPodControl(criu: Criu): PodControl {
  return {
    async expectUntouched({ network, containers }) {
      for (const { name, pid, id, freezer } of containers) {
        if (!(await freezerOf({ pid, id }))) throw new UmsError("SERVICE_NOT_RUNNING", `Container ${name} has ended.`);
        if (await isGroupFrozen(freezer))
          throw new UmsError("ALREADY_MIGRATING", `Container ${name} is frozen: by a migration, or by somebody.`);
      }
      if (await isNamespaceHeld(network)) throw new UmsError("ALREADY_MIGRATING", "The pod's network is held by a migration.");
    },
    isAsDumped: async ({ containers: [first] }) => first !== undefined && (await isGroupFrozen(parentOf(first.freezer))),
    async memoryBytes({ containers }) {
      const sizes = await Promise.all(containers.map(({ freezer }) => memoryIn(freezer)));
      return sizes.reduce((a, b) => a + b, 0);
    },
    hold: ({ network }) => holdNamespace(network),
    release: ({ network }) => releaseNamespace(network),
    freeze: ({ containers }) => freezeUnvisited(containers),
    thaw: ({ containers }) =>
      allSettled(
        containers.map(({ freezer }) =>
          setFrozen(freezer, false).catch((cause: unknown) => {
            const { code } = cause as NodeJS.ErrnoException;
            if (code !== "ENOENT" && code !== "ENODEV") throw cause; // else its container has ended
          }),
        ),
      ),
    dump: ({ id: containerId, runcRoot }, places) => dump(criu, { containerId, stateRoot: runcRoot, ...places }),
    dumpEnded,
  };
}
