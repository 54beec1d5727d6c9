/** The programs of a host that UMS needs, each with the Debian package that brings it: its own package depends on those. */
export type NeededProgram = Readonly<{
  name: string;
  /** By a name that Debian 12, Debian 13 and Ubuntu 24.04 have. */
  package: string;
  /** How old that may be. */
  minimum?: string;
  /** Every Debian machine has it, and no package may depend on it (Debian Policy 3.5). */
  essential?: true;
}>;

/** What UMS itself calls. */
export const calledPrograms: readonly NeededProgram[] = [
  { name: "podman", package: "podman", minimum: "4.3" },
  { name: "nft", package: "nftables", minimum: "1.0" },
  { name: "ip", package: "iproute2", minimum: "5.10" },
  { name: "ss", package: "iproute2" },
  { name: "conntrack", package: "conntrack" },
  { name: "bwrap", package: "bubblewrap" },
  { name: "mount", package: "mount" },
  { name: "umount", package: "mount" },
  ...["nsenter", "unshare"].map((name) => ({ name, package: "util-linux", essential: true }) as const),
  ...["sync", "mkfifo", "timeout", "du", "sort"].map((name) => ({ name, package: "coreutils", essential: true }) as const),
  { name: "find", package: "findutils", essential: true },
  { name: "tar", package: "tar", essential: true },
  { name: "perl", package: "perl-base", essential: true },
];

/** What Podman and UMS's runtime call. They may lie elsewhere, and have checks of their own or none. */
export const enginePrograms: readonly NeededProgram[] = [
  { name: "runc", package: "runc", minimum: "1.1" },
  { name: "conmon", package: "conmon", minimum: "2.1" },
  { name: "/usr/lib/podman/netavark", package: "netavark", minimum: "1.4" },
  // Netavark knew no other way at first, and Debian 12's doesn't bring it.
  { name: "iptables", package: "iptables", minimum: "1.8" },
];
