"""Grants the worker's wishes for the way to a host: what a PAC file says of it.

    wish     PORT HOST
    grant    a line for each way, in order: `http HOST PORT`, `https HOST PORT`, `direct`

Never waits. One question at a time goes to the evaluator, and to a new one where a script took too long. Answers are
kept for a while, errors more shortly, so that a script that loops costs its second once and not for every connection.
Each error, and each way that cannot be gone, is said once.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxyvpn.options import Script
from proxyvpn.pac.evaluator import Evaluator, Gone, Start, own_uid, words
from proxyvpn.pac.routes import Answer, Route, ScriptFailed, parse
from proxyvpn.proxy import Proxy
from proxyvpn.tunnel import IPAddress
from proxyvpn.wishes import Granted

KIND: Final = "pac"
KEEP: Final = 300.0
KEEP_ERROR: Final = 30.0
"""Seconds for which an answer, and an error, holds for the same host and port."""
MOST_KEPT: Final = 4096
MOST_SAID: Final = 50
_WISH: Final = re.compile(r"([0-9]{1,5}) ([A-Za-z0-9._:-]{1,253})")

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    content: bytes
    refusal: str
    until: float


class Source:
    """See the head of this file: a wishes.Provider."""

    def __init__(
        self,
        script: Script,
        proxies: tuple[Proxy, ...],
        start: Start,
        say: Callable[[str], None],
    ) -> None:
        self._script = script
        self._known = frozenset(route_of(proxy) for proxy in proxies)
        self._start = start
        self._say = say
        self._said: set[str] = set()
        self._evaluator: Evaluator | None = None
        self._asked: _Key | None = None
        self._queue: deque[_Key] = deque()
        self._waiting: dict[_Key, list[int]] = {}
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._granted: list[Granted] = []

    def begin(self, number: int, content: bytes) -> None:
        """Answer from what is kept, or ask."""
        key = _key(content)
        kept = self._kept.get(key) if key is not None else None
        if key is None:
            self._granted.append(Granted(number, refusal="that is not a port and a host"))
        elif kept is not None and kept.until > time.monotonic():
            self._granted.append(Granted(number, kept.content, kept.refusal))
        elif key in self._waiting:
            self._waiting[key].append(number)
        else:
            self._waiting[key] = [number]
            self._queue.append(key)
            self._ask()

    def fileno(self) -> int:
        """Give the evaluator's descriptor while it is asked; its end at any other time is of no interest."""
        return -1 if self._evaluator is None or self._asked is None else self._evaluator.fileno()

    def take(self) -> list[Granted]:
        """Read what the evaluator says, and ask it the next question."""
        while self._evaluator is not None and self._asked is not None:
            try:
                answer = self._evaluator.take()
                if answer is None:
                    break
                content, refusal = self._content(parse(answer)), ""
            except ScriptFailed as error:
                content, refusal = b"", words(error)
                if isinstance(error, Gone):
                    self._drop()
            self._answer(content, refusal)
            self._ask()
        taken, self._granted = self._granted, []
        return taken

    def permits(self, address: IPAddress, port: int) -> bool:
        """Say whether the answer for this address was one that has DIRECT in it: the worker's word is not enough."""
        kept = self._kept.get((str(address), port))
        return kept is not None and b"direct\n" in kept.content

    def renew(self, script: Script) -> None:
        """Use another script from now on; what is being asked is asked anew."""
        self._script = script
        self._kept.clear()
        self._said.clear()
        self._drop()
        if self._asked is not None:
            self._queue.appendleft(self._asked)
            self._asked = None
        self._ask()

    def end(self) -> None:
        """End the evaluator."""
        self._drop()

    def _drop(self) -> None:
        if self._evaluator is not None:
            self._evaluator.end()
            self._evaluator = None

    def _ask(self) -> None:
        """Ask the next question, unless one is under way."""
        while self._asked is None and self._queue:
            if self._evaluator is not None and self._evaluator.is_readable():
                self._drop()  # it has ended meanwhile
            self._asked = self._queue.popleft()
            try:
                self._evaluator = self._evaluator or Evaluator(self._script, self._start, own_uid())
            except OSError as error:
                self._answer(b"", f"the PAC file's process cannot be started: {error.strerror}")
            else:
                self._evaluator.ask(*self._asked)

    def _answer(self, content: bytes, refusal: str) -> None:
        """Tell all who wait for what was asked, and keep it."""
        key, self._asked = self._asked, None
        assert key is not None  # noqa: S101
        if refusal:
            self._say_once(f"the PAC file has no way to {key[0]}:{key[1]}: {refusal}", refusal)
        self._granted += [Granted(number, content, refusal) for number in self._waiting.pop(key, ())]
        self._kept[key] = _Kept(content, refusal, time.monotonic() + (KEEP_ERROR if refusal else KEEP))
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def _content(self, answer: Answer) -> bytes:
        """Give the grant. Raises ScriptFailed when none of the ways can be gone."""
        for kind in answer.left_out:
            self._say_once(f"the PAC file names {kind} proxies; they are passed over", kind)
        ways = [route for route in answer.routes if route.is_direct or route in self._known]
        for route in answer.routes:
            if route not in ways:
                advice = "give it by --proxy, too, and it is used"
                self._say_once(f"the PAC file names {route}, which was not known when `up` began; {advice}", str(route))
        if not ways:
            raise ScriptFailed("none of its proxies can be used", ", ".join(map(str, answer.routes[:4])))
        return "".join(f"{_line(route)}\n" for route in ways).encode()

    def _say_once(self, line: str, what: str) -> None:
        if what not in self._said and len(self._said) < MOST_SAID:
            self._said.add(what)
            self._say(line)


def route_of(proxy: Proxy) -> Route:
    """Pure: give the route that leads to `proxy`."""
    return Route("https" if proxy.tls else "http", proxy.host.lower(), proxy.port)


def _key(content: bytes) -> _Key | None:
    found = _WISH.fullmatch(content.decode("ascii", "replace"))
    return (found[2].lower(), int(found[1])) if found and 0 < int(found[1]) < 65536 else None


def _line(route: Route) -> str:
    return "direct" if route.is_direct else f"{route.scheme} {route.host} {route.port}"
