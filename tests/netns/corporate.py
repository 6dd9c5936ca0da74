"""A corporate network: outside names and outside packets end at its proxy, which knows its users.

      host ----------------- mid ---------------------------------- world
      10.71.0.2              10.71.0.1   proxy.corp.example: squid   world.test and all below it
                             10.71.0.53  kdc.corp.example: the KDC,
                                         a resolver for corp.example alone,
                                         intranet.corp.example: nginx

`mid` forwards nothing between host and world. Its resolver answers REFUSED for every name that is not in corp.example;
squid asks the resolver of the world, which knows no name in corp.example.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.netns.kerberos import DOMAIN, PROXY, REALM, SERVICE, Kdc, kdc
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import MID4, Rig

INSIDE = "10.71.0.53"
"""The address of all that is inside, but for the proxy."""
INTRANET = f"intranet.{DOMAIN}"
INTRANET_PAGE = "The page of the intranet.\n"

BY_NAME_ONLY = """
acl by_address url_regex -i ^([0-9.]+|\\[[0-9a-f:.]+\\]):[0-9]+$
http_access deny by_address
"""
KERBEROS = f"""
auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k {{keytab}} -s {SERVICE}@{REALM} -t none
auth_param negotiate children 10 startup=2
auth_param negotiate keep_alive on
"""
DIGEST = """
auth_param digest program /usr/lib/squid/digest_file_auth {home}/words
auth_param digest children 2 startup=1
auth_param digest realm Internet access
auth_param digest nonce_max_duration 30 minutes
auth_param digest nonce_max_count 50
"""
BASIC = """
auth_param basic program /usr/lib/squid/basic_ncsa_auth {home}/users
auth_param basic children 2 startup=1
auth_param basic realm Internet access
"""
USERS_ONLY = """
acl users proxy_auth REQUIRED
http_access allow users
http_access deny all
"""
_NGINX_CONF = """
daemon off; user root; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 100; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ listen {address}:80; root {home}/www; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Corporation:
    """What runs inside."""

    kdc: Kdc


def kerberos(found: Kdc) -> str:
    """Give squid's lines for users who have a ticket, CONNECT by name alone."""
    return BY_NAME_ONLY + KERBEROS.replace("{keytab}", str(found.proxy_keytab)) + USERS_ONLY


@contextlib.contextmanager
def corporation(bed: Rig) -> Iterator[Corporation]:
    """Close the way outside, and run all that is inside but for the proxy."""
    mid = bed.mid
    mid.run("ip", "addr", "add", f"{INSIDE}/24", "dev", "h0")
    mid.run("nft", "table inet border { chain forward { type filter hook forward priority 0; policy drop; }; }")
    children = [_resolver(mid), _intranet(mid)]
    try:
        with kdc(mid, INSIDE) as found:
            for space in (mid, bed.host):
                found.enrol(space)
            for port in (53, 80):
                mid.wait_for_port(INSIDE, port)
            yield Corporation(found)
    finally:
        for child in children:
            end(child)
        mid.run("nft", "delete", "table", "inet", "border")
        mid.run("ip", "addr", "del", f"{INSIDE}/24", "dev", "h0")


def _resolver(mid: Namespace) -> subprocess.Popen[bytes]:
    hosts = {PROXY: MID4, f"kdc.{DOMAIN}": INSIDE, INTRANET: INSIDE}
    records = [f"--host-record={name},{address}" for name, address in hosts.items()]
    return mid.start(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *(f"--listen-address={INSIDE}", "--bind-interfaces", f"--local=/{DOMAIN}/", *records),
        *("--log-queries", f"--log-facility={mid.home}/corporate-dns.log"),
        f"--srv-host=_kerberos._udp.{DOMAIN},kdc.{DOMAIN},88",
        stderr=subprocess.DEVNULL,
    )


def _intranet(mid: Namespace) -> subprocess.Popen[bytes]:
    home = mid.home / "intranet"
    (home / "www").mkdir(parents=True)
    (home / "www" / "index.html").write_text(INTRANET_PAGE)
    (home / "nginx.conf").write_text(_NGINX_CONF.format(home=home, address=INSIDE))
    return mid.start("nginx", "-c", str(home / "nginx.conf"), "-e", str(home / "error.log"))
