"""Programs of all kinds at the same time through squid, and the ways in which a proxy may be named.

host: curl, git, apt, ssh, `proxyvpn up` ---- mid: squid ---- world: nginx, sshd, a resolver
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, proxies
from tests.netns.internet import PAGE, Internet
from tests.netns.rig import RESOLVER4, WORLD4, Rig
from tests.netns.up import Up, up

pytestmark = pytest.mark.privileged

URL = f"http://{WORLD4}/"


@pytest.fixture
def tunnel(bed: Rig, squid: proxies.RunningProxy) -> Iterator[Up]:
    """`up` through squid, with the killswitch."""
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    with up(bed.host, "--proxy", squid.url4, "--killswitch") as running:
        yield running
    bed.host.resolv_conf.write_text("")


def test_ready_line_says_whether_the_killswitch_is_on(tunnel: Up) -> None:
    assert "killswitch" in tunnel.ready_line()


def test_proxy_may_be_named(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    with up(bed.host, "--proxy", "http://proxy.test:3128"):
        assert clients.curl(bed.host, URL).stdout == PAGE
    bed.host.resolv_conf.write_text("")


def test_proxy_comes_from_the_environment(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    for name in ("PROXYVPN_PROXY", "https_proxy", "ALL_PROXY"):
        with up(bed.host, "--dns", RESOLVER4, env={name: squid.url4}):
            assert clients.curl(bed.host, URL).stdout == PAGE


def test_curl_git_apt_and_ssh_at_the_same_time(tunnel: Up, bed: Rig, world: Internet, tmp_path: Path) -> None:
    _publish(world.www)
    options = [part for option in SSH_OPTIONS for part in ("-o", option)]
    ssh = ["ssh", "-F", "none", "-i", str(world.ssh_key), *options, f"root@{WORLD4}"]
    apt = ["apt-get", "-q", *[part for option in _apt_options(tmp_path) for part in ("-o", option)], "update"]
    commands = {
        "curl": ["curl", "--noproxy", "*", "-sS", "--parallel", *[f"http://{WORLD4}/file{n}" for n in range(20)]],
        "git": ["git", "-c", "http.proxy=", "clone", "-q", f"http://{WORLD4}/repo.git", str(tmp_path / "clone")],
        "apt": apt,
        "ssh": [*ssh, "head -c 5000000 /dev/zero | sha256sum"],
    }
    running = {name: _begin(bed, *words) for name, words in commands.items()}
    said = {name: child.communicate(timeout=60) for name, child in running.items()}
    assert {name: child.returncode for name, child in running.items()} == dict.fromkeys(commands, 0), said
    assert said["curl"][0] == "x" * 20 * 10_000
    assert len(said["ssh"][0].split()[0]) == 64
    assert (tmp_path / "clone" / "README").read_text() == "hello\n"
    assert "Fetched 15 B" in said["apt"][0]


SSH_OPTIONS = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")


def _begin(bed: Rig, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(bed.host.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _publish(www: Path) -> None:
    """Put files, a git repository for the dumb protocol, and a package archive into nginx's folder."""
    for number in range(20):
        (www / f"file{number}").write_text("x" * 10_000)
    script = """
        git init -q work; cd work; echo hello > README; git add README
        git -c user.name=x -c user.email=x@x.test commit -qm first; git clone -q --bare . ../repo.git
        cd ../repo.git; git update-server-info
        mkdir ../apt; echo Package: hello > ../apt/Packages
    """
    subprocess.run(["sh", "-euc", script], cwd=www, check=True)


def _apt_options(folder: Path) -> list[str]:
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [trusted=yes] http://{WORLD4}/apt ./\n")
    return [
        *(f"Dir::Etc::SourceList={folder}/sources.list", "Dir::Etc::SourceParts=/dev/null"),
        *(f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}", "APT::Sandbox::User=root"),
        *("Acquire::http::Proxy=false", "APT::Get::List-Cleanup=0", "Acquire::Languages=none"),
    ]
