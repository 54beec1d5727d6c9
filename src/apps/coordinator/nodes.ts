/** What `ums doctor` says of a cluster: each node's interface is asked whether pods can leave there and arrive. */
import { codeOf } from "../../errors.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import { type Check, failed, passed } from "../../preflight/check.ts";

/** A line for each node's interface, and one for each thing that it has looked at. */
export async function examineNodes(interfaces: Pick<Interfaces, "all">, signal: AbortSignal): Promise<Check[]> {
  const found = await Promise.all(
    interfaces.all().map(async ({ node, address, doctor }): Promise<Check[]> => {
      const name = `interface of node ${node}`;
      try {
        const checks = await doctor(signal);
        return [passed(name, address), ...checks.map((check) => ({ ...check, name: `node ${node}: ${check.name}` }))];
      } catch (cause) {
        signal.throwIfAborted();
        const reason = cause instanceof Error ? cause : new Error(String(cause));
        return [failed(name, codeOf(reason), reason.message)];
      }
    }),
  );
  return found.flat();
}
