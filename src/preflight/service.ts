/** Whether a container can be taken from this host: what it is, and what its processes hold. */
import { processesOf } from "../checkpoint/freezer.ts";
import type { Container, ContainerEngine } from "../container-engines/engine.ts";
import type { ErrorCode } from "../errors.ts";
import { unitFileOf } from "../machine/unit-file.ts";
import type { CheckResult } from "../protocol/measures.ts";
import { verdict } from "./check.ts";
import { isActedOn } from "./policy.ts";
import { heldResources } from "./resources.ts";

/** @param bindMounts sources of bind mounts that the destination has too */
export async function serviceChecks({
  engine,
  container,
  bindMounts,
  signal,
}: {
  engine: ContainerEngine;
  container: Container;
  bindMounts: readonly string[];
  signal: AbortSignal;
}): Promise<CheckResult[]> {
  const [owners, volumes, processes] = await Promise.all([
    ownerChecks(container),
    volumeChecks(engine, container),
    processChecks(container),
  ]);
  signal.throwIfAborted();
  return [...owners, ...settingChecks(engine, container, bindMounts), ...volumes, ...processes];
}

const check = (name: string, code: ErrorCode, found: readonly string[], notes: readonly string[] = []): CheckResult =>
  verdict(name, code, found.length === 0 ? [] : [sentence(found)], notes);

/** At most what a person wants to read, and what the protocol allows. */
function sentence(found: readonly string[]): string {
  const shown = [...new Set(found)];
  const more = shown.length > 8 ? `, and ${shown.length - 8} more` : "";
  const text = `${shown.slice(0, 8).join(", ")}${more}`.slice(0, 3_900);
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/** Who else has a say in it. They come first: some of its settings are their doing. */
async function ownerChecks({ unit, pod }: Container): Promise<CheckResult[]> {
  const file = unit === undefined ? undefined : await unitFileOf(unit);
  return [
    check(
      "systemd unit",
      "SYSTEMD_UNIT",
      unit === undefined ? [] : [`it belongs to the unit ${unit}${file === undefined ? "" : `, written in ${file}`}`],
    ),
    check("pod", "PODMAN_POD", pod === undefined ? [] : [`it belongs to the Podman pod ${pod.slice(0, 12)}`]),
  ];
}

/** What the container's description alone tells. */
function settingChecks(
  { dumpableRuntimes, movableLogs }: ContainerEngine,
  container: Container,
  bindMounts: readonly string[],
): CheckResult[] {
  const { spec, state, runtime } = container;
  const driver = spec.log.driver;
  return [
    check("runs", "SERVICE_NOT_RUNNING", state === "running" ? [] : [`container ${container.name} is ${state}`]),
    check("settings", "UNSUPPORTED_SETTING", container.beyond),
    check(
      "annotations",
      "UNSUPPORTED_SETTING",
      Object.keys(spec.annotations)
        .filter(isActedOn)
        .map((name) => `the annotation ${name} is for its engine or for CRIU, and crosses to no other site`),
    ),
    check("runtime", "RUNTIME_NOT_RUNC", dumpableRuntimes.includes(runtime) ? [] : [`its OCI runtime is ${runtime}`]),
    check(
      "bind mounts",
      "BIND_MOUNT",
      spec.binds
        .filter(({ source }) => !bindMounts.includes(source))
        .map(({ source, destination }) => `${source} is mounted at ${destination}`),
    ),
    check("log", "LOG_DRIVER", movableLogs.includes(driver) ? [] : [`its log driver is ${driver}`], logNotes(container)),
  ];
}

/** A journal is its machine's: nothing of it can be written into another's. */
const logNotes = ({ name, spec }: Container) =>
  spec.log.driver === "journald"
    ? [
        `What its log has so far stays in this host's journal, as \`journalctl CONTAINER_NAME=${name}\` shows it; \`podman logs\` begins afresh.`,
      ]
    : [];

async function volumeChecks(engine: ContainerEngine, container: Container): Promise<CheckResult[]> {
  const volumes = await Promise.all(container.volumes.map(({ name }) => engine.findVolume(name)));
  const there = volumes.filter((volume) => volume !== undefined);
  return [
    check(
      "volumes",
      "VOLUME_UNSUPPORTED",
      there.filter(({ plain }) => !plain).map(({ name }) => `volume ${name} has a driver or options`),
    ),
    check(
      "volumes' users",
      "VOLUME_SHARED",
      there.flatMap(({ name, users }) =>
        users.filter((user) => user !== container.name).map((user) => `volume ${name} is used by container ${user} too`),
      ),
    ),
  ];
}

async function processChecks(container: Container): Promise<CheckResult[]> {
  if (container.pid === 0 || container.state !== "running") return [];
  const pids = await processesOf(container).catch(() => []); // it ended this moment
  const found = await heldResources({ init: container.pid, pids });
  return [
    check("io_uring", "IO_URING", found.ioUring),
    check("addresses", "ADDRESS_BOUND", found.ownAddresses),
    check("what its processes hold", "UNSUPPORTED_RESOURCE", found.unsupported),
  ];
}
