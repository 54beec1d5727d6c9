/** Rejects once all have ended: what still went on would come after the undo that another one's failure brings about. */
export async function allSettled(actions: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(actions)) if (result.status === "rejected") throw result.reason;
}
