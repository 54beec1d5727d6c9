/** What may cross a site's border with a service: the one list of what a machine acts upon, and what a destination takes of that. */
import { realpath } from "node:fs/promises";
import path from "node:path";
import type { ContainerSpec } from "../protocol/container-spec.ts";
import type { CheckResult } from "../protocol/measures.ts";
import { verdict } from "./check.ts";

/** What a site takes of services that others send: beyond what the engine gives any container, nothing unless said. */
export type Accept = Readonly<{ bindMounts: readonly string[]; capabilities: readonly string[]; unconfined: boolean }>;

/**
 * Whether an engine, its runtime or CRIU acts upon an annotation. `org.criu.config` names a file of which CRIU takes programs
 * to run as root (runc, docs/checkpoint-restore.md); the others give devices, groups, hooks or another runtime.
 */
export const isActedOn = (annotation: string) =>
  /^(org\.(criu|systemd|opencontainers)\.|run\.oci\.|io\.(podman|kubernetes|container|containers|cri-o|crun|kata-containers)[./-])/.test(
    annotation,
  );

/** What Podman gives every container (containers.conf(5), default_capabilities). */
const usual = new Set(
  ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"].map(
    (name) => `CAP_${name}`,
  ),
);

/** Security options that take nothing away from the engine's own confinement. A profile is this site's, so not one from a volume. */
const confining = /^(no-new-privileges(=true|:true)?|seccomp=\/(etc|usr)\/.+|mask=.+)$/;

/** @returns a line for each kind of thing that a machine acts upon */
export function policyChecks(spec: ContainerSpec, { bindMounts, capabilities, unconfined }: Accept): CheckResult[] {
  const isBelow = (path: string, top: string) => path === top || path.startsWith(top.endsWith("/") ? top : `${top}/`);
  const wanted = spec.capAdd.map((name) => (name.startsWith("CAP_") ? name : `CAP_${name}`));
  return [
    verdict(
      "policy",
      "POLICY",
      [
        ...Object.keys(spec.annotations)
          .filter(isActedOn)
          .map((name) => `The annotation ${name}.`),
        ...spec.binds
          .filter(({ source }) => !bindMounts.some((top) => isBelow(source, top)))
          .map(({ source }) => `The bind mount of ${source} (accept.bindMounts).`),
        ...wanted
          .filter((name) => !usual.has(name) && !capabilities.includes(name))
          .map((name) => `The added capability ${name} (accept.capabilities).`),
        ...spec.securityOptions
          .filter((option) => !unconfined && !confining.test(option))
          .map((option) => `The security option ${option} (accept.unconfined).`),
      ].slice(0, 20),
    ),
  ];
}

/** @returns a sentence for each bind mount to which a link leads: a service that writes to an accepted directory can have put it there */
export async function linkedMounts({ binds }: Pick<ContainerSpec, "binds">): Promise<string[]> {
  const found = await Promise.all(
    binds.map(async ({ source }) => {
      const written = path.resolve(source);
      const real = await realpath(written).catch(() => written); // one that is missing is told as that
      return real === written ? [] : [`The bind mount of ${source}: a link leads from there to ${real}.`];
    }),
  );
  return found.flat();
}
