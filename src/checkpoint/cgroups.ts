/** Where a container's control groups are: of either version, by systemd or by the engine itself, wherever this process stands. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { UmsError } from "../errors.ts";

export const cgroupRoot = "/sys/fs/cgroup";

/** @param root the group that is mounted there, as this process's cgroup namespace names it */
type Hierarchy = Readonly<{ version: 1 | 2; mountPoint: string; root: string }>;

/** Where a group is, as a path. */
export type Group = Readonly<{ version: 1 | 2; directory: string }>;

/** The version that container runtimes use here: 2 where the whole of /sys/fs/cgroup is of it, else 1. @throws UmsError CGROUP_UNUSABLE */
export async function cgroupVersion(): Promise<1 | 2> {
  return (await freezerHierarchy()).version;
}

/** The group whose freezer is a process's. @throws ENOENT, ESRCH when the process is gone @throws UmsError CGROUP_UNUSABLE */
export async function groupOf(pid: number): Promise<Group> {
  const [own, groups] = await Promise.all([freezerHierarchy(), readFile(`/proc/${pid}/cgroup`, "utf8")]);
  return locate(own, groups);
}

/** The hierarchy that freezes containers here. @throws UmsError CGROUP_UNUSABLE */
export async function freezerHierarchy(): Promise<Hierarchy> {
  return hierarchyIn(await readFile("/proc/self/mountinfo", "utf8"));
}

/** The same by what is mounted. @param mounts as in /proc/PID/mountinfo @throws UmsError CGROUP_UNUSABLE */
export function hierarchyIn(mounts: string): Hierarchy {
  const found = mounts.split("\n").map((line) => {
    const [place = "", filesystem = ""] = line.split(" - ");
    const [, , , root = "", mountPoint = ""] = place.split(" ");
    const [type = "", , options = ""] = filesystem.split(" ");
    return { root, mountPoint, type, isFreezer: type === "cgroup" && options.split(",").includes("freezer") };
  });
  // A later mount covers an earlier one.
  const top = found.findLast(({ mountPoint }) => mountPoint === cgroupRoot);
  if (top?.type === "cgroup2") return { version: 2, mountPoint: cgroupRoot, root: top.root };
  const freezer = found.findLast(({ mountPoint, isFreezer }) => isFreezer && mountPoint.startsWith(`${cgroupRoot}/`));
  if (!freezer) throw new UmsError("CGROUP_UNUSABLE", `Neither version 2 is mounted at ${cgroupRoot} nor version 1's freezer below it.`);
  return { version: 1, mountPoint: freezer.mountPoint, root: freezer.root };
}

/** Where the hierarchies of version 1 are mounted. */
export async function version1Hierarchies(): Promise<string[]> {
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").filter((line) => line.includes(" - cgroup "));
  const points = mounts.map((line) => line.split(" ")[4] ?? "");
  return [...new Set(points.filter((point) => path.dirname(point) === cgroupRoot))];
}

/**
 * A process's group as a path. Both names are relative to the reader's cgroup namespace, whose root may be a login's scope:
 * what lies beside it begins with `/..`, and so does the name of what is mounted.
 * @param groups as in /proc/PID/cgroup
 * @throws UmsError CGROUP_UNUSABLE where that is not mounted
 */
export function locate({ version, mountPoint, root }: Hierarchy, groups: string): Group {
  const line = groups.split("\n").find((each) => {
    const [number = "", controllers = ""] = each.split(":");
    return version === 2 ? number === "0" : controllers.split(",").includes("freezer");
  });
  const name = line?.split(":").slice(2).join(":") ?? "/";
  const below = root === "/" ? "" : root;
  const rest = name.startsWith(`${below}/`) ? name.slice(below.length) : name === below ? "" : undefined;
  if (rest === undefined || rest.startsWith("/.."))
    throw new UmsError("CGROUP_UNUSABLE", `The group ${name} is not below what is mounted at ${mountPoint}.`);
  return { version, directory: path.join(mountPoint, rest).replace(/\/$/, "") };
}

/**
 * The container's whole group: a runtime (crun), or an init in the container, makes groups of its own there, and a process of
 * the container may be in one of those.
 * @returns undefined where the group is none of the container's
 */
export function wholeGroup({ version, directory }: Group, containerId: string): Group | undefined {
  const [whole] = new RegExp(`^.*?${partOf(containerId)}(?=/|$)`).exec(directory) ?? [];
  return whole === undefined ? undefined : { version, directory: whole };
}

/** Matches the paths of a container's groups, and of those below. The engine's own monitor may be in a group of the same name. */
export const groupsOf = (containerId: string) => new RegExp(`${partOf(containerId)}(/|$)`, "m");

const partOf = (containerId: string) => String.raw`(?<!conmon)[/-]${containerId}(?:\.scope)?`;

/**
 * Where runc puts a container on cgroup version 2.
 * @param cgroupsPath of its OCI configuration: SLICE:PREFIX:NAME for systemd, else the path itself
 * @throws UmsError CGROUP_UNUSABLE where CRIU's settings, a line each, could not name it
 */
export function placeOf(cgroupsPath: string): string {
  if (/[\s"#]/.test(cgroupsPath)) throw new UmsError("CGROUP_UNUSABLE", `The group ${JSON.stringify(cgroupsPath)} can't be named to CRIU.`);
  const [slice = "", prefix = "", name, ...more] = cgroupsPath.split(":");
  if (name === undefined || more.length > 0) return path.join("/", cgroupsPath);
  const unit = name.endsWith(".slice") ? name : `${prefix === "" ? name : `${prefix}-${name}`}.scope`;
  return path.join("/", directoryOf(slice === "" ? "system.slice" : slice), unit);
}

/** a-b.slice lies in a.slice (systemd.slice(5)). */
function directoryOf(slice: string): string {
  if (slice === "-.slice") return "";
  const parts = slice.replace(/\.slice$/, "").split("-");
  return parts.map((_, index) => `${parts.slice(0, index + 1).join("-")}.slice`).join("/");
}
