"""The detector of the leak matrix: counters of the kernel at the first place behind the cable, one for each row.

A netdev chain in `mid`, where the cable from `host` ends, sees every packet that left the machine, exactly once, before
anything else can lose it. What is allowed to leave (to the proxy, to resolvers, neighbour discovery) is not counted,
and ARP is no IP. A frame of a type for experiments, sent on every processor, tells when all before it was counted.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Final

from tests.netns import wait
from tests.netns.leak_rows import OTHER, Row
from tests.netns.rig import MID4, MID6, RESOLVER4, RESOLVER6, Rig

_FRAME: Final = b"\xff" * 6 + b"\x02pvrig" + b"\x88\xb5" + b"sentinel" * 8


def _ruleset(link: str, proxy_port: int, rows: tuple[Row, ...], resolvers: bool) -> str:
    counters = [f"counter row{number} {{ }}" for number in range(len(rows))]
    dns = [
        f"ip daddr {RESOLVER4} meta l4proto {{ tcp, udp }} th dport 53 return",
        f"ip6 daddr {RESOLVER6} meta l4proto {{ tcp, udp }} th dport 53 return",
    ]
    rules = [
        'ether type 0x88b5 counter name "sentinel" return',
        "ether type != { ip, ip6 } return",
        f"ip daddr {MID4} tcp dport {proxy_port} return",
        f"ip6 daddr {MID6} tcp dport {proxy_port} return",
        *(dns if resolvers else []),
        "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } return",
        *(f'{rows[number].match} counter name "row{number}" return' for number in _narrow_first(rows)),
        'counter name "other"',
    ]
    chain = f"chain seen {{ type filter hook ingress device {link} priority 0; policy accept;"
    return "\n".join(
        ["table netdev leaks {", *counters, "counter sentinel { }", "counter other { }", chain, *rules, "}", "}", ""]
    )


def _narrow_first(rows: tuple[Row, ...]) -> list[int]:
    """What names an address comes before what does not: a container's ICMP is no other ICMP."""
    return sorted(range(len(rows)), key=lambda number: "saddr" not in rows[number].match)


class Watch:
    """Counts by row, since it was made."""

    def __init__(self, bed: Rig, proxy_port: int, rows: tuple[Row, ...], resolvers: bool) -> None:
        self._mid, self._rows = bed.mid, rows
        bed.mid.run("nft", "-f", "-", input=_ruleset("h0", proxy_port, rows, resolvers))
        with bed.host.inside():
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._wire.bind(("eth0", 0))
        self._sent = 0

    def close(self) -> None:
        self._wire.close()
        self._mid.run("nft", "delete", "table", "netdev", "leaks")

    def now(self) -> dict[str, int]:
        """Give what was seen of each row, by its name, and of OTHER, at this moment."""
        found = self._counters()
        return {**{row.name: found[f"row{number}"] for number, row in enumerate(self._rows)}, OTHER: found["other"]}

    def settled(self) -> dict[str, int]:
        """Give the same when all that was sent before this call has been counted."""
        processors = os.sched_getaffinity(0)
        for each in processors:
            os.sched_setaffinity(0, {each})
            self._wire.send(_FRAME)
            self._sent += 1
        os.sched_setaffinity(0, processors)
        wait.until(lambda: self._counters()["sentinel"] >= self._sent, "the detector has counted all")
        return self.now()

    def _counters(self) -> dict[str, int]:
        with self._mid.inside():
            done = subprocess.run(["nft", "-j", "list", "table", "netdev", "leaks"], capture_output=True, check=True)
        listed = [each["counter"] for each in json.loads(done.stdout)["nftables"] if "counter" in each]
        return {each["name"]: each["packets"] for each in listed}
