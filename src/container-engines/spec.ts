/** In what the containers of two specs differ. */
import type { ContainerSpec } from "../protocol/container-spec.ts";

/** Names of the fields in which two specs differ. */
export function differences(a: ContainerSpec, b: ContainerSpec): string[] {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]) as Set<keyof ContainerSpec>;
  return [...keys].filter((key) => canonical(a[key]) !== canonical(b[key]));
}

/**
 * Names of the fields in which a container lacks what was wanted of it. What says nothing (0, none) is the engine's to
 * choose, and it may add environment and labels of its own.
 */
export function lacking(wanted: ContainerSpec, got: ContainerSpec): string[] {
  const has = (want: unknown, have: unknown): boolean => {
    if (want === 0 || want === "" || canonical(want) === canonical(have)) return true;
    if (Array.isArray(want)) {
      const others: readonly unknown[] = Array.isArray(have) ? have : [];
      return want.length === 0 || (want.length === others.length && want.every((each, at) => has(each, others[at])));
    }
    if (want === null || typeof want !== "object" || have === null || typeof have !== "object") return false;
    return Object.entries(want).every(([key, value]) => has(value, (have as Record<string, unknown>)[key]));
  };
  return (Object.keys(wanted) as (keyof ContainerSpec)[]).filter((key) => !has(wanted[key], got[key]));
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    inner !== null && typeof inner === "object" && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([x], [y]) => (x < y ? -1 : 1)))
      : inner,
  );
}
