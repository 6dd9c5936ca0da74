"""Keeps the kernel as the plan says while a tunnel is engaged: what others remove is put back, and said.

The kernel's news only make it look: what is there is compared with what was there after our own last step, so our own
changes and those that do not concern us find nothing to mend. A fight with another program must not spin: after MOST
repairs within WINDOW there is one a second, and one line a minute.

    what                            noticed by                   mended by
    firewall removed or changed     nftables' news, else a look  the whole ruleset, in one transaction (plan.firewall)
                                    once a second
    rule, route, address removed    rtnetlink's news             the step again
    TUN set down or removed         rtnetlink's news             up again, or made again on the same queues
    default route changed           rtnetlink's news             nothing depends on it; it is said
    excluded cgroup made anew       a look four times a second   the whole ruleset: it knows a cgroup by its number
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxyvpn import plan
from proxyvpn.errors import ProxyvpnError

if TYPE_CHECKING:
    from proxyvpn.kernel import Kernel

MOST: Final = 10
WINDOW: Final = 10.0
GLANCE: Final = 0.25
"""Seconds between two looks at the excluded cgroups: until it is seen, a restarted service's traffic is captured."""
PAUSE: Final = 1.0
"""Seconds between two repairs in a fight, and between two looks where there is no news."""
QUIET: Final = 60.0
"""Seconds between two lines of a fight; after as many without a repair, it is over."""
RETRY: Final = 0.1
"""Seconds until something that could not be put back is tried again."""
_ROUNDS: Final = 3
"""Putting one thing back may show another: a link that is up again has lost its IPv6 address."""


class Patience:
    """Pure: when the next repair may be made, and whether it is said."""

    def __init__(self) -> None:
        self._recent: tuple[float, ...] = ()
        self._said = 0.0

    def wait(self, now: float) -> float:
        """Give the seconds until a repair may be made."""
        return max(0.0, self._recent[-1] + PAUSE - now) if self.is_fight(now) else 0.0

    def is_fight(self, now: float) -> bool:
        """Say whether there were so many repairs lately that somebody must be working against us."""
        return sum(now - each < WINDOW for each in self._recent) >= MOST

    def repaired(self, now: float) -> bool:
        """Count a repair; say whether it is to be told."""
        fight = self.is_fight(now)
        self._recent = (*self._recent[-MOST:], now)
        if fight and now - self._said < QUIET:
            return False
        self._said = now
        return True


class Upkeep:
    """What is to be there, and what was done to keep it so."""

    def __init__(self, kernel: Kernel, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._kernel = kernel
        self._say = say
        self._clock = clock
        self._wanted: tuple[plan.Tunnel, plan.Host] | None = None
        self._held = ""
        self._defaults: tuple[str, ...] = ()
        self._suspect = {"firewall": False, "routes": False}
        self._by = ""
        self._patience = {"firewall": Patience(), "routes": Patience()}
        self._problem: dict[str, str] = {}
        self._retry_at = {"firewall": 0.0, "routes": 0.0}
        self._look_at = 0.0
        self._cgroups: tuple[int, ...] = ()
        self._glance_at = 0.0

    def begin(self, tunnel: plan.Tunnel, host: plan.Host) -> None:
        """Keep it as it is now; again after each change of our own."""
        self._kernel.news()
        self._wanted = tunnel, host
        self._held = self._kernel.loaded()
        self._suspect = {"firewall": not self._held, "routes": True}
        self._defaults = self._kernel.defaults()
        self._look_at = self._clock() + PAUSE
        self._cgroups = self._kernel.cgroups(tunnel)

    def end(self) -> None:
        """Keep nothing any more."""
        self._wanted = None

    def due(self) -> float | None:
        """Give the seconds until look() has something to do even without news; None: never."""
        if self._wanted is None:
            return None
        now = self._clock()
        waits = [self._wait(kind, now) for kind, suspect in self._suspect.items() if suspect]
        waits += [] if self._kernel.is_watched() else [max(0.0, self._look_at - now)]
        waits += [max(0.0, self._glance_at - now)] if self._wanted[0].excluded_cgroups else []
        return min(waits, default=None)

    def look(self) -> None:
        """Read the news and mend what is broken, as far as patience goes."""
        news = self._kernel.news()
        if self._wanted is None:
            return
        now = self._clock()
        self._by = news.by or self._by
        if not self._kernel.is_watched() and now >= self._look_at:
            self._suspect["firewall"], self._look_at = True, now + PAUSE
        if self._wanted[0].excluded_cgroups and now >= self._glance_at:
            self._glance_at = now + GLANCE
            self._suspect["firewall"] |= self._cgroups != self._kernel.cgroups(self._wanted[0])
        self._suspect["firewall"] |= news.firewall
        self._suspect["routes"] |= news.routes
        for kind, mend in (("firewall", self._mend_firewall), ("routes", self._mend_routes)):
            if self._suspect[kind] and not self._wait(kind, now):
                self._suspect[kind] = False
                self._tried(kind, mend)
        if news.uplink or news.routes:
            self._follow_defaults()

    def notes(self) -> tuple[str, ...]:
        """Give what `status` is to say: what could not be put back, and that somebody removes it again and again."""
        now = self._clock()
        found = list(self._problem.values())
        if any(each.is_fight(now) for each in self._patience.values()):
            found.append(f"another program changes our firewall or routes again and again{self._who()}; see its log")
        return tuple(found)

    def _wait(self, kind: str, now: float) -> float:
        return max(self._patience[kind].wait(now), self._retry_at[kind] - now, 0.0)

    def _tried(self, kind: str, mend: Callable[[plan.Tunnel, plan.Host], str]) -> None:
        assert self._wanted is not None  # noqa: S101
        begun = self._clock()
        try:
            mended = mend(*self._wanted)
        except ProxyvpnError as error:
            self._suspect[kind], self._retry_at[kind] = True, self._clock() + RETRY
            self._patience[kind].repaired(begun)
            problem = f"the {kind} cannot be put back: {error.what} {error.why}".rstrip()
            if self._problem.get(kind) != problem:
                self._say(f"proxyvpn: {problem}; trying again")
            self._problem[kind] = problem
            return
        self._problem.pop(kind, None)
        if not mended:
            return
        if self._patience[kind].repaired(begun):
            again = "; it happens again and again, so it is put back once a second from here on"
            fight = again if self._patience[kind].is_fight(begun) else ""
            self._say(f"proxyvpn: {mended} (after {(self._clock() - begun) * 1000:.0f} ms){fight}")

    def _mend_firewall(self, tunnel: plan.Tunnel, host: plan.Host) -> str:
        """Put the ruleset back, with the connections that came in by now; give what to say, empty when all is well."""
        found, numbers = self._kernel.loaded(), self._kernel.cgroups(tunnel)
        moved, self._cgroups = numbers != self._cgroups, numbers
        if found and found == self._held and not moved:
            return ""
        for step in plan.firewall(tunnel, dataclasses.replace(host, earlier=self._kernel.earlier())):
            self._kernel.restore(step)
        self._held = self._kernel.loaded()
        self._suspect["firewall"] = not self._held
        if moved:
            there = ", ".join(each for each, number in zip(tunnel.excluded_cgroups, numbers, strict=True) if number)
            return f"an excluded cgroup has ended or begun; left alone are now: {there or 'none'}"
        return f"the firewall was {'changed' if found else 'removed'}{self._who()} and is put back"

    def _mend_routes(self, tunnel: plan.Tunnel, host: plan.Host) -> str:
        """Put links, addresses, routes and rules back."""
        steps, lines = plan.steps(tunnel, host), []
        for _ in range(_ROUNDS):
            missing = self._kernel.missing(steps)
            if not missing:
                break
            for step in missing:
                self._kernel.restore(step)
                lines.append(step.line)
        return f"another program removed what is put back: {'; '.join(dict.fromkeys(lines))}" if lines else ""

    def _follow_defaults(self) -> None:
        found = self._kernel.defaults()
        if found != self._defaults:
            self._defaults = found
            self._say(f"proxyvpn: the default route is now {', '.join(found) or 'none'}; the tunnel follows it")

    def _who(self) -> str:
        return f" by `{self._by}`" if self._by else ""
