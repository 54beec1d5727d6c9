/** One node of a test cluster: namespaces, cgroups, storage and an address of its own, and services that start again when they die. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createMachine } from "../machine.ts";
import type { Place } from "../place.ts";
import type { Run } from "../runs.ts";
import { connect, wanAddressOf } from "../wan.ts";

/** A machine of a cluster, as far as anything in it can tell. */
export type ClusterNode = Place &
  Readonly<{
    name: string;
    /** The node's init as the test runner sees it. */
    initPid(): number;
    /** A path of the node, as the test runner reaches it. */
    path(inside: string): string;
    /** Everything in it ends at once; what it had on disk stays. */
    powerOff(): Promise<void>;
    /** None of its services runs yet, and it has no way to other nodes' pods: see `Cluster.powerOn`. */
    powerOn(): Promise<void>;
    /** The supervisor starts the service and keeps it up. */
    start(...services: readonly ServiceName[]): Promise<void>;
    /** At once, as by SIGKILL, and for good. */
    stop(service: ServiceName): Promise<void>;
    /** SIGKILL; the supervisor starts it again. */
    kill(service: ServiceName): Promise<void>;
    /** The last lines that the service wrote. */
    log(service: ServiceName, lines?: number): Promise<string>;
  }>;

export type ServiceName =
  "containerd" | "etcd" | "kube-apiserver" | "kube-controller-manager" | "kube-proxy" | "kube-scheduler" | "kubelet";

type NodeParts = Readonly<{
  name: string;
  /** The last byte of its address. */
  number: number;
  run: Run;
  wan: Place;
  /** The bridge that it hangs on. */
  bridge: string;
  root: string;
  programs: string;
  /** Path in the node → content. */
  files: Readonly<Record<string, string>>;
  services: Readonly<Partial<Record<ServiceName, readonly string[]>>>;
  stack: AsyncDisposableStack;
}>;

const servicesDirectory = "/etc/node-services";

/** Starts the node, none of its services yet. */
export async function createNode({
  name,
  number,
  run,
  wan,
  bridge,
  root,
  programs,
  files,
  services,
  stack,
}: NodeParts): Promise<ClusterNode> {
  const storage = join(run.directory, name);
  const machine = createMachine({
    name: `node ${name}`,
    address: wanAddressOf(number),
    cgroupVersion: run.cgroupVersion,
    cgroups: run.cgroups.map((cgroup) => join(cgroup, name)),
  });
  const { place, initPid, path } = machine;

  const write = (inside: string, content: string) => {
    const file = join(storage, "upper", inside);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    return file;
  };
  for (const [inside, content] of Object.entries(files)) write(inside, content);
  for (const [service, command] of Object.entries(services)) {
    const lines = ["#!/bin/sh", `exec >>/var/log/${service}.log 2>&1`, `exec ${command.join(" \\\n  ")}`, ""];
    chmodSync(write(join(servicesDirectory, service, "run"), lines.join("\n")), 0o755);
    // Nothing starts before it is told to: each needs what the one before it offers.
    write(join(servicesDirectory, service, "down"), "");
  }
  const supervised = Object.keys(services).map((service) => join(servicesDirectory, service));
  const powerOn = async () => {
    const pid = await machine.powerOn(["cluster/node-init.sh", storage, name, String(run.cgroupVersion), root, programs]);
    await connect({ wan, port: name, bridge, inside: place, initPid: pid, number });
    await place.exec(["sh", "-c", `until sv status ${supervised.join(" ")} >/dev/null; do sleep 0.05; done`]);
  };
  const powerOff = async () => {
    // Without its link no dying process can tell a peer (FIN, RST), as in a real power loss.
    if (machine.isOn()) await wan.exec(["ip", "link", "del", name], { reject: false });
    await machine.powerOff();
  };
  stack.defer(powerOff);
  await powerOn();

  const supervise = async (command: readonly string[], names: readonly ServiceName[]) =>
    void (await place.exec(["sv", ...command, ...names.map((service) => join(servicesDirectory, service))]));
  return {
    ...place,
    name,
    initPid,
    path,
    powerOn,
    powerOff,
    start: (...names) => supervise(["up"], names),
    stop: async (service) => {
      await supervise(["down"], [service]);
      await supervise(["kill"], [service]);
      await supervise(["-w", "10", "down"], [service]);
    },
    kill: (service) => supervise(["kill"], [service]),
    log: async (service, lines = 50) => (await place.exec(["tail", "-n", String(lines), `/var/log/${service}.log`])).stdout,
  };
}
