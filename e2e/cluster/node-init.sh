#!/bin/sh
# The first process of a cluster's node, already in namespaces of its own: mounts a file system that is the
# node's alone and enters it, then becomes an init which reaps, above the supervisor of the node's services.
# node-init.sh STORAGE NAME CGROUP_VERSION ROOT PROGRAMS
set -eu
storage=$1 name=$2 cgroup_version=$3 lower=$4 programs=$5
. "$(dirname "$0")/../machine-init.sh"
hostname "$name"
mkdir -p "$storage/upper" "$storage/work" "$storage/root" "$storage/containerd" "$storage/kubelet" "$storage/etcd"
root=$storage/root
mount -t overlay -o "lowerdir=$lower,upperdir=$storage/upper,workdir=$storage/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount_cgroups "$root/sys/fs/cgroup"
# The kubelet limits huge pages where the kernel has them, and fails where their controller is not mounted.
if [ "$cgroup_version" = 1 ] && [ ! -d /sys/fs/cgroup/hugetlb ]; then mount -t tmpfs tmpfs "$root/sys/kernel/mm/hugepages"; fi
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue" 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir -p "$root/run/lock" "$root/run/shields" "$root/run/machine"
for directory in containerd kubelet etcd; do mount --bind "$storage/$directory" "$root/var/lib/$directory"; done
mount --bind "$programs" "$root/opt/kubernetes"
mount -o remount,bind,ro "$root/opt/kubernetes"

# The kubelet sets these for the whole machine. It leaves alone what has its value already: so it reads files, not the kernel.
shield() {
  echo "$2" >"$root/run/shields/${1##*/}"
  mount --bind "$root/run/shields/${1##*/}" "$root/proc/sys/$1"
}
shield vm/overcommit_memory 1
shield kernel/panic 10
shield kernel/panic_on_oops 1
shield kernel/keys/root_maxkeys 1000000
shield kernel/keys/root_maxbytes 25000000

cd "$root"
pivot_root . run/machine
# Mounts of pods reach the kubelet and containers ask for it ("Bidirectional"), as where systemd made "/" shared.
mount --make-rprivate /run/machine
umount -l /run/machine
rmdir /run/machine
mount --make-rshared /
echo 1 >/proc/sys/net/ipv4/ip_forward
ulimit -n "$(ulimit -H -n)"
export PATH=/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

echo ready
exec catatonit -- runsvdir /etc/node-services </dev/null >/dev/null 2>&1
