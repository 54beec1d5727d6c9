/** The pods that are made of a snapshot. */
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import type { PodNeed } from "../../protocol/pod.ts";
import type { SnapshotSummary } from "../../protocol/snapshot.ts";

export const podOf = ({ need }: SnapshotSummary) => need.pod as Pod;

/** What may tell the same pod's copies apart, and is cut from a name before another is made of it. */
const copyMark = /-migration-[0-9a-f]{4,8}(-[0-9]{1,3})?$/;
const longestName = 253;

/** The original's copies were called like that: a namespace has no room for two pods of one name. */
export function copyName(pod: string, mark: string): string {
  const end = `-migration-${mark}`;
  return `${pod.replace(copyMark, "").slice(0, longestName - end.length)}${end}`;
}

/** The Pod's labels, as a copy of it has them that nobody gave others. */
export function labelsOf({ metadata = {} }: Pod): Record<string, string> {
  // By them a controller would take the copy for one pod too many of its own, and delete one of the two.
  return (metadata.ownerReferences ?? []).length > 0 ? {} : { ...metadata.labels };
}

type Selector = Readonly<{ matchLabels?: unknown; matchExpressions?: unknown; [label: string]: unknown }>;
type Template = Readonly<{ metadata?: { labels?: Record<string, string> }; spec?: { containers?: { name?: string; image?: string }[] } }>;

/** The labels that are wanted of a copy: the template's, else the Pod's own, and the selector's, so that it finds the copy. */
export function wantedLabels(
  pod: Pod,
  { selector = {}, template = {} }: { selector?: Selector; template?: Template },
): Record<string, string> {
  // The original's samples write a selector's labels without matchLabels.
  const { matchLabels, matchExpressions: _cannotBeMet, ...plain } = selector;
  const selected = Object.entries({ ...plain, ...(matchLabels as object | undefined) });
  return {
    ...(template.metadata?.labels ?? labelsOf(pod)),
    ...Object.fromEntries(selected.filter((entry): entry is [string, string] => typeof entry[1] === "string")),
  };
}

/** In what the template asks for another pod than the snapshot holds; undefined: in nothing that a memory depends on. */
export function differenceFrom(pod: Pod, { spec: wanted }: Template): string | undefined {
  if (!wanted?.containers) return undefined;
  const images = new Map((pod.spec?.containers ?? []).map(({ name, image }) => [name, image]));
  for (const { name = "", image } of wanted.containers) {
    if (!images.has(name)) return `The snapshot has no container ${name}.`;
    if (image !== undefined && image !== images.get(name))
      return `Container ${name} of the snapshot runs ${images.get(name)}, not ${image}.`;
  }
  const missing = [...images.keys()].find((name) => !wanted.containers?.some((container) => container.name === name));
  return missing === undefined ? undefined : `The template lacks container ${missing} of the snapshot.`;
}

/** What a destination is asked for, to make of the snapshot a pod of this name and these labels. */
export function needOf(
  { need }: SnapshotSummary,
  { name, namespace, labels, node }: { name: string; namespace: string; labels: Record<string, string>; node?: string | undefined },
): PodNeed {
  const { node: _node, pod, ...same } = need;
  const { ownerReferences: _owners, ...metadata } = pod.metadata as NonNullable<Pod["metadata"]>;
  return {
    ...same,
    pod: { ...pod, metadata: { ...metadata, name, namespace, labels } } as PodNeed["pod"],
    ...(node === undefined ? {} : { node }),
    // No client is led to it from anywhere: its Services find it by its labels.
    ports: [],
  };
}
