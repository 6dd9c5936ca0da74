"""Pure: `proxyvpn config show` as text and as JSON. No secret is ever in it."""

from __future__ import annotations

from typing import Any

from proxyvpn.config.keys import Value
from proxyvpn.config.merge import Level, hidden


def as_json(settings: Level, files: tuple[tuple[str, bool], ...]) -> dict[str, Any]:
    """Give all of it as a program wants it; `files` are those looked for, and whether they were there."""
    return {
        "files": [{"path": path, "found": found} for path, found in files],
        "options": {
            name: {"value": public(name, setting.value), "from": setting.origin} for name, setting in settings.items()
        },
    }


def as_text(settings: Level, files: tuple[tuple[str, bool], ...]) -> tuple[str, ...]:
    """Give a line for each file and each option, in columns."""
    heads = tuple(f"# {path}{'' if found else ' (not there)'}" for path, found in files)
    rows = [(name, _text(public(name, setting.value)), setting.origin) for name, setting in settings.items()]
    names, values = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return (*heads, *(f"{name:{names}}  {value:{min(values, 40)}}  {origin}" for name, value, origin in rows))


def public(name: str, value: Value) -> Value:
    """Give a value without what nobody is to read."""
    if isinstance(value, tuple):
        return tuple(hidden(text) for text in value)
    if not isinstance(value, str):
        return value
    if name == "proxy-user":
        user, colon, _ = value.partition(":")
        return f"{user}{':***' if colon else ''}"
    if name == "proxy-password-command":
        program, blank, _ = value.strip().partition(" ")
        return f"{program}{' ***' if blank else ''}"
    return hidden(value)


def _text(value: Value) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
