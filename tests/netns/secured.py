"""TLS in front of a proxy in `mid`: haproxy, and stunnel with TLS 1.2; and who signs their certificates."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns import wait
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import MID4, MID6

NAMES = f"DNS:proxy.test,IP:{MID4},IP:{MID6}"

_HAPROXY = """
global
    maxconn 2000
    tune.ssl.default-dh-param 2048
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option clitcpka
frontend tls
    bind :::{port} v4v6 ssl crt {identity} {more}
    default_backend proxy
backend proxy
    server proxy {behind}
"""
_STUNNEL = """
foreground = yes
pid =
output = {home}/stunnel.log
debug = 5
[proxy]
accept = :::{port}
connect = {behind}
cert = {identity}
sslVersionMax = TLSv1.2
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a folder of its own."""

    home: Path

    @property
    def certificate(self) -> Path:
        return self.home / "ca.pem"

    @classmethod
    def found(cls, home: Path) -> Authority:
        """Make one."""
        home.mkdir(parents=True)
        authority = cls(home)
        _openssl(
            *("req", "-x509", "-subj", "/CN=test authority", "-days", "2", "-out", str(authority.certificate)),
            *("-keyout", str(home / "ca.key"), *_NEW_KEY),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        return authority

    def sign(self, name: str, names: str = NAMES, days: int = 2) -> Path:
        """Give a file with a certificate for `names` and its key."""
        key, request, certificate, both = (self.home / f"{name}.{kind}" for kind in ("key", "csr", "crt", "pem"))
        _openssl("req", "-new", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request), *_NEW_KEY)
        extensions = self.home / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl(
            *("x509", "-req", "-in", str(request), "-days", str(days), "-out", str(certificate)),
            *("-CA", str(self.certificate), "-CAkey", str(self.home / "ca.key"), "-extfile", str(extensions)),
        )
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        return both


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Front:
    """What listens for TLS."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url4(self) -> str:
        return f"https://{MID4}:{self.port}"

    @property
    def url6(self) -> str:
        return f"https://[{MID6}]:{self.port}"


@contextlib.contextmanager
def haproxy(mid: Namespace, behind: int, identity: Path, port: int, more: str = "") -> Iterator[Front]:
    """Run haproxy in front of the proxy at port `behind`; `more` is for its bind line."""
    conf = mid.home / f"haproxy-{port}.conf"
    conf.write_text(_HAPROXY.format(port=port, identity=identity, more=more, behind=f"{MID4}:{behind}"))
    with _running(mid, port, "haproxy", "-db", "-f", str(conf)) as front:
        yield front


@contextlib.contextmanager
def stunnel(mid: Namespace, behind: int, identity: Path, port: int) -> Iterator[Front]:
    """Run stunnel in front of the proxy at port `behind`."""
    conf = mid.home / f"stunnel-{port}.conf"
    conf.write_text(_STUNNEL.format(home=mid.home, port=port, identity=identity, behind=f"{MID4}:{behind}"))
    with _running(mid, port, "stunnel", str(conf)) as front:
        yield front


@contextlib.contextmanager
def _running(mid: Namespace, port: int, *argv: str) -> Iterator[Front]:
    said = mid.home / f"{argv[0]}-{port}.said"
    with said.open("wb") as out:
        process = mid.start(*argv, stdout=out, stderr=out)
    try:
        wait.until(lambda: process.poll() is None and _listens(mid, port), f"{argv[0]} listens: {said.read_text()}")
        yield Front(port, process)
    finally:
        end(process)


def _listens(mid: Namespace, port: int) -> bool:
    return f":{port} " in mid.sh(f"ss -Htln sport = :{port}")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
