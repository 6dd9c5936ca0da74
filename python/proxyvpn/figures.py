"""Pure: what the worker's counters mean: grouped for programs, and in words for people.

Counters are a flat map of names (docs/counters.md lists them, rust/stats.rs makes them). A name that this file does not
know is still shown, by its own name, so that nothing that is counted is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

Counters = Mapping[str, int]

_STATUS: Final = "refused_status_"
_UNDER: Final = "connect_under_"

_PLACES: Final[dict[str, tuple[str, ...]]] = {
    "proxy_failovers": ("proxies", "failovers"),
    "proxy_races": ("proxies", "races"),
    "proxies_lost": ("proxies", "lost"),
    "unknown_segments": ("packets", "unknown_segments"),
    "not_tcp": ("packets", "not_tcp"),
    "bad_packets": ("packets", "bad"),
    "names_now": ("dns", "names", "now"),
    "names_unwritten": ("dns", "names", "unwritten"),
}
_GROUPS: Final = ("flows", "refused", "connect", "bytes", "pool", "tun", "notes", "dns")

_REASONS: Final = {
    "refused_unreachable": "without a connection to the proxy",
    "refused_timeout": "timed out",
    "refused_garbage": "by an answer that is not HTTP",
    "refused_closed": "hung up on",
    "refused_tls": "no TLS with the proxy",
    "refused_credentials": "for want of credentials",
    "refused_script": "by the PAC file",
    "refused_direct": "past the proxies",
    "refused_descriptors": "for want of descriptors",
    "refused_memory": "for want of memory",
    "refused_nameless": "to virtual addresses that no name has",
    "refused_dns_over_tls": "to port 853, with virtual names",
}
_FAILURES: Final = ("unreachable", "timeout", "garbage", "tls", "closed")
"""Counters of one proxy: connects that failed by its fault."""
_STATES: Final = {
    "flows_dialing_now": "connecting to the proxy",
    "flows_asking_now": "waiting for its answer",
    "flows_granted_now": "about to open",
    "flows_established_now": "open",
    "flows_half_closed_by_client_now": "half closed by the program",
    "flows_half_closed_by_proxy_now": "half closed by the proxy",
    "flows_closing_now": "closing",
    "flows_breaking_now": "broken by the proxy",
}


def grouped(counters: Counters) -> dict[str, Any]:
    """Give all counters as maps of maps, for json.dumps: each at one place."""
    found: dict[str, Any] = {}
    for name, value in counters.items():
        inner = found
        *path, last = _place(name)
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return found


def _place(name: str) -> tuple[str, ...]:
    if name in _PLACES:
        return _PLACES[name]
    if name.startswith(_STATUS):
        return ("refused", "status", name.removeprefix(_STATUS))
    if name.startswith(_UNDER) and name.endswith("_ms"):
        return ("connect", "under_ms", name.removeprefix(_UNDER).removesuffix("_ms"))
    group, _, rest = name.partition("_")
    if group not in _GROUPS or not rest:
        return ("other", name)
    if rest.endswith("_now"):
        return (group, "now", rest.removesuffix("_now"))
    return (group, rest)


def refused(counters: Counters) -> int:
    """Give the number of refused connects."""
    return sum(value for name, value in counters.items() if name.startswith("refused_"))


def refused_line(counters: Counters) -> str:
    """Say why connects were refused, the commonest reason first; empty when none was."""
    total = refused(counters)
    statuses = _descending((name.removeprefix(_STATUS), n) for name, n in counters.items() if name.startswith(_STATUS))
    others = [
        (_REASONS.get(name, name.removeprefix("refused_").replace("_", " ")), value)
        for name, value in counters.items()
        if name.startswith("refused_") and not name.startswith(_STATUS)
    ]
    by_proxy = (f"by the proxy ({_statuses(statuses)})", sum(value for _, value in statuses))
    reasons = ", ".join(f"{value} {words}" for words, value in _descending([by_proxy, *others]))
    return f"{total}: {reasons}" if total else ""


def _statuses(statuses: list[tuple[str, int]]) -> str:
    if len(statuses) == 1:
        return _status(statuses[0][0])
    return ", ".join(f"{value} with {_status(status)}" for status, value in statuses)


def _status(status: str) -> str:
    return "another status" if status == "other" else status


def _descending(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Give those that are not zero, the largest first, and equal ones as they came."""
    return sorted(((words, value) for words, value in pairs if value), key=lambda pair: -pair[1])


def states_line(counters: Counters) -> str:
    """Say in which states the flows are; empty when all that there are are open."""
    found = [(words, counters[name]) for name, words in _STATES.items() if counters.get(name)]
    if [words for words, _ in found] in ([], ["open"]):
        return ""
    return ", ".join(f"{value} {words}" for words, value in found)


def names_line(counters: Counters) -> str:
    """Say how many questions about names there were, and what became of those that were not answered."""
    if not counters.get("dns_questions"):
        return ""
    failed, unwritten = counters.get("dns_failed", 0), counters.get("names_unwritten", 0)
    parts = [f"{counters['dns_questions']} questions, {counters.get('names_now', 0)} have a virtual address"]
    parts += [f"{failed} could not be answered"] if failed else []
    parts += [f"{unwritten} could not be written to the state directory"] if unwritten else []
    return ", ".join(parts)


def connect_line(counters: Counters) -> str:
    """Say within which time half and nine of ten connects were open; empty when none was measured.

    The histogram knows bounds only, so the words are a bound, never a guess of what lies between.
    """
    total = counters.get("connect_count", 0)
    if not total:
        return ""
    half, most = _bound(counters, total, 50), _bound(counters, total, 90)
    if half == most:
        return f"{half} for nine of ten"
    return f"{half} for half, {most} for nine of ten"


def _bound(counters: Counters, total: int, percent: int) -> str:
    """Give the lowest bound that holds for so many percent of all."""
    bounds = {
        int(name.removeprefix(_UNDER).removesuffix("_ms")): value
        for name, value in counters.items()
        if name.startswith(_UNDER) and name.endswith("_ms")
    }
    fitting = [bound for bound, value in bounds.items() if value * 100 >= total * percent]
    if fitting:
        return f"under {_milliseconds(min(fitting))}"
    return f"over {_milliseconds(max(bounds, default=0))}"


def _milliseconds(number: int) -> str:
    return f"{number // 1000} s" if number >= 1000 else f"{number} ms"


def warm_line(counters: Counters) -> str:
    """Say how often a connection to the proxy was at hand; empty when none was ever made."""
    used, made = counters.get("pool_hits", 0) - counters.get("pool_stale", 0), counters.get("pool_made", 0)
    if not made and not used:
        return ""
    return f"{used} of {made} connections that were made in advance were used, {counters.get('pool_idle_now', 0)} wait"


def standing_line(state: str, lasting: str, counters: Counters) -> str:
    """Say how one proxy is, for how long, and what it was asked for."""
    count = counters.get
    how = state if state == "up" else f"{state} for {lasting}"
    failed = sum(count(name, 0) for name in _FAILURES)
    said_no = sum(value for name, value in counters.items() if name.startswith("refused_"))
    opened = count("opened", 0)
    line = f"{how}; {count('flows_now', 0)} flows, {opened} of {count('connects', 0)} connects opened"
    if opened:
        line += f" in {count('connect_sum_us', 0) / opened / 1000:.0f} ms on average"
    downs = count("downs", 0)
    reasons = ((failed, "failed"), (said_no, "refused"), (downs, "time down" if downs == 1 else "times down"))
    return line + "".join(f", {value} {words}" for value, words in reasons if value)


def dropped_by_tun_line(counters: Counters) -> str:
    """Say how many packets the kernel did not take from the worker; empty when it took all."""
    lost = counters.get("tun_dropped", 0)
    return f"{lost} packet{'' if lost == 1 else 's'} not taken by the kernel" if lost else ""
