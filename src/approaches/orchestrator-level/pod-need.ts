/** What a destination is asked for, of a pod as its node has described it. */
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import { podReference, pulledImages } from "./pod.ts";
import type { Described, PodNeed } from "./protocol.ts";

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
