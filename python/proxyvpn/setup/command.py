"""What `proxyvpn setup` says and ends with."""

from __future__ import annotations

from collections.abc import Callable

from proxyvpn import way
from proxyvpn.errors import Exit
from proxyvpn.setup import contents, facts
from proxyvpn.setup import install as installing
from proxyvpn.setup.check import Finding, findings

Say = Callable[[str], None]


def install(group: str, systemd: bool, say: Say) -> Exit:
    """Install for `group`, and say what is still missing. Raises ProxyvpnError."""
    contents.checked_group(group)
    installing.need_root(way.program(), " --systemd" if systemd else "")
    for line in installing.install(group, systemd):
        say(line)
    missing = findings(facts.gather(facts.invoker()))
    _say_all(missing, say)
    if not missing:
        say(f"members of group {group} can now use proxyvpn without sudo (to add one: usermod -aG {group} USER)")
    return Exit.OK


def check(say: Say) -> Exit:
    """Say what is wrong; give 4 when anything is. Raises ProxyvpnError."""
    missing = findings(facts.gather(facts.invoker()))
    _say_all(missing, say)
    if missing:
        return Exit.NO_PRIVILEGE
    say("all is well")
    return Exit.OK


def uninstall(say: Say) -> Exit:
    """Take everything away. Raises ProxyvpnError."""
    installing.need_root(way.program(), " --uninstall")
    for line in installing.uninstall():
        say(line)
    return Exit.OK


def _say_all(missing: tuple[Finding, ...], say: Say) -> None:
    for each in missing:
        say(f"{each.what}: {each.mend}")
