#!/bin/sh
# CRIU with its own libraries: the machine's may be too old for it, and stay as they are.
here=/opt/ums/criu
# CAP_SYS_RESOURCE is bit 24. Without it CRIU cannot read the limits of other users' processes by itself.
preload="--preload $here/lib/criu-without-sys-resource.so"
while read -r key value; do
  case $key in CapEff:)
    case $value in *[13579bdf]??????) preload= ;; esac
    break
    ;;
  esac
done </proc/self/status
exec $here/lib/@LOADER@ --library-path $here/lib $preload --argv0 criu $here/criu.bin "$@"
