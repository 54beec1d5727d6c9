/**
 * Stock Debian machines for tests: virtual ones, each with a disk, a kernel and a systemd of its own, on the wan that test hosts are on too.
 * They live exactly as long as the process that made them, also when that is killed.
 *
 * They are emulated, and some ten times slower than a real machine; booting takes a minute. So each is booted once, and what it then is,
 * memory and all, is kept: from there it is up in seconds.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { cached } from "../setup/cache.ts";
import { type MachineCard, type StockDisk, stockDisk, type Suite } from "../setup/stock-machine.ts";
import { accelerator, createEmulator, type Emulator } from "./emulator.ts";
import { end, type ExecOptions, type ExecResult, type Place, placeAt, spawnTied } from "./place.ts";
import { createRun } from "./runs.ts";
import { createWan, type Wan, wanAddressOf } from "./wan.ts";

const names = ["host-a", "host-b"] as const;
type Name = (typeof names)[number];
const bootMs = 10 * 60_000;
/** Counts to so many, and says how many nanoseconds that took; a machine of today takes about {@link usualMs}. */
const measured = "begun=$(date +%s%N); i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo $(($(date +%s%N) - begun))";
const usualMs = 60;
/** Until nothing of the boot is under way; the first Podman sets its storage up. */
const settle = "systemctl is-system-running --wait; podman info >/dev/null && sync";

/** A machine as a person has it. What it is asked waits as much longer as it is slower than a real one. */
export type StockMachine = Place &
  Readonly<{
    name: string;
    /** How many times slower than a machine of today it was when it came up. */
    slowness(): number;
    /** So long as what takes that long on a machine of today may take here. */
    patience(ms: number): number;
    podman(args: readonly string[], options?: ExecOptions): Promise<ExecResult>;
    /** Copies a file or directory of the test runner's into a directory of the machine. */
    copyIn(from: string, to: string): Promise<void>;
    /** A power loss: nobody in it is told. */
    powerOff(): Promise<void>;
    powerOn(): Promise<void>;
    /** As a person does it; back when the machine answers again. */
    reboot(): Promise<void>;
  }>;

/** Two stock machines, and the wan between them. */
export type StockMachines = AsyncDisposable & Readonly<{ a: StockMachine; b: StockMachine; wan: Wan }>;

const cardOf = (name: Name): MachineCard => {
  const number = 11 + names.indexOf(name);
  return { name, hardwareAddress: `02:00:0a:e7:00:${number.toString(16).padStart(2, "0")}`, address: wanAddressOf(number) };
};

/** Makes two machines, each of a release of Debian; the first time, that takes minutes. */
export async function createStockMachines(suites: readonly [Suite, Suite] = ["trixie", "trixie"]): Promise<StockMachines> {
  const saved = await savedMachines(suites);
  const stack = new AsyncDisposableStack();
  try {
    const run = await createRun(stack);
    const wan = await createWan(stack);
    const create = async (name: Name, { disk, overlay, state }: Saved) => {
      const emulator = createEmulator({ card: cardOf(name), disk, directory: join(run.directory, name), wan, overlay });
      const machine = createMachine({ card: cardOf(name), emulator, wan, key: disk.key, control: join(run.directory, name, "ssh") });
      stack.defer(() => machine.powerOff());
      await emulator.resume(state);
      await machine.reach();
      return machine;
    };
    const [a, b] = await Promise.all([create("host-a", saved[0]), create("host-b", saved[1])]);
    return { a, b, wan, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (cause) {
    await stack.disposeAsync();
    throw cause;
  }
}

/** Makes what {@link createStockMachines} starts from. */
export async function prepareStockMachines(suites: readonly [Suite, Suite] = ["trixie", "trixie"]): Promise<void> {
  await savedMachines(suites);
}

async function savedMachines(suites: readonly [Suite, Suite]): Promise<[Saved, Saved]> {
  return Promise.all([savedMachine("host-a", suites[0]), savedMachine("host-b", suites[1])]);
}

type Saved = Readonly<{ disk: StockDisk; overlay: string; state: string }>;

/** A machine that has booted and come to rest. */
async function savedMachine(name: Name, suite: Suite): Promise<Saved> {
  const disk = await stockDisk(suite, names.map(cardOf));
  const emulator = readFileSync(join(import.meta.dirname, "emulator.ts"));
  const { stdout: version } = await execa("qemu-system-x86_64", ["--version"]);
  // An emulated processor is the same everywhere.
  const processor = accelerator.startsWith("kvm") ? readFileSync("/proc/cpuinfo", "utf8").match(/^(model name|flags).*$/gm) : [];
  const directory = await cached({
    name: `machine-${suite}-${name}`,
    // What was saved goes on with the same qemu only.
    inputs: [emulator, settle, disk.disk, version, accelerator, ...new Set(processor)],
    make: async (directory) => {
      console.log(`Booting a stock Debian machine (${suite}, ${name}) once and for all …`);
      await using stack = new AsyncDisposableStack();
      const run = await createRun(stack);
      const wan = await createWan(stack);
      const emulator = createEmulator({ card: cardOf(name), disk, directory: join(run.directory, name), wan, overlay: undefined });
      const machine = createMachine({ card: cardOf(name), emulator, wan, key: disk.key, control: join(run.directory, name, "ssh") });
      stack.defer(() => machine.powerOff());
      await machine.powerOn();
      await machine.exec(["sh", "-c", settle]);
      await execa("cp", ["--sparse=always", await machine.save(join(directory, "state")), join(directory, "disk.qcow2")]);
    },
  });
  return { disk, overlay: join(directory, "disk.qcow2"), state: join(directory, "state") };
}

type Parts = Readonly<{
  card: MachineCard;
  emulator: Emulator;
  wan: Wan;
  /** For ssh. */ key: string;
  /** Where ssh puts its socket. */ control: string;
}>;
type OwnMachine = StockMachine &
  Readonly<{
    /** Waits until it answers. */ reach(): Promise<void>;
    /** See {@link Emulator.save}. */ save(state: string): Promise<string>;
  }>;

function createMachine({ card: { name, address }, emulator, wan, key, control }: Parts): OwnMachine {
  let ssh: ChildProcess | undefined;
  let slowness = 1;
  const inWan = ["nsenter", `--net=${wan.networkNamespace}`, "--"];
  const sshOptions = [
    ...["-q", "-i", key, "-o", `ControlPath=${control}`],
    ...["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10"].flatMap((option) => ["-o", option]),
  ];
  const place = placeAt({ address, enter: () => [...inWan, "ssh", ...sshOptions, `root@${address}`, "--"], forks: false });
  // Before it was measured it may be as slow as it likes.
  const patience = (ms: number) => Math.round(ms * slowness);
  const exec: Place["exec"] = (args, { timeoutMs = 60_000, env, ...options } = {}) =>
    place.exec([quoted(args, env)], { ...options, timeoutMs: patience(timeoutMs) });

  /** By a connection that all commands share: to make one takes an emulated machine seconds. */
  const connect = async () => {
    await rm(control, { force: true });
    ssh = spawnTied([...inWan, "ssh", ...sshOptions, "-N", "-o", "ControlMaster=yes", "-o", "ServerAliveInterval=60", `root@${address}`]);
    const ended = once(ssh, "exit").then(() => true);
    while (!(await Promise.race([ended, sleep(100, false)]))) if (existsSync(control)) return true;
    return false;
  };
  const disconnect = async () => {
    if (ssh) await end(ssh);
    ssh = undefined;
  };
  const reach = async () => {
    for (const deadline = Date.now() + bootMs; !(await connect()); await sleep(200)) {
      if (emulator.isOn() && Date.now() < deadline) continue;
      const said = readFileSync(emulator.console, "utf8").split("\n").slice(-10).join("\n");
      throw new Error(`${name} did not come up:\n${said}`);
    }
    // Its clock stood still while it was saved.
    await place.exec([quoted(["date", "--set", `@${(Date.now() / 1000).toFixed(3)}`])], { timeoutMs: bootMs });
    const measure = async () => Number((await place.exec([quoted(["sh", "-c", measured])], { timeoutMs: bootMs })).stdout) / 1e6;
    // The emulator translates what it has never run: the first time tells nothing of those that follow.
    await measure();
    slowness = Math.max(1, (await measure()) / usualMs);
  };
  const powerOff = async () => {
    await disconnect();
    await emulator.stop();
  };

  return {
    name,
    address,
    slowness: () => slowness,
    patience,
    exec,
    spawn: (args, { env } = {}) => place.spawn([quoted(args, env)]),
    podman: (args, options) => exec(["podman", ...args], options),
    copyIn: async (from, to) => {
      await wan.exec(["scp", ...sshOptions, "-r", from, `root@${address}:${to}`], { timeoutMs: patience(60_000) });
    },
    powerOff,
    powerOn: async () => {
      await emulator.start();
      await reach();
    },
    reboot: async () => {
      const rebooted = emulator.rebooted(bootMs);
      // The connection may be gone before its answer comes.
      exec(["systemctl", "reboot"], { reject: false }).catch(() => undefined);
      await rebooted;
      await disconnect();
      await reach();
    },
    reach,
    save: async (state) => {
      await disconnect();
      return emulator.save(state);
    },
  };
}

/** One line for a shell, which is what ssh takes. */
function quoted(args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  const assignments = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  const words = assignments.length > 0 ? ["env", ...assignments, ...args] : args;
  return words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
}
