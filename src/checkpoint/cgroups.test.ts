import { mkdirSync, readFileSync, rmdirSync } from "node:fs";
import path from "node:path";
import { execa } from "execa";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { cgroupRoot, freezerHierarchy, groupsOf, hierarchyIn, locate, placeOf, wholeGroup } from "./cgroups.ts";

const id = "c25743e593d6".padEnd(64, "0");
const scope = `/machine.slice/libpod-${id}.scope`;

describe("where runc puts a container on cgroup version 2:", () => {
  test.each([
    [`machine.slice:libpod:${id}`, scope],
    [
      `kubepods-burstable-pod12_34.slice:cri-containerd:${id}`,
      `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice/cri-containerd-${id}.scope`,
    ],
    [String.raw`a\x2db.slice:libpod:1`, String.raw`/a\x2db.slice/libpod-1.scope`],
    [`:libpod:${id}`, `/system.slice/libpod-${id}.scope`],
    [`-.slice::${id}`, `/${id}.scope`],
    [`/libpod_parent/libpod-${id}`, `/libpod_parent/libpod-${id}`],
    [`/kubepods/burstable/pod12-34/${id}`, `/kubepods/burstable/pod12-34/${id}`],
  ])("%s: %s", (cgroupsPath, place) => expect(placeOf(cgroupsPath)).toBe(place));

  test("one that CRIU's settings can't name is refused", () => {
    expect(() => placeOf("/libpod_parent/x\nexec-cmd")).toThrow("can't be named to CRIU");
  });
});

describe("a process's group is found", () => {
  const version2 = hierarchyIn(
    "24 1 0:22 / /sys rw - sysfs sysfs rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
  );
  const fromScope = hierarchyIn("30 24 0:26 /../../.. /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate");
  const hybrid = hierarchyIn(
    [
      "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
      "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
      "32 30 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer",
      "40 24 0:28 / /run/ums/restore/1/work/.criu.cgyard.x/freezer rw - cgroup none rw,freezer",
    ].join("\n"),
  );
  test.each([
    ["on version 2", version2, `0::${scope}`, `/sys/fs/cgroup${scope}`],
    [
      "on version 2, with a hierarchy of version 1 beside it that freezes nothing",
      version2,
      `1:net_cls:/\n0::${scope}`,
      `/sys/fs/cgroup${scope}`,
    ],
    ["at its top", version2, "0::/", "/sys/fs/cgroup"],
    [
      "on version 1, with version 2 beside it",
      hybrid,
      `6:freezer:/libpod_parent/libpod-${id}\n0::/x`,
      `/sys/fs/cgroup/freezer/libpod_parent/libpod-${id}`,
    ],
    ["from inside a login's scope", fromScope, `0::/../../..${scope}`, `/sys/fs/cgroup${scope}`],
  ])("%s", (_, hierarchy, groups, directory) => expect(locate(hierarchy, groups).directory).toBe(directory));

  test("and one that lies outside of what is mounted is not taken for another", () => {
    expect(() => locate(version2, `0::/../../..${scope}`)).toThrow("not below what is mounted");
    expect(() => locate(fromScope, "0::/x")).toThrow("not below what is mounted");
    expect(() => hierarchyIn("24 1 0:22 / /sys rw - sysfs sysfs rw")).toThrow("Neither version 2");
  });

  test("of a process beside one's own cgroup namespace", async () => {
    const { mountPoint } = await freezerHierarchy();
    const [own, other] = ["own", "other"].map((name) => path.join(mountPoint, `ums-test-${process.pid}-${name}`)) as [string, string];
    for (const group of [own, other]) mkdirSync(group);
    const sleeper = execa("sh", ["-c", 'echo 0 >"$0/cgroup.procs" && exec sleep 60', other], { reject: false });
    onTestFinished(async () => {
      sleeper.kill("SIGKILL");
      await sleeper;
      for (const group of [own, other]) rmdirSync(group);
    });
    await vi.waitUntil(() => readFileSync(path.join(other, "cgroup.procs"), "utf8") !== "", { timeout: 20_000 });
    const module = JSON.stringify(path.resolve("src/checkpoint/cgroups.ts"));
    const look = `import(${module}).then(async ({ groupOf }) => console.log((await groupOf(${sleeper.pid})).directory))`;
    const enter = 'echo 0 >"$0/cgroup.procs" && exec unshare --cgroup "$@"';
    const { stdout } = await execa("sh", ["-c", enter, own, process.execPath, "--eval", look]);
    expect(stdout).toBe(other);
  });
});

test("a container's whole group is that of a process which a runtime, or an init in the container, has put into one below", () => {
  const whole = { version: 2, directory: `/sys/fs/cgroup${scope}` } as const;
  for (const below of ["", "/container", `/init.scope/libpod-${id}`])
    expect(wholeGroup({ version: 2, directory: `${whole.directory}${below}` }, id)).toEqual(whole);
  expect(wholeGroup({ version: 2, directory: `${cgroupRoot}/machine.slice/libpod-conmon-${id}.scope` }, id)).toBeUndefined();
  expect(wholeGroup({ version: 2, directory: `${cgroupRoot}/machine.slice/libpod-1${id}.scope` }, id)).toBeUndefined();
  const pod = "/sys/fs/cgroup/kubepods/burstable/pod12-34";
  expect(wholeGroup({ version: 2, directory: `${pod}/${id}/x` }, id)).toEqual({ version: 2, directory: `${pod}/${id}` });
});

test("a container's groups are told by their names", () => {
  const isOf = (group: string) => groupsOf(id).test(`0::${group}`);
  expect([scope, `${scope}/container`, `/libpod_parent/libpod-${id}`, `/kubepods/pod1/${id}`].filter((group) => !isOf(group))).toEqual([]);
  expect([`/machine.slice/libpod-conmon-${id}.scope`, `/x${id}`, `/${id}y`].filter(isOf)).toEqual([]);
});
