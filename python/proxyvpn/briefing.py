"""What the worker is told when it starts: its settings, and descriptors of the files that it cannot open itself.

The descriptors are opened anew for each worker, by `up` and with the rights of its user.
"""

from __future__ import annotations

import os
import unicodedata

from proxyvpn import certificates
from proxyvpn.messages import Start, Upstream
from proxyvpn.options import Options
from proxyvpn.reach import Place


def start(options: Options, places: tuple[Place, ...], uid: int, files: tuple[str, ...]) -> Start:
    """Give the message; `files` are the names of the descriptors that go with it, in this order."""
    return Start(upstreams(options, places), uid, files, options.balancing)


def upstreams(options: Options, places: tuple[Place, ...]) -> tuple[Upstream, ...]:
    """Give the proxies, each at each of its addresses, as the worker is told them."""
    return tuple(_upstream(options, place) for place in places)


def files(options: Options) -> dict[str, int]:
    """Open what the worker is to have. Raises what cannot be opened."""
    contents = _certificates(options) if any(proxy.tls for proxy in options.proxies) else {}
    return {name: certificates.as_descriptor(name, content) for name, content in contents.items()}


def _certificates(options: Options) -> dict[str, bytes]:
    found = {"trust": certificates.trust(options.authorities, os.environ)}
    if options.certificate is not None:
        found["identity"] = certificates.identity(options.certificate, options.key)
    return found


def _upstream(options: Options, place: Place) -> Upstream:  # noqa: ARG001 - so far all is in the proxy
    proxy = place.proxy
    return Upstream(
        place.endpoint,
        proxy.host,
        user=_normal(proxy.user or ""),
        password=_normal(proxy.password).encode(),
        schemes=proxy.schemes,
        preemptive=proxy.preemptive,
        tls=proxy.tls,
    )


def _normal(text: str) -> str:
    """Give a user or a password as proxies compare it (RFC 7616 §4, RFC 7617 §2: normalization form C)."""
    return unicodedata.normalize("NFC", text)
