"""The proxy's password: from a file, from a systemd credential, or from a command that prints it.

It never is in an argument vector, an error or a log. A command is split as by a shell, but no shell sees it.
It runs as who we are, with our environment and terminal, so that `pass` and its like can ask; the first line that it
prints is the password.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import time
from collections.abc import Mapping
from typing import Final

from proxyvpn.errors import UsageError

MAX_BYTES: Final = 4096
MAX_OUTPUT: Final = 64 * 1024
"""Of a command: after the first line may come others, which do not count."""
PATIENCE: Final = 60.0
"""Seconds for a command; it may ask a person."""
DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
CREDENTIAL: Final = "proxyvpn.password"


def from_file(name: str, option: str = "--proxy-password-file") -> str:
    """Give the text of a file without its last line end. Raises UsageError."""
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the file of {option} cannot be read", error.strerror or "") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"the file of {option} is longer than {MAX_BYTES} bytes")
    return _text(data, f"the file of {option}").removesuffix("\n").removesuffix("\r")


def from_credential(name: str, environ: Mapping[str, str]) -> str:
    """Give the credential of that name, which systemd has put where nobody but this service can read it."""
    directory = environ.get(DIRECTORY, "")
    if not directory:
        raise UsageError(
            "there are no systemd credentials here",
            f"{DIRECTORY} is not set",
            "say LoadCredential= or LoadCredentialEncrypted= in the unit",
        )
    if not name or "/" in name or name in (".", ".."):
        raise UsageError("the name of --proxy-password-credential cannot be one", "it is a file's name, not a path")
    return from_file(f"{directory}/{name}", "--proxy-password-credential")


def is_there(environ: Mapping[str, str]) -> bool:
    """Say whether there is a credential of the name that needs no option."""
    directory = environ.get(DIRECTORY, "")
    return bool(directory) and os.path.exists(f"{directory}/{CREDENTIAL}")


def from_command(command: str, patience: float = PATIENCE) -> str:
    """Run it; give the first line that it prints. Raises UsageError, with its exit code and none of its words."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(
            "--proxy-password-command cannot be split into words", "a quotation mark is missing"
        ) from error
    if not words or not words[0]:
        raise UsageError("--proxy-password-command is empty")
    try:
        # In our process group, else it could not ask on our terminal.
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it cannot be run"
        raise UsageError("the program of --proxy-password-command cannot be started", why) from error
    data = _output(process, patience)
    if process.returncode:
        ended = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise UsageError("--proxy-password-command failed", ended)
    line = _text(data, "what --proxy-password-command printed").partition("\n")[0].removesuffix("\r")
    if len(line) > MAX_BYTES:
        raise UsageError(f"--proxy-password-command printed a line longer than {MAX_BYTES} letters")
    if not line:
        raise UsageError("--proxy-password-command printed no password", "the first line of what it prints counts")
    return line


def program(command: str) -> str:
    """Give the program that a command names, for a person to read: its arguments may be secret."""
    with contextlib.suppress(ValueError):
        return "".join(letter if letter.isprintable() else "?" for letter in "".join(shlex.split(command)[:1])[:80])
    return ""


def _output(process: subprocess.Popen[bytes], patience: float) -> bytes:
    """Give what it prints, when it has ended; end it when it takes too long or says too much."""
    deadline = time.monotonic() + patience
    assert process.stdout is not None  # noqa: S101
    data = b""
    with process.stdout as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        try:
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                more = os.read(pipe.fileno(), MAX_OUTPUT)
                data += more
                if len(data) > MAX_OUTPUT:
                    raise UsageError(f"--proxy-password-command printed more than {MAX_OUTPUT} bytes")
                if not more:
                    process.wait(max(0.0, deadline - time.monotonic()))
                    return data
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    raise UsageError("--proxy-password-command has not ended", f"within {patience:g} seconds")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not UTF-8") from None  # that error holds the bytes
