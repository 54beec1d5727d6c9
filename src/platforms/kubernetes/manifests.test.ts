import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { loadAll } from "js-yaml";
import { describe, expect, test } from "vitest";
import { coordinatorServicePort, healthPort, interfaceHealth } from "../../cluster-settings.ts";
import { migrationSchema, migrations } from "./migration.ts";
import { ownAccounts } from "../../cluster-settings.ts";
import { nodeTrustSecretName, trustSecretName } from "./trust-store.ts";

const directory = resolve(import.meta.dirname, "../../../deploy/kubernetes");
const manifest = (file: string) => loadAll(readFileSync(join(directory, file), "utf8")) as any[];
const files = readdirSync(directory).filter((file) => file.endsWith(".yml"));
const objects = files.filter((file) => file !== "kustomization.yml").flatMap(manifest);
const ofKind = (kind: string) => objects.filter((object) => object.kind === kind);
const named = (kind: string, name: string) => ofKind(kind).find((object) => object.metadata.name === name);

test("every object says what it is, once, and in which namespace is left to kubectl", () => {
  for (const object of objects) {
    expect(object).toMatchObject({ apiVersion: expect.any(String), kind: expect.any(String), metadata: { name: expect.any(String) } });
    expect(object.metadata.namespace).toBeUndefined();
  }
  const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
  expect(names).toEqual([...new Set(names)]);
});

test("kustomize gets every file", () => {
  expect(manifest("kustomization.yml")[0].resources.toSorted()).toEqual(files.filter((file) => file !== "kustomization.yml").toSorted());
});

test("the definition of Migration has the schema that the program has", () => {
  const definition = named("CustomResourceDefinition", `${migrations.plural}.ums.dev`);
  expect(migrations.apiVersion).toBe(`${definition.spec.group}/${definition.spec.versions[0].name}`);
  const { properties, required } = definition.spec.versions[0].schema.openAPIV3Schema;
  const { spec, status } = JSON.parse(JSON.stringify(migrationSchema)).properties;
  expect({ required, spec: properties.spec, status: properties.status }).toEqual({ required: ["spec"], spec, status });
});

test("what users of the original meet has its names and ports", () => {
  const { data } = named("ConfigMap", "migration-env");
  expect(data).toMatchObject({ SSU_INTERFACE_ENABLE: "true", SSU_INTERFACE_NODEPORT: "30002" });
  // Applied again, the file must not open a site that somebody has closed.
  expect(data).not.toHaveProperty("ACCEPT");
  const nodePorts = ofKind("Service").map(({ metadata, spec }) => [metadata.name, spec.ports[0].nodePort]);
  expect(named("Service", "migration-coordinator").spec.ports[0].port).toBe(coordinatorServicePort);
  expect(nodePorts).toEqual([
    ["migration-coordinator", 30001],
    ["ssu-apiserver", undefined],
    ["ssu-interface", 30002],
  ]);
  expect(ofKind("Deployment").map(({ metadata }) => metadata.name)).toEqual(["migration-coordinator", "migration-operator"]);
  const podmigration = named("CustomResourceDefinition", "podmigrations.podmig.dcn.ssu.ac.kr").spec.versions[0];
  expect(podmigration.name).toBe("v1");
  expect(podmigration.schema.openAPIV3Schema.properties.spec.required).toEqual(["action", "selector"]);
});

const workloads = [...ofKind("Deployment"), ...ofKind("DaemonSet")];

test("every account, ConfigMap and selector that is referred to is there", () => {
  for (const { spec } of [...workloads]) {
    expect(named("ServiceAccount", spec.template.spec.serviceAccountName)).toBeDefined();
    expect(spec.template.metadata.labels).toMatchObject(spec.selector.matchLabels);
    for (const { envFrom } of spec.template.spec.containers) expect(named("ConfigMap", envFrom[0].configMapRef.name)).toBeDefined();
  }
  for (const { roleRef, subjects, metadata } of [...ofKind("ClusterRoleBinding"), ...ofKind("RoleBinding")]) {
    expect(named(roleRef.kind, roleRef.name), metadata.name).toBeDefined();
    for (const { name, namespace } of subjects)
      expect([named("ServiceAccount", name)?.kind, namespace]).toEqual(["ServiceAccount", "default"]);
  }
  const apps = workloads.map(({ spec }) => spec.selector.matchLabels.app);
  for (const { spec } of ofKind("Service")) expect(apps).toContain(spec.selector.app);
  for (const { spec } of ofKind("PodDisruptionBudget")) expect(apps).toContain(spec.selector.matchLabels.app);
});

test("the control plane runs twice, without rights on its node", () => {
  for (const { spec, metadata } of ofKind("Deployment")) {
    expect(spec.replicas).toBe(2);
    expect(named("PodDisruptionBudget", metadata.name).spec.minAvailable).toBe(1);
    const pod = spec.template.spec;
    expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } });
    expect([pod.hostNetwork, pod.hostPID, pod.hostIPC]).toEqual([undefined, undefined, undefined]);
    expect(pod.volumes.every((volume: object) => "emptyDir" in volume)).toBe(true);
    for (const container of pod.containers) {
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      });
      expect(container).toMatchObject({ readinessProbe: {}, livenessProbe: {}, resources: { limits: { memory: expect.any(String) } } });
    }
  }
});

test("probes ask a port to which no Service leads, and where the node's network is shared, no other machine", () => {
  for (const { spec, metadata } of workloads) {
    const { hostNetwork, containers } = spec.template.spec;
    const [{ ports, startupProbe, readinessProbe, livenessProbe }] = containers;
    const host = hostNetwork ? interfaceHealth.host : undefined;
    for (const { httpGet } of [startupProbe, readinessProbe, livenessProbe])
      expect(httpGet, metadata.name).toEqual({ path: "/healthcheck", port: "health", ...(host ? { host } : {}) });
    const { containerPort } = ports.find(({ name }: { name: string }) => name === "health");
    expect(containerPort).toBe(hostNetwork ? interfaceHealth.port : healthPort);
    const led = ofKind("Service").flatMap((service) => service.spec.ports.map(({ targetPort }: any) => targetPort));
    for (const target of led) expect([target, metadata.name]).not.toEqual(expect.arrayContaining(["health", containerPort]));
  }
});

test("each directory of the node is mounted at its own path", () => {
  const { spec } = named("DaemonSet", "ssu-interface").spec.template;
  const paths = new Map(spec.volumes.map((volume: any) => [volume.name, volume.hostPath.path]));
  const mounted = spec.containers[0].volumeMounts.map(({ name, mountPath }: any) => [paths.get(name), mountPath]);
  expect(mounted.every(([outside, inside]: string[]) => outside === inside)).toBe(true);
  expect(mounted).toHaveLength(spec.volumes.length);
  expect(spec).toMatchObject({ hostPID: true, tolerations: [{ operator: "Exists" }] });
});

describe("least privilege:", () => {
  /** Every right that UMS asks for. Whoever adds one adds it here, and says in the commit what needs it. */
  const expected = {
    "migration-coordinator": [],
    "ums-coordinator": [
      "cluster: create authentication.k8s.io/tokenreviews",
      "cluster: create authorization.k8s.io/subjectaccessreviews",
      "cluster: get list create patch delete /pods",
      "cluster: get /namespaces",
      "cluster: get /nodes",
      "cluster: get list create delete /services",
      "cluster: get create delete discovery.k8s.io/endpointslices",
      "cluster: get list watch create patch delete ums.dev/migrations",
      "cluster: patch ums.dev/migrations/status",
      "cluster: update journal.ums.dev/migrations",
      "cluster: list create podmig.dcn.ssu.ac.kr/podmigrations",
      `namespace: get list watch patch /secrets ${trustSecretName} ${nodeTrustSecretName}`,
      "namespace: list watch /pods",
    ],
    "ums-operator": [
      "cluster: get list delete /pods",
      "cluster: get /namespaces",
      "cluster: get /nodes",
      "cluster: list watch patch /services",
      "cluster: create /events",
      "cluster: get list watch create patch ums.dev/migrations",
      "cluster: patch ums.dev/migrations/status",
      "cluster: update journal.ums.dev/migrations",
      "cluster: list watch podmig.dcn.ssu.ac.kr/podmigrations",
      "cluster: patch podmig.dcn.ssu.ac.kr/podmigrations/status",
      `namespace: get list watch /secrets ${trustSecretName}`,
      "namespace: list watch /pods",
      "namespace: create coordination.k8s.io/leases",
      "namespace: get update coordination.k8s.io/leases migration-operator",
    ],
    "ums-interface": ["cluster: patch /nodes", "cluster: get /namespaces", `namespace: get list watch /secrets ${nodeTrustSecretName}`],
  };

  test("there are no other accounts", () => {
    const accounts = ofKind("ServiceAccount").map(({ metadata }) => metadata.name);
    expect(accounts.toSorted()).toEqual(Object.keys(expected).toSorted());
    expect(accounts.toSorted()).toEqual(["migration-coordinator", ...ownAccounts].toSorted()); // which no pod of another site gets
    expect(named("ServiceAccount", "migration-coordinator").automountServiceAccountToken).toBe(false);
  });

  test.each(Object.entries(expected))("%s", (account, rights) => {
    const bindings = [...ofKind("ClusterRoleBinding"), ...ofKind("RoleBinding")];
    const bound = bindings.filter(({ subjects }) => subjects.some((subject: any) => subject.name === account));
    const found = bound.flatMap(({ kind, roleRef }) =>
      named(roleRef.kind, roleRef.name).rules.flatMap(({ apiGroups, resources, resourceNames = [], verbs }: any) =>
        apiGroups.flatMap((group: string) =>
          resources.map((resource: string) =>
            [kind === "RoleBinding" ? "namespace:" : "cluster:", ...verbs, `${group}/${resource}`, ...resourceNames].join(" "),
          ),
        ),
      ),
    );
    expect(found).toEqual(rights);
  });
});
