"""Installs, replaces and takes away, root only: the tree, the group, the units, in an order that can be interrupted.

What is made outside of the tree is written down in it before it is made, and nothing that was there before is ever
taken away.
"""

from __future__ import annotations

import contextlib
import grp
import os
from typing import Final

from proxyvpn import stamp
from proxyvpn.errors import PrivilegeMissing, ProxyvpnError
from proxyvpn.places import MADE, PARENT, PYTHON, STAMP, TREE, UNIT
from proxyvpn.setup import check, facts, programs, sources, tree, units
from proxyvpn.setup.contents import Made, made, relative

_OLDEST: Final = (3, 11)


def install(group: str, systemd: bool) -> tuple[str, ...]:
    """Install, or replace what is there; give a line for each thing that was done. Raises ProxyvpnError."""
    files = sources.tree(with_launcher=not systemd)
    _check_machine(systemd)
    with tree.alone(), tree.new() as parent:
        before = made(facts.read(MADE))
        new = _gid(group) is None
        after = Made((*before.groups, group) if new else before.groups, before.parent or parent)
        tree.note(relative(MADE), after.text())
        done: tuple[str, ...] = (_add_group(group),) if new else ()
        tree.fill(files, _wanted_gid(group))
        tree.put_into_place()
    done += (f"installed {TREE}",)
    return done + (_install_units(group) if systemd else _remove_units())


def uninstall() -> tuple[str, ...]:
    """Take everything away that was installed; give a line for each thing that was done. Raises ProxyvpnError."""
    _check_ours()
    with tree.alone():
        before = made(facts.read(MADE))
        done = _remove_units()
        if os.path.lexists(TREE):
            left = tree.remove(stamp.sums(facts.read(STAMP)))
            done += tuple(f"left, since it is not ours: {path}" for path in left) or (f"removed {TREE}",)
        tree.remove_leftover()
        for group in before.groups:
            if _gid(group) is not None:
                programs.delete_group(group)
                done += (f"removed group {group}",)
        if before.parent:
            with contextlib.suppress(OSError):  # somebody else has put something there
                os.rmdir(PARENT)
    return done or ("nothing is installed",)


def need_root(program: str, words: str) -> None:
    """Raise PrivilegeMissing unless we are root; `words` is what was typed after `setup`."""
    if os.geteuid() != 0:
        raise PrivilegeMissing("only root can do this", "", f"sudo {program} setup{words}")


def _check_machine(systemd: bool) -> None:
    """Raise ProxyvpnError when a helper could not be installed here, or would not be safe."""
    if programs.python_version() < _OLDEST:
        raise ProxyvpnError(
            f"{PYTHON} is older than 3.11", "the helper runs with the system's own Python, and no other"
        )
    if systemd and not os.path.isdir(os.path.dirname(units.SOCKET_UNIT)):
        raise ProxyvpnError("there is no systemd on this machine", "", "without --systemd the launcher is installed")
    if why := check.first_problem((*facts.way_to(PARENT), *facts.way_to(PYTHON))):
        advice = "give it back to root (chown root, chmod go-w), then run this again"
        raise ProxyvpnError(f"{why}: whoever can could replace the helper", "", advice)
    _check_ours()


def _check_ours() -> None:
    """Raise ProxyvpnError when what lies in our places was not put there by us."""
    if os.path.lexists(TREE) and stamp.version(facts.read(STAMP)) is None:
        raise ProxyvpnError(f"{TREE} is not what `proxyvpn setup` made", "it has no stamp", "look at it, and remove it")
    for path in units.texts(""):
        if os.path.lexists(path) and not units.ours(facts.read(path)):
            raise ProxyvpnError(f"{path} is there already, and not what `proxyvpn setup` made")


def _add_group(name: str) -> str:
    programs.add_group(name)
    return f"made group {name}"


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _wanted_gid(group: str) -> int:
    gid = _gid(group)
    if gid is None:
        raise ProxyvpnError(f"group {group} was made, and cannot be found", "", "is /etc/nsswitch.conf in order?")
    return gid


def _install_units(group: str) -> tuple[str, ...]:
    """Write the units whole, and let systemd listen if it runs."""
    for path, text in units.texts(group).items():
        with open(f"{path}.new", "w", encoding="ascii") as out:
            os.fchmod(out.fileno(), 0o644)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.rename(f"{path}.new", path)
    if programs.start_socket():
        return (f"systemd listens for group {group} ({UNIT}.socket)",)
    return (f"systemd does not run here: when it does, systemctl enable --now {UNIT}.socket",)


def _remove_units() -> tuple[str, ...]:
    for path in units.texts(""):
        with contextlib.suppress(FileNotFoundError):  # the usual case: nobody was interrupted
            os.unlink(f"{path}.new")
    there = [path for path in units.texts("") if os.path.lexists(path)]
    if not there:
        return ()
    programs.stop_socket()
    for path in there:
        os.unlink(path)
    programs.reload_units()
    return (f"removed the units of {UNIT}",)
