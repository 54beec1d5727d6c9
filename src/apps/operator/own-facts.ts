/** What of a journal's facts a migration goes by: those that its object itself bears out. */
import type { PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import type { NodeForwarding } from "../../protocol/pod.ts";
import type { SnapshotFacts } from "../../approaches/orchestrator-level/restoring.ts";
import { UmsError } from "../../errors.ts";
import type { Service } from "../../platforms/kubernetes/kinds.ts";
import { expectOwnPod, type MigrationObject } from "../../platforms/kubernetes/migration.ts";

type Facts = Readonly<Record<string, unknown>> | undefined;

/**
 * @param site to which the object's `destination` leads
 * @throws UmsError JOURNAL_CONTRADICTS
 */
export function expectOwnFacts(object: MigrationObject, facts: Facts, site: string): void {
  const { source, snapshot } = (facts ?? {}) as { source?: Partial<PodFacts>; snapshot?: Partial<SnapshotFacts> };
  const { namespace, name } = object.metadata;
  if (source) {
    expectOwnPod(object, source);
    expectOwnPod(object, source.need?.pod.metadata, object.spec.rename);
  }
  if (snapshot) expectOwnPod(object, snapshot.need?.pod.metadata);
  for (const target of [source?.target, snapshot?.target])
    if (target && target.site !== site)
      throw new UmsError("JOURNAL_CONTRADICTS", `The status of Migration ${namespace}/${name} leads to site ${target.site}, not ${site}.`);
}

/** Those of a forwarding's ports by which a Service of its namespace is reached: whatever else there is, nobody is led away from. */
export function ownPorts(ports: NodeForwarding["ports"], services: readonly Service[]): NodeForwarding["ports"] {
  const ways = services.flatMap(({ spec }) =>
    (spec?.ports ?? []).flatMap(({ port, nodePort, protocol = "TCP" }) => [
      `${protocol} ${spec?.clusterIP} ${port}`,
      ...(nodePort === undefined ? [] : [`${protocol}  ${nodePort}`]),
    ]),
  );
  return ports.filter(({ address, port, protocol }) => ways.includes(`${protocol.toUpperCase()} ${address} ${port}`));
}
