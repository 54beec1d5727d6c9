/** A virtual machine's processor, memory, disk and card: qemu, which ends with the test runner at the latest. */
import type { ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import type { MachineCard, StockDisk } from "../setup/stock-machine.ts";
import { end, spawnTied } from "./place.ts";
import { connectQmp, type Qmp } from "./qmp.ts";
import type { Wan } from "./wan.ts";

/** qemu's way to run a processor: `kvm`, where the machine has it, makes all of this some ten times faster. */
export const accelerator = process.env.UMS_E2E_ACCELERATOR ?? "tcg,thread=multi";
const memoryMiB = 2048;

export type Emulator = Readonly<{
  isOn(): boolean;
  /** Boots it. */
  start(): Promise<void>;
  /** It goes on where the saved one was. */
  resume(state: string): Promise<void>;
  /** Keeps what it is now, and ends it. @returns its disk, which goes with the state */
  save(state: string): Promise<string>;
  /** Resolves when what runs in it begins to boot anew. */
  rebooted(timeoutMs: number): Promise<void>;
  /** Nobody in it is told. */
  stop(): Promise<void>;
  /** What the kernel said last. */
  console: string;
}>;

type Parts = Readonly<{
  card: MachineCard;
  disk: StockDisk;
  /** Of its own. */
  directory: string;
  wan: Wan;
  /** A disk upon the stock one, which goes with the saved state that it shall resume. */
  overlay: string | undefined;
}>;

/** Off at first. */
export function createEmulator({ card: { name, hardwareAddress }, disk, directory, wan, overlay }: Parts): Emulator {
  const own = join(directory, "disk.qcow2");
  const console = join(directory, "console");
  let running: { qemu: ChildProcess; qmp: Qmp } | undefined;
  const start = async (more: readonly string[]) => {
    if (running) throw new Error(`${name} is on already`);
    await mkdir(directory, { recursive: true });
    const below = overlay === undefined ? ["-b", disk.disk, "-F", "raw"] : ["-b", overlay, "-F", "qcow2"];
    if (!existsSync(own)) await execa("qemu-img", ["create", "-q", "-f", "qcow2", ...below, own]);
    await wan.exec(["ip", "link", "del", name], { reject: false });
    await wan.exec(["ip", "tuntap", "add", "dev", name, "mode", "tap"]);
    await wan.exec(["ip", "link", "set", name, "master", "wan", "up"]);
    const append = `root=/dev/vda rw console=ttyS0 quiet systemd.hostname=${name}`;
    const qemu = spawnTied([
      ...["nsenter", `--net=${wan.networkNamespace}`, "--"],
      ...["qemu-system-x86_64", "-name", name, "-nodefaults", "-display", "none", "-qmp", "stdio"],
      ...["-machine", "pc-q35-7.2", "-accel", accelerator, "-cpu", accelerator.startsWith("kvm") ? "host" : "max"],
      ...["-smp", "2", "-m", String(memoryMiB), "-kernel", disk.kernel, "-initrd", disk.initrd, "-append", append],
      ...["-drive", `file=${own},if=virtio,format=qcow2,cache=unsafe`, "-device", "virtio-rng-pci"],
      ...["-netdev", `tap,id=n0,ifname=${name},script=no,downscript=no`],
      ...["-device", `virtio-net-pci,netdev=n0,mac=${hardwareAddress}`, "-serial", `file:${console}`, ...more],
    ]);
    try {
      running = { qemu, qmp: await connectQmp(qemu, AbortSignal.timeout(60_000)) };
    } catch (cause) {
      await end(qemu);
      throw new Error(`${name} could not be started`, { cause });
    }
  };
  const stop = async () => {
    const was = running;
    running = undefined;
    if (was) await end(was.qemu);
  };
  return {
    console,
    isOn: () => running !== undefined && running.qemu.exitCode === null && running.qemu.signalCode === null,
    start: () => start([]),
    resume: (state) => start(["-incoming", `exec:cat ${state}`]),
    stop,
    async rebooted(timeoutMs) {
      if (!running) throw new Error(`${name} is off`);
      await running.qmp.next("RESET", timeoutMs);
    },
    async save(state) {
      if (!running) throw new Error(`${name} is off`);
      const { qmp } = running;
      // qemu would take its time, so as not to fill a network.
      await qmp.ask("migrate-set-parameters", { "max-bandwidth": 10 ** 10 });
      await qmp.ask("migrate", { uri: `exec:cat >${state}` });
      for (let status = ""; status !== "completed"; await sleep(100)) {
        ({ status = "" } = await qmp.ask<{ status?: string }>("query-migrate"));
        if (status === "failed" || status === "cancelled") throw new Error(`${name} could not be saved: ${status}`);
      }
      await stop();
      return own;
    },
  };
}
