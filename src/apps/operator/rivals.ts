/** Which of several Migration objects may go on, where they are about the same pod. */
import { UmsError } from "../../errors.ts";
import type { PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import { heirIdOf, isSource, keyOf, migrationIdOf, type MigrationObject } from "../../platforms/kubernetes/migration.ts";

/** In the journal of a Migration whose pod another one makes of the same dump: it ends, and does nothing to the pod any more. */
export type Heir = Readonly<{ migration: string }>;
export const heirFact = "heir";

/** The migration that makes the pod again of its dump, if all else is lost. */
function heirOf(object: MigrationObject): string | undefined {
  const { source, [heirFact]: heir } = (object.status?.facts ?? {}) as { source?: PodFacts; [heirFact]?: Heir };
  return (heir ?? source?.rescued) && heirIdOf(object);
}

/**
 * Two at once would dump the same pod twice, and each would think that the other's copy is none.
 * @param options.all that are known
 * @param options.turns keys of those that run, in the order in which they began
 * @throws UmsError ALREADY_MIGRATING, BAD_REQUEST
 */
export function expectAlone(object: MigrationObject, { all, turns }: { all: readonly MigrationObject[]; turns: readonly string[] }): void {
  const { metadata, spec } = object;
  const others = all.filter((other) => other.metadata.uid !== metadata.uid && isSource(other));
  const own = turns.indexOf(keyOf(object));
  const id = migrationIdOf(object);
  const comesFirst = (other: MigrationObject) => {
    const turn = turns.indexOf(keyOf(other));
    return turn < 0 ? other.status?.owner !== undefined : turn < own;
  };
  const rival = others.find(
    (other) =>
      other.status?.endedAt === undefined &&
      other.metadata.namespace === metadata.namespace &&
      other.spec.pod === spec.pod &&
      heirOf(other) !== id &&
      comesFirst(other),
  );
  if (rival) throw new UmsError("ALREADY_MIGRATING", `Pod ${spec.pod} is being migrated by ${migrationIdOf(rival)}.`);
  if (others.some((other) => migrationIdOf(other) === id)) throw new UmsError("BAD_REQUEST", `Another migration has the id ${id}.`);
}
