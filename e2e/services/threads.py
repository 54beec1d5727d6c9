"""Five threads, a deleted open file, a pipe and a unix socket: each client gets one line,
`COUNT DELETED-FILE PIPE SOCKET`; the count rises, the rest stays."""

import os
import socket
import threading
import time

count = 0

deleted = open("/tmp/deleted", "w+")
deleted.write("ghost")
deleted.flush()
os.unlink("/tmp/deleted")

pipe_out, pipe_in = os.pipe()

echo = socket.socket(socket.AF_UNIX)
echo.bind("/tmp/echo.sock")
echo.listen(1)
asking = socket.socket(socket.AF_UNIX)
asking.connect("/tmp/echo.sock")
answering, _ = echo.accept()


def keep_counting():
    global count
    while True:
        count += 1
        time.sleep(0.001)


for _ in range(4):
    threading.Thread(target=keep_counting, daemon=True).start()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 7101))
server.listen(5)
print("ready", flush=True)
while True:
    client, _ = server.accept()
    deleted.seek(0)
    os.write(pipe_in, b"pipe")
    asking.sendall(b"socket")
    line = f"{count} {deleted.read()} {os.read(pipe_out, 4).decode()} {answering.recv(6).decode()}\n"
    try:
        client.sendall(line.encode())
    except OSError:
        pass  # the client went away
    client.close()
