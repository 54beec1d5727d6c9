/** How coordinator and operator call the interface of a node. */
import type { Check } from "../../../preflight/check.ts";
import type { CheckResult, Measures } from "../../../protocol/measures.ts";
import type { ArrivedPod, ArrivingPod, Described, LeavingPod, NodeForwarding, PodReference, PublishedPort } from "../../../protocol/pod.ts";
import type { KnownSnapshot, ReplaySnapshot, RescueSnapshot, SnapshotSummary, TakeSnapshot } from "../../../protocol/snapshot.ts";
import type { ArrivalState } from "./arriving.ts";
import type { Taken } from "./snapshots.ts";

/** One node's interface, as the other parts of its site see it. Each call rejects with a UmsError. */
export type NodeClient = Readonly<{
  node: string;
  address: string;
  /** Rejects where it doesn't answer. */
  greet(signal: AbortSignal): Promise<void>;
  describe(reference: PodReference, signal: AbortSignal): Promise<Described>;
  /** Whether this node can give pods away and take them in. */
  doctor(signal: AbortSignal): Promise<Check[]>;
  /** Whether this node can take such a service in. */
  check(measures: Measures, signal: AbortSignal): Promise<CheckResult[]>;
  leaving(
    id: string,
    action: LeavingAction,
    leaving: LeavingPod,
    options?: { signal?: AbortSignal; timeoutMs?: number },
  ): Promise<{ bytesSent?: number; parts?: Record<string, number>; lost?: boolean; late?: number; address?: string }>;
  announce(id: string, pod: ArrivingPod): Promise<void>;
  arm(id: string, options: { timeoutMs: number; signal?: AbortSignal }): Promise<{ podAddress: string }>;
  restore(id: string, options: { timeoutMs: number }): Promise<void>;
  state(id: string, pod: ArrivedPod): Promise<ArrivalState>;
  takeOver(id: string, pod: ArrivedPod): Promise<void>;
  destroy(id: string, pod: ArrivedPod): Promise<void>;
  /** Resolves when connections to these ports of the node are led to a pod: kube-proxy takes a moment to follow. */
  expectLed(ports: readonly PublishedPort[]): Promise<void>;
  forwarding(action: ForwardingAction, forwarding: NodeForwarding): Promise<void>;
  /** Ends all forwardings of the node but those in these slots. */
  keepForwardings(slots: readonly number[]): Promise<void>;
  /** Writes a snapshot of a pod, which goes on running. */
  takeSnapshot(id: string, request: TakeSnapshot, options: { signal: AbortSignal; timeoutMs: number }): Promise<Taken>;
  /** Makes a snapshot of what a migration has dumped of a pod that won't go on. */
  rescueSnapshot(id: string, request: RescueSnapshot, options: { timeoutMs: number }): Promise<{ saved: boolean }>;
  removeSnapshot(which: KnownSnapshot): Promise<void>;
  findSnapshot(path: string, signal: AbortSignal): Promise<SnapshotSummary | undefined>;
  /** Sends a snapshot to a migration's destination. */
  replaySnapshot(id: string, request: ReplaySnapshot, options: { signal: AbortSignal; timeoutMs: number }): Promise<{ bytesSent: number }>;
}>;

export const leavingActions = [
  "pre-copy",
  "prepare",
  "await-young",
  "hold",
  "release",
  "freeze",
  "end-transfer",
  "thaw",
  "expect-frozen",
  "is-lost",
  "transfer",
  "reset",
  "kill",
  "discard",
  "clean-up",
] as const;
export type LeavingAction = (typeof leavingActions)[number];

export const forwardingActions = [
  "wait",
  "hold",
  "forget-datagrams",
  "let-through",
  "forget-connections",
  "lead",
  "end-wait",
  "withdraw",
  "remove",
] as const;
export type ForwardingAction = (typeof forwardingActions)[number];
