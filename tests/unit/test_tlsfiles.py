"""Certificates and keys as `up` reads them, good and bad, made by openssl; and what is said of the bad ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from proxyvpn import tlsfiles
from proxyvpn.errors import ProxyvpnError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key, and the same in other forms."""
    made = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=made, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=x")
    openssl(*new, "-nodes", "-keyout", "key", "-out", "cert")
    openssl(*new, "-nodes", "-keyout", "other", "-out", "unused")
    openssl("x509", "-in", "cert", "-outform", "der", "-out", "der")
    openssl("pkcs8", "-topk8", "-in", "key", "-out", "locked", "-passout", "pass:secret")
    openssl("ec", "-in", "key", "-aes128", "-passout", "pass:secret", "-out", "old-locked")
    openssl("ec", "-in", "key", "-out", "sec1")
    (made / "both").write_bytes((made / "cert").read_bytes() + (made / "key").read_bytes())
    (made / "text").write_text("hello\n")
    (made / "cut").write_text("-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n")
    return made


def test_named_authority_takes_the_place_of_all_others(folder: Path) -> None:
    text = tlsfiles.trust(str(folder / "both"), {"SSL_CERT_FILE": "/nowhere"}, ("/nowhere",))
    assert text == (folder / "cert").read_bytes(), "and no key goes along"


def test_system_store_is_the_variable_or_the_first_that_is_there(folder: Path) -> None:
    stores = ("/nowhere", str(folder / "cert"))
    assert b"BEGIN CERTIFICATE" in tlsfiles.trust("", {}, stores)
    assert b"BEGIN CERTIFICATE" in tlsfiles.trust("", {"SSL_CERT_FILE": str(folder / "cert")}, ())
    with pytest.raises(ProxyvpnError, match="no list of certificate authorities"):
        tlsfiles.trust("", {}, ("/nowhere",))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "cannot be read"),
        ("text", "no line -----BEGIN CERTIFICATE-----"),
        ("der", "openssl x509 -inform der"),
        ("cut", "broken certificate"),
        ("", "cannot be read"),  # the folder itself
    ],
)
def test_bad_authority_is_refused_with_what_to_do(folder: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        tlsfiles.trust(str(folder / name), {})
    assert says in str(caught.value)
    assert "--proxy-ca" in str(caught.value)


@pytest.mark.parametrize("key", ["key", "sec1", ""])
def test_identity_is_the_certificate_and_its_key(folder: Path, key: str) -> None:
    text = tlsfiles.identity(str(folder / ("cert" if key else "both")), str(folder / key) if key else "")
    assert text.startswith((folder / "cert").read_bytes())
    assert b"PRIVATE KEY-----\n" in text


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("cert", "locked", "is encrypted"),
        ("cert", "old-locked", "is encrypted"),
        ("cert", "other", "do not belong together"),
        ("cert", "text", "no private key"),
        ("cert", "", "--proxy-key"),
        ("key", "key", "no certificate"),
        ("cert", "missing", "cannot be read"),
    ],
)
def test_bad_identity_is_refused_with_what_to_do(folder: Path, cert: str, key: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        tlsfiles.identity(str(folder / cert), str(folder / key) if key else "")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_sealed_memory_is_read_from_its_begin_and_never_changed() -> None:
    fd = tlsfiles.sealed("trust", b"words")
    try:
        assert os.read(fd, 100) == b"words"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)
