"""A resolver of DNS over HTTPS (RFC 8484, HTTP/1.1), which asks another one by UDP. A program of its own:

    doh.py CHAIN KEY ADDRESS PORT RESOLVER LOG

It says `ready` when it listens; LOG gets a line for each connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHAIN, KEY, ADDRESS, PORT, RESOLVER, LOG = sys.argv[1:]


class Answerer(BaseHTTPRequestHandler):
    """Answers as many requests on a connection as come."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with Path(LOG).open("a") as log:
            log.write("connection\n")

    def do_POST(self) -> None:
        message = self.rfile.read(int(self.headers["Content-Length"]))
        is_right = self.path == "/dns-query" and self.headers["Content-Type"] == "application/dns-message"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((RESOLVER, 53))
            sock.send(message)
            answer = sock.recv(65535)
        self.send_response(200 if is_right and message[:2] == b"\0\0" else 400)
        self.send_header("Content-Type", "application/dns-message")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer((ADDRESS, int(PORT)), Answerer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CHAIN, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
with contextlib.suppress(KeyboardInterrupt):
    server.serve_forever()
