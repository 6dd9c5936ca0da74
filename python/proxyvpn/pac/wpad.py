"""Pure: where a network may say that its PAC file is, for `pac:auto` only (draft-ietf-wrec-wpad-01).

First what a DHCP server said (option 252), as the client's lease file has it; then http://wpad.DOMAIN/wpad.dat for this
machine's domains. No domain is shortened: `wpad.co.uk` is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_DHCLIENT: Final = re.compile(
    r'option\s+(?:wpad|unknown-252|local-proxy-config|auto-proxy-config)\s+"([^"\\\n]{1,255})'
)
_NETWORKD: Final = re.compile(r"^OPTION_252=([0-9a-fA-F]{2,510})$", re.MULTILINE)
_LABELS: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}")
_MOST: Final = 6

LEASES: Final = ("/run/systemd/netif/leases/*", "/var/lib/dhcp/dhclient*.leases", "/var/lib/dhclient/*.leases")


def in_lease(text: str) -> tuple[str, ...]:
    """Give the URLs of option 252 in the text of a lease file of dhclient or systemd-networkd, the last one first."""
    found = _DHCLIENT.findall(text)
    for code in _NETWORKD.findall(text):
        try:
            found.append(bytes.fromhex(code).decode("ascii"))
        except ValueError:
            continue
    urls = (url.strip(" \t\r\n\0") for url in reversed(found))
    return tuple(dict.fromkeys(url for url in urls if url.startswith(("http://", "https://"))))


def domains(hostname: str, resolv_conf: str) -> tuple[str, ...]:
    """Give this machine's domains: that of its full name, and those that resolv.conf(5) searches."""
    found = [hostname.partition(".")[2]]
    for line in resolv_conf.splitlines():
        words = line.split()
        if words and words[0] in ("search", "domain"):
            found += words[1:]
    plain = (domain.strip(".").lower() for domain in found)
    return tuple(dict.fromkeys(domain for domain in plain if _LABELS.fullmatch(domain)))


def candidates(leases: Iterable[str], hostname: str, resolv_conf: str) -> tuple[str, ...]:
    """Give the URLs to try, in order."""
    by_dhcp = [url for text in leases for url in in_lease(text)]
    by_dns = [f"http://wpad.{domain}/wpad.dat" for domain in domains(hostname, resolv_conf)]
    return tuple(dict.fromkeys(by_dhcp + by_dns))[:_MOST]
