/** The original's custom resource `Podmigration`; deploy/kubernetes/ssu-crd.yml is its definition. */
import { kind, type Metadata } from "./kinds.ts";

export type PodmigrationSpec = {
  action: "checkpoint" | "restore" | "live-migration";
  selector: object;
  destHost?: string;
  replicas?: number;
  snapshotPath?: string;
  sourcePod?: string;
  template?: object;
};
export type PodmigrationStatus = {
  /** The pod that serves. */
  activePod?: string;
  /** The migration that was made of it. */
  currentRevision?: string;
  state?: PodmigrationState;
  /** Ours: one sentence for people. */
  message?: string;
};
export type PodmigrationState = "Migrating" | "Completed" | "Failed";

export type Podmigration = {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
  spec: PodmigrationSpec;
  status?: PodmigrationStatus;
};

export const podmigrations = kind<Podmigration>("podmig.dcn.ssu.ac.kr/v1", "Podmigration", "podmigrations");
