/**
 * The beginnings of commands that can reach some directories and nothing else of this machine (bubblewrap, bwrap(1)). What is
 * in those directories is a service's own, or comes from another site: a link in it, or one that is put in the place of a
 * directory at the very moment, must lead nowhere.
 */
const confined = (...binds: readonly string[]): readonly [string, ...string[]] => [
  "bwrap",
  ...["--ro-bind", "/usr", "/usr"],
  ...["bin", "lib", "lib64"].flatMap((name) => ["--symlink", `usr/${name}`, `/${name}`]),
  ...binds,
  ...["--remount-ro", "/"],
  ...["--chdir", "/tree"],
  // Owners, device numbers of whiteouts and attributes of overlays are root's to set, and to read.
  ...["--cap-add", "ALL"],
  "--die-with-parent",
  "--",
];

/** The directory is /tree, where the command starts. */
export const confinedTo = (directory: string) => confined("--bind", directory, "/tree");

/** The directory is /tree, where the command starts, and it can write nothing. */
export const readingOnly = (directory: string) => confined("--ro-bind", directory, "/tree");

/** The directories are 0, 1, 2 … where the command starts, and it can write nothing. */
export const readingAll = (directories: readonly string[]) =>
  confined("--dir", "/tree", ...directories.flatMap((directory, at) => ["--ro-bind", directory, `/tree/${at}`]));

/** For `execa`, of a command that {@link endWith} may end. */
export const ownGroup = { detached: true } as const;

/**
 * Ends a confined command, with all that it has started, when the signal aborts. Killed alone while it starts, bwrap leaves a
 * child that waits for it for ever and keeps its pipes open.
 * @param command was started in a group of its own
 */
export function endWith(command: Promise<unknown> & { readonly pid?: number | undefined }, signal: AbortSignal): void {
  const end = () => {
    try {
      if (command.pid !== undefined) process.kill(-command.pid, "SIGKILL");
    } catch {
      // it ended this moment
    }
  };
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  command.finally(() => signal.removeEventListener("abort", end)).catch(() => undefined);
}
