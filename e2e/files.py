"""Makes every kind of file, and goes on to write. What it wrote it also remembers in its own memory, which moves with
it: asked to `verify`, it stops between two writes and says where its files and its memory disagree."""

import array, hashlib, json, mmap, os, shutil, socket, stat, struct, threading, time

PLACES = ["/data", "/more", "/srv/tree"]
ROOTS = ["/etc", "/srv", "/var", "/opt", "/tmp", "/scratch", "/dev/shm", "/data", "/more", "/usr/bin", "/usr/share/java"]
# Podman's own, or written to all the time.
LEFT_OUT = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/etc/passwd"}
lock = threading.Lock()


def write(path, content, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def make_kinds(top):
    os.makedirs(top, exist_ok=True)
    write(f"{top}/plain", b"plain")
    write(f"{top}/owned", b"owned", 0o640)
    os.chown(f"{top}/owned", 12345, 54321)
    write(f"{top}/setuid", b"setuid", 0o4755)
    write(f"{top}/secret", b"", 0o000)
    os.chown(top, 4321, 4321)
    os.chmod(top, 0o2751)
    os.makedirs(f"{top}/sticky", exist_ok=True)
    os.chmod(f"{top}/sticky", 0o3777)
    write(f"{top}/attributes", b"attributes")
    os.setxattr(f"{top}/attributes", "user.note", b"\x00\xffbytes")
    os.setxattr(f"{top}/attributes", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    write(f"{top}/acl", b"acl", 0o640)
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 12345), (4, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(f"{top}/acl", "system.posix_acl_access", acl)
    os.makedirs(f"{top}/acl-directory", exist_ok=True)
    os.setxattr(f"{top}/acl-directory", "system.posix_acl_default", acl)
    write(f"{top}/links/one", b"linked")
    os.link(f"{top}/links/one", f"{top}/links/two")
    os.makedirs(f"{top}/other", exist_ok=True)
    os.link(f"{top}/links/one", f"{top}/other/three")
    os.symlink("../links/one", f"{top}/other/symbolic")
    os.symlink("nowhere", f"{top}/other/dangling")
    with open(f"{top}/sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"in the middle")
    os.mkfifo(f"{top}/fifo", 0o620)
    for name in [b"new\nline", b'quo"te\'s', b"back\\slash", b"\xff\xfeno-utf8", b"-dash", b" blank ", b"star*[a]", b"\xc3\xa4", b"tab\t", b"." * 3, b"x" * 255]:
        write(os.fsencode(top) + b"/names/" + name, name)
    for depth in range(20):
        write(f"{top}/deep/" + "d/" * depth + "leaf", b"leaf")
    os.makedirs(f"{top}/empty/within", exist_ok=True)
    write(f"{top}/to-rename/inner", b"moved along")
    os.rename(f"{top}/to-rename", f"{top}/renamed")
    os.utime(f"{top}/plain", ns=(10**18, 10**18 + 123456789))


def change_image():
    os.unlink("/etc/adduser.conf")
    shutil.rmtree("/etc/default")
    os.mkdir("/etc/default")  # opaque: nothing of the image shows through
    write("/etc/default/own", b"own")
    shutil.rmtree("/etc/alternatives")
    shutil.move("/etc/security" if os.path.isdir("/etc/security") else "/usr/share/java", "/opt/moved")
    os.chmod("/usr/bin/tac", 0o4750)
    write("/usr/bin/true", b"replaced", 0o755)


def describe(path):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    entry = {"mode": status.st_mode, "uid": status.st_uid, "gid": status.st_gid}
    entry["attributes"] = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in os.listxattr(path, follow_symlinks=False)}
    if kind == stat.S_IFREG:
        # CRIU's own archive of a tmpfs knows whole seconds.
        entry["mtime"] = status.st_mtime_ns // 10**9 if path.startswith(b"/scratch") else status.st_mtime_ns
        entry["links"] = status.st_nlink
        entry["size"] = status.st_size
        entry["sparse"] = status.st_blocks * 512 < status.st_size // 2
        with open(path, "rb") as file:
            entry["content"] = hashlib.sha256(file.read()).hexdigest()
    # An image's own directories are as old as their extraction on each host.
    if kind == stat.S_IFDIR and any(path.startswith(os.fsencode(place)) for place in PLACES):
        entry["mtime"] = status.st_mtime_ns
    if kind == stat.S_IFLNK:
        entry["target"] = os.readlink(path)
    return entry


def look():
    found = {}
    for root in ROOTS:
        for directory, directories, files in os.walk(os.fsencode(root)):
            if b"moving" in directories:
                directories.remove(b"moving")
            for path in [directory] + [os.path.join(directory, name) for name in files + [name for name in directories if os.path.islink(os.path.join(directory, name))]]:
                if os.fsdecode(path) not in LEFT_OUT:
                    found[path.decode("latin-1")] = describe(path)
    return found


class Moving:
    """Files under writing, and what they must hold."""

    def __init__(self, top):
        self.top = f"{top}/moving"
        os.makedirs(self.top)
        self.appended = b""
        self.log = open(f"{self.top}/appended", "ab", buffering=0)
        with open(f"{self.top}/mapped", "wb") as file:
            file.truncate(1 << 20)
        self.map = mmap.mmap(os.open(f"{self.top}/mapped", os.O_RDWR), 1 << 20)
        self.counter = 0
        self.files = {}
        self.deleted = open(f"{self.top}/deleted", "w+b")
        os.unlink(f"{self.top}/deleted")
        self.ghost = b""
        self.holder = socket.socket(socket.AF_UNIX)
        self.holder.bind(f"{self.top}/held.sock")
        self.holder.listen(1)

    def step(self):
        self.counter += 1
        line = f"line {self.counter}\n".encode()
        self.log.write(line)
        self.appended += line
        struct.pack_into("<Q", self.map, 8 * (self.counter % 1000) * 16, self.counter)
        name = f"{self.top}/file-{self.counter % 37}"
        if self.counter % 5 == 0 and name in self.files:
            os.unlink(name)
            del self.files[name]
        elif self.counter % 7 == 0 and name in self.files:
            os.rename(name, name + ".new")
            self.files[name + ".new"] = self.files.pop(name)
        else:
            content = os.urandom(self.counter % 5000)
            with open(name, "wb") as file:
                file.write(content)
            self.files[name] = content
        self.deleted.write(line)
        self.deleted.flush()
        self.ghost += line

    def wrong(self):
        wrong = []
        with open(f"{self.top}/appended", "rb") as file:
            if file.read() != self.appended:
                wrong.append(f"{self.top}/appended")
        with open(f"{self.top}/mapped", "rb") as file:
            on_disk = file.read()
        if on_disk != self.map[:] or struct.unpack_from("<Q", on_disk, 8 * (self.counter % 1000) * 16)[0] != self.counter:
            wrong.append(f"{self.top}/mapped")
        self.deleted.seek(0)
        if self.deleted.read() != self.ghost:
            wrong.append(f"{self.top}/deleted")
        there = {f"{self.top}/{name}" for name in os.listdir(self.top)} - {f"{self.top}/{name}" for name in ["appended", "mapped", "held.sock"]}
        for name in there ^ set(self.files):
            wrong.append(f"{name} is {'left over' if name in there else 'missing'}")
        for name, content in self.files.items():
            if name in there:
                with open(name, "rb") as file:
                    if file.read() != content:
                        wrong.append(name)
        return wrong


for place in PLACES:
    make_kinds(place)
change_image()
write("/scratch/directory/file", os.urandom(100_000), 0o600)
os.chown("/scratch/directory/file", 12345, 54321)
write("/dev/shm/segment", os.urandom(100_000), 0o600)
passwd = b""
with open("/etc/passwd", "rb") as file:
    passwd = file.read()
moving = [Moving(top) for top in ["/data", "/srv", "/scratch", "/dev/shm"]]
remembered = look()
# Files of the image which the program changes one after another, so that some are changed late.
image_files = sorted(os.path.join("/usr/lib/python3.11", name) for name in os.listdir("/usr/lib/python3.11") if name.endswith(".py"))
changed = []


def keep_writing():
    while True:
        with lock:
            for each in moving:
                each.step()
        time.sleep(0.002)


def verify():
    now = look()
    differences = [
        f"{path}: {json.dumps(remembered.get(path))} became {json.dumps(now.get(path))}"
        for path in sorted(set(remembered) | set(now))
        if remembered.get(path) != now.get(path)
    ]
    with open("/etc/passwd", "rb") as file:
        if file.read() != passwd:
            differences.append("/etc/passwd")
    for name in changed:
        with open(name, "rb") as file:
            if not file.read().endswith(b"# changed late\n"):
                differences.append(name)
    return differences + [line for each in moving for line in each.wrong()]


def change_late():
    """Changes files of the image that nothing has changed before."""
    global passwd
    with open("/etc/passwd", "ab") as file:
        file.write(b"late:x:4242:4242::/:/bin/sh\n")
    passwd += b"late:x:4242:4242::/:/bin/sh\n"
    for name in image_files[len(changed) : len(changed) + 20]:
        with open(name, "ab") as file:
            file.write(b"# changed late\n")
        changed.append(name)


threading.Thread(target=keep_writing, daemon=True).start()
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 7102))
server.listen(5)
late = socket.socket()
late.bind(("0.0.0.0", 7103))
late.listen(5)


def answer_late():
    while True:
        client, _ = late.accept()
        with lock:
            change_late()
        client.sendall(b"changed\n")
        client.close()


def keep_busy():
    """While it is asked to, writes so much that a pass over the files takes long."""
    while True:
        if os.path.exists("/run/busy"):
            write("/run/bulk", os.urandom(20_000_000))
        time.sleep(0.3)


threading.Thread(target=answer_late, daemon=True).start()
threading.Thread(target=keep_busy, daemon=True).start()
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with lock:
        answer = json.dumps({"differences": verify(), "files": len(remembered), "steps": moving[0].counter})
    try:
        client.sendall(answer.encode() + b"\n")
    except OSError:
        pass  # the client went away
    client.close()
