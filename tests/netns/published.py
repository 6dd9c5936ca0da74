"""What the world publishes: a git repository, a package archive, an index of Python packages; and who fetches them.

nginx serves all of it by http and https; the git repository also lives behind sshd.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.netns.internet import Internet

SSH_OPTIONS = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")

_REPOSITORY = """
git init -q work; cd work; echo hello > README; git add README
git -c user.name=x -c user.email=x@x.test commit -qm first; git clone -q --bare . ../repo.git
cd ../repo.git; git update-server-info; cd ..; rm -r work
"""
_ARCHIVE = """
mkdir -p hello/DEBIAN apt
printf '%s\\n' 'Package: hello-test' 'Version: 1.0' 'Architecture: all' 'Maintainer: x <x@x.test>' \\
    'Description: a test' > hello/DEBIAN/control
dpkg-deb -Znone --build hello apt/hello-test_1.0_all.deb > /dev/null; rm -r hello
size=$(stat -c %s apt/hello-test_1.0_all.deb); sum=$(sha256sum < apt/hello-test_1.0_all.deb | cut -d' ' -f1)
{ dpkg-deb -f apt/hello-test_1.0_all.deb
  printf 'Filename: ./hello-test_1.0_all.deb\\nSize: %s\\nSHA256: %s\\n' "$size" "$sum"; } > apt/Packages
"""


def publish(www: Path) -> None:
    """Put it all into nginx's folder."""
    for script in (_REPOSITORY, _ARCHIVE):
        subprocess.run(["sh", "-euc", script], cwd=www, check=True)
    index = www / "simple" / "hello-test"
    index.mkdir(parents=True)
    _wheel(index / "hello_test-1.0-py3-none-any.whl")
    (index / "index.html").write_text('<a href="hello_test-1.0-py3-none-any.whl">hello_test-1.0-py3-none-any.whl</a>\n')
    subprocess.run(["chmod", "-R", "a+rX", str(www)], check=True)


def _wheel(path: Path) -> None:
    info = "hello_test-1.0.dist-info"
    files = {
        "hello_test.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hello-test\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for name, text in files.items()}
    record = "".join(f"{name},sha256={sums[name].decode().rstrip('=')},{len(files[name])}\n" for name in files)
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)


@dataclass(frozen=True, slots=True)
class Fetchers:
    """Programs that fetch what is published, each into a folder of its own under `folder`."""

    world: Internet
    folder: Path
    host: str = "world.test"

    def commands(self) -> dict[str, list[str]]:
        """Give a command line for each program; none is told of a proxy, and none reads this machine's settings."""
        return {
            "curl": ["curl", "-sS", "--fail", "--noproxy", "*", *self._trust("--cacert"), f"https://www.{self.host}/"],
            "git, https": [*self._git(), f"https://git.{self.host}/repo.git", str(self.folder / "by-https")],
            "git, ssh": [
                *self._git(),
                f"ssh://root@git.{self.host}{self.world.www}/repo.git",
                str(self.folder / "by-ssh"),
            ],
            "apt": ["sh", "-euc", _APT, "sh", str(self.folder), f"https://apt.{self.host}/apt", *self._trust()],
            "pip": [
                *("/usr/bin/python3", "-m", "pip", "--isolated", "download", "-q", "--no-cache-dir", "--no-deps"),
                *(
                    "--disable-pip-version-check",
                    "--retries",
                    "0",
                    *self._trust("--cert"),
                    "--dest",
                    str(self.folder / "wheels"),
                ),
                *("--index-url", f"https://pypi.{self.host}/simple/", "hello-test"),
            ],
        }

    def environment(self) -> dict[str, str]:
        """Give the environment to run them in: it names no proxy, no authorities, no settings."""
        return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}

    def fetched(self) -> dict[str, bool]:
        """Say which programs have fetched what they should."""
        return {
            "git, https": (self.folder / "by-https" / "README").read_text() == "hello\n",
            "git, ssh": (self.folder / "by-ssh" / "README").read_text() == "hello\n",
            "apt": (self.folder / "apt" / "hello-test_1.0_all.deb").exists(),
            "pip": (self.folder / "wheels" / "hello_test-1.0-py3-none-any.whl").exists(),
        }

    def _trust(self, *option: str) -> list[str]:
        return [*option, str(self.world.certificate)]

    def _git(self) -> list[str]:
        options = [part for option in SSH_OPTIONS for part in ("-o", option)]
        ssh = " ".join(["ssh", "-F", "none", "-i", str(self.world.ssh_key), *options])
        settings = {"http.proxy": "", "http.sslCAInfo": str(self.world.certificate), "core.sshCommand": ssh}
        return ["git", *[part for name, word in settings.items() for part in ("-c", f"{name}={word}")], "clone", "-q"]


_APT = """
mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial"; cd "$1/apt"; : > status
echo "deb [trusted=yes] $2 ./" > sources.list
cat > conf <<END
Dir::Etc::SourceList "$PWD/sources.list"; Dir::Etc::SourceParts "/dev/null"; Dir::State::Lists "$PWD/lists";
Dir::State::Status "$PWD/status"; Dir::Cache "$PWD"; APT::Sandbox::User "root"; Acquire::https::CAInfo "$3";
Acquire::http::Proxy "false"; Acquire::https::Proxy "false"; Acquire::Languages "none"; Acquire::Retries "0";
END
APT_CONFIG=$PWD/conf apt-get -q update
APT_CONFIG=$PWD/conf apt-get -q download hello-test
"""
