/** The disk of a stock Debian machine: systemd, Debian's kernel, AppArmor, ssh and Podman with what it recommends, and nothing of UMS. */
import { readFileSync } from "node:fs";
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { calledPrograms, enginePrograms } from "../src/preflight/programs.ts";
import { cached } from "./cache.ts";
import { debianMirror } from "./debian.ts";
import { provideMachinePrograms } from "./programs.ts";

/** Debian's releases that UMS is made for. */
export type Suite = "trixie" | "bookworm";

/** A machine of the network that tests make. */
export type MachineCard = Readonly<{ name: string; /** Of its card. */ hardwareAddress: string; address: string }>;

/** Files that nobody may write to. */
export type StockDisk = Readonly<{
  /** Raw. */ disk: string;
  kernel: string;
  initrd: string;
  /** Root's at every machine, for ssh. */ key: string;
}>;

const system = [
  "linux-image-amd64",
  "initramfs-tools",
  "apparmor",
  "openssh-server",
  "dbus",
  "libpam-systemd",
  "ca-certificates",
  "apt-utils",
];
/** What UMS's package depends on, and what a person sets a private link up with. */
const repository = [
  ...new Set([...calledPrograms, ...enginePrograms].filter(({ essential }) => !essential).map((program) => program.package)),
  "wireguard-tools",
];
const aptOptions = ['Acquire::Languages "none"', 'Acquire::Check-Valid-Until "false"'];
const leftOut = ["doc", "man", "locale", "info"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);

/** The machine has no way out: what a person's apt would fetch lies in it, as a repository of its own. */
const inside = `set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -y -o APT::Install-Recommends=true install podman
mkdir /srv/debian
apt-get -qq -y -o APT::Install-Recommends=true -o Dir::Cache::archives=/srv/debian --download-only install ${repository.join(" ")}
cd /srv/debian
rm -rf lock partial
apt-ftparchive packages . >Packages
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /etc/apt/sources.list.d/*
echo "deb [trusted=yes] file:/srv/debian ./" >/etc/apt/sources.list
apt-get -qq update
systemctl --quiet enable systemd-networkd
`;

/** @param cards the machines that may be made of it */
export async function stockDisk(suite: Suite, cards: readonly MachineCard[]): Promise<StockDisk> {
  if (process.arch !== "x64") throw new Error(`Stock machines are made on x64 only, and this one is ${process.arch}.`);
  await provideMachinePrograms();
  const made = await cached({
    name: `machine-disk-${suite}`,
    inputs: [readFileSync(fileURLToPath(import.meta.url)), suite, JSON.stringify([repository, cards])],
    make: async (directory) => {
      console.log(`Making the disk of a stock Debian machine (${suite}) …`);
      await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", join(directory, "key")]);
      const root = join(directory, "root");
      await makeRoot({ suite, root, directory, cards });
      for (const name of ["vmlinuz", "initrd.img"]) await copyFile(join(root, name), join(directory, name));
      const format = ["-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
      await execa("mke2fs", [...format, "-d", root, join(directory, "disk.raw"), "12G"], { timeout: 5 * 60_000 });
      await execa("rm", ["-rf", "--one-file-system", root]);
    },
  });
  return {
    disk: join(made, "disk.raw"),
    kernel: join(made, "vmlinuz"),
    initrd: join(made, "initrd.img"),
    key: join(made, "key"),
  };
}

type RootParts = Readonly<{ suite: Suite; root: string; directory: string; cards: readonly MachineCard[] }>;

async function makeRoot({ suite, root, directory, cards }: RootParts): Promise<void> {
  const overlay = join(directory, "overlay");
  const put = async (path: string, content: string, mode = 0o644) => {
    await mkdir(join(overlay, path, ".."), { recursive: true });
    await writeFile(join(overlay, path), content, { mode });
  };
  const key = readFileSync(join(directory, "key.pub"), "utf8");
  await put("root/.ssh/authorized_keys", key, 0o600);
  await put("etc/hosts", ["127.0.0.1 localhost", ...cards.map(({ address, name }) => `${address} ${name}`), ""].join("\n"));
  await put("etc/fstab", "/dev/vda / ext4 defaults 0 1\n");
  for (const { name, hardwareAddress, address } of cards) {
    const gateway = address.replace(/\d+$/, "1");
    await put(
      `etc/systemd/network/${name}.network`,
      `[Match]\nMACAddress=${hardwareAddress}\n[Network]\nAddress=${address}/24\nGateway=${gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n`,
    );
  }
  await put("root/inside.sh", inside);
  // The disk's driver and nothing else: an image with all of Debian's drivers takes half a minute to unpack in an emulated machine.
  const drivers =
    'mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/test" && printf \'%s\\n\' virtio_pci virtio_blk ext4 >"$1/etc/initramfs-tools/modules"';
  await execa(
    "mmdebstrap",
    [
      ...["--quiet", "--mode=root", "--variant=important", "--skip=check/empty,cleanup/apt/lists", ...leftOut],
      ...aptOptions.map((option) => `--aptopt=${option}`),
      `--include=${system.join(",")}`,
      `--essential-hook=${drivers}`,
      // Modes of what is there already stay.
      `--customize-hook=cp -r --preserve=mode '${overlay}/.' "$1/" && chmod 700 "$1/root/.ssh"`,
      '--customize-hook=chroot "$1" sh /root/inside.sh && rm "$1/root/inside.sh" "$1/etc/resolv.conf"',
      // The name comes with the kernel's command line, and the machine's number with its first boot.
      '--customize-hook=rm -f "$1/etc/hostname" && : >"$1/etc/machine-id"',
      ...[suite, root, `deb ${await debianMirror()} ${suite} main`],
    ],
    { timeout: 10 * 60_000 },
  );
  await rm(overlay, { recursive: true });
}
