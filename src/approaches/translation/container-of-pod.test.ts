import { Value } from "typebox/value";
import { describe, expect, test } from "vitest";
import { ContainerNeed } from "../../protocol/container.ts";
import { containerOfPod } from "./container-of-pod.ts";
import { podAnnotation } from "./kept.ts";
import { containerNeed, digest, imageOnHost, launch, podNeed } from "./needs-for-tests.ts";
import { podOfContainer } from "./pod-of-container.ts";

const known = { image: imageOnHost, left: undefined };

test("a Pod becomes a container that starts as it did, is reached by its Services' node ports, and remembers what it was", () => {
  const { need, refusals } = containerOfPod(podNeed(), known);
  expect(refusals).toEqual([]);
  expect(Value.Errors(ContainerNeed, need)).toEqual([]);
  expect(need.spec).toMatchObject({
    name: "shop",
    imageId: imageOnHost.id,
    imageName: `registry.example/shop@${digest}`,
    entrypoint: launch.args,
    command: [],
    env: { PATH: "/bin", COLOUR: "green", container: "podman" },
    user: "999:999",
    groups: ["5"],
    hostname: "shop",
    labels: { app: "shop" },
    ports: [{ hostIp: "", hostPort: 30_080, containerPort: 80, protocol: "tcp" }],
    volumes: [{ name: "shop-data", destination: "/data", readOnly: false }],
    restartPolicy: { name: "always" },
    limits: { memoryBytes: 64 << 20, cpuQuota: 50_000, cpuPeriod: 100_000, cpuShares: 512 },
  });
  expect(need.volumes).toEqual([{ name: "shop-data", labels: {} }]);
  const kept = JSON.parse(need.spec.annotations[podAnnotation] ?? "") as object;
  expect(kept).toMatchObject({ metadata: { name: "shop", namespace: "web" }, spec: { volumes: [{ name: "data", emptyDir: {} }] } });
  expect(kept).not.toHaveProperty("metadata.uid");
});

test("a Pod that was a container is that container again: with its ports, its volumes' names, and what a Pod has no words for", () => {
  const left = containerNeed({ log: { driver: "none", size: "0B", tag: "" } });
  const there = podOfContainer(left).need;
  const { need, refusals } = containerOfPod(
    { ...there, ports: [{ port: 80, published: 31_234, protocol: "tcp" }] },
    { image: imageOnHost, left },
  );
  expect(refusals).toEqual([]);
  expect(need).toEqual(left);
});

test("a Pod that only has the name of a container which left is made one by what it is itself", () => {
  const left = containerNeed();
  const there = podOfContainer(left).need;
  const volumesOf = (asked: typeof there) => containerOfPod(asked, { image: imageOnHost, left }).need.volumes.map(({ name }) => name);
  expect(volumesOf({ ...there, volumes: [...there.volumes, "more"] })).toEqual(["shop-volume-0", "shop-more"]);
  const [container] = there.containers;
  const other = `registry.example/other@${digest}`;
  expect(volumesOf({ ...there, containers: container ? [{ ...container, image: other }] : [] })).toEqual(["shop-volume-0"]);
});

test("an image that the host hasn't is asked for by its digest, and fits the schema until then", () => {
  const { need, refusals } = containerOfPod(podNeed(), { image: undefined, left: undefined });
  expect(refusals).toEqual([]);
  expect(need.image.digests).toEqual([`registry.example/shop@${digest}`]);
  expect(Value.Errors(ContainerNeed, need)).toEqual([]);
});

test("the token that the API server mounts by itself stays behind", () => {
  const mount = { name: "kube-api-access-x", mountPath: "/var/run/secrets/kubernetes.io/serviceaccount" };
  const asked = podNeed({
    spec: {
      volumes: [
        { name: "data", emptyDir: {} },
        { name: "kube-api-access-x", projected: {} },
      ],
    },
    container: { volumeMounts: [{ name: "data", mountPath: "/data" }, mount] },
  });
  const { need, refusals } = containerOfPod(asked, known);
  expect(refusals).toEqual([]);
  expect(need.spec.volumes).toHaveLength(1);
});

describe("refused", () => {
  const volume = (volume: object) =>
    podNeed({
      spec: {
        volumes: [
          { name: "data", emptyDir: {} },
          { name: "other", ...volume },
        ],
      },
    });
  const mounted = (mount: object) => podNeed({ container: { volumeMounts: [{ name: "data", mountPath: "/data", ...mount }] } });
  const second = { name: "second", launch };

  test.each([
    ["SEVERAL_CONTAINERS", "it runs two containers", podNeed({ need: { containers: [...podNeed().containers, second] } })],
    ["IMAGE_NOT_IN_REGISTRY", "its image was only imported", podNeed({ need: { containers: [{ name: "main", launch }] } })],
    ["NOT_ON_A_HOST", "it has a ConfigMap", volume({ configMap: { name: "c" } })],
    ["NOT_ON_A_HOST", "it has a Secret", volume({ secret: { secretName: "s" } })],
    ["NOT_ON_A_HOST", "it has a token of its own", volume({ projected: {} })],
    ["NOT_ON_A_HOST", "an emptyDir is in memory", podNeed({ spec: { volumes: [{ name: "data", emptyDir: { medium: "Memory" } }] } })],
    ["NOT_ON_A_HOST", "a part of a volume is mounted", mounted({ subPath: "part" })],
    ["NOT_ON_A_HOST", "an emptyDir is mounted by nobody", podNeed({ container: { volumeMounts: [] } })],
    ["NOT_ON_A_HOST", "it is privileged", podNeed({ container: { securityContext: { privileged: true } } })],
    ["NOT_ON_A_HOST", "it has a preStop hook", podNeed({ container: { lifecycle: { preStop: {} } } })],
    ["NOT_ON_A_HOST", "it has its own DNS", podNeed({ spec: { dnsPolicy: "None" } })],
  ])("%s when %s", (code, _why, asked) => {
    const image = code === "IMAGE_NOT_IN_REGISTRY" ? undefined : imageOnHost;
    expect(containerOfPod(asked, { image, left: undefined }).refusals).toEqual([
      { code, detail: expect.stringMatching(/^[A-Z].*\.$/) as string },
    ]);
  });
});
