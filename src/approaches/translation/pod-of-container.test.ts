import { Value } from "typebox/value";
import { describe, expect, test } from "vitest";
import { PodNeed } from "../../protocol/pod.ts";
import { containerOfPod } from "./container-of-pod.ts";
import { containerNeed, digest, imageOnHost, launch, podNeed } from "./needs-for-tests.ts";
import { podOfContainer } from "./pod-of-container.ts";

const known = { image: imageOnHost, left: undefined };

test("a container becomes a Pod that would start as it did, with its volumes as emptyDirs", () => {
  const { need, refusals } = podOfContainer(containerNeed());
  expect(refusals).toEqual([]);
  expect(Value.Errors(PodNeed, need)).toEqual([]);
  expect(need).toMatchObject({
    containers: [{ name: "shop", image: `registry.example/shop@${digest}`, launch }],
    volumes: ["volume-0"],
    ports: [{ port: 80, published: 8080, protocol: "tcp" }],
    pod: {
      metadata: {
        name: "shop",
        namespace: "default",
        labels: { app: "shop" },
        annotations: { "org.example.title": "Everything for the garden" },
      },
      spec: {
        restartPolicy: "Always",
        terminationGracePeriodSeconds: 10,
        automountServiceAccountToken: false,
        securityContext: { supplementalGroups: [5], sysctls: [{ name: "net.ipv4.ping_group_range", value: "0 0" }] },
        containers: [
          {
            name: "shop",
            image: `registry.example/shop@${digest}`,
            command: ["server", "--save", ""],
            workingDir: "/data",
            env: [
              { name: "PATH", value: "/bin" },
              { name: "COLOUR", value: "green" },
            ],
            ports: [{ containerPort: 80, protocol: "TCP" }],
            resources: { limits: { memory: String(64 << 20), cpu: "500m" }, requests: { cpu: "500m" } },
            securityContext: { runAsUser: 999, runAsGroup: 999, capabilities: { add: ["NET_ADMIN"] }, allowPrivilegeEscalation: false },
            volumeMounts: [{ name: "volume-0", mountPath: "/data", readOnly: false }],
          },
        ],
        volumes: [{ name: "volume-0", emptyDir: {} }],
      },
    },
  });
});

test("what looks like a variable of Kubernetes stays as it is", () => {
  const shell = { ...launch, args: ["sh", "-c", "echo $(date) $$"], env: { PRICE: "$(5)" } };
  const [container] = podOfContainer(containerNeed({}, { launch: shell })).need.pod.spec.containers as unknown as [object];
  expect(container).toMatchObject({ command: ["sh", "-c", "echo $$(date) $$$$"], env: [{ name: "PRICE", value: "$$(5)" }] });
});

test("a container that was a Pod is that Pod again, with what a host has no words for", () => {
  const probe = { tcpSocket: { port: 80 as never } };
  const there = containerOfPod(podNeed({ container: { readinessProbe: probe }, spec: { serviceAccountName: "clerk" } }), known).need;
  const { need, refusals } = podOfContainer({ ...there, image: imageOnHost });
  expect(refusals).toEqual([]);
  expect(Value.Errors(PodNeed, need)).toEqual([]);
  expect(need.volumes).toEqual(["data"]);
  expect(need.pod).toMatchObject({
    metadata: { name: "shop", namespace: "web", annotations: { note: "kept" } },
    spec: { serviceAccountName: "clerk", containers: [{ name: "main", readinessProbe: probe }] },
  });
  expect(need.containers).toEqual([{ name: "main", image: `registry.example/shop@${digest}`, launch }]);
});

test("a container whose name or volumes are no longer those of the Pod that it was becomes a Pod by its settings", () => {
  const { need: there } = containerOfPod(podNeed(), known);
  const renamed = podOfContainer({ ...there, spec: { ...there.spec, name: "store" } });
  expect(renamed.need.pod.metadata).toMatchObject({ name: "store", namespace: "default" });
  expect(podOfContainer({ ...there, volumes: [{ name: "else", labels: {} }] }).need.volumes).toEqual(["else"]);
});

test("a copy of it that has got a bind mount is refused", () => {
  const there = containerOfPod(podNeed(), known).need;
  const binds = [{ source: "/srv", destination: "/srv", options: [], readOnly: false }];
  const { refusals } = podOfContainer({ ...there, spec: { ...there.spec, binds } });
  expect(refusals.map(({ code }) => code)).toEqual(["BIND_MOUNT"]);
});

describe("refused", () => {
  test.each([
    ["NAME_UNUSABLE", "its name has capitals", containerNeed({ name: "Shop_1" })],
    [
      "IMAGE_NOT_IN_REGISTRY",
      "its image was built here",
      containerNeed({}, { image: { ...imageOnHost, digests: [`localhost/shop@${digest}`] } }),
    ],
    [
      "BIND_MOUNT",
      "it uses a directory of the host",
      containerNeed({ binds: [{ source: "/srv", destination: "/srv", options: [], readOnly: false }] }),
    ],
    ["NOT_IN_A_POD", "it has a tmpfs", containerNeed({ tmpfs: { "/scratch": "rw" } })],
    ["NOT_IN_A_POD", "it publishes SCTP", containerNeed({ ports: [{ hostIp: "", hostPort: 53, containerPort: 53, protocol: "sctp" }] })],
    [
      "NOT_IN_A_POD",
      "only its host reaches it",
      containerNeed({ ports: [{ hostIp: "127.0.0.1", hostPort: 80, containerPort: 80, protocol: "tcp" }] }),
    ],
    ["NOT_IN_A_POD", "it is in another network", containerNeed({ networks: { back: { aliases: [] } } })],
    ["NOT_IN_A_POD", "it has an init", containerNeed({ init: true })],
    ["NOT_IN_A_POD", "its /dev/shm is large", containerNeed({ shmBytes: 1 << 30 })],
    ["NOT_IN_A_POD", "it sets what kubelets refuse", containerNeed({ sysctls: { "net.core.somaxconn": "9" } })],
    ["NOT_IN_A_POD", "it has a seccomp profile", containerNeed({ securityOptions: ["seccomp=/etc/p.json"] })],
    ["NOT_IN_A_POD", "it has hosts of its own", containerNeed({ extraHosts: ["db:10.0.0.1"] })],
  ])("%s when %s", (code, _why, asked) => {
    expect(podOfContainer(asked).refusals).toEqual([{ code, detail: expect.stringMatching(/^[A-Z].*\.$/) as string }]);
  });
});
