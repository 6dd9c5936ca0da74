"""The other side of scripts/quickstart.sh: an HTTP proxy that knows CONNECT, a web server, and a UDP listener.

    demo_servers.py PROXY_PORT WEB_PORT UDP_PORT LOG

Writes one line to LOG for each thing that happens, `ready` first, and runs until it is ended. Standard library only.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, StreamRequestHandler, ThreadingTCPServer, ThreadingUDPServer

PAGE = b"Hello from the world outside.\n"
LOG = Path(sys.argv[4] if len(sys.argv) > 4 else "/dev/stdout")


def log(line: str) -> None:
    """Add a line to the log, at once."""
    with LOG.open("a") as file:
        file.write(line + "\n")


class Proxy(StreamRequestHandler):
    """Answer one CONNECT and carry bytes both ways until both sides have finished."""

    def handle(self) -> None:
        request = self.rfile.readline(4096).decode("latin-1").split()
        while self.rfile.readline(4096).strip():
            pass
        if len(request) != 3 or request[0] != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        host, _, port = request[1].rpartition(":")
        try:
            server = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        except OSError as error:
            log(f"proxy: {self.client_address[0]} CONNECT {request[1]} -> 502 {error}")
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        log(f"proxy: {self.client_address[0]} CONNECT {request[1]} -> 200")
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with server:
            server.settimeout(None)
            back = threading.Thread(target=pump, args=(server, self.connection))
            back.start()
            pump(self.connection, server)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes from one socket to the other until end of file, and pass that on too."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


class Web(BaseHTTPRequestHandler):
    """Give the one page."""

    def do_GET(self) -> None:
        log(f"web: {self.client_address[0]} GET {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Stay quiet: do_GET() logs."""


class Datagram(BaseRequestHandler):
    """Note that a datagram came."""

    def handle(self) -> None:
        log(f"udp: {len(self.request[0])} bytes from {self.client_address[0]}")


class _Proxies(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    """Serve all three for ever."""
    proxy, web, udp = (int(port) for port in sys.argv[1:4])
    servers = (
        _Proxies(("", proxy), Proxy),
        ThreadingHTTPServer(("", web), Web),
        ThreadingUDPServer(("", udp), Datagram),
    )
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    log("ready")


if __name__ == "__main__":
    main()
