import { describe, expect, test } from "vitest";
import { verdictOf } from "../../preflight/check.ts";
import { type Info, ioUringLine, letsThrough, restartLine, type SeccompProfile, settingLines } from "./defaults.ts";

const info = (host: Partial<Info["host"]>): Info => ({
  host: {
    ociRuntime: { name: "runc" },
    logDriver: "k8s-file",
    cgroupManager: "systemd",
    cgroupVersion: "v2",
    security: { seccompEnabled: true, seccompProfilePath: "/usr/share/containers/seccomp.json" },
    ...host,
  },
});
const movable = { dumpableRuntimes: ["runc", "ums"], movableLogs: ["k8s-file", "none"] };

describe("new containers", () => {
  test("get what can be moved, or a note names what can", () => {
    expect(settingLines(info({}), movable).map(verdictOf)).toEqual(["ok", "ok", "ok"]);
    const [runtime, log, cgroups] = settingLines(info({ ociRuntime: { name: "kata" }, logDriver: "splunk", cgroupVersion: "v1" }), movable);
    expect(runtime).toMatchObject({ ok: true, found: "kata", notes: [expect.stringContaining("runc, ums")] });
    expect(log).toMatchObject({ ok: true, found: "splunk", notes: [expect.stringContaining("k8s-file, none")] });
    expect(cgroups).toMatchObject({ ok: true, found: "systemd, cgroup version 1", notes: [expect.stringContaining("version 1")] });
  });
});

describe("io_uring", () => {
  const narrow: SeccompProfile = {
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [
      { names: ["read"], action: "SCMP_ACT_ALLOW" },
      { names: ["io_uring_setup"], action: "SCMP_ACT_ALLOW", includes: { caps: ["CAP_SYS_ADMIN"] } },
    ],
  };
  const wide: SeccompProfile = { ...narrow, syscalls: [{ names: ["read", "io_uring_setup"], action: "SCMP_ACT_ALLOW" }] };
  const open: SeccompProfile = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["mount"], action: "SCMP_ACT_ERRNO" }] };

  test("is let through by a profile that names it for every container, or that names nothing against it", () => {
    expect([narrow, wide, open].map((profile) => letsThrough(profile, "io_uring_setup"))).toEqual([false, true, true]);
    expect(letsThrough({ ...open, syscalls: [{ names: ["io_uring_setup"], action: "SCMP_ACT_ERRNO" }] }, "io_uring_setup")).toBe(false);
  });

  test("is a note where the kernel and the profile give it to every container", () => {
    const seccomp = (profile: SeccompProfile) => ({ path: "/p.json", profile });
    expect(verdictOf(ioUringLine("open", seccomp(wide)))).toBe("note");
    expect(verdictOf(ioUringLine("open", undefined))).toBe("note");
    expect(ioUringLine("open", seccomp(narrow))).toMatchObject({ ok: true, found: expect.stringContaining("/p.json") });
    for (const uring of ["absent", "off", "privileged"] as const) expect(verdictOf(ioUringLine(uring, seccomp(wide)))).toBe("ok");
  });
});

describe("a restart policy", () => {
  test("is a note where nothing heeds it after a reboot", () => {
    expect(verdictOf(restartLine({ containers: ["redis"], service: "enabled" }))).toBe("ok");
    expect(verdictOf(restartLine({ containers: [], service: "disabled" }))).toBe("ok");
    expect(restartLine({ containers: ["a", "b"], service: "disabled" }).notes).toEqual([
      "Nothing starts a, b after a reboot, in spite of the restart policy: `systemctl enable podman-restart`.",
    ]);
    expect(restartLine({ containers: ["a"], service: undefined }).notes).toEqual([expect.stringContaining("Nothing starts a after")]);
    const many = Array.from({ length: 10 }, (_, at) => `c${at}`);
    expect(restartLine({ containers: many, service: "disabled" }).notes?.[0]).toContain("c7, and 2 more after");
  });
});
