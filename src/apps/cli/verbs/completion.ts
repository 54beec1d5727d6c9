import { Argument, type Command } from "commander";
import type { Migration, Service, Site } from "../../coordinator/schema.ts";
import type { Client } from "../client.ts";
import type { Verb } from "../verb.ts";

const shells = ["bash", "zsh", "fish"] as const;
type Shell = (typeof shells)[number];

/** What a verb's first argument, and the value of an option, names. */
const kinds: Record<string, "services" | "namespaces" | "sites" | "migrations"> = {
  plan: "services",
  migrate: "services",
  status: "migrations",
  watch: "migrations",
  cancel: "migrations",
  release: "migrations",
  resolve: "migrations",
  sites: "sites",
  "--to": "sites",
  "--remove": "sites",
  "--namespace": "namespaces",
  "-n": "namespaces",
};

export const completion: Verb = (program, act) => {
  program
    .command("completion")
    .description("print a completion script; for bash: source <(ums completion bash)")
    .addArgument(new Argument("<shell>", "for which shell").choices(shells))
    .action(
      act(async ({ terminal }, shell: Shell) => {
        const script = scripts[shell](program);
        terminal.result({ script }, script);
      }),
    );
  // What the scripts call for names; it says nothing when there is nobody to ask.
  program
    .command("__names", { hidden: true })
    .argument("<kind>")
    .action(
      act(async ({ client, terminal }, kind: string) => {
        const names = await namesOf(client, kind).catch(() => []);
        terminal.result(names, names.join("\n"));
      }),
    );
};

async function namesOf(client: Client, kind: string): Promise<string[]> {
  if (kind === "services" || kind === "namespaces") {
    const services = await client.call<Service[]>("GET", "/list");
    return [...new Set(services.map(({ name, namespace }) => (kind === "services" ? name : namespace)))].filter(Boolean);
  }
  if (kind === "sites") return (await client.call<Site[]>("GET", "/sites")).map(({ name }) => name);
  return (await client.call<Migration[]>("GET", "/migrations")).map(({ id }) => id);
}

function verbsOf(program: Command) {
  return program.commands
    .filter((command) => !command.name().startsWith("_"))
    .map((command) => ({
      name: command.name(),
      description: command.description(),
      options: command.options.flatMap(({ long, short, description }) => (long === undefined ? [] : [{ long, short, description }])),
    }));
}

const scripts: Record<Shell, (program: Command) => string> = {
  bash: (program) => {
    const verbs = verbsOf(program);
    const optionsOfVerbs = verbs.map(({ name, options }) => `    ${name}) words="${options.map(({ long }) => long).join(" ")}" ;;`);
    const valuesOfOptions = Object.entries(kinds).filter(([name]) => name.startsWith("-"));
    const argumentsOfVerbs = Object.entries(kinds).filter(([name]) => !name.startsWith("-"));
    return [
      "_ums() {",
      '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
      '  if [ "$COMP_CWORD" -eq 1 ]; then',
      `    words="${verbs.map(({ name }) => name).join(" ")}"`,
      '  else case "$previous" in',
      ...valuesOfOptions.map(([option, kind]) => `    ${option}) words="$(ums __names ${kind} 2>/dev/null)" ;;`),
      '    *) case "${COMP_WORDS[1]}" in',
      ...optionsOfVerbs,
      "    completion) words='bash zsh fish' ;;",
      "    esac",
      '    if [ "$COMP_CWORD" -eq 2 ]; then case "${COMP_WORDS[1]}" in',
      ...argumentsOfVerbs.map(([verb, kind]) => `    ${verb}) words="$words $(ums __names ${kind} 2>/dev/null)" ;;`),
      "    esac; fi ;;",
      "  esac; fi",
      '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
      "}",
      "complete -F _ums ums",
    ].join("\n");
  },
  zsh: (program) => ["#compdef ums", "autoload -U +X bashcompinit && bashcompinit", scripts.bash(program)].join("\n"),
  fish: (program) =>
    [
      "complete -c ums -f",
      ...verbsOf(program).flatMap(({ name, description, options }) => [
        `complete -c ums -n __fish_use_subcommand -a ${name} -d ${quoted(description)}`,
        ...options.map(
          ({ long, short, description: what }) =>
            `complete -c ums -n '__fish_seen_subcommand_from ${name}'${short === undefined ? "" : ` -s ${short.slice(1)}`}` +
            ` -l ${long.slice(2)} -d ${quoted(what)}` +
            (kinds[long] === undefined ? "" : ` -x -a '(ums __names ${kinds[long]} 2>/dev/null)'`),
        ),
        ...(kinds[name] === undefined
          ? []
          : [`complete -c ums -n '__fish_seen_subcommand_from ${name}' -a '(ums __names ${kinds[name]} 2>/dev/null)'`]),
      ]),
      "complete -c ums -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'",
    ].join("\n"),
};

function quoted(text: string): string {
  return `'${text.replace(/['\\]/g, "\\$&")}'`;
}
