/**
 * The beginning of a command that can reach one directory and nothing else of this machine, at /tree, where it starts. What
 * is done there comes from another site: a link that it has made must lead nowhere (bubblewrap, bwrap(1)).
 */
export const confinedTo = (directory: string): readonly [string, ...string[]] => [
  "bwrap",
  ...["--ro-bind", "/usr", "/usr"],
  ...["bin", "lib", "lib64"].flatMap((name) => ["--symlink", `usr/${name}`, `/${name}`]),
  ...["--bind", directory, "/tree"],
  ...["--remount-ro", "/"],
  ...["--chdir", "/tree"],
  // Owners, device numbers of whiteouts and attributes of overlays are root's to set.
  ...["--cap-add", "ALL"],
  "--die-with-parent",
  "--",
];
