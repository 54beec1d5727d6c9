import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Value } from "typebox/value";
import { afterEach, beforeEach, expect, onTestFinished, test } from "vitest";
import { Launch } from "../protocol/launch.ts";
import { type OciBundle, prepareBundle, readBundle, readLaunch } from "./bundle.ts";

let bundle: string;
let real: string;
beforeEach(async () => {
  bundle = await mkdtemp(path.join(tmpdir(), "ums-bundle-"));
  real = path.join(bundle, "hosts");
  await writeFile(real, "127.0.0.1 localhost\n");
  await symlink(real, path.join(bundle, "link"));
  await mkdir(path.join(bundle, "volume"));
});
afterEach(() => rm(bundle, { recursive: true }));

const write = (more: Partial<OciBundle> = {}) => {
  const oci: OciBundle = {
    root: { path: "rootfs" },
    process: { args: ["server"], env: ["PATH=/bin", "EQUATION=a=b"], cwd: "/", user: { uid: 5, gid: 6, additionalGids: [6, 7] } },
    linux: { namespaces: [], resources: { memory: { limit: 64 }, cpu: { shares: 2, quota: -1 } } },
    mounts: [
      { type: "proc", destination: "/proc", source: "proc" },
      { type: "bind", destination: "/etc/hosts", source: path.join(bundle, "link"), options: ["rbind"] },
      { destination: "/data", source: path.join(bundle, "volume"), options: ["bind"] },
    ],
    ...more,
  };
  return writeFile(path.join(bundle, "config.json"), JSON.stringify(oci));
};

test("readLaunch tells how a container was started, and what was mounted in it from outside", async () => {
  await write();
  const launch = await readLaunch(bundle);
  expect(Value.Errors(Launch, launch)).toEqual([]);
  expect(launch).toEqual({
    args: ["server"],
    env: { PATH: "/bin", EQUATION: "a=b" },
    workDirectory: "/",
    uid: 5,
    gid: 6,
    groups: [7],
    mounts: [
      { destination: "/etc/hosts", kind: "file" },
      { destination: "/data", kind: "directory" },
    ],
    limits: { memoryBytes: 64, cpuShares: 2, cpuPeriodUs: 0, cpuQuotaUs: 0 },
  });
});

test("prepareBundle adds what the dump has and the bundle lacks, empty and each for itself, and follows links", async () => {
  await write();
  const dumped = [
    { destination: "/etc/hosts", kind: "file" as const },
    { destination: "/dev/termination-log", kind: "file" as const },
    { destination: "/run/.containerenv", kind: "file" as const },
    { destination: "/run/secrets", kind: "directory" as const },
  ];
  const { mounts } = await prepareBundle(bundle, dumped);
  expect((await readBundle(bundle)).mounts).toEqual(mounts);
  const sourceOf = (destination: string) => mounts.find((mount) => mount.destination === destination)?.source ?? "";
  expect(sourceOf("/etc/hosts")).toBe(real);
  expect(await readFile(sourceOf("/dev/termination-log"), "utf8")).toBe("");
  expect(sourceOf("/run/.containerenv")).not.toBe(sourceOf("/dev/termination-log"));
  expect((await stat(sourceOf("/run/secrets"))).isDirectory()).toBe(true);
  expect((await prepareBundle(bundle, dumped)).mounts).toEqual(mounts);
});

test("what stands in for a mount can be looked at by the container's users, whatever umask UMS has", async () => {
  await write();
  const before = process.umask(0o077);
  onTestFinished(() => void process.umask(before));
  const { mounts } = await prepareBundle(bundle, [
    { destination: "/run/.containerenv", kind: "file" },
    { destination: "/run/secrets", kind: "directory" },
  ]);
  const modes = mounts.slice(-2).map(async ({ source = "" }) => ((await stat(source)).mode & 0o777).toString(8));
  expect(await Promise.all(modes)).toEqual(["644", "755"]);
});

test("prepareBundle takes away what CRIU would read of a configuration that the service brings", async () => {
  await write();
  const oci = await readBundle(bundle);
  const annotations = { "org.criu.config": "/srv/evil.conf", note: "kept" };
  await writeFile(path.join(bundle, "config.json"), JSON.stringify({ ...oci, annotations }));
  await prepareBundle(bundle, []);
  expect((await readBundle(bundle)).annotations).toEqual({ note: "kept" });
});
