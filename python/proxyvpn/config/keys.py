"""Pure: an option of `up` as something that a file or a variable can set, and what may be written there.

The list of keys is made from the command line's own options (cli.py), so that a new option is a key, a variable and a
line of `config show` without a word here.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxyvpn.errors import UsageError

PREFIX: Final = "PROXYVPN_"
ONLY_TYPED: Final = ("detach", "dry-run")
"""They say how one command is to behave; in a file they would take every later one by surprise."""

PASSWORD: Final = ("proxy-password-file", "proxy-password-command", "proxy-password-credential")
"""One of these can be meant: who is asked first, hides the others of those asked later."""

Value = str | bool | int | tuple[str, ...] | None
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")
_CLOSE: Final = 0.7


class Kind(enum.Enum):
    """What a value is; the text says it to a person."""

    TEXT = "a string"
    PATH = "a path"
    FLAG = "true or false"
    NUMBER = "a whole number"


@dataclass(frozen=True, slots=True)
class Key:
    """One of them. `many`: the option may be repeated; `least` and `most` bound a number; `default` is the option's."""

    name: str
    kind: Kind = Kind.TEXT
    many: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    default: Value = None

    @property
    def variable(self) -> str:
        return PREFIX + self.parameter.upper()

    @property
    def parameter(self) -> str:
        """Give the name that Python knows it by."""
        return self.name.replace("-", "_")


def of(options: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> tuple[Key, ...]:
    """Give the keys for a command's options as click describes them (Command.to_info_dict); `--help` has no default."""
    keys = (_key(option, defaults[option["name"]]) for option in options if option["name"] in defaults)
    return tuple(key for key in keys if key.name not in ONLY_TYPED)


def _key(option: Mapping[str, Any], default: Value) -> Key:
    name, form = option["name"].replace("_", "-"), option["type"]
    if option["is_flag"]:
        return Key(name, Kind.FLAG, default=default)
    kind = {"Int": Kind.NUMBER, "IntRange": Kind.NUMBER, "Path": Kind.PATH}.get(form["param_type"], Kind.TEXT)
    choices = tuple(form.get("choices", ()))
    return Key(name, kind, option["multiple"], choices, form.get("min"), form.get("max"), default)


def from_toml(key: Key, value: object) -> Value:
    """Give what a file says, of exactly the right type. Raises UsageError, without the value: it may be a secret."""
    if key.many and isinstance(value, list):
        if not all(isinstance(each, str) for each in value):
            raise UsageError(f"{key.name} is a list of something else than strings")
        return tuple(_in_file(key, each) for each in value)
    wanted = {Kind.FLAG: bool, Kind.NUMBER: int}.get(key.kind, str)
    if type(value) is not wanted:
        or_more = ", or a list of them" if key.many else ""
        raise UsageError(f"{key.name} is {_type(value)}, and should be {key.kind.value}{or_more}")
    if isinstance(value, str):
        text = _in_file(key, value)
        return (text,) if key.many else text
    return _bounded(key, value, key.name) if type(value) is int else value  # type: ignore[return-value]


def from_text(key: Key, text: str) -> Value:
    """Give what a variable says; several are separated by white space. Raises UsageError, without the text."""
    if key.many:
        return tuple(_chosen(key, each, key.variable) for each in text.split())
    if key.kind is Kind.FLAG:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise UsageError(f"{key.variable} is neither true nor false", advice="write 1 or 0")
        return text.lower() in _TRUE
    if key.kind is Kind.NUMBER:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise UsageError(f"{key.variable} is not {key.kind.value}")
        return _bounded(key, int(text), key.variable)
    return _chosen(key, text, key.variable)


def closest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Give the name that was probably meant; empty when there is none."""
    return next(iter(difflib.get_close_matches(word, list(names), 1, cutoff)), "")


def check_variables(keys: tuple[Key, ...], environ: Mapping[str, str]) -> None:
    """Raise UsageError for a variable of ours that nobody reads and that looks like one that somebody does."""
    known = {key.variable: key for key in keys}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and environ[name]:
            meant = closest(name.removeprefix(PREFIX), (each.removeprefix(PREFIX) for each in known), _CLOSE)
            if meant:
                raise UsageError(f"there is no variable {name}", "", f"did you mean {PREFIX}{meant}?")


def _in_file(key: Key, text: str) -> str:
    if key.kind is Kind.PATH and not text.startswith(("/", "~/")):
        raise UsageError(f"{key.name} is a path that does not begin with / or ~/", "a file has no current directory")
    return _chosen(key, text, key.name)


def _chosen(key: Key, text: str, called: str) -> str:
    if key.choices and text not in key.choices:
        raise UsageError(f"{called} is none of {', '.join(key.choices)}")
    return text


def _bounded(key: Key, number: int, called: str) -> int:
    if (key.least is not None and number < key.least) or (key.most is not None and number > key.most):
        raise UsageError(f"{called} is {number}, and should be from {key.least} to {key.most}")
    return number


def _type(value: object) -> str:
    names = {bool: "true or false", int: "a whole number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")
