"""A certificate authority of a test's own, by openssl: for servers, for proxies, and for clients that must show one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain, its key, and both in one file."""

    chain: Path
    key: Path
    both: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority: its own certificate, for those who are to trust it."""

    folder: Path
    certificate: Path

    def issue(self, name: str, *alternatives: str) -> Certificate:
        """Give a certificate for `name`, with subject alternative names as openssl writes them (DNS:…, IP:…)."""
        key, chain, both = (self.folder / f"{name}{end}" for end in (".key", ".pem", ".both"))
        more = ("-addext", f"subjectAltName={','.join(alternatives)}") if alternatives else ()
        by = ("-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key"))
        _openssl(*_NEW, "-keyout", str(key), "-out", str(chain), "-subj", f"/CN={name}", *more, *by, *_LEAF)
        both.write_text(chain.read_text() + key.read_text())
        for path in (key, both):
            path.chmod(0o644)
        return Certificate(chain, key, both)


_NEW = (
    *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-sha256"),
)
_LEAF = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth,clientAuth")


def authority(folder: Path, name: str) -> Authority:
    """Make an authority called `name` in a new folder."""
    folder.mkdir()
    certificate = folder / "ca.pem"
    _openssl(*_NEW, "-keyout", str(folder / "ca.key"), "-out", str(certificate), "-subj", f"/CN={name}")
    return Authority(folder, certificate)


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
