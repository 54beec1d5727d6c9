/** What each action of a Podmigration is given, and what it tells. */
import type { Logger } from "pino";
import type { Cluster } from "../../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../../platforms/kubernetes/interfaces.ts";
import type { Podmigration, PodmigrationStatus } from "../../../platforms/kubernetes/podmigration.ts";
import type { Trust } from "../../../trust/trust.ts";

export type PodmigrationParts = Readonly<{
  cluster: Cluster;
  trust: Pick<Trust, "peers" | "siteName">;
  interfaces: Pick<Interfaces, "all" | "node">;
  limits: Readonly<{ preflightMs: number; transferMs: number }>;
  log: Logger;
}>;

export type Work = Readonly<{
  signal: AbortSignal;
  /** Tells what is under way; before a Migration is made, whose end must not be overwritten by this. */
  begun(status: Omit<PodmigrationStatus, "state">): Promise<void>;
}>;

/** Carries an action out as far as it can here. @returns what there is to tell then */
export type Action = (parts: PodmigrationParts, object: Podmigration, work: Work) => Promise<PodmigrationStatus | undefined>;
