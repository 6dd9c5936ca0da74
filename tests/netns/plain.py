"""A machine on which `proxyvpn setup` can be run for real, and plain users to run `up` without sudo.

It is a namespace of the rig with /etc, /usr/local and /dev/net of its own, so that groups, units and files with
capabilities never reach the machine that the tests run on. proxyvpn itself is in a virtual environment of the system's
Python that every user can read, as if by pip.

Who becomes a user must have a shell between setpriv and the program: setpriv still has root's capabilities when it
executes, and the kernel then judges the launcher by those.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxyvpn.places import TREE
from tests.netns.namespaces import Namespace
from tests.netns.up import Up, environment, proxyvpn, up

ANN, BOB, EVE = 41001, 41002, 41003
"""ann and bob will be in group proxyvpn; eve will not."""
USERS = {"ann": ANN, "bob": BOB, "eve": EVE}

_MACHINE = """
mount -t tmpfs -o mode=0755 tmpfs /usr/local
for folder in bin sbin lib; do mkdir /usr/local/$folder; done
cp -a /etc "$1/etc"; umount /etc/resolv.conf /etc/hosts; mount --bind "$1/etc" /etc
mount --bind "$1/resolv.conf" /etc/resolv.conf; mount --bind "$1/hosts" /etc/hosts
sed -i '/^proxyvpn:/d' /etc/group /etc/gshadow
mkdir -p /etc/systemd/system; rm -f /etc/systemd/system/proxyvpn-*
mount -t tmpfs -o mode=0755 tmpfs /dev/net; mknod -m 0666 /dev/net/tun c 10 200
"""
_USER = """
echo "$1:x:$2:$2::/nonexistent:/bin/sh" >> /etc/passwd; echo "$1:x:$2:" >> /etc/group
mkdir -p -m 0755 /run/user; mkdir -m 0700 /run/user/$2; chown $2:$2 /run/user/$2
"""


@dataclass(frozen=True, slots=True)
class Plain:
    """A prepared machine."""

    host: Namespace
    program: str

    def setup(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `proxyvpn setup` as root."""
        return proxyvpn(self.host, "setup", *words, program=self.program)

    def join(self, *users: str) -> None:
        """Put users into the group that `setup` made."""
        for user in users:
            self.host.run("usermod", "-aG", "proxyvpn", user)

    def as_user(self, uid: int, *more: str) -> tuple[str, ...]:
        """Give the words before a program that make it run as that user, in the groups of a new login.

        `more` is for setpriv.
        """
        name = next(name for name, number in USERS.items() if number == uid)
        groups = self.host.sh('id -G "$1" | tr " " ,', name).strip()
        usual = () if any(word.startswith("--groups") for word in more) else (f"--groups={groups}",)
        become = ("setpriv", f"--reuid={uid}", f"--regid={uid}", *usual, "--inh-caps=-all", *more)
        return (*become, "sh", "-c", 'exec "$@"', "sh")

    def run(self, uid: int, *argv: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a program as a user to its end."""
        return self.host.run(*self.as_user(uid, *more), *argv, check=False, env=user_environment(uid))

    def proxyvpn(self, uid: int, *words: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a proxyvpn command as a user."""
        return self.run(uid, self.program, *words, more=more)

    @contextlib.contextmanager
    def up(self, uid: int, *options: str) -> Iterator[Up]:
        """Run `proxyvpn up` as a user until it is ready, and end it afterwards."""
        before = self.as_user(uid)
        with up(self.host, *options, env=user_environment(uid), before=before, program=self.program) as running:
            yield running

    def files(self) -> str:
        """Give names, modes, owners and sums of all that `setup` may write."""
        return self.host.sh(
            """for top in /usr/local /etc/systemd /etc/group /etc/gshadow /etc/passwd; do
                find $top -printf '%p %M %u %g %l\\n'; find $top -type f -exec sha256sum {} +
            done | sort"""
        )


def user_environment(uid: int) -> dict[str, str]:
    """Give the environment of a login."""
    return environment({"XDG_RUNTIME_DIR": f"/run/user/{uid}", "HOME": "/nonexistent"})


def prepare(host: Namespace) -> Plain:
    """Give the namespace its own /etc, /usr/local and /dev/net, three users, and proxyvpn in a virtual environment."""
    host.sh(_MACHINE, str(host.home))
    for name, uid in USERS.items():
        host.sh(_USER, name, str(uid))
    return Plain(host, _environment(host.home / "venv"))


def installed_paths(host: Namespace) -> list[str]:
    """Give everything below the installed tree."""
    return host.sh(f"find {TREE}").split()


def _environment(folder: Path) -> str:
    """Make a virtual environment with what is installed in the one that runs the tests; give its `proxyvpn`."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for name in ("click", "msgpack", "pyroute2", "proxyvpn"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    for info in Path(sysconfig.get_path("purelib")).glob("proxyvpn-*.dist-info"):
        shutil.copytree(info, site / info.name)
    subprocess.run([str(folder / "bin" / "python"), "-m", "compileall", "-q", str(site)], check=True)
    program = folder / "bin" / "proxyvpn"
    program.write_text(f"#!{folder}/bin/python\nfrom proxyvpn.cli import main\nmain()\n")
    program.chmod(0o755)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(folder)], check=True)
    return str(program)
