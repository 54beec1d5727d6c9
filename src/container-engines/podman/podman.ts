/** Podman (4.3 or newer, as root) as a container engine. */
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { cgroupVersion } from "../../checkpoint/cgroups.ts";
import { freezerOf, killGroup, setFrozen } from "../../checkpoint/freezer.ts";
import { UmsError } from "../../errors.ts";
import type { ContainerEngine, Image, Volume } from "../engine.ts";
import { createPodmanApi, PodmanError } from "./api.ts";
import { type PodmanPlaces, podmanChecks, twinChecks } from "./checks.ts";
import { defaultChecks } from "./defaults.ts";
import { describe, type ImageConfig, type Inspect, migrationMark, type OciConfig, specGenerator, stateOf } from "./describe.ts";
import { frozenGroups } from "./frozen-groups.ts";
import { dumpableRuntimes, shimRuntime } from "./runtimes.ts";
import { shmOf } from "./shm.ts";

/** Where systemd-journald listens (systemd-journald.service(8)); conmon writes there. */
const journalSocket = "/run/systemd/journal/socket";

/** A start may wait for the memory; Podman itself gives up after 240 s (ContainerCreateTimeout). */
const startTimeoutMs = 250_000;
const imageTimeoutMs = 600_000;

type ImageInspect = {
  Id: string;
  RepoTags: string[] | null;
  RepoDigests: string[] | null;
  Size: number;
  RootFS: { Layers: string[] };
  ManifestType: string;
  Config: ImageConfig;
};
type VolumeInspect = {
  Name: string;
  Driver: string;
  Mountpoint: string;
  Options: Record<string, string> | null;
  Labels: Record<string, string> | null;
};
type ListEntry = {
  Id: string;
  Names: string[];
  Image: string;
  State: string;
  Ports: { host_ip: string; host_port: number; container_port: number; protocol: string }[] | null;
};

export function createPodman(places: PodmanPlaces): ContainerEngine & { close(): Promise<void> } {
  const api = createPodmanApi(places.socketPath);
  const at = encodeURIComponent;
  let graphRoot: string | undefined;
  const cli = (args: string[], signal?: AbortSignal, cwd = "/") =>
    execa("podman", args, { cwd, stdin: "ignore", timeout: imageTimeoutMs, ...(signal ? { cancelSignal: signal } : {}) });

  /** @returns undefined where Podman answers 404 */
  async function unlessMissing<T>(answer: Promise<T>): Promise<T | undefined> {
    try {
      return await answer;
    } catch (cause) {
      if (cause instanceof PodmanError && cause.status === 404) return undefined;
      throw cause;
    }
  }

  const inspectImage = (nameOrId: string, signal?: AbortSignal) =>
    unlessMissing(api.call({ method: "GET", path: `/images/${at(nameOrId)}/json`, ...(signal ? { signal } : {}) })) as Promise<
      ImageInspect | undefined
    >;

  const imageOf = (image: ImageInspect): Image => ({
    id: image.Id.replace(/^sha256:/, ""),
    names: image.RepoTags ?? [],
    digests: image.RepoDigests ?? [],
    layers: image.RootFS.Layers,
    sizeBytes: image.Size,
    format: image.ManifestType.includes("docker") ? "docker" : "oci",
  });

  async function containersOf(volume: string): Promise<string[]> {
    const filters = at(JSON.stringify({ volume: [volume] }));
    const found = (await api.call({ method: "GET", path: `/containers/json?all=true&filters=${filters}` })) as ListEntry[];
    return found.map(({ Names, Id }) => Names[0] ?? Id);
  }

  async function volumeOf(inspect: VolumeInspect): Promise<Volume> {
    const { [migrationMark]: migration, ...labels } = inspect.Labels ?? {};
    return {
      name: inspect.Name,
      directory: inspect.Mountpoint,
      plain: inspect.Driver === "local" && Object.keys(inspect.Options ?? {}).length === 0,
      labels,
      migration,
      users: await containersOf(inspect.Name),
    };
  }

  const engine: ContainerEngine = {
    restoringRuntime: shimRuntime,
    dumpableRuntimes,
    // json-file is another name of k8s-file. A container with passthrough writes to what whoever started it has opened.
    movableLogs: ["k8s-file", "json-file", "journald", "none"],
    logDriverFor: async (driver) => (driver === "journald" && !existsSync(journalSocket) ? "k8s-file" : driver),

    version: (signal) => api.version(signal),
    checks: (signal) => podmanChecks({ ...places, api, signal }),
    defaultChecks: (signal) => defaultChecks({ api, movable: engine, signal }),
    twinChecks,

    async storageDirectory(signal) {
      // It can't change while Podman's service runs with containers.
      if (graphRoot !== undefined) return graphRoot;
      const { store } = (await api.call({ method: "GET", path: "/info", signal })) as { store: { graphRoot: string } };
      return (graphRoot = store.graphRoot);
    },

    async list(signal) {
      const entries = (await api.call({ method: "GET", path: "/containers/json?all=true", ...(signal ? { signal } : {}) })) as ListEntry[];
      return entries.map(({ Id, Names, Image: image, State, Ports }) => ({
        id: Id,
        name: Names[0] ?? Id,
        image,
        state: stateOf(State),
        ports: (Ports ?? []).map(
          ({ host_ip, host_port, container_port, protocol }) => `${host_ip || "0.0.0.0"}:${host_port}->${container_port}/${protocol}`,
        ),
      }));
    },

    async find(nameOrId, signal) {
      const inspect = (await unlessMissing(
        api.call({ method: "GET", path: `/containers/${at(nameOrId)}/json`, ...(signal ? { signal } : {}) }),
      )) as Inspect | undefined;
      if (!inspect) return undefined;
      const image = await inspectImage(inspect.Image, signal);
      const oci = await readFile(inspect.OCIConfigPath, "utf8").then(
        (text) => JSON.parse(text) as OciConfig,
        (): OciConfig => ({}), // not there before the first start
      );
      return describe(inspect, image?.Config ?? {}, { oci, shmDirectory: await shmOf(oci), cgroupVersion: await cgroupVersion() });
    },

    async pause(id) {
      try {
        await api.call({ method: "POST", path: `/containers/${id}/pause` });
      } catch (cause) {
        if ((await engine.find(id))?.state !== "paused") throw cause;
      }
      const container = await engine.find(id);
      const groups = container && (await frozenGroups(container));
      // CRIU thaws one group while it works, and must find nothing frozen below it.
      if (groups?.inner) {
        await setFrozen(groups.whole, true);
        await setFrozen(groups.inner, false);
      }
    },

    async unpause(id) {
      const container = await engine.find(id);
      const groups = container && (await frozenGroups(container));
      // runc resumes nothing that isn't frozen, and a CRIU that was killed in the middle of a dump has left it thawed.
      if (groups && container.state === "paused") await setFrozen(groups.inner ?? groups.whole, true);
      // Somebody may have resumed it by hand meanwhile: its runtime knows nothing of the group above its own.
      if (groups?.inner) await setFrozen(groups.whole, false);
      try {
        await api.call({ method: "POST", path: `/containers/${id}/unpause` });
      } catch (cause) {
        if ((await engine.find(id))?.state === "paused") throw cause;
      }
    },

    async createTwin(spec, { migration, signal }) {
      const marked = { ...spec, annotations: { ...spec.annotations, [migrationMark]: migration } };
      const request = { method: "POST", path: "/containers/create", body: specGenerator(marked, shimRuntime) } as const;
      const { Id } = (await api.call({ ...request, ...(signal ? { signal } : {}) }).catch(async (cause: unknown) => {
        // Podman says it in words alone, and with a status of its own in each version.
        if ((await engine.find(spec.name))?.name !== spec.name) throw cause;
        throw new UmsError("NAME_TAKEN", `Container ${spec.name} exists already.`, { cause });
      })) as { Id: string };
      return Id;
    },

    async start(id) {
      // Not by the API: its service would keep the container's ports open, after a start that failed for minutes.
      const { failed, stderr, timedOut } = await execa("podman", ["start", id], {
        stdio: ["ignore", "ignore", "pipe"],
        timeout: startTimeoutMs,
        reject: false,
        // A signal for this process must not stop it half-way.
        detached: true,
        cleanup: false,
      });
      if (failed) throw new UmsError(timedOut ? "TIMED_OUT" : "PODMAN_FAILED", `Podman could not start the container: ${stderr}`);
    },

    async remove(id) {
      const container = await engine.find(id);
      if (!container) return;
      // `rm` thaws before it kills, and what runs in between is a second copy: so kill first, while frozen.
      const freezer = await freezerOf(container);
      if (freezer) await killGroup(freezer);
      for (let attempt = 0; ; attempt++) {
        try {
          await unlessMissing(api.call({ method: "DELETE", path: `/containers/${id}?force=true&timeout=0&v=true`, timeoutMs: 60_000 }));
          if (!(await engine.find(id))) return;
        } catch (cause) {
          if (attempt === 4) throw cause;
        }
        if (attempt === 4) throw new UmsError("PODMAN_FAILED", `Podman could not remove container ${container.name}.`);
        await sleep(200 * (attempt + 1)); // Podman's own clean-up of the killed container may hold it
      }
    },

    async healthy(id, signal) {
      const { Status } = (await api.call({ method: "GET", path: `/containers/${id}/healthcheck`, ...(signal ? { signal } : {}) })) as {
        Status: string;
      };
      return Status === "healthy";
    },

    async findImage(nameOrId, signal) {
      const image = await inspectImage(nameOrId, signal);
      return image && imageOf(image);
    },

    async images(signal) {
      const entries = (await api.call({ method: "GET", path: "/images/json?all=true", ...(signal ? { signal } : {}) })) as { Id: string }[];
      const inspected = await Promise.all([...new Set(entries.map(({ Id }) => Id))].map((id) => inspectImage(id, signal)));
      return inspected.flatMap((image) => (image ? [imageOf(image)] : []));
    },

    async saveImage(image, directory, signal) {
      const format = image.format === "docker" ? ["--format", "docker-dir"] : ["--format", "oci-dir", "--uncompressed"];
      await cli(["save", "--quiet", ...format, "--output", directory, image.id], signal);
    },

    async loadImage(image, directory, { mark, signal }) {
      // Podman 4 names an image that it loads after the path, and a name has no capital letters: only the last part of it, then.
      const { stdout } = await cli(["load", "--quiet", "--input", path.basename(directory)], signal, path.dirname(directory));
      const given = /^Loaded image: (\S+)/m.exec(stdout)?.[1];
      await cli(["tag", image.id, mark], signal);
      // Podman 5 gives it no name, and tells its id.
      if (given !== undefined && !given.startsWith("sha256:")) await cli(["untag", image.id, given], signal);
    },

    async nameImage(id, name) {
      const other = await engine.findImage(name);
      if (!other) await cli(["tag", id, name]);
      return other === undefined || other.id === id;
    },

    async unnameImage(name) {
      const image = await engine.findImage(name);
      if (image?.names.includes(name)) await cli(["untag", image.id, name]);
    },

    async pullImage(reference, { mark, signal }) {
      const { failed, stdout } = await execa("podman", ["pull", "--quiet", reference], {
        reject: false,
        stdin: "ignore",
        timeout: imageTimeoutMs,
        ...(signal ? { cancelSignal: signal } : {}),
      });
      if (failed) return undefined;
      await cli(["tag", stdout.trim(), mark], signal);
      return await engine.findImage(mark, signal);
    },

    async removeImage(nameOrId) {
      await unlessMissing(api.call({ method: "DELETE", path: `/images/${at(nameOrId)}?force=false`, timeoutMs: 60_000 }));
    },

    async findVolume(name) {
      const inspect = (await unlessMissing(api.call({ method: "GET", path: `/volumes/${at(name)}/json` }))) as VolumeInspect | undefined;
      return inspect && volumeOf(inspect);
    },

    async createVolume(name, { labels, migration }) {
      const body = { Name: name, Label: { ...labels, [migrationMark]: migration } };
      const inspect = (await api.call({ method: "POST", path: "/volumes/create", body })) as VolumeInspect;
      await mkdir(inspect.Mountpoint, { recursive: true });
      return volumeOf(inspect);
    },

    async removeVolume(name) {
      await unlessMissing(api.call({ method: "DELETE", path: `/volumes/${at(name)}?force=false` }));
    },

    async networks() {
      return ((await api.call({ method: "GET", path: "/networks/json" })) as { name: string }[]).map(({ name }) => name);
    },
  };
  return { ...engine, close: async () => api.close() };
}
