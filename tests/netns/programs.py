"""Programs of several kinds, each of which resolves names in its own way."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.netns.internet import PAGE, Internet
from tests.netns.namespaces import Namespace

_PYTHON = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), end='')"


def together(space: Namespace, commands: dict[str, list[str]], env: dict[str, str]) -> dict[str, str]:
    """Run programs at the same time; give those that failed, and what they said."""
    running = {
        name: subprocess.Popen(
            space.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        for name, words in commands.items()
    }
    said = {name: child.communicate(timeout=60)[0].decode(errors="replace") for name, child in running.items()}
    return {name: said[name] for name, child in running.items() if child.returncode != 0}


def pages(space: Namespace, host: str, world: Internet) -> dict[str, bool]:
    """Fetch the page with programs of several kinds; give which of them got it."""
    static = _musl(space.home / "fetch")
    plain = {
        "glibc: curl": ["curl", "-sS", "--noproxy", "*", f"http://{host}/"],
        "glibc: Python": ["/usr/bin/python3", "-I", "-c", _PYTHON, f"http://{host}/"],
        "musl, static": [static, host, "80"],
    }
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    found = {name: space.run(*words, check=False, env=env).stdout.endswith(PAGE) for name, words in plain.items()}
    go = space.run("hey", "-n", "20", "-c", "5", f"https://{host}/", check=False, env={**env, "GODEBUG": "netdns=go+1"})
    return {
        **found,
        "Go": "[200]\t20 responses" in go.stdout and "forcing use of Go's resolver" in go.stdout + go.stderr,
    }


def _musl(program: Path) -> str:
    source = Path(__file__).with_name("fetch.c")
    subprocess.run(["musl-gcc", "-static", "-Os", "-Wall", "-o", str(program), str(source)], check=True)
    return str(program)
