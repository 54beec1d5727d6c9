/** What a destination is asked for, of a pod as its node has described it. */
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import type { Described, PodNeed } from "../../protocol/pod.ts";
import { podReference, pulledImages } from "./pod.ts";

/** @param options.ports by which clients reach it */
export function podNeed(
  pod: Pod,
  { launches, measures }: Pick<Described, "launches" | "measures">,
  { ports = [], node }: { ports?: PodNeed["ports"]; node?: string | undefined } = {},
): PodNeed {
  return {
    kind: "Pod",
    pod: pod as PodNeed["pod"],
    ...(node === undefined ? {} : { node }),
    containers: pulledImages(pod).flatMap((container) => {
      const launch = launches[container.name];
      return launch ? [{ ...container, launch }] : [];
    }),
    volumes: podReference(pod).volumes,
    ports,
    ...measures,
  };
}

/**
 * As an object of the cluster may tell it: what a container was started with has its Secrets in it, and not everybody who may
 * read Migrations may read those.
 */
export function withoutSecrets(need: PodNeed): PodNeed {
  const containers = need.containers.map(({ launch, ...container }) => ({
    ...container,
    launch: { ...launch, args: launch.args.slice(0, 1), env: {} },
  }));
  return { ...need, containers };
}
