"""docs/proxies.md shows settings of servers; they are those that the privileged tests run with, but for their paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.netns import corporate, fronts, kerberos, proxies
from tests.netns.rig import MID4

PAGE = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text()
SHOWN = {line.strip() for line in PAGE.splitlines() if line.startswith("    ")}

SQUID = (corporate.BY_NAME_ONLY, corporate.KERBEROS, corporate.DIGEST, corporate.BASIC, corporate.USERS_ONLY)
PATHS = {
    **{"{home}/words": "/etc/squid/words", "{home}/users": "/etc/squid/users"},
    **{"{keytab}": "/etc/squid/proxy.keytab", "{address}:{port}": "10.71.0.1:3150"},
    **{"{certificate.both}": "/etc/haproxy/proxy.pem", "{certificate.chain}": "/etc/stunnel/proxy.pem"},
    **{"{certificate.key}": "/etc/stunnel/proxy.key", "{authority}": "/etc/stunnel/clients.pem"},
    **{"{realm}": kerberos.REALM, "{domain}": kerberos.DOMAIN, "kdc = {address}": "kdc = kdc.corp.example"},
    **{"{MID4}:{behind}": f"{MID4}:3128", "{{": "{", "}}": "}"},
}
ELSEWHERE = (
    "global",
    "defaults",
    "maxconn",
    "log",
    "log-format",
    "foreground",
    "output",
    "pid",
    "{servers}",
    "retries",
    "option",
)
"""First words of lines that are about how the tests run a server."""


def lines(conf: str) -> set[str]:
    """Give the lines that the page should have."""
    for word, place in PATHS.items():
        conf = conf.replace(word, place)
    found = {line.strip() for line in conf.splitlines() if line.strip()}
    return {line for line in found if line.split()[0] not in ELSEWHERE}


@pytest.mark.parametrize("conf", SQUID)
def test_squid(conf: str) -> None:
    assert lines(conf) - SHOWN == set()


def test_kerberos() -> None:
    assert lines(kerberos.KRB5_CONF) - SHOWN == set()


def test_haproxy_in_front_of_squids() -> None:
    assert lines(proxies.HAPROXY_CONF) - SHOWN == set()


def test_tls_in_front() -> None:
    front = fronts.HAPROXY_CONF.replace(" {more}", "").replace(":::{port}", ":::3443")
    assert lines(front) - SHOWN == set()
    assert lines(fronts.STUNNEL_CONF.replace("{port}", "3447")) - SHOWN == set()
