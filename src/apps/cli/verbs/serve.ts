import type { Verb } from "../verb.ts";

export const serve: Verb = (program, act) => {
  program
    .command("serve")
    .description("be this host's site: coordinator and interface in one process")
    .option("--config <path>", "configuration file (default: /etc/ums/config.json, where it is there)")
    .action(
      act(async ({ environment }, options: { config?: string }) => {
        const { sayReady, takeSupervisor } = await import("../../ready.ts");
        const supervisor = takeSupervisor(environment);
        // Loaded here alone: what serves is most of the program, and no other verb needs it.
        const { loadConfig } = await import("../../../config.ts");
        const config = loadConfig(options.config);
        const { createLog } = await import("../../../log.ts");
        const site = await import("../../serve.ts");
        const stop = Promise.withResolvers<void>();
        for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.resolve());
        const { guardProcess } = await import("../../last-defence.ts");
        const log = createLog(config.logLevel);
        guardProcess(log);
        const serving = await site.serve(config, log);
        if (supervisor !== undefined)
          await sayReady(supervisor).catch((cause: unknown) => log.error({ cause }, "the supervisor can't be told that this site serves"));
        await stop.promise;
        await serving.close();
      }),
    );
};
