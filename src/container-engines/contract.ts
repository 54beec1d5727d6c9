/**
 * What every container engine must do, run on each adapter against the real engine. An engine's calls are made on its
 * own host, so the cases are plain functions, which a test runs there (e2e/podman-contract.ts) and reports from there.
 */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { freezerOf, isGroupFrozen, setFrozen } from "../checkpoint/freezer.ts";
import { readRuntimeState } from "../checkpoint/runtime-state.ts";
import { type ContainerSpec } from "../protocol/container-spec.ts";
import type { Container, ContainerEngine } from "./engine.ts";
import { differences } from "./spec.ts";

export type Subject = Readonly<{
  engine: ContainerEngine;
  /** Name of an image which the engine has, with a shell and coreutils. */
  image: string;
  /** Name of a network which the engine has. */
  network: string;
  /** The label in which a container's unit is named. */
  unitLabel: string;
  /** Whether a limit of processes can be set where the engine runs. */
  hasPids: boolean;
}>;

const migration = "0123456789ab";
const mark = "localhost/ums/0123456789ab:latest";

/** Name of a case to the case. Each removes what it made. */
export const contract: Readonly<Record<string, (subject: Subject) => Promise<void>>> = {
  async "tells its version"({ engine }) {
    assert.match(await engine.version(), /^\d+\.\d+/);
  },

  async "has nothing to say against a host that is prepared, and changes nothing by looking"({ engine }) {
    const checks = await engine.checks(AbortSignal.timeout(30_000));
    assert.ok(checks.length > 1);
    assert.deepEqual(
      checks.filter(({ ok }) => !ok),
      [],
    );
  },

  async "can dump what its own twins run by, and gives a twin each log whose driver it calls movable"(subject) {
    const { engine } = subject;
    assert.ok(engine.dumpableRuntimes.includes(engine.restoringRuntime));
    assert.ok(engine.movableLogs.length > 0);
    for (const movable of engine.movableLogs) {
      const driver = await engine.logDriverFor(movable);
      await withTwin(subject, await specOf(subject, { log: { driver, size: "", tag: "" } }), async ({ spec }) =>
        assert.ok(engine.movableLogs.includes(spec.log.driver), movable),
      );
    }
  },

  async "finds no container, image or volume that isn't there"({ engine }) {
    assert.equal(await engine.find("ums-no-such"), undefined);
    assert.equal(await engine.findImage("localhost/ums-no-such:latest"), undefined);
    assert.equal(await engine.findVolume("ums-no-such"), undefined);
  },

  async "removes what isn't there without an error"({ engine }) {
    await engine.remove("ums-no-such");
    await engine.removeImage("localhost/ums-no-such:latest");
    await engine.removeVolume("ums-no-such");
  },

  async "describes a twin as it was asked for"(subject) {
    const spec = await specOf(subject, {
      command: ["sh", "-c", "sleep 1000 # two words"],
      env: { PATH: "/usr/bin:/bin", PLAIN: "1", BLANKS: "a = b" },
      user: "1:1",
      labels: { team: "moving" },
      hostname: "twin",
      restartPolicy: { name: "on-failure", retries: 3 },
    });
    await withTwin(subject, spec, async (twin) => {
      assert.equal(twin.state, "created");
      assert.equal(twin.pid, 0);
      assert.equal(twin.runtime, subject.engine.restoringRuntime);
      for (const field of [
        "name",
        "imageId",
        "command",
        "user",
        "labels",
        "hostname",
        "ports",
        "restartPolicy",
        "limits",
        "capAdd",
        "readOnly",
      ] as const)
        assert.deepEqual(twin.spec[field], spec[field], field);
      assert.deepEqual({ ...twin.spec.env, ...spec.env }, twin.spec.env);
    });
  },

  async "gives a twin's description again when it makes a twin of it"(subject) {
    const first = await specOf(subject, { name: "ums-contract" });
    let described: ContainerSpec | undefined;
    await withTwin(subject, first, async ({ spec }) => void (described = spec));
    if (!described) throw new Error("no twin was described");
    const again = described;
    await withTwin(subject, again, async ({ spec }) => assert.deepEqual(differences(again, spec), []));
  },

  async "refuses a name that is taken"(subject) {
    const spec = await specOf(subject);
    await withTwin(subject, spec, () => assert.rejects(subject.engine.createTwin(spec, { migration }), { code: "NAME_TAKEN" }));
  },

  async "starts a twin for which no restore is prepared as any container"(subject) {
    await withRunning(subject, {}, async (running) => {
      assert.equal(running.state, "running");
      assert.ok(running.pid > 0);
      assert.ok((await stat(running.networkNamespace)).isFile());
      assert.ok(JSON.parse(await readFile(running.ociConfigPath, "utf8")));
      await writeFile(path.join(running.changesDirectory, "from-outside"), "");
      await stat(`/proc/${running.pid}/root/from-outside`);
      const refused = (await subject.engine.twinChecks(running.spec)).filter(({ ok }) => !ok);
      assert.deepEqual(refused, [], "what starts was refused");
      assert.ok(running.changesDirectory.startsWith(`${await subject.engine.storageDirectory(AbortSignal.timeout(10_000))}/`));
    });
  },

  async "tells where its runtime and the host have what a running container is made of"(subject) {
    await withRunning(subject, {}, async ({ id, pid, stateRoot, ociConfigPath, shmDirectory = "", unit }) => {
      const state = await readRuntimeState(id, stateRoot);
      assert.equal(state.pid, pid);
      assert.equal(path.join(state.bundle, "config.json"), ociConfigPath);
      assert.deepEqual(
        state.descriptors.map((each) => each.replace(/\d+/, "N")),
        ["/dev/null", "pipe:[N]", "pipe:[N]"],
      );
      await writeFile(`/proc/${pid}/root/dev/shm/from-inside`, "");
      await stat(path.join(shmDirectory, "from-inside"));
      assert.equal(unit, undefined);
    });
    await withTwin(subject, await specOf(subject, { labels: { [subject.unitLabel]: "web.service" } }), async ({ shmDirectory, unit }) => {
      assert.equal(shmDirectory, undefined);
      assert.equal(unit, "web.service");
    });
  },

  async "lists containers with their state and ports"(subject) {
    const ports = [{ hostIp: "", hostPort: 61_234, containerPort: 80, protocol: "tcp" as const }];
    await withRunning(subject, { ports }, async ({ id, name }) => {
      const listed = (await subject.engine.list()).find((each) => each.id === id);
      assert.ok(listed);
      assert.equal(listed.name, name);
      assert.equal(listed.state, "running");
      assert.equal(listed.ports.length, 1);
      assert.match(listed.ports[0] ?? "", /61234->80\/tcp/);
    });
  },

  async "finds a container by name and by id"(subject) {
    await withTwin(subject, await specOf(subject), async ({ id, name }) => {
      assert.equal((await subject.engine.find(name))?.id, id);
      assert.equal((await subject.engine.find(id))?.name, name);
    });
  },

  async "pauses what is paused, and unpauses what runs, without an error"(subject) {
    const { engine } = subject;
    await withRunning(subject, {}, async ({ id }) => {
      await engine.pause(id);
      await engine.pause(id);
      assert.equal((await engine.find(id))?.state, "paused");
      await engine.unpause(id);
      await engine.unpause(id);
      assert.equal((await engine.find(id))?.state, "running");
    });
  },

  async "unpauses what was thawed behind its back"(subject) {
    const { engine } = subject;
    await withRunning(subject, {}, async ({ id, pid }) => {
      await engine.pause(id);
      const freezer = await freezerOf({ pid, id });
      assert.ok(freezer);
      await setFrozen(freezer, false);
      await engine.unpause(id);
      assert.equal((await engine.find(id))?.state, "running");
      assert.equal(await isGroupFrozen(freezer), false);
    });
  },

  async "removes a paused container, whose restart policy is always, for good"(subject) {
    const { engine } = subject;
    await withRunning(subject, { restartPolicy: { name: "always", retries: 0 } }, async ({ id, pid }) => {
      await engine.pause(id);
      await engine.remove(id);
      assert.equal(await engine.find(id), undefined);
      await assert.rejects(stat(`/proc/${pid}`));
    });
  },

  async "runs a container's health check"(subject) {
    const health = (test: string) => ({
      test: ["CMD-SHELL", test],
      intervalNs: 0,
      timeoutNs: 5e9,
      startPeriodNs: 0,
      retries: 1,
      onFailure: "none",
    });
    await withRunning(subject, { health: health("true") }, async ({ id }) => assert.equal(await subject.engine.healthy(id), true));
    await withRunning(subject, { health: health("false") }, async ({ id }) => assert.equal(await subject.engine.healthy(id), false));
  },

  async "knows its images by name and by id"({ engine, image }) {
    const found = await engine.findImage(image);
    assert.ok(found);
    assert.match(found.id, /^[0-9a-f]{64}$/);
    assert.ok(found.layers.length > 0 && found.layers.every((layer) => /^sha256:[0-9a-f]{64}$/.test(layer)));
    assert.ok(found.sizeBytes > 0);
    assert.deepEqual(await engine.findImage(found.id), found);
    assert.ok((await engine.images()).some(({ id }) => id === found.id));
  },

  async "reads an image again that it has written, with the same id and names"({ engine, image }) {
    const found = await engine.findImage(image);
    assert.ok(found);
    const temporary = await mkdtemp(path.join(tmpdir(), "ums-CONTRACT-"));
    const directory = path.join(temporary, "image");
    await mkdir(directory);
    try {
      await engine.saveImage(found, directory);
      const files = (await readdir(directory, { recursive: true })).map((file) => path.basename(file));
      for (const layer of found.layers) assert.ok(files.includes(layer.replace("sha256:", "")), "a layer has no file of its own");
      for (const name of found.names) await engine.removeImage(name);
      assert.equal(await engine.findImage(found.id), undefined);
      await engine.loadImage(found, directory, { mark });
      assert.deepEqual((await engine.findImage(found.id))?.names, [mark]);
      for (const name of found.names) assert.ok(await engine.nameImage(found.id, name));
      await engine.removeImage(mark);
      const loaded = await engine.findImage(found.id);
      assert.deepEqual([loaded?.id, loaded?.names, loaded?.layers], [found.id, found.names, found.layers]);
    } finally {
      await rm(temporary, { recursive: true });
    }
  },

  async "gives no image a name that another one has, and takes names away"({ engine, image }) {
    const found = await engine.findImage(image);
    assert.ok(found);
    assert.equal(await engine.nameImage(found.id, mark), true);
    assert.equal(await engine.nameImage(found.id, mark), true);
    const other = (await engine.images()).find(({ id }) => id !== found.id);
    if (other) assert.equal(await engine.nameImage(other.id, mark), false);
    assert.equal((await engine.findImage(mark))?.id, found.id);
    await engine.unnameImage(mark);
    await engine.unnameImage(mark);
    assert.equal(await engine.findImage(mark), undefined);
    assert.deepEqual((await engine.findImage(found.id))?.names, found.names);
  },

  async "makes and removes volumes, and knows who uses them"(subject) {
    const { engine } = subject;
    const made = await engine.createVolume("ums-contract", { labels: { team: "moving" }, migration });
    try {
      assert.ok((await stat(made.directory)).isDirectory());
      assert.deepEqual([made.plain, made.labels, made.migration, made.users], [true, { team: "moving" }, migration, []]);
      const volumes = [{ name: "ums-contract", destination: "/data", options: [], readOnly: false }];
      await withRunning(subject, { volumes }, async ({ name, pid, volumes: mounted }) => {
        assert.deepEqual(mounted, [{ name: "ums-contract", directory: made.directory }]);
        assert.deepEqual((await engine.findVolume("ums-contract"))?.users, [name]);
        await writeFile(path.join(made.directory, "file"), "");
        await stat(`/proc/${pid}/root/data/file`);
        await assert.rejects(engine.removeVolume("ums-contract"));
      });
      assert.ok(await engine.findVolume("ums-contract"), "a named volume outlives its container");
    } finally {
      await engine.removeVolume("ums-contract");
    }
    assert.equal(await engine.findVolume("ums-contract"), undefined);
    await assert.rejects(stat(made.directory));
  },

  async "knows its networks"({ engine, network }) {
    assert.ok((await engine.networks()).includes(network));
  },
};

async function specOf({ engine, image, network, hasPids }: Subject, more: Partial<ContainerSpec> = {}): Promise<ContainerSpec> {
  const found = await engine.findImage(image);
  assert.ok(found);
  return {
    name: "ums-contract",
    imageId: found.id,
    imageName: image,
    entrypoint: [],
    command: ["sleep", "1000"],
    env: { PATH: "/usr/bin:/bin" },
    user: "",
    groups: [],
    workDirectory: "/",
    labels: {},
    annotations: {},
    ports: [],
    volumes: [],
    binds: [],
    tmpfs: {},
    shmBytes: 1 << 20,
    restartPolicy: { name: "no", retries: 0 },
    stopSignal: 15,
    stopTimeoutS: 1,
    limits: {
      memoryBytes: 0,
      memorySwapBytes: 0,
      memoryReservationBytes: 0,
      memorySwappiness: -1,
      oomKillDisable: false,
      cpuShares: 0,
      cpuPeriod: 0,
      cpuQuota: 0,
      cpusetCpus: "",
      cpusetMems: "",
      pids: hasPids ? 100 : 0,
      blkioWeight: 0,
    },
    oomScoreAdj: 0,
    ulimits: [],
    capAdd: [],
    capDrop: [],
    securityOptions: [],
    readOnly: false,
    init: false,
    dns: { servers: [], search: [], options: [] },
    extraHosts: [],
    sysctls: {},
    log: { driver: "k8s-file", size: "0B", tag: "" },
    timezone: "",
    umask: "0022",
    networks: { [network]: { aliases: [] } },
    ...more,
  };
}

async function withTwin({ engine }: Subject, spec: ContainerSpec, use: (twin: Container) => Promise<void>): Promise<void> {
  const id = await engine.createTwin(spec, { migration });
  try {
    const twin = await engine.find(id);
    assert.ok(twin, "the twin isn't there");
    assert.equal(twin.migration, migration);
    await use(twin);
  } finally {
    await engine.remove(id);
    assert.equal(await engine.find(id), undefined);
  }
}

async function withRunning(subject: Subject, more: Partial<ContainerSpec>, use: (running: Container) => Promise<void>): Promise<void> {
  await withTwin(subject, await specOf(subject, more), async ({ id }) => {
    await subject.engine.start(id);
    const running = await subject.engine.find(id);
    assert.ok(running);
    await use(running);
  });
}
