"""A program that tries to reach others, by itself and in words: `python asking.py HOST…`.

For each HOST it prints one line: what of `tcp`, `udp`, `dns` (UDP to port 53) was answered. Standard library only.
"""

from __future__ import annotations

import socket
import sys

TCP_PORT, UDP_PORT, DNS_PORT = 8080, 9999, 53
LIMIT = 0.4


def over_tcp(host: str) -> bool:
    """Connect, talk, and end in order."""
    with socket.create_connection((host, TCP_PORT), LIMIT) as sock:
        sock.sendall(b"question")
        if sock.recv(100) != b"answer":
            return False
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(1) == b""


def over_udp(host: str, port: int) -> bool:
    """Ask once."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.sendto(b"question", (host, port))
        return sock.recv(100) == b"answer"


def is_answered(way: str, host: str) -> bool:
    """Try one of WAYS."""
    return over_tcp(host) if way == "tcp" else over_udp(host, UDP_PORT if way == "udp" else DNS_PORT)


WAYS = ("tcp", "udp", "dns")


def main() -> None:
    """Try everything."""
    for host in sys.argv[1:]:
        answered = []
        for way in WAYS:
            try:
                if is_answered(way, host):
                    answered.append(way)
            except OSError:
                continue
        print(host, *answered, flush=True)


if __name__ == "__main__":
    main()
