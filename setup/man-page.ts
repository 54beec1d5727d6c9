/** The manual page ums(1), from the commands themselves. */
import { Command, type Option } from "commander";
import { exitCodeHelp } from "../src/apps/cli/exit-codes.ts";
import { addVerbs } from "../src/apps/cli/program.ts";

/** @param page.date of what it describes @returns the page in the man(7) language */
export function manPage({ version, date }: { version: string; date: Date }): string {
  const program = new Command("ums");
  addVerbs(program, { act: () => async () => undefined });
  const verbs = program
    .createHelp()
    .visibleCommands(program)
    .filter((command) => command.name() !== "help");
  const isCommon = ({ flags }: Option) => verbs.every(({ options }) => options.some((other) => other.flags === flags));
  return [
    `.TH UMS 1 ${date.toISOString().slice(0, 10)} ${quoted(`UMS ${version}`)} ${quoted("User Commands")}`,
    ".SH NAME",
    `ums \\- ${text(lowerFirst(program.description()).replace(/\.$/, ""))}`,
    ".SH SYNOPSIS",
    ".B ums",
    ".I VERB",
    "[ARGUMENT]... [OPTION]...",
    ".SH VERBS",
    ...verbs.flatMap((verb) =>
      verbSection(
        verb,
        verb.options.filter((option) => !isCommon(option)),
      ),
    ),
    ".SH OPTIONS OF EVERY VERB",
    ...(verbs[0]?.options ?? []).filter(isCommon).flatMap(({ flags, description }) => entry(flags, description)),
    ".SH EXIT STATUS",
    ...exitStatus(),
    ".SH FILES",
    ...["/etc/ums/config.json", "/run/ums/ums.sock", "/var/lib/ums", "/usr/share/doc/ums"].flatMap((file) => [
      ".TP",
      `.I ${text(file)}`,
      files[file] ?? "",
    ]),
    ".SH SEE ALSO",
    ".BR podman (1)",
    "",
  ].join("\n");
}

const files: Readonly<Record<string, string>> = {
  "/etc/ums/config.json": "the configuration, where there is one: configuration.md tells its fields",
  "/run/ums/ums.sock": "where `ums serve` answers the people of this host",
  "/var/lib/ums": "keys, paired sites, and the journal of migrations",
  "/usr/share/doc/ums": "hosts.md tells how to begin; cli.md, crash-safety.md and security.md tell more",
};

function verbSection(command: Command, options: readonly Option[]): string[] {
  const help = command.createHelp();
  return [
    `.SS ${text(`ums ${command.name()} ${command.usage()}`)}`,
    sentence(command.description()),
    ...help.visibleArguments(command).flatMap((argument) => entry(help.argumentTerm(argument), help.argumentDescription(argument))),
    ...options.filter(({ hidden }) => !hidden).flatMap((option) => entry(option.flags, help.optionDescription(option))),
  ];
}

const entry = (term: string, what: string) => [".TP", `.B ${text(term)}`, sentence(what)];

function exitStatus(): string[] {
  return exitCodeHelp.split("\n").flatMap((line) => {
    const [, code, meaning] = /^ {2}(\d+) +(.+)$/.exec(line) ?? [];
    return code === undefined || meaning === undefined ? [] : entry(code, meaning);
  });
}

const lowerFirst = (words: string) => words.charAt(0).toLowerCase() + words.slice(1);
const sentence = (words: string) => text(words.charAt(0).toUpperCase() + words.slice(1).replace(/\.?$/, "."));

/** Nothing in it is a command of man(7), and a hyphen is one that can be typed. */
function text(words: string): string {
  return words
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/, "\\&$1");
}

const quoted = (words: string) => `"${text(words)}"`;
