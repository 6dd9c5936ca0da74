"""Pure: what was typed, variables and files -> one value for each option, and where it is from.

The first of these that sets an option decides it; lists are replaced, never added to:

    the command line > PROXYVPN_* > the user's file > the machine's file > https_proxy and its like > nothing

The general variables come last because they speak to every program; who writes a file for this one means this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxyvpn.config.files import File
from proxyvpn.config.keys import ONLY_TYPED, PASSWORD, Key, Kind, Value, check_variables, closest, from_text, from_toml
from proxyvpn.errors import UsageError
from proxyvpn.options import VARIABLES

TYPED: Final = "the command line"
DEFAULT: Final = "default"
_SCHEME: Final = re.compile(r"(pac:)?[A-Za-z][A-Za-z0-9+.-]*://|pac:")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it is from: TYPED, DEFAULT, a variable, or a file and a line."""

    value: Value
    origin: str


Level = dict[str, Setting]


def merge(
    keys: tuple[Key, ...], typed: Mapping[str, Value], environ: Mapping[str, str], files: tuple[File, ...], home: str
) -> Level:
    """Give a Setting for each key, by its name. `typed` goes by Python's names, `files` by weight; `home` is what ~
    stands for. Raises UsageError."""
    levels = (
        {key.name: Setting(typed[key.parameter], TYPED) for key in keys if key.parameter in typed},
        _from_variables(keys, environ),
        *(_from_file(keys, file, home) for file in files),
        _from_general(environ),
    )
    found: Level = {}
    for level in levels:
        _check_passwords(level)
        covered = PASSWORD if found.keys() & set(PASSWORD) else ()
        found = {**{name: setting for name, setting in level.items() if name not in covered}, **found}
    return {key.name: found.get(key.name, Setting(key.default, DEFAULT)) for key in keys}


def explained(error: UsageError, settings: Level) -> UsageError:
    """Give `error` with the place of the options that it names, where they were not typed."""
    names = re.findall(r"--([a-z][a-z-]*[a-z])", error.what)
    origins = dict.fromkeys(settings[name].origin for name in names if name in settings)
    places = [origin for origin in origins if origin not in (TYPED, DEFAULT)]
    return UsageError(f"{error.what} (from {', '.join(places)})", error.why, error.advice) if places else error


def _from_variables(keys: tuple[Key, ...], environ: Mapping[str, str]) -> Level:
    check_variables(keys, environ)
    set_here = [key for key in keys if environ.get(key.variable)]
    return {key.name: Setting(from_text(key, environ[key.variable]), key.variable) for key in set_here}


def _from_general(environ: Mapping[str, str]) -> Level:
    name = next((name for name in VARIABLES if environ.get(name)), None)
    return {"proxy": Setting((environ[name],), name)} if name else {}


def _from_file(keys: tuple[Key, ...], file: File, home: str) -> Level:
    known = {key.name: key for key in keys}
    level: Level = {}
    for name, raw in file.values.items():
        place = file.where(name)
        if name not in known:
            raise _unknown(name, tuple(known), place)
        try:
            value = from_toml(known[name], raw)
        except UsageError as error:
            raise UsageError(f"{place}: {error.what}", error.why, error.advice) from error
        if holds_secret(name, value) and not file.is_private:
            raise UsageError(
                f"{place}: {name} holds a password, and others can read that file",
                "",
                f"chmod go-r {file.path}, or name a file with proxy-password-file",
            )
        if known[name].kind is Kind.PATH and isinstance(value, str) and value.startswith("~/"):
            value = home + value[1:]
        level[name] = Setting(value, place)
    return level


def _unknown(name: str, known: tuple[str, ...], place: str) -> UsageError:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[:60])
    if name in ONLY_TYPED:
        return UsageError(f"{place}: {shown} can only be typed", "it says how one command is to behave")
    meant = closest(name, known)
    return UsageError(f"{place}: there is no option {shown}", "", f"did you mean {meant}?" if meant else "")


def _check_passwords(level: Level) -> None:
    given = [f"by {name} ({level[name].origin})" for name in PASSWORD if name in level]
    if len(given) > 1:
        raise UsageError("the proxy's password was given twice", " and ".join(given))


def holds_secret(name: str, value: Value) -> bool:
    """Say whether a password is written in the value itself."""
    if name == "proxy-user":
        return isinstance(value, str) and ":" in value
    texts = value if isinstance(value, tuple) else (value,)
    return any(_split(text)[2] for text in texts if isinstance(text, str))


def hidden(text: str) -> str:
    """Give `text`, maybe a URL, without a password and without what follows a question mark."""
    scheme, user, password, place = _split(text)
    path, question, _ = place.partition("?")
    return f"{scheme}{user}{':***' if password else ''}{path}{'?***' if question else ''}"


def _split(text: str) -> tuple[str, str, str, str]:
    """Give scheme, user, password and, with the @, the rest of what may be a URL and may be written wrongly."""
    before, at, place = text.rpartition("@")
    if not at:
        return "", "", "", text
    scheme = found[0] if (found := _SCHEME.match(before)) else ""
    user, _, password = before[len(scheme) :].partition(":")
    return scheme, user, password, f"@{place}"
