import type { Migration } from "../../coordinator/schema.ts";
import { follow } from "../follow.ts";
import { absolutePaths, namespaceName, seconds, serviceName, siteName } from "../names.ts";
import type { Verb } from "../verb.ts";

type Options = { to: string; namespace?: string; bindMount?: string[]; detach?: true; patience: number };

export const migrate: Verb = (program, act) => {
  program
    .command("migrate")
    .description("move a running service to another site")
    .argument("<name>", "the service", serviceName)
    .requiredOption("--to <site>", "the destination", siteName)
    .option("-n, --namespace <name>", "the pod's namespace in a cluster (default: default)", namespaceName)
    .option("--bind-mount <path>", "a bind mount that may be used as it is at the destination (repeatable)", absolutePaths)
    .option("--detach", "start it and don't wait for the end")
    .option("--patience <seconds>", "leave a migration that waits for the other site for so long; 0: never", seconds, 60)
    .action(
      act(async (session, name: string, { to, namespace, bindMount, detach, patience }: Options) => {
        const { client, terminal } = session;
        const body = { name, to, ...(namespace && { namespace }), ...(bindMount && { bindMounts: bindMount }) };
        const started = await client.call<Migration>("POST", "/migrations", body);
        if (detach) {
          terminal.result(started, `${name} is on its way to ${to} as ${started.id}; \`ums watch ${started.id}\` shows it.`);
          return;
        }
        return await follow(session, { id: started.id, known: started, patienceMs: patience * 1000 });
      }),
    );
};
