"""Fuzz target: any bytes are a message or a ProtocolError, and a message is the same after another way round.

Run by scripts/fuzz.sh where atheris is to be had; scripts/fuzz.sh says how.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["proxyvpn", "ipaddress", "msgpack"]):
    from proxyvpn.errors import ProtocolError
    from proxyvpn.messages import decode, encode


def one(packet: bytes) -> None:
    """Try one packet."""
    try:
        found = decode(packet)
    except ProtocolError:
        return
    if decode(encode(found)) != found:
        raise AssertionError(found)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
