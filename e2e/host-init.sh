#!/bin/sh
# The first process of a test host, already in namespaces of its own: gives the host its own
# /proc, /sys, /etc, /run, /tmp, /dev/shm and storage, then becomes an init which reaps.
# host-init.sh STORAGE HOSTNAME CGROUP_VERSION SHM_SIZE CHECKOUT
set -eu
storage=$1 hostname=$2 cgroup_version=$3 shm_size=$4 checkout=$5
. "$checkout/e2e/machine-init.sh"
hostname "$hostname"
mount -t proc proc /proc
# What the machine mounts for builds comes and goes, and is no business of the host's.
awk '$5 ~ "^/var/cache/ums/" { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do umount --lazy "$mount"; done

mount -t sysfs sysfs /sys
mount_cgroups /sys/fs/cgroup

mkdir -p "$storage/containers" "$storage/ums" "$storage/etc" "$storage/etc-work"
mkdir -p /var/lib/containers /var/lib/ums
mount --bind "$storage/containers" /var/lib/containers
mount --bind "$storage/ums" /var/lib/ums
mount -t overlay -o "lowerdir=/etc,upperdir=$storage/etc,workdir=$storage/etc-work" overlay /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
mount -t tmpfs -o "mode=1777,size=$shm_size" tmpfs /dev/shm

# A checkout below /tmp must stay reachable under the host's own /tmp.
mkdir /run/checkout
mount --bind "$checkout" /run/checkout
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$checkout"
mount --move /run/checkout "$checkout"
rmdir /run/checkout

mkdir -p /etc/containers/containers.conf.d
cp "$checkout/deploy/host/containers.conf.d/ums.conf" /etc/containers/containers.conf.d/ums.conf
mkdir -p /etc/containers/oci/hooks.d
cp "$checkout/deploy/host/hooks.d/ums.json" /etc/containers/oci/hooks.d/ums.json
# Podman asks for limits above the machine's own; without CAP_SYS_RESOURCE they are refused.
open_files=$(ulimit -H -n)
processes=$(awk '/^Max processes/ { print $4 }' /proc/self/limits)
[ "$processes" = unlimited ] && processes=-1
pids_limit=2048
# On a hybrid machine the v2 tree has few controllers, and a limit that cannot be set fails the container.
if [ "$cgroup_version" = 2 ] && ! grep -qw pids /sys/fs/cgroup/cgroup.controllers; then pids_limit=0; fi
cat >/etc/containers/containers.conf.d/zz-test-host.conf <<EOF
[containers]
default_ulimits = ["nofile=$open_files:$open_files", "nproc=$processes:$processes"]
pids_limit = $pids_limit
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
EOF

# As where systemd made "/" shared.
mount --make-rshared /
echo ready
# `catatonit -P` would leave zombies behind, which a real init does not.
exec catatonit -- sleep infinity </dev/null >/dev/null 2>&1
