"""Pure: what people and programs read about a tunnel: the `ready:` line, and `status` as text and as JSON.

The keys of the JSON are part of the interface: they are only ever added to, or SCHEMA grows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from proxyvpn import figures
from proxyvpn.balancing import ORDER
from proxyvpn.messages import Report, Standing
from proxyvpn.names import VIRTUAL, Names
from proxyvpn.options import Options
from proxyvpn.state import Record

SCHEMA: Final = 2
FIREWALL_GONE: Final = (
    "the firewall of the killswitch is NOT in place: another program removes it (`nft flush ruleset`?). Until it is "
    "put back, what is bound to an address or a device leaves directly"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """What `status` found. `state` is up, down or locked; `left` is what an earlier tunnel left in the kernel."""

    state: str
    pid: int = 0
    report: Report | None = None
    record: Record | None = None
    left: tuple[str, ...] = ()
    dropped: int = 0
    notes: tuple[str, ...] = ()


def ready_line(options: Options, ifname: str, resolvers: tuple[str, ...], remote: bool = False) -> str:
    """Say in one line what happens to TCP, UDP and DNS from now on; `remote`: who reads it came in by SSH."""
    proxies = _named(tuple(map(str, options.proxies)), options.balancing.way)
    source = f" (from {options.source})" if options.source else ""
    if options.script is not None:
        proxies = f"what the PAC file {options.script.origin} says, of {', '.join(map(str, options.proxies))}"
    names = ", ".join(resolvers)
    captured = f"; {_names(options.names, resolvers)}" if options.names.are_captured else ""
    if options.killswitch:
        udp = f"UDP is dropped but for DNS to {names}" if names and not captured else "UDP is dropped, DNS too"
        answers = "".join(f", udp/{port} answers" for port in options.inbound)
        rest = f"killswitch on, {'UDP is dropped' if captured else udp}{answers}{captured}"
    else:
        dns = f"; DNS goes directly to {names}" if names else "; DNS over TCP goes through the proxy"
        rest = f"killswitch off, UDP is left alone{captured or dns}"
    return f"ready: TCP goes through {proxies}{source} by {ifname}; {rest}{_to_confirm(options, remote)}"


def _names(names: Names, direct: tuple[str, ...]) -> str:
    """Say who resolves names that are captured."""
    asked = ", ".join(map(str, names.resolvers))
    if names.mode == VIRTUAL:
        text = f"names are resolved by the proxy (virtual{f'; other records by {asked} behind it' if asked else ''})"
    else:
        text = f"names are resolved through the proxy by {asked}"
    domains = ", ".join(("single labels", ".local", *names.domains))
    return f"{text}, {domains} directly by {', '.join(direct)}" if direct else f"{text}, {domains} by nobody"


def _named(proxies: tuple[str, ...], way: str) -> str:
    """Name the proxies, and how one of them is chosen."""
    if way == ORDER or len(proxies) == 1:
        return ", then ".join(proxies)
    return f"{', '.join(proxies)} ({way})"


def _to_confirm(options: Options, remote: bool) -> str:
    if options.confirm:
        return f"; undone in {_duration(options.confirm)} unless confirmed: Enter, or `proxyvpn confirm`"
    return "; over SSH, `up --confirm 60` undoes itself when you cannot get in any more" if remote else ""


def as_json(found: Condition, now: int) -> dict[str, Any]:
    """Give everything that is known, for json.dumps; what is not known is null."""
    report, known = found.report, found.report or found.record
    return {
        "schema": SCHEMA,
        "state": found.state,
        "pid": found.pid or None,
        "interface": (known.ifname or None) if known else None,
        "proxies": known.proxies if known else (),
        "upstreams": [_standing(each) for each in report.standings] if report else [],
        "resolvers": known.resolvers if known else (),
        "names": _names_json(report.names) if report else None,
        "bypass": known.bypass if known else (),
        "killswitch": known.killswitch if known else None,
        "since": known.since if known else None,
        "uptime": max(0, now - report.since) if report else None,
        "restarts": report.restarts if report else None,
        "dropped": report.dropped if report else found.dropped,
        "counters": report.counters if report else {},
        "figures": figures.grouped(report.counters if report else {}),
        "left": found.left,
        "notes": (*(report.notes if report else ()), *found.notes),
    }


def _names_json(names: Names) -> dict[str, Any]:
    return {"mode": names.mode, "direct_domains": names.domains, "resolvers": tuple(map(str, names.resolvers))}


def as_text(found: Condition, now: int) -> str:
    """Give a few short lines."""
    if found.report is not None:
        lines = _running(found.report, found.pid, now)
    elif found.state == "locked":
        lines = [
            "locked: a killswitch was left behind by a crash; nothing leaves this machine",
            "unlock it with `proxyvpn teardown`, or go on with `proxyvpn up`",
        ]
        if found.record is not None:
            lines += [f"it was for    {', then '.join(found.record.proxies)}"]
        if found.dropped:
            lines += [f"dropped       {_packets(found.dropped)}"]
    else:
        lines = ["down: no tunnel is running"]
        if found.left:
            lines += ["something was left behind; `proxyvpn teardown` removes it:"]
    lines += [f"  {step}" for step in found.left if found.state == "down"]
    lines += [f"note          {note}" for note in found.notes]
    return "\n".join(lines)


def _running(report: Report, pid: int, now: int) -> list[str]:
    count = report.counters.get
    now_open = count("flows_open_now", 0) + count("flows_connecting_now", 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.since))
    open_for = "" if report.names.are_captured else " but for DNS"
    udp = f"UDP is dropped{open_for}" if report.killswitch else "UDP is left alone"
    lines = [
        f"up            since {since} ({_duration(now - report.since)}), pid {pid}",
        f"proxy         {', then '.join(report.proxies)}",
        f"interface     {report.ifname}",
        f"killswitch    {'on' if report.killswitch else 'off'}, {udp}",
        f"DNS           {_dns(report)}",
        f"flows         {now_open} now, {count('flows_opened', 0)} opened, {figures.refused(report.counters)} refused",
        f"bytes         {_size(count('bytes_up', 0))} up, {_size(count('bytes_down', 0))} down",
    ]
    lines[2:2] = _standings(report)
    lines += [f"{name:<14}{text}" for name, text in _figures(report) if text]
    if report.bypass:
        lines.insert(4 + len(_standings(report)), f"bypass        {', '.join(report.bypass)}")
    if report.killswitch:
        lines.append(f"dropped       {_packets(report.dropped)}")
    if report.restarts:
        lines.append(f"restarts      {report.restarts} of the worker; counters are since the last")
    return lines + [f"note          {note}" for note in report.notes]


def _standing(found: Standing) -> dict[str, Any]:
    return {
        "address": str(found.endpoint),
        "proxy": found.proxy,
        "state": found.state,
        "seconds": found.seconds,
        "counters": found.counters,
    }


def _standings(report: Report) -> list[str]:
    """Give a line for each address of a proxy, where there are several, or one is not well."""
    if len(report.standings) < 2 and all(found.state == "up" for found in report.standings):
        return []
    return [
        f"  {found.endpoint!s:<20}  {figures.standing_line(found.state, _duration(found.seconds), found.counters)}"
        for found in report.standings
    ]


def _dns(report: Report) -> str:
    if report.names.are_captured:
        return _names(report.names, report.resolvers)
    return f"directly to {', '.join(report.resolvers)}" if report.resolvers else "none direct"


def _figures(report: Report) -> tuple[tuple[str, str], ...]:
    """Give the lines about the counters that there is something to say about."""
    counters = report.counters
    return (
        ("flows now", figures.states_line(counters)),
        ("refused", figures.refused_line(counters)),
        ("names", figures.names_line(counters)),
        ("connect time", figures.connect_line(counters)),
        ("warm", figures.warm_line(counters)),
        ("TUN", figures.dropped_by_tun_line(counters)),
    )


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(shown) or "0 s"


def _size(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _packets(number: int) -> str:
    return "1 packet" if number == 1 else f"{number} packets"
