import type { Action, Verb } from "../verb.ts";
import type { Part } from "../../cluster.ts";

/** Runs a part until it is told to stop. */
const part =
  (name: "runCoordinator" | "runOperator" | "runInterface"): Action<[]> =>
  async ({ environment }) => {
    // Loaded here alone: what serves is most of the program, and no other verb needs it.
    const { readClusterSettings } = await import("../../../cluster-settings.ts");
    const settings = readClusterSettings(environment);
    const { createLog } = await import("../../../log.ts");
    const cluster = await import("../../cluster.ts");
    const stop = new AbortController();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
    const { guardProcess } = await import("../../last-defence.ts");
    const run: Part = { settings, log: createLog(settings.LOG_LEVEL), signal: stop.signal };
    guardProcess(run.log);
    await cluster[name](run);
    // A watch or a kept connection must not hold up the end.
    process.exit(0);
  };

export const cluster: Verb = (program, act) => {
  program
    .command("coordinator")
    .description("in a cluster: answer people and other sites (deploy/kubernetes/deployment.yml)")
    .action(act(part("runCoordinator")));
  program
    .command("operator")
    .description("in a cluster: carry out its Migrations (deploy/kubernetes/deployment.yml)")
    .action(act(part("runOperator")));
  program
    .command("interface")
    .description("on a cluster's node: do both halves' work there (deploy/kubernetes/ssu.yml)")
    .option("--remove", "take away what UMS has put on the node, and end")
    .action(
      act(async (session, options: { remove?: true }) => {
        if (options.remove !== true) return await part("runInterface")(session);
        const { readClusterSettings } = await import("../../../cluster-settings.ts");
        const { uninstall } = await import("../../interface/installation.ts");
        await uninstall({ restart: readClusterSettings(session.environment).CONTAINERD_RESTART });
      }),
    );
};
