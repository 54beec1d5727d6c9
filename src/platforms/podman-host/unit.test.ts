import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";

const unit = readFileSync(resolve(import.meta.dirname, "../../../deploy/host/ums.service"), "utf8");
const settings = new Map([...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, key = "", value = ""]) => [key, value]));

test("what the service keeps is root's alone", () => {
  expect(Object.fromEntries(settings)).toMatchObject({
    StateDirectory: "ums",
    StateDirectoryMode: "0700",
    RuntimeDirectory: "ums",
    RuntimeDirectoryMode: "0711",
    RuntimeDirectoryPreserve: "yes",
    UMask: "0077",
    KeyringMode: "private",
    KillMode: "process",
  });
  expect(Number(settings.get("LimitNOFILE"))).toBeGreaterThan(16_384);
});

test("it is started when it serves, before Podman starts what a boot has stopped, and its end touches no container", () => {
  expect(Object.fromEntries(settings)).toMatchObject({
    Type: "notify",
    Before: "podman-restart.service",
    KillMode: "process",
    OOMPolicy: "continue",
  });
  // Then only the process itself can speak for it, and no container that has got the way to systemd all the same.
  expect(settings.get("NotifyAccess") ?? "main").toBe("main");
});

test.each([
  [
    "a seccomp filter, beneath which the kernel lets nobody read another's, as CRIU must (seccomp_get_filter)",
    /^(SystemCall|Restrict(AddressFamilies|Namespaces|Realtime|SUIDSGID)|LockPersonality|MemoryDeny|Protect(Clock|Hostname|Kernel)|PrivateDevices)/,
  ],
  [
    "a mount namespace, out of which Podman's mounts never come",
    /^(Protect(System|Home|Proc|Control)|ProcSubset|Private(Tmp|Mounts|Network|Users|IPC)|Read(Only|Write)|Inaccessible|NoExec|ExecPaths|Bind|Temporary|Root|MountFlags|DynamicUser)/,
  ],
  [
    "a privilege or capability less, which a service that comes may have",
    /^(NoNewPrivileges|CapabilityBoundingSet|SecureBits|User|Group|Device)/,
  ],
  ["a limit that CRIU would dump with the service", /^(Limit(?!NOFILE)|CoredumpFilter|OOMScoreAdjust|Nice|CPUAffinity)/],
])("services that are restored don't inherit %s", (_, pattern) => {
  expect([...settings.keys()].filter((key) => pattern.test(key))).toEqual([]);
});

const analyze = await execa("systemd-analyze", ["--version"], { reject: false });
test.skipIf(analyze.failed)("systemd finds nothing wrong with it", async () => {
  const copy = join(temporaryDirectory(), "ums.service");
  writeFileSync(copy, unit.replace(/^ExecStart=\S+/m, `ExecStart=${process.execPath}`));
  const { stderr, exitCode } = await execa("systemd-analyze", ["verify", copy], { reject: false, timeout: 20_000 });
  expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 });
});
