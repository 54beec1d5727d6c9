import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Accept } from "../accept-form.ts";
import { accepting, nothing } from "../accept.ts";
import { containerNeed } from "../approaches/translation/needs-for-tests.ts";
import { temporaryDirectory } from "../trust/temporary-directory-for-tests.ts";
import { beyondBaseline, withinBaseline } from "./pods-for-tests.ts";
import { containerPolicy, isActedOn, type JudgedPod, linkedMounts, notTaken, podPolicy } from "./policy.ts";

const usual: Accept = {};
const refusedOf = (changes: object, accept = usual, namespace?: string) => {
  const { spec, image } = containerNeed({ capAdd: ["CAP_KILL"], securityOptions: [] });
  return containerPolicy({ image, spec: { ...spec, ...changes } }, accepting(accept), namespace).detail;
};
const bind = (source: string) => ({ binds: [{ source, destination: "/x", options: [], readOnly: false }] });

test("a container as Podman makes any is taken", () => expect(refusedOf({ securityOptions: ["no-new-privileges"] })).toBeUndefined());

describe("refused by its name, unless the site accepts it, is", () => {
  test.each([
    [bind("/etc"), { bindMounts: ["/etc"] }, "/etc"],
    [bind("/srv/data"), { bindMounts: ["/srv"] }, "/srv/data"],
    [{ capAdd: ["CAP_SYS_ADMIN"] }, { capabilities: ["CAP_SYS_ADMIN"] }, "CAP_SYS_ADMIN"],
    [{ securityOptions: ["seccomp=unconfined"] }, { unconfined: true }, "seccomp=unconfined"],
    [{ securityOptions: ["label=disable"] }, { unconfined: true }, "label=disable"],
    [{ securityOptions: ["seccomp=/var/lib/v/p.json"] }, { unconfined: true }, "seccomp=/var/lib/v/p.json"],
    [{ securityOptions: ["seccomp=/etc/../var/lib/v/p.json"] }, { unconfined: true }, "seccomp=/etc/../var/lib/v/p.json"],
  ])("%j", (changes, accept, name) => {
    expect(refusedOf(changes)).toMatch(new RegExp(`${name.replaceAll(".", "\\.")}.*accept\\.`));
    expect(refusedOf(changes, accept)).toBeUndefined();
  });

  test("a directory whose name only begins alike", () =>
    expect(refusedOf(bind("/srv-other"), { bindMounts: ["/srv"] })).toContain("/srv-other"));
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
  expect(refusedOf({ annotations: { [name]: "x" } }, { bindMounts: ["/"], unconfined: true })).toContain(name);
});

test.each(["note", "example.org/criu", "ums.dev/pod", "kubectl.kubernetes.io/last-applied-configuration"])(
  "%s is nobody's but its user's",
  (name) => {
    expect(isActedOn(name)).toBe(false);
  },
);

test("images are told by their repository, and a digest where one is wanted; a tag tells nothing", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const image = (imageName: string, names: string[] = [], digests: string[] = []) => {
    const { spec, image: known } = containerNeed({ securityOptions: [], capAdd: [] });
    return (images: string[]) =>
      containerPolicy({ spec: { ...spec, imageName }, image: { ...known, names, digests } }, accepting({ images })).detail ?? "taken";
  };
  const redis = image("docker.io/library/redis:8");
  for (const patterns of [["*"], ["docker.io/library/*"], ["docker.io/library/redis"], ["quay.io/*", "*/redis"]])
    expect(redis(patterns)).toBe("taken");
  for (const pattern of ["docker.io/library/redis:8", "quay.io/*", "redis", "docker.io/library/redi", "docker_io/library/redis"])
    expect(redis([pattern])).toContain("docker.io/library/redis:8 (accept.images)");
  expect(image("redis")(["docker.io/library/redis"])).toBe("taken");
  expect(image("localhost:5000/redis:8")(["localhost:5000/*"])).toBe("taken");
  expect(image("EVIL/redis:8")(["docker.io/*"])).toContain("EVIL/redis:8 (accept.images)");
  expect(image(`quay.io/a/b:1@${digest}`)([`quay.io/a/b@${digest}`])).toBe("taken");
  expect(image(`quay.io/a/b:1@${digest}`)([`quay.io/a/b@sha256:${"b".repeat(64)}`])).toContain("quay.io/a/b:1");
  // Each name that it would get here, and each place that it would be pulled from.
  expect(image("quay.io/a/b", ["quay.io/a/b:1", "evil.example/b:1"])(["quay.io/*"])).toContain("evil.example/b:1");
  expect(image("quay.io/a/b", [], [`evil.example/b@${digest}`])(["quay.io/*"])).toContain("evil.example/b");
});

test("a label by which Podman's updates restart a unit of the host's is never taken", () => {
  expect(refusedOf({ labels: { PODMAN_SYSTEMD_UNIT: "ssh.service" } }, { unconfined: true })).toContain("PODMAN_SYSTEMD_UNIT");
  expect(refusedOf({ labels: { "io.podman.compose.project": "shop" } })).toBeUndefined();
});

test("Kubernetes' own namespaces are meant by no pattern for all", () => {
  expect(refusedOf({}, {}, "shop")).toBeUndefined();
  expect(refusedOf({}, {}, "kube-system")).toContain("The namespace kube-system (accept.namespaces)");
  expect(refusedOf({}, { namespaces: ["kube-*"] }, "kube-system")).toBeUndefined();
  expect(refusedOf({}, { namespaces: ["team-*"] }, "shop")).toContain("shop");
  expect(refusedOf({}, { namespaces: ["team-*"] }, "team-shop")).toBeUndefined();
});

test("who may send nothing is told just that", () => {
  expect(notTaken("container-level", accepting({}))).toBeUndefined();
  expect(notTaken("orchestrator-level", accepting(nothing))).toMatchObject({ ok: false, code: "POLICY" });
  expect(notTaken("orchestrator-level", accepting({ approaches: ["container-level"] }))).toMatchObject({ code: "POLICY" });
  expect(notTaken("container-level", accepting(nothing, { approaches: ["container-level"] }))).toBeUndefined();
});

describe("a pod", () => {
  const own = { namespace: "ums", accounts: ["ums-operator"], secrets: ["ums-trust"], apps: ["ssu-interface"] };
  const judge = (pod: JudgedPod, accept: Accept = {}) => podPolicy(pod, accepting(accept), own).detail;

  test.each(withinBaseline)("is taken as any cluster takes it: %s", (_what, pod) => expect(judge(pod)).toBeUndefined());

  test.each(beyondBaseline)("is refused by its field unless the site accepts it: $what", ({ pod, field, accept }) => {
    expect(judge(pod)).toContain(field);
    if (accept) expect(judge(pod, accept)).toBeUndefined();
    else expect(judge(pod)).toContain("never taken");
  });

  test.each([
    ["account", { serviceAccountName: "ums-operator" }],
    ["account by its old name", { serviceAccount: "ums-operator" }],
    ["Secret as a volume", { volumes: [{ name: "a", secret: { secretName: "ums-trust" } }] }],
    ["Secret in a projected volume", { volumes: [{ name: "a", projected: { sources: [{ secret: { name: "ums-trust" } }] } }] }],
  ])("uses UMS's own %s nowhere where that is", (_what, more) => {
    const spec = { containers: [{ name: "main" }], ...more };
    expect(judge({ metadata: { namespace: "ums" }, spec })).toContain("UMS's own (never taken)");
    expect(judge({ metadata: { namespace: "shop" }, spec })).toBeUndefined();
  });

  test("passes for no part of UMS where that is", () => {
    const pod = (namespace: string) => ({
      metadata: { namespace, labels: { app: "ssu-interface" } },
      spec: { containers: [{ name: "main" }] },
    });
    expect(judge(pod("ums"))).toContain("app=ssu-interface, which is UMS's own (never taken)");
    expect(judge(pod("shop"))).toBeUndefined();
  });

  test("an unmasked /proc is refused, too, which the API server takes in a user namespace alone", () => {
    const pod = { spec: { containers: [{ name: "main", securityContext: { procMount: "Unmasked" } }] }, metadata: { namespace: "shop" } };
    expect(judge(pod)).toContain("spec.containers[main].securityContext.procMount: Unmasked (accept.unconfined)");
    expect(judge(pod, { unconfined: true })).toBeUndefined();
  });

  test("its namespace and its images are judged as a container's are", () => {
    const pod = (namespace: string) => ({ metadata: { namespace }, spec: { containers: [{ name: "main", image: "redis:8" }] } });
    expect(judge(pod("kube-system"))).toContain("The namespace kube-system");
    expect(judge(pod("shop"), { images: ["quay.io/*"], namespaces: ["team"] })).toBe(
      "The destination doesn't take from this site: The namespace shop (accept.namespaces). The image redis:8 (accept.images).",
    );
  });

  test("UMS's Secret doesn't come by an environment either", () => {
    const env = [{ name: "KEY", valueFrom: { secretKeyRef: { name: "ums-trust", key: "authority.pem" } } }];
    expect(judge({ metadata: { namespace: "ums" }, spec: { containers: [{ name: "main", env }] } })).toContain("ums-trust");
  });
});
