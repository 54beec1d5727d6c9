"""Greets each client that connects to TCP 8080, answers its one line, and closes; answers each datagram to UDP 8081 with itself.
Both as busy services with short connections do: a thread for each client, and a few milliseconds of work."""

import socket
import threading
import time


def serve(client):
    try:
        time.sleep(0.003)
        client.sendall(b"hello\n")
        client.sendall(b"you said " + client.recv(99))
    except OSError:
        pass  # the client went away
    client.close()


def echo():
    while True:
        datagram, sender = datagrams.recvfrom(99)
        datagrams.sendto(datagram, sender)


datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", 8081))
threading.Thread(target=echo, daemon=True).start()

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", 8080))
server.listen(64)
print("ready", flush=True)
while True:
    client, _ = server.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
