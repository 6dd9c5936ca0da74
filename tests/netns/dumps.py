"""What the kernel holds for one namespace, as text, to be compared byte for byte."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.netns.namespaces import Namespace

_BARE = "sed '/^#/d; s/ \\[[0-9]*:[0-9]*\\]$//'"
"""Takes times and counters out of what iptables-save prints."""
_COMMANDS = {
    "rules, IPv4": "ip -4 -d rule show",
    "rules, IPv6": "ip -6 -d rule show",
    "routes, IPv4": "ip -4 -d route show table all",
    "routes, IPv6": "ip -6 -d route show table all",
    "links": "ip -d link show",
    "addresses": "ip -d address show",
    "nftables": "nft --stateless list ruleset",
    "iptables": f"iptables-save 2>/dev/null | {_BARE}",
    "ip6tables": f"ip6tables-save 2>/dev/null | {_BARE}",
    "iptables, legacy": f"iptables-legacy-save 2>/dev/null | {_BARE}",
    "ip6tables, legacy": f"ip6tables-legacy-save 2>/dev/null | {_BARE}",
}
_MOVING = ("nf_conntrack_count", "stable_secret", "tcp_fastopen_key", "route/flush")


def dump(ns: Namespace) -> dict[str, str]:
    """Give rules, routes, links, addresses, rulesets and every sysctl under net. of `ns`, by name."""
    script = "\n".join(f"echo '@@{name}'\n{command}" for name, command in _COMMANDS.items())
    parts = ns.sh(script).split("@@")[1:]
    found = {name: rest for name, _, rest in (part.partition("\n") for part in parts)}
    with ns.inside():
        found["sysctls"] = _sysctls()
    return found


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """Give the lines that differ, empty when the machine is as it was."""
    lines = []
    for name, text in before.items():
        old, new = text.splitlines(), after[name].splitlines()
        lines += [f"{name}: - {line}" for line in old if line not in new]
        lines += [f"{name}: + {line}" for line in new if line not in old]
        if old != new and sorted(old) == sorted(new):
            lines.append(f"{name}: the order changed")
    return "\n".join(lines)


def without_empty_tables(found: dict[str, str]) -> dict[str, str]:
    """Leave out what the iptables programs make by being called at all: tables whose built-in chains hold nothing."""
    kept = dict(found)
    for name in (name for name in found if "tables" in name):
        kept[name] = _EMPTY_NFT.sub("", _EMPTY_IPTABLES.sub("", found[name]))
    return kept


_EMPTY_IPTABLES = re.compile(r"^\*\w+\n(?::[A-Z]+ ACCEPT\n)+COMMIT\n", re.MULTILINE)
_EMPTY_NFT = re.compile(
    r"^table ip6? \w+ \{\n(?:\tchain [A-Z]+ \{\n\t\ttype [^\n]*; policy accept;\n\t\}\n*)*\}\n", re.MULTILINE
)


def _sysctls() -> str:
    found = []
    for folder, _, files in os.walk("/proc/sys/net"):
        for file in files:
            path = Path(folder, file)
            if any(part in str(path) for part in _MOVING):
                continue
            try:
                value = path.read_text().strip()
            except OSError as error:
                value = f"({error.strerror})"
            found.append(f"{str(path).partition('/sys/net/')[2]} = {value}")
    return "\n".join(sorted(found))
