/**
 * The Pod that a container was before it came to a host, noted on it: so that it is the same Pod again in a cluster, with
 * all that a host has no words for.
 */
import { Value } from "typebox/value";
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import type { ContainerNeed } from "../../protocol/container.ts";
import { PodNeed } from "../../protocol/pod.ts";

export const podAnnotation = "ums.dev/pod";

/** The volume of a host for a pod's emptyDir. */
export const volumeOf = (pod: string, emptyDir: string) => `${pod}-${emptyDir}`;

/** The annotation that notes it. */
export function keepPod({ metadata = {}, spec }: Pod): Record<string, string> {
  const { name, namespace, labels, annotations } = metadata;
  const own = Object.entries({ name, namespace, labels, annotations }).filter(([, value]) => value !== undefined);
  return { [podAnnotation]: JSON.stringify({ metadata: Object.fromEntries(own), spec }) };
}

/** The Pod, if the container still is what it became, and its emptyDirs in the order of the container's volumes. */
export function keptPod({ spec, volumes }: ContainerNeed): { pod: Pod; volumes: string[] } | undefined {
  const pod = readPod(spec.annotations[podAnnotation]);
  if (pod?.metadata?.name !== spec.name) return undefined;
  const emptyDirs = (pod.spec?.volumes ?? []).filter(({ emptyDir }) => emptyDir).map(({ name }) => name);
  const found = volumes.map(({ name }) => emptyDirs.find((emptyDir) => volumeOf(spec.name, emptyDir) === name));
  const names = found.filter((name) => name !== undefined);
  return names.length === volumes.length ? { pod, volumes: names } : undefined;
}

/** @returns undefined where somebody has written something of his own */
function readPod(text: string | undefined): Pod | undefined {
  if (text === undefined) return undefined;
  try {
    const pod: unknown = JSON.parse(text);
    return Value.Check(PodNeed.properties.pod, pod) ? pod : undefined;
  } catch {
    return undefined;
  }
}
