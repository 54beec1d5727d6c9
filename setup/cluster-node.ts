/** The root file system of a cluster's node: Debian with containerd, runc, CRIU, CNI plugins and etcd, as a user's node has them. */
import { readFileSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { cached } from "./cache.ts";
import { debianMirror } from "./debian.ts";

const suite = "trixie";
/** containerd restores checkpoints from 2.1 on; CRIU 4.2.1 carries nftables' sets, and needs a libnl that trixie lacks. */
const fromSid = ["containerd", "runc", "criu", "libcriu2", "libcompel1", "libnet9", "python3-pycriu", "libnl-*"];
const packages = [
  ...["containerd", "runc", "criu", "containernetworking-plugins", "etcd-server", "etcd-client"],
  ...["iproute2", "iptables", "nftables", "conntrack", "ethtool", "kmod", "mount", "socat"],
  // What kubelet and scripts on the node call, and who keeps the node's services running.
  ...["ca-certificates", "curl", "procps", "util-linux", "catatonit", "runit"],
];
const preferences = `Package: *
Pin: release n=sid
Pin-Priority: 100

Package: ${fromSid.join(" ")}
Pin: release n=sid
Pin-Priority: 900
`;
const aptOptions = ['Acquire::Languages "none"', 'APT::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"'];
const leftOut = ["doc", "man", "locale", "info"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);

/** A directory that an overlay may have as its lowest layer. */
export async function clusterNodeRoot(): Promise<string> {
  const made = await cached({
    name: "cluster-node",
    inputs: [readFileSync(fileURLToPath(import.meta.url)), process.arch],
    make: async (directory) => {
      console.log("Making the root file system of cluster nodes …");
      const root = join(directory, "root");
      const pins = join(directory, "preferences");
      await writeFile(pins, preferences);
      const mirror = await debianMirror();
      await execa(
        "mmdebstrap",
        [
          ...["--quiet", "--variant=apt", "--mode=root", "--skip=check/empty", ...leftOut],
          ...aptOptions.map((option) => `--aptopt=${option}`),
          `--setup-hook=mkdir -p "$1/etc/apt/preferences.d" && cp ${pins} "$1/etc/apt/preferences.d/sid"`,
          `--include=${packages.join(",")}`,
          suite,
          root,
          `deb ${mirror} ${suite} main`,
          `deb ${mirror} sid main`,
        ],
        { timeout: 15 * 60_000 },
      );
      for (const path of ["var/cache/apt", "var/lib/apt/lists"]) await rm(join(root, path), { recursive: true, force: true });
      // The node's own; and where its programs and its storage are mounted.
      for (const path of ["etc/hostname", "etc/resolv.conf", "etc/hosts"]) await rm(join(root, path), { force: true });
      for (const path of ["var/lib/containerd", "var/lib/kubelet", "var/lib/etcd", "opt/kubernetes"]) {
        await mkdir(join(root, path), { recursive: true });
      }
    },
  });
  return join(made, "root");
}
