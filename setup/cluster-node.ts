/** The root file system of a cluster's node: Debian with CNI plugins and etcd, and containerd and runc as their own releases are installed. */
import { readFileSync } from "node:fs";
import { cp, mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { cached } from "./cache.ts";
import { containerdPrograms, runcProgram } from "./cluster-programs.ts";
import { debianMirror } from "./debian.ts";

const suite = "trixie";
const packages = [
  ...["containernetworking-plugins", "etcd-server", "etcd-client"],
  ...["iproute2", "iptables", "nftables", "conntrack", "ethtool", "kmod", "mount", "socat"],
  // What kubelet and scripts on the node call, and who keeps the node's services running.
  ...["ca-certificates", "curl", "procps", "util-linux", "catatonit", "runit"],
];
const aptOptions = ['Acquire::Languages "none"', 'APT::Install-Recommends "false"', 'Acquire::Check-Valid-Until "false"'];
const leftOut = ["doc", "man", "locale", "info"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);

/** A directory that an overlay may have as its lowest layer. */
export async function clusterNodeRoot(): Promise<string> {
  const [containerd, runc] = [await containerdPrograms(), await runcProgram()];
  const made = await cached({
    name: "cluster-node",
    inputs: [readFileSync(fileURLToPath(import.meta.url)), process.arch, containerd, runc],
    make: async (directory) => {
      console.log("Making the root file system of cluster nodes …");
      const root = join(directory, "root");
      await execa(
        "mmdebstrap",
        [
          ...["--quiet", "--variant=apt", "--mode=root", "--skip=check/empty", ...leftOut],
          ...aptOptions.map((option) => `--aptopt=${option}`),
          `--include=${packages.join(",")}`,
          suite,
          root,
          `deb ${await debianMirror()} ${suite} main`,
        ],
        { timeout: 15 * 60_000 },
      );
      for (const path of ["var/cache/apt", "var/lib/apt/lists"]) await rm(join(root, path), { recursive: true, force: true });
      // Where containerd's and runc's own instructions have them, and where containerd looks for plugins.
      for (const name of ["containerd", "containerd-shim-runc-v2", "ctr"])
        await cp(join(containerd, name), join(root, "usr/local/bin", name));
      await cp(join(runc, "runc"), join(root, "usr/local/sbin/runc"));
      await mkdir(join(root, "opt/cni"), { recursive: true });
      await symlink("/usr/lib/cni", join(root, "opt/cni/bin"));
      // The node's own; and where its programs and its storage are mounted.
      for (const path of ["etc/hostname", "etc/resolv.conf", "etc/hosts"]) await rm(join(root, path), { force: true });
      for (const path of ["var/lib/containerd", "var/lib/kubelet", "var/lib/etcd", "opt/kubernetes"]) {
        await mkdir(join(root, path), { recursive: true });
      }
    },
  });
  return join(made, "root");
}
