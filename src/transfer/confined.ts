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
