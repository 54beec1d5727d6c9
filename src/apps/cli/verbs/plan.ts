import type { PlanReport } from "../../coordinator/schema.ts";
import { exitCodes } from "../exit-codes.ts";
import { absolutePaths, namespaceName, serviceName, siteName } from "../names.ts";
import { formatBytes } from "../terminal.ts";
import type { Verb } from "../verb.ts";

type Options = { to: string; namespace?: string; bindMount?: string[] };

export const plan: Verb = (program, act) => {
  program
    .command("plan")
    .description("run every check that a migration would run, and change nothing")
    .argument("<name>", "the service", serviceName)
    .requiredOption("--to <site>", "the destination", siteName)
    .option("-n, --namespace <name>", "the pod's namespace in a cluster (default: default)", namespaceName)
    .option("--bind-mount <path>", "a bind mount that may be used as it is at the destination (repeatable)", absolutePaths)
    .action(
      act(async ({ client, terminal }, name: string, { to, namespace, bindMount }: Options) => {
        const body = { name, to, ...(namespace && { namespace }), ...(bindMount && { bindMounts: bindMount }) };
        const report = await client.call<PlanReport>("POST", "/plan", body);
        const { checks, refusals, notes, memoryBytes, fileBytes, imageBytes } = report;
        const sizes = `memory ${formatBytes(memoryBytes)}, files ${formatBytes(fileBytes)}, image layers ${formatBytes(imageBytes)}`;
        terminal.result(
          report,
          [
            // What is noted stands in the notes.
            ...checks
              .filter(({ verdict }) => verdict !== "note")
              .map(({ verdict, site, name: check }) => `${verdict.padEnd(7)}  ${site}: ${check}`),
            ...notes.map((note) => `note     ${note.site}: ${note.detail}`),
            ...refusals.map((refusal) => `${refusal.code} (${refusal.site}): ${refusal.detail} ${refusal.cure}`),
            refusals.length === 0 ? `${name} can move to ${to}: ${sizes}.` : `${name} can't move to ${to}.`,
          ].join("\n"),
        );
        return refusals.length === 0 ? exitCodes.ok : exitCodes.refused;
      }),
    );
};
