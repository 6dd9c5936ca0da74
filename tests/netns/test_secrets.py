"""A password is looked for in everything that `up` and its processes show, write or leave.

host: `proxyvpn up` = app + helper + worker ---- mid: squid that knows ann and her password ---- world: a server
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, internet, proxies, wait
from tests.netns.rig import RESOLVER4, WORLD4, Rig
from tests.netns.up import gone, proxyvpn, up

pytestmark = pytest.mark.privileged

USER, PASSWORD = "ann", "c4nary-in-a-c0al-mine"
SECRETS = (PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode()).rstrip(b"=")[:-1])


@pytest.fixture(scope="module")
def proxy(bed: Rig, world: internet.Internet) -> Iterator[proxies.RunningProxy]:
    with proxies.squid(bed.mid, users={USER: PASSWORD}) as found:
        yield found


def shows(text: bytes | str) -> bool:
    """Say whether a secret is in `text`."""
    data = text.encode() if isinstance(text, str) else text
    return any(secret in data for secret in SECRETS)


def holds(pid: int) -> bool:
    """Say whether a secret is anywhere in the memory of a process, as root can see it."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights = line.split()[:2]
            begin, end = (int(part, 16) for part in where.split("-"))
            if "r" not in rights or line.endswith("[vvar]") or end - begin > 1 << 28:
                continue
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(begin)
                if shows(memory.read(end - begin)):
                    return True
    return False


def words_of(pid: int) -> bytes:
    """Give the arguments and the environment of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def files_under(folder: Path) -> dict[str, bytes]:
    """Give every regular file's bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def means(way: str, url: str, folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give options and variables by which `up` comes to the password."""
    named = url.replace("//", f"//{USER}@")
    file = folder / "proxyvpn.password"
    file.write_text(f"{PASSWORD}\n")
    if way == "file":
        return ("--proxy", url, "--proxy-user", USER, "--proxy-password-file", str(file)), {}
    if way == "credential":
        return ("--proxy", named), {"CREDENTIALS_DIRECTORY": str(folder)}
    if way == "environment":
        return (), {"PROXYVPN_PROXY": url.replace("//", f"//{USER}:{PASSWORD}@")}
    config = folder / "proxyvpn" / "config.toml"
    config.parent.mkdir(mode=0o700)
    config.touch(0o600)
    config.write_text(
        f'proxy = "{named}"\nproxy-password-command = "cat {file}"\n'
        if way == "command"
        else f'proxy = "{url}"\nproxy-user = "{USER}:{PASSWORD}"\n'
    )
    return (), {"XDG_CONFIG_HOME": str(folder)}


@pytest.mark.parametrize("way", ["environment", "file", "credential", "command", "config"])
def test_password_is_nowhere_but_where_it_is_needed(
    bed: Rig, proxy: proxies.RunningProxy, tmp_path: Path, way: str
) -> None:
    state = tmp_path / "state"
    known, env = means(way, proxy.url4, tmp_path)
    options = (*known, "--dns", RESOLVER4, "--killswitch", "--state-dir", str(state))
    with up(bed.host, *options, env=env) as running:
        assert clients.curl(bed.host, f"http://{WORLD4}/").returncode == 0
        helper, worker, app = running.helper, running.worker, running.process.pid
        assert holds(worker) and holds(app), "this is how it would be found"
        assert not holds(helper)
        assert not shows(words_of(helper)) and not shows(words_of(worker))
        assert not shows(Path(f"/proc/{app}/cmdline").read_bytes())
        assert way == "environment" or not shows(words_of(app))
        for more in ((), ("--json",)):
            done = proxyvpn(bed.host, "status", "--state-dir", str(state), *more)
            assert done.returncode == 0 and not shows(done.stdout + done.stderr)
        found = files_under(state)
        assert any(name.endswith("state.json") for name in found)
        assert [name for name, text in found.items() if shows(text)] == []
        os.kill(worker, signal.SIGSEGV)
        wait.until(lambda: gone(worker) and running.worker != worker, "a new worker")
        assert running.stop() == 0
        assert not shows(running.said() + running.out.read_text())
    done = proxyvpn(bed.host, "config", "show", env=env)
    assert done.returncode == 0 and not shows(done.stdout + done.stderr)


def test_password_is_not_in_the_log_of_a_detached_tunnel(bed: Rig, proxy: proxies.RunningProxy, tmp_path: Path) -> None:
    state, url = tmp_path / "state", proxy.url4.replace("//", f"//{USER}:{PASSWORD}@")
    place = ("--state-dir", str(state))
    done = proxyvpn(bed.host, "up", "--dns", RESOLVER4, "--detach", *place, env={"PROXYVPN_PROXY": url})
    assert done.returncode == 0, done.stderr
    found = files_under(state)
    assert {"log", "state.json"} <= {Path(name).name for name in found}
    assert [name for name, text in found.items() if shows(text)] == []
    ended = proxyvpn(bed.host, "teardown", *place)
    assert ended.returncode == 0
    assert not shows(done.stdout + done.stderr + ended.stdout + ended.stderr)
    assert [name for name, text in files_under(state).items() if shows(text)] == []


@pytest.mark.parametrize("which", ["app", "helper", "worker"])
def test_crash_leaves_no_core_file(bed: Rig, proxy: proxies.RunningProxy, tmp_path: Path, which: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    url = proxy.url4.replace("//", f"//{USER}:{PASSWORD}@")
    shell = ("sh", "-c", f'cd {folder}; ulimit -c unlimited; exec "$0" "$@"')
    before = set(Path("/").glob("core*"))
    options = ("--dns", RESOLVER4, "--state-dir", str(tmp_path / "state"))
    with up(bed.host, *options, env={"PROXYVPN_PROXY": url}, before=shell) as running:
        pid = {"app": running.process.pid, "helper": running.helper, "worker": running.worker}[which]
        os.kill(pid, signal.SIGSEGV)
        wait.until(lambda: gone(pid), f"the {which} is gone")
        if which != "worker":
            running.wait()
    proxyvpn(bed.host, "teardown", "--state-dir", str(tmp_path / "state"))
    assert set(Path("/").glob("core*")) == before and list(folder.iterdir()) == []
    assert not shows(running.said())


SHELLS = {
    "few descriptors": "ulimit -n 9",
    "little memory": "ulimit -v 60000",
    "no standard error": "exec 2>&-",
    "no home": "unset HOME PATH",
}


@pytest.mark.parametrize("script", SHELLS.values(), ids=SHELLS)
def test_password_is_in_no_error_and_no_traceback(
    bed: Rig, proxy: proxies.RunningProxy, tmp_path: Path, script: str
) -> None:
    url = proxy.url4.replace("//", f"//{USER}:{PASSWORD}@")
    words = ("up", "--dns", RESOLVER4, "--state-dir", str(tmp_path / "state"), "--dry-run")
    done = proxyvpn(bed.host, *words, env={"PROXYVPN_PROXY": url}, before=("sh", "-c", f'{script}; exec "$0" "$@"'))
    assert not shows(done.stdout + done.stderr)


BAD_URLS = (
    *("http://ann:{0}@", "http://ann:{0}@:3128", "http://ann:{0}@10.71.0.1:99999", "ftp://ann:{0}@10.71.0.1"),
    *("http://ann:{0}@10.71.0.1:3128/path", "http://ann:{0}@0.0.0.0:3128", "ann:{0}@10.71.0.1"),
    *("http://ann:{0}@[::1", "http://ann:{0}\r\nX: y@10.71.0.1:3128", "http://ann:{0}@10.71.0.1:1"),
    *("http://ann:{0}%zz@no.such.host.invalid:3128", "socks5://ann:{0}@10.71.0.1:1080"),
)


@pytest.mark.parametrize("url", BAD_URLS)
def test_password_is_in_no_word_about_a_bad_url(bed: Rig, tmp_path: Path, url: str) -> None:
    words = ("up", "--dns", RESOLVER4, "--state-dir", str(tmp_path / "state"))
    done = proxyvpn(bed.host, *words, env={"PROXYVPN_PROXY": url.format(PASSWORD)})
    assert done.returncode != 0
    assert not shows(done.stdout + done.stderr), done.stderr
