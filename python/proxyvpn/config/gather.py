"""Reads what the pure rooms beside it need: the files, and the password that an option leads to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyvpn import options, password
from proxyvpn.config import files, merge
from proxyvpn.config.keys import PASSWORD, Key, Value
from proxyvpn.config.merge import DEFAULT, TYPED, Level
from proxyvpn.errors import UsageError
from proxyvpn.options import Options, Typed


@dataclass(frozen=True, slots=True)
class Gathered:
    """Each option's setting, and the files that were looked for, the strongest first, and whether they were there."""

    settings: Level
    files: tuple[tuple[str, bool], ...]


def gather(
    keys: tuple[Key, ...], typed: Mapping[str, Value], environ: Mapping[str, str], machine: str = files.MACHINE
) -> Gathered:
    """Give what holds. Raises UsageError."""
    paths = files.paths(environ, machine)
    found = [files.read(path) for path in paths]
    there = tuple(file for file in found if file is not None)
    settings = merge.merge(keys, typed, environ, there, files.home(environ))
    return Gathered(settings, tuple((str(path), file is not None) for path, file in zip(paths, found, strict=True)))


def options_of(
    settings: Level,
    environ: Mapping[str, str],
    say: Callable[[str], None] | None,
    expand: Callable[[Typed], Typed] = lambda typed: typed,
) -> tuple[Options, Path | None]:
    """Give the Options, and the state directory if one was named. No password is fetched without `say`; `expand` puts
    proxies in the place of what leads to some."""
    try:
        typed, state_dir = _arguments(settings, *(secret(settings, environ, say) if say else (None, "")))
        return options.read(expand(typed), environ), state_dir
    except UsageError as error:
        raise merge.explained(error, settings) from error


def _arguments(settings: Level, password: str | None, given: str) -> tuple[Typed, Path | None]:
    named: dict[str, Any] = {name.replace("-", "_"): setting.value for name, setting in settings.items()}
    origins = {name: setting.origin for name, setting in settings.items() if setting.origin not in (TYPED, DEFAULT)}
    state_dir = named.pop("state_dir")
    for name in PASSWORD:
        named.pop(name.replace("-", "_"))
    typed = Typed(**named, password=password, origins={**origins, "password": given} if given else origins)
    return typed, None if state_dir is None else Path(state_dir)


def secret(settings: Level, environ: Mapping[str, str], say: Callable[[str], None]) -> tuple[str | None, str]:
    """Give the password that an option leads to, and which option that is. Raises UsageError."""
    file, command, credential = (
        _text(settings, f"proxy-password-{kind}") for kind in ("file", "command", "credential")
    )
    if file is not None:
        return password.from_file(file), "--proxy-password-file"
    if command is not None:
        if os.geteuid() == 0:
            say(f"running `{password.program(command)}` as root for the proxy's password")
        return password.from_command(command), "--proxy-password-command"
    if credential is not None:
        return password.from_credential(credential, environ), "--proxy-password-credential"
    written = any(merge.holds_secret(name, settings[name].value) for name in ("proxy", "proxy-user"))
    if not written and password.is_there(environ):
        return password.from_credential(password.CREDENTIAL, environ), f"the credential {password.CREDENTIAL}"
    return None, ""


def _text(settings: Level, name: str) -> str | None:
    value = settings[name].value
    return value if isinstance(value, str) else None
