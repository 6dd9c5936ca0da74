"""A PAC file in a JavaScript engine: the only file that imports one.

The engine (QuickJS) has no way out by itself: no file, no network, no module, no timer; what a script can reach is
functions.js and the callables below. It limits memory and stack. Time it cannot limit while a script may call us: that
is left to the process around it (child.py). All is read when this is imported: that process can open no file later.

The extension module is imported instead of the package around it, which starts a thread at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import resources
from ipaddress import ip_address, ip_network
from typing import Any, Final

from proxyvpn.errors import ProxyvpnError
from proxyvpn.pac.routes import ScriptFailed

try:
    import _quickjs
except ImportError:
    _quickjs = None

MEMORY: Final = 64 * 1024 * 1024
STACK: Final = 512 * 1024
_MAX_HOST: Final = 253
_FUNCTIONS: Final = resources.files(__package__).joinpath("functions.js").read_text(encoding="utf-8")


class NoEngine(ProxyvpnError):
    """The optional part that evaluates PAC files is not installed."""


class Exhausted(ScriptFailed):
    """Memory or stack ran out: the engine is of no use any more."""


class Engine:
    """One script, loaded."""

    def __init__(
        self,
        script: str,
        resolve: Callable[[str], tuple[str, ...]],
        mine: tuple[str, ...],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Load `script`. `resolve` gives a name's addresses, `mine` are those of this machine. Raises ScriptFailed."""
        check()
        self._context = _quickjs.Context()
        self._context.set_memory_limit(MEMORY)
        self._context.set_max_stack_size(STACK)
        callables: dict[str, Callable[..., Any]] = {
            "pacResolve": lambda host: ";".join(_resolved(str(host), resolve)),
            "pacWithin": lambda address, network: _within(str(address), str(network)),
            "pacSorted": lambda addresses: _sorted(str(addresses)),
            "pacNow": lambda: now() * 1000.0,
        }
        for name, call in callables.items():
            self._context.add_callable(name, call)
        self._context.set("pacMine", ";".join(mine))
        self._do(lambda: self._context.eval(_FUNCTIONS))
        self._do(lambda: self._context.eval(script))
        self._find = self._do(self._entry)
        if not callable(self._find):
            raise ScriptFailed("the PAC file has no function FindProxyForURL", "", "is it a PAC file at all?")

    def find(self, url: str, host: str) -> str:
        """Give what the script says of `url`. Raises ScriptFailed."""
        found = self._do(lambda: self._find(url, host))
        if not isinstance(found, str):
            raise ScriptFailed("the PAC file gives no text", f"FindProxyForURL returned {type(found).__name__}")
        return found

    def _entry(self) -> Any:
        """Give FindProxyForURL, as browsers do where there are both."""
        return self._context.eval(
            "typeof FindProxyForURL === 'function' ? FindProxyForURL : globalThis.FindProxyForURLEx"
        )

    def _do(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except ProxyvpnError:
            raise
        except Exception as error:  # noqa: BLE001 - the engine's own kinds, and what converting a strange value raises
            text = "".join(letter if letter.isprintable() else " " for letter in str(error).partition("\n")[0])[:200]
            kind = Exhausted if "out of memory" in text or "stack" in text else ScriptFailed
            raise kind("the PAC file failed", text) from None


def check() -> None:
    """Raise NoEngine where there is none."""
    if _quickjs is None:
        what = "PAC files need a JavaScript engine, which is not installed"
        raise NoEngine(what, "", "pip install 'proxyvpn[pac]'")


def _resolved(host: str, resolve: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return (str(ip_address(host.strip("[]"))),)
    except ValueError:
        return resolve(host) if 0 < len(host) <= _MAX_HOST and host.isascii() else ()


def _within(address: str, network: str) -> bool:
    try:
        return ip_address(address.strip("[]")) in ip_network(network.strip(), strict=False)
    except ValueError:
        return False


def _sorted(addresses: str) -> str:
    """IPv6 before IPv4; nothing when one of them is no address."""
    try:
        found = [ip_address(each.strip()) for each in addresses.split(";")]
    except ValueError:
        return ""
    return ";".join(str(each) for each in sorted(found, key=lambda each: (-each.version, int(each))))
