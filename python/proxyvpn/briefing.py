"""What the worker is told when it starts: its settings, and descriptors of the files that it cannot open itself.

The descriptors are opened anew for each worker, by `up` and with the rights of its user.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace

from proxyvpn import tlsfiles
from proxyvpn.messages import Start, Upstream
from proxyvpn.names import MOST_DOMAINS, VIRTUAL, Names
from proxyvpn.options import Options
from proxyvpn.reach import Place
from proxyvpn.state import StateDir


def start(
    options: Options, places: tuple[Place, ...], uid: int, files: tuple[str, ...], has_resolvers: bool = False
) -> Start:
    """Give the message; `files` are the names of the descriptors that go with it, in this order."""
    ports = tuple(sorted({proxy.port for proxy in options.proxies}))
    told, names = upstreams(places), _names(options)
    return Start(told, uid, files, options.balancing, names, has_resolvers, ports, options.script is not None)


def upstreams(places: tuple[Place, ...]) -> tuple[Upstream, ...]:
    """Give the proxies, each at each of its addresses, as the worker is told them."""
    return tuple(_upstream(place) for place in places)


def _names(options: Options) -> Names:
    """Add the proxies' names to those that are direct: what asks for one (`up` does, once a minute) wants to reach it,
    and would by a virtual address be led to the proxy through itself.
    """
    if not options.names.are_captured:
        return options.names
    own = tuple(proxy.host.lower().removesuffix(".") for proxy in options.proxies if proxy.address is None)
    return replace(options.names, domains=tuple(dict.fromkeys((*own, *options.names.domains)))[:MOST_DOMAINS])


def files(options: Options, state: StateDir) -> dict[str, int]:
    """Open what the worker is to have. Raises what cannot be opened."""
    opened: dict[str, int] = {}
    if any(proxy.tls for proxy in options.proxies):
        tls = options.tls
        contents = {"trust": tlsfiles.trust(tls.ca, os.environ)}
        if tls.cert:
            contents["identity"] = tlsfiles.identity(tls.cert, tls.key)
        opened |= {name: tlsfiles.sealed(name, content) for name, content in contents.items()}
    if any(resolver.path for resolver in options.names.resolvers):
        opened["authorities"] = tlsfiles.sealed("authorities", tlsfiles.trust("", os.environ))
    if options.names.mode == VIRTUAL:
        opened["names"] = state.names()
    return opened


def _upstream(place: Place) -> Upstream:
    proxy = place.proxy
    return Upstream(
        place.endpoint,
        proxy.host,
        tls=proxy.tls,
        user=_normal(proxy.user or ""),
        password=_normal(proxy.password).encode(),
        schemes=proxy.schemes,
        preemptive=proxy.preemptive,
    )


def _normal(text: str) -> str:
    """Give a user or a password as proxies compare it (RFC 7616 §4, RFC 7617 §2: normalization form C)."""
    return unicodedata.normalize("NFC", text)
