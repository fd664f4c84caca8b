"""Real bytes for the redirect's tests. `listen PORT…` answers where a client arrived; `connect ADDRESS PORT [SOURCE]` asks.

`hold ADDRESS PORT` connects, and asks once it reads a line.
"""

from __future__ import annotations

import ipaddress
import json
import selectors
import socket
import struct
import sys
import threading

SO_ORIGINAL_DST = 80


def main() -> None:
    if sys.argv[1] == "listen":
        listen([int(port) for port in sys.argv[2:]])
    elif sys.argv[1] == "hold":
        hold(sys.argv[2], int(sys.argv[3]))
    else:
        connect(sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "")


def listen(ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    for port in ports:
        server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        selector.register(server, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            client, _address = key.fileobj.accept()
            threading.Thread(target=answer, args=(client, key.fileobj.getsockname()[1]), daemon=True).start()


def answer(client: socket.socket, port: int) -> None:
    with client:
        client.settimeout(30)
        if client.recv(5) == b"hello":
            client.sendall(json.dumps({"port": port, "original": original(client)}).encode())


def original(client: socket.socket) -> tuple[str, int]:
    """The destination before NAT, as the proxy learns it; of an untouched connection its own address."""
    address, port, *_ = client.getsockname()
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    try:
        if mapped:
            data = client.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            return str(ipaddress.IPv4Address(data[4:8])), struct.unpack("!H", data[2:4])[0]
        data = client.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return str(ipaddress.IPv6Address(data[8:24])), struct.unpack("!H", data[2:4])[0]
    except OSError:
        return str(mapped or address), port


def connect(address: str, port: int, source: str) -> None:
    with socket.create_connection((address, port), timeout=5, source_address=(source, 0) if source else None) as connection:
        connection.sendall(b"hello")
        print(connection.makefile().read(), flush=True)


def hold(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=5) as connection:
        print("connected", flush=True)
        sys.stdin.readline()
        connection.sendall(b"hello")
        print(connection.makefile().read(), flush=True)


if __name__ == "__main__":
    main()
