"""Reads what TLS to a proxy rests upon, with the rights of whoever runs `up`: PEM texts, for a worker that opens no file.

Trusted are the machine's certificate authorities, or, with --proxy-ca, those in its files alone: who names an authority
for a proxy does not mean that all others may vouch for it as well. The machine's are looked for where OpenSSL, curl and
Go look: SSL_CERT_FILE, the usual bundles, SSL_CERT_DIR, the usual directories. RFC 7468.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxyvpn.errors import UsageError

BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
DIRECTORIES: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")
LONGEST: Final = 4 << 20
"""Bytes; the worker reads no more."""

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z0-9]+ )?PRIVATE KEY-----\s.*?-----END \1?PRIVATE KEY-----", re.DOTALL)


def trust(files: tuple[str, ...], environ: Mapping[str, str]) -> bytes:
    """Give the certificates that are trusted: those in `files`, or, without any, the machine's. Raises UsageError."""
    if not files:
        return machine(environ)
    return b"\n".join(block for name in files for block in _checked(name)) + b"\n"


def machine(environ: Mapping[str, str], bundles: tuple[str, ...] = BUNDLES) -> bytes:
    """Give the certificates that this machine trusts. Raises UsageError."""
    named = environ.get("SSL_CERT_FILE")
    directories = tuple(filter(None, environ.get("SSL_CERT_DIR", "").split(":"))) or DIRECTORIES
    bundle = next((name for name in ((named,) if named else bundles) if os.path.isfile(name)), None)
    names = [bundle] if bundle else sorted({str(path.resolve()) for each in directories for path in _pems(each)})
    blocks = [block for name in names for block in _CERTIFICATE.findall(_readable(name))]
    if not blocks:
        raise UsageError(
            "this machine trusts no certificate authority, so no https:// proxy can be used",
            f"{named} holds none (SSL_CERT_FILE)" if named else "there is neither a bundle nor a directory of them",
            "install the package ca-certificates, or give --proxy-ca FILE",
        )
    return b"\n".join(blocks) + b"\n"


def identity(certificate: str, key: str | None) -> bytes:
    """Give the certificate in the file of --proxy-cert with its chain, and its key, which may be in the same file.

    Raises UsageError.
    """
    data = _read(certificate, "--proxy-cert")
    chain = _CERTIFICATE.findall(data)
    if not chain:
        raise _no_certificate(certificate, "--proxy-cert", data)
    where, option = (certificate, "--proxy-cert") if key is None else (key, "--proxy-key")
    pem = b"\n".join([*chain, _private_key(where, option, data if key is None else _read(where, option))]) + b"\n"
    _check_pair(pem, certificate, where)
    return pem


def as_descriptor(name: str, data: bytes) -> int:
    """Give a descriptor to read `data` from, which nobody can change."""
    fd = os.memfd_create(f"proxyvpn-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _checked(name: str) -> list[bytes]:
    import ssl  # noqa: PLC0415

    data = _read(name, "--proxy-ca")
    blocks = _CERTIFICATE.findall(data)
    if not blocks:
        raise _no_certificate(name, "--proxy-ca", data)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"\n".join(blocks).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"--proxy-ca {name} holds something that is no certificate", _reason(error)) from error
    return blocks


def _private_key(name: str, option: str, data: bytes) -> bytes:
    found = _KEY.search(data)
    kind = (found[1] or b"").strip() if found else b""
    if found is None:
        advice = "give --proxy-key FILE" if option == "--proxy-cert" else "openssl pkey can turn other forms into PEM"
        raise UsageError(f"{option} {name} holds no private key in PEM", "", advice)
    if kind == b"ENCRYPTED" or b"ENCRYPTED" in found[0]:
        raise UsageError(
            f"the private key in {option} {name} is encrypted",
            "nobody can be asked for its passphrase when a worker starts",
            "decrypt it into a file that you alone can read: umask 077; openssl pkey -in FILE -out PLAIN",
        )
    if kind == b"OPENSSH":
        raise UsageError(f"{option} {name} is a key of SSH, not of a certificate")
    return found[0]


def _check_pair(pem: bytes, certificate: str, key: str) -> None:
    import ssl  # noqa: PLC0415

    fd = as_descriptor("pair", pem)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"the private key in {key} does not belong to the certificate in {certificate}",
                "",
                "where the file holds a chain, the certificate of this machine comes first",
            ) from error
        raise UsageError(f"{certificate} and its key cannot be used", _reason(error)) from error
    finally:
        os.close(fd)


def _no_certificate(name: str, option: str, data: bytes) -> UsageError:
    advice = ""
    if data.startswith(b"\x30"):
        advice = f"if it is one in DER: openssl x509 -inform DER -in {name} -out {name}.pem"
        if name.endswith((".p12", ".pfx")):
            advice = f"it is PKCS #12: openssl pkcs12 -in {name} -nodes -out {name}.pem"
    elif b"-----BEGIN PKCS7" in data:
        advice = f"it is PKCS #7: openssl pkcs7 -print_certs -in {name} -out {name}.pem"
    elif b"PRIVATE KEY-----" in data:
        advice = "it holds a private key"
    return UsageError(f"{option} {name} holds no certificate in PEM", "", advice)


def _read(name: str, option: str) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise UsageError(f"{option} {name} cannot be read", error.strerror or "") from error
    if len(data) > LONGEST:
        raise UsageError(f"{option} {name} is longer than {LONGEST >> 20} MiB")
    return data


def _readable(name: str) -> bytes:
    """Give a file of the machine's; empty when it cannot be read."""
    try:
        return _read(name, "")
    except UsageError:
        return b""


def _pems(directory: str) -> list[Path]:
    """Give the files of certificates there: by their names, or by those that openssl rehash makes (HASH.0)."""
    try:
        return [
            path for path in Path(directory).iterdir() if re.fullmatch(r".*\.(pem|crt)|[0-9a-f]{8}\.\d+", path.name)
        ]
    except OSError:
        return []


def _reason(error: BaseException) -> str:
    text = getattr(error, "reason", None) or str(error)
    return " ".join(str(text).lower().replace("_", " ").split())[:120]
