/** The original's custom resource `Podmigration`; deploy/kubernetes/ssu-crd.yml is its definition. */
import { kind, type Metadata } from "./kinds.ts";

export type PodmigrationSpec = {
  action: "checkpoint" | "restore" | "live-migration";
  selector: { [key: string]: unknown };
  destHost?: string;
  replicas?: number;
  snapshotPath?: string;
  sourcePod?: string;
  template?: { metadata?: { labels?: { [key: string]: string } }; spec?: { containers?: { name?: string; image?: string }[] } };
};
export type PodmigrationStatus = {
  /** The pod that serves; of a restore, the pods that it made, with commas. */
  activePod?: string;
  /** The migration that was made of it, or several with commas; of a checkpoint, where the snapshot is. */
  currentRevision?: string;
  state?: PodmigrationState;
  /** Ours: one sentence for people. */
  message?: string;
};
export type PodmigrationState = (typeof statesUnderWay)[keyof typeof statesUnderWay] | "Completed" | "Failed";

/** What it is while it is carried out, by its action. */
export const statesUnderWay = { checkpoint: "Checkpointing", restore: "Restoring", "live-migration": "Migrating" } as const;

export type Podmigration = {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: PodmigrationSpec;
  status?: PodmigrationStatus;
};

export const podmigrations = kind<Podmigration>("podmig.dcn.ssu.ac.kr/v1", "Podmigration", "podmigrations");
