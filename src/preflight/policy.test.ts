import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { containerNeed } from "../approaches/translation/needs-for-tests.ts";
import { temporaryDirectory } from "../trust/temporary-directory-for-tests.ts";
import { type Accept, isActedOn, linkedMounts, policyChecks } from "./policy.ts";

const nothing: Accept = { bindMounts: [], capabilities: [], unconfined: false };
const refusedOf = (changes: object, accept = nothing) =>
  policyChecks({ ...containerNeed({ capAdd: ["CAP_KILL"], securityOptions: [] }).spec, ...changes }, accept).flatMap(
    ({ detail }) => detail ?? [],
  );
const bind = (source: string) => ({ binds: [{ source, destination: "/x", options: [], readOnly: false }] });

test("a container as Podman makes any is taken", () => expect(refusedOf({ securityOptions: ["no-new-privileges"] })).toEqual([]));

describe("refused by its name, unless the site accepts it, is", () => {
  test.each([
    [bind("/etc"), { ...nothing, bindMounts: ["/etc"] }, "/etc"],
    [bind("/srv/data"), { ...nothing, bindMounts: ["/srv"] }, "/srv/data"],
    [{ capAdd: ["CAP_SYS_ADMIN"] }, { ...nothing, capabilities: ["CAP_SYS_ADMIN"] }, "CAP_SYS_ADMIN"],
    [{ securityOptions: ["seccomp=unconfined"] }, { ...nothing, unconfined: true }, "seccomp=unconfined"],
    [{ securityOptions: ["label=disable"] }, { ...nothing, unconfined: true }, "label=disable"],
    [{ securityOptions: ["seccomp=/var/lib/v/p.json"] }, { ...nothing, unconfined: true }, "seccomp=/var/lib/v/p.json"],
  ])("%j", (changes, accept, name) => {
    expect(refusedOf(changes)).toEqual([expect.stringContaining(name)]);
    expect(refusedOf(changes, accept)).toEqual([]);
  });

  test("a directory whose name only begins alike", () =>
    expect(refusedOf(bind("/srv-other"), { ...nothing, bindMounts: ["/srv"] })).toHaveLength(1));
});

test("a bind mount to which a link leads is told, wherever in its path the link is", async () => {
  const directory = temporaryDirectory();
  await mkdir(join(directory, "real/below"), { recursive: true });
  await symlink("/etc", join(directory, "real/link"));
  await symlink("real", join(directory, "alias"));
  const linked = (path: string) => linkedMounts(bind(`${directory}/${path}`));
  for (const path of ["real", "real/below", "real/below/", "missing"]) expect(await linked(path), path).toEqual([]);
  for (const [path, real] of [
    ["real/link", "/etc"],
    ["real/link/ssl", "/etc/ssl"],
    ["alias/below", `${directory}/real/below`],
  ] as const)
    expect(await linked(path), path).toEqual([`The bind mount of ${directory}/${path}: a link leads from there to ${real}.`]);
});

test.each([
  "org.criu.config",
  "run.oci.keep_original_groups",
  "io.podman.annotations.privileged",
  "io.kubernetes.cri-o.Devices",
  "org.systemd.property.X",
])("%s is never taken", (name) => {
  expect(isActedOn(name)).toBe(true);
  expect(refusedOf({ annotations: { [name]: "x" } }, { bindMounts: ["/"], capabilities: [], unconfined: true })).toHaveLength(1);
});

test.each(["note", "example.org/criu", "ums.dev/pod", "kubectl.kubernetes.io/last-applied-configuration"])(
  "%s is nobody's but its user's",
  (name) => {
    expect(isActedOn(name)).toBe(false);
  },
);
