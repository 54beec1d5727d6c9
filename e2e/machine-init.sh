# For the first process of a test's machine, already in namespaces of its own. It sets cgroup_version, and sources this
# while /proc is still the machine's below.

# This is the pid by which the test runner enters the machine.
read -r outer_pid _ </proc/self/stat
echo "pid $outer_pid"

cgroup_controllers=
for hierarchy in /sys/fs/cgroup/*/; do
  hierarchy=${hierarchy%/}
  cgroup_controllers="$cgroup_controllers ${hierarchy##*/}"
done

ip link set lo up

# mount_cgroups DIRECTORY
mount_cgroups() {
  if [ "$cgroup_version" = 2 ]; then
    mount -t cgroup2 cgroup2 "$1"
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs "$1"
  for controller in $cgroup_controllers; do
    # A hybrid machine's v2 tree stays away, as on a machine that has v1 alone.
    [ "$controller" = unified ] && continue
    mkdir "$1/$controller"
    case $controller in systemd) option=none,name=systemd ;; *) option=$controller ;; esac
    mount -t cgroup -o "$option" cgroup "$1/$controller"
  done
}
