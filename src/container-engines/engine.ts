/** What UMS needs of a container engine. One adapter a folder; one contract suite for all. */
import type { Check } from "../preflight/check.ts";
import type { ContainerSpec } from "../protocol/container-spec.ts";
import type { CheckResult } from "../protocol/measures.ts";

export type ContainerState = "created" | "running" | "paused" | "exited" | "other";

/** What a container is on this engine, now. */
export type Container = Readonly<{
  id: string;
  name: string;
  state: ContainerState;
  /** The process id of its init; 0 when none runs. */
  pid: number;
  /** Name of its OCI runtime, as the engine knows it. */
  runtime: string;
  /** The bundle's OCI configuration file; exists while the container is initialised. */
  ociConfigPath: string;
  /** Directory that holds the container's own changes to its image. */
  changesDirectory: string;
  /** Path of the network namespace; empty when none is there yet. */
  networkNamespace: string;
  /** Where its runtime has the state of its containers; absent where that is none whose state UMS can read. */
  stateRoot?: string;
  /** The host's path of its /dev/shm; absent where that is no mount of its own, or not there yet. */
  shmDirectory?: string;
  /** The service manager's unit that it belongs to. */
  unit?: string;
  /** Empty where its log is no file. */
  logPath: string;
  /** Id of the pod in which the engine has it. */
  pod?: string;
  volumes: readonly Readonly<{ name: string; directory: string }>[];
  spec: ContainerSpec;
  /** The migration that has made it, also after that has ended; undefined: none has. */
  migration: string | undefined;
  /** What this container has that no twin can be given, in words. */
  beyond: readonly string[];
}>;

export type ContainerSummary = Readonly<{ id: string; name: string; image: string; state: ContainerState; ports: readonly string[] }>;

export type Image = Readonly<{
  id: string;
  names: readonly string[];
  digests: readonly string[];
  layers: readonly string[];
  sizeBytes: number;
  format: "oci" | "docker";
}>;

export type Volume = Readonly<{
  name: string;
  directory: string;
  plain: boolean;
  labels: Readonly<Record<string, string>>;
  /** As of a container. */
  migration: string | undefined;
  users: readonly string[];
}>;

export type ContainerEngine = Readonly<{
  /** Name of the runtime that turns a twin's creation into a restore. */
  restoringRuntime: string;
  /** Names of the OCI runtimes whose containers can be dumped. */
  dumpableRuntimes: readonly string[];
  /** Names of the log drivers whose logs can be carried over. */
  movableLogs: readonly string[];
  /** The log driver that a twin gets here for one of those: the same, where it works here. */
  logDriverFor(driver: string): Promise<string>;
  version(signal?: AbortSignal): Promise<string>;
  /** Whether the engine, and what UMS has beside it, can take part in any migration; changes nothing. A failure is a line of it. */
  checks(signal: AbortSignal): Promise<Check[]>;
  /** What the engine gives the containers that people make here, and what that costs them: refuses nothing, but in its notes. */
  defaultChecks(signal: AbortSignal): Promise<Check[]>;
  /** Whether the engine has here what a twin of this spec needs. */
  twinChecks(spec: ContainerSpec): Promise<CheckResult[]>;
  /** Where its containers' and volumes' files lie. */
  storageDirectory(signal: AbortSignal): Promise<string>;
  list(signal?: AbortSignal): Promise<ContainerSummary[]>;
  /** @returns undefined when no container has this name or id */
  find(nameOrId: string, signal?: AbortSignal): Promise<Container | undefined>;
  /** Freezes every task of the container; no error when it is frozen already. */
  pause(id: string): Promise<void>;
  unpause(id: string): Promise<void>;
  /**
   * Creates a container of this spec whose start becomes a restore. It bears the migration's id from its first moment.
   * @returns its id @throws UmsError NAME_TAKEN
   */
  createTwin(spec: ContainerSpec, options: { migration: string; signal?: AbortSignal }): Promise<string>;
  /** Resolves when the container runs; the shim may hold it back for long. */
  start(id: string): Promise<void>;
  /** Removes the container, and kills what runs of it without letting frozen tasks run. No error when there is none. */
  remove(id: string): Promise<void>;
  /** Runs the container's own health check once. @returns whether it passed */
  healthy(id: string, signal?: AbortSignal): Promise<boolean>;
  findImage(nameOrId: string, signal?: AbortSignal): Promise<Image | undefined>;
  images(signal?: AbortSignal): Promise<Image[]>;
  /** Writes the image, layers uncompressed, one file each, into an empty directory. */
  saveImage(image: Image, directory: string, signal?: AbortSignal): Promise<void>;
  /**
   * Reads what saveImage wrote; layers that the engine has already may be missing. The directory's own name is in small letters.
   * The image gets the name `mark`, and no other.
   */
  loadImage(image: Image, directory: string, options: { mark: string; signal?: AbortSignal }): Promise<void>;
  /** Fetches an image from its registry, and names it `mark`, too. @returns undefined where that could not be done */
  pullImage(reference: string, options: { mark: string; signal?: AbortSignal }): Promise<Image | undefined>;
  /** Gives an image a name that no other image has. @returns whether it has that name now */
  nameImage(id: string, name: string): Promise<boolean>;
  /** Takes a name away from an image, which stays. No error when there is none of that name. */
  unnameImage(name: string): Promise<void>;
  /** By a name: takes that away, and removes the image where it was its last one. */
  removeImage(nameOrId: string): Promise<void>;
  findVolume(name: string): Promise<Volume | undefined>;
  /** It bears the migration's id from its first moment. */
  createVolume(name: string, options: { labels: Readonly<Record<string, string>>; migration: string }): Promise<Volume>;
  removeVolume(name: string): Promise<void>;
  networks(): Promise<string[]>;
}>;
