"""haproxy or stunnel in `mid`, which speak TLS with `host` and pass what is inside on to a proxy beside them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns.certificates import Certificate
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import MID4, MID6

FRONT, STUNNEL = 3443, 3447

HAPROXY_CONF = """
global
  maxconn 4000
  log stdout format raw local0
defaults
  log global
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen front
  bind :::{port} v4v6 ssl crt {certificate.both} {more}
  log-format "%ci %[ssl_fc_protocol] %[ssl_fc_cipher] resumed=%[ssl_fc_is_resumed] sni=%[ssl_fc_sni]"
  server behind {MID4}:{behind}
"""
STUNNEL_CONF = """
foreground = quiet
output = {home}/log.out
pid =
[proxy]
accept = :::{port}
connect = {MID4}:{behind}
cert = {certificate.chain}
key = {certificate.key}
CAfile = {authority}
verifyChain = yes
"""


@dataclass(frozen=True, slots=True)
class Front:
    """A running one: its URL by address, and its log lines."""

    port: int
    log: Path

    @property
    def url4(self) -> str:
        return f"https://{MID4}:{self.port}"

    @property
    def url6(self) -> str:
        return f"https://[{MID6}]:{self.port}"


@contextlib.contextmanager
def front(mid: Namespace, certificate: Certificate, behind: int, more: str = "", port: int = FRONT) -> Iterator[Front]:
    """Run haproxy in front of port `behind`; `more` is for its `bind` line."""
    home = Path(tempfile.mkdtemp(prefix="front-", dir=mid.home))
    log = home / "log.out"
    conf = home / "haproxy.cfg"
    conf.write_text(HAPROXY_CONF.format(port=port, certificate=certificate, more=more, behind=behind, MID4=MID4))
    with log.open("wb") as out:
        process = mid.start("haproxy", "-db", "-f", str(conf), stdout=out, stderr=out)
    try:
        mid.wait_for_port(MID4, port)
        yield Front(port, log)
    finally:
        end(process)


@contextlib.contextmanager
def stunnel(
    mid: Namespace, certificate: Certificate, authority: Path, behind: int, port: int = STUNNEL
) -> Iterator[Front]:
    """Run stunnel in front of port `behind`, for those with a certificate of the authority's."""
    home = Path(tempfile.mkdtemp(prefix="stunnel-", dir=mid.home))
    conf = STUNNEL_CONF.format(
        home=home, port=port, behind=behind, certificate=certificate, authority=authority, MID4=MID4
    )
    (home / "stunnel.conf").write_text(conf)
    process = mid.start("stunnel4", str(home / "stunnel.conf"))
    try:
        mid.wait_for_port(MID4, port)
        yield Front(port, home / "log.out")
    finally:
        end(process)
