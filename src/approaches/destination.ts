/** The conversation of a migration's source with its destination, as far as it is the same in every approach. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Static, TSchema } from "typebox";
import { CopyIsGone } from "../engine/ports.ts";
import { UmsError } from "../errors.ts";
import { CheckAnswer, Done, expectForm } from "../protocol/conversation.ts";
import type { ServiceNeed } from "../protocol/need.ts";
import type { PeerClient } from "../trust/peer-client.ts";

export type Asking = Readonly<{ body?: unknown; timeoutMs?: number; signal?: AbortSignal }>;

/** Each call rejects like {@link PeerClient.request}. */
export type DestinationSite = Readonly<{
  /** @param action the path below the migration's own @param answer what it must be @throws UmsError PEER_FAILED where it is something else */
  ask<S extends TSchema>(method: "PUT" | "POST", action: string, answer: S, asking?: Asking): Promise<Static<S>>;
  /** Gives the reservation up. */
  release(): Promise<void>;
  /** Lets the copy run, its network held. @throws CopyIsGone */
  restore(signal: AbortSignal): Promise<void>;
  /** Gives the copy up that may be there. */
  destroyRestored(): Promise<void>;
  /** @returns what the destination tells of the copy that it now owns @throws CopyIsGone */
  commit<S extends TSchema>(answer: S): Promise<Static<S>>;
  /**
   * Tells the destination that its commit is known here, so that it needn't remember the migration any longer. Rejects
   * never: one that doesn't hear it is told again for a while, and forgets in any case later.
   */
  acknowledge(): Promise<void>;
}>;

/** What the destination's own checks say of a service; they change nothing. @throws UmsError PEER_FAILED, and like {@link PeerClient.request} */
export async function checkThere(
  peer: PeerClient,
  need: ServiceNeed,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<CheckAnswer> {
  return expectForm(CheckAnswer, await peer.request({ method: "POST", path: "/peer/check", body: need, timeoutMs, signal }), "the check");
}

/** Nothing but the migration's end waits for it. */
const acknowledgeMs = 5_000;
const acknowledgeAgainMs = 2_000;
const acknowledgeForMs = 120_000;

export function createDestinationSite(
  peer: PeerClient,
  migrationId: string,
  { requestMs, restoreMs }: { requestMs: number; restoreMs: number },
): DestinationSite {
  const request = (method: string, action: string, { body, timeoutMs = requestMs, signal }: Asking = {}) =>
    peer.request({
      method,
      path: `/peer/migrations/${migrationId}${action}`,
      timeoutMs,
      ...(body === undefined ? {} : { body }),
      ...(signal ? { signal } : {}),
    });
  const orGone = (cause: unknown) => {
    throw cause instanceof UmsError && cause.code === "COPY_IS_GONE" ? new CopyIsGone(cause.message, { cause }) : cause;
  };
  return {
    ask: async (method, action, answer, asking) => expectForm(answer, await request(method, action, asking), action || "the reservation"),
    release: async () => void (await request("DELETE", "")),
    restore: async (signal) =>
      void expectForm(Done, await request("POST", "/restore", { timeoutMs: restoreMs, signal }).catch(orGone), "the restore"),
    // Longer than a restore may take: the destination ends it first.
    destroyRestored: async () => void (await request("DELETE", "", { timeoutMs: restoreMs + requestMs })),
    commit: async (answer) => expectForm(answer, await request("POST", "/commit").catch(orGone), "the commit"),
    async acknowledge() {
      const tell = () =>
        request("POST", "/acknowledge", { timeoutMs: acknowledgeMs }).then(
          () => true,
          () => false,
        );
      if (await tell()) return;
      const tellAgain = async () => {
        for (const until = Date.now() + acknowledgeForMs; Date.now() < until;) {
          await sleep(acknowledgeAgainMs, undefined, { ref: false });
          if (await tell()) return;
        }
      };
      void tellAgain();
    },
  };
}
