"""What TLS with a proxy needs from files, read and checked by `up`, since the worker can open none: whom to trust, and
who we are. Both are PEM (RFC 7468) and go to the worker as sealed memory (memfd_create(2)).

`--proxy-ca` takes the place of the system's trust store, for the proxies alone: who names an authority for one wants no
other to be able to sign for it. Each worker gets the files as they are then, so that a renewed certificate needs no new
tunnel.
"""

from __future__ import annotations

import fcntl
import os
import re
import ssl
from collections.abc import Mapping
from typing import Final

from proxyvpn.errors import ProxyvpnError, UsageError

VARIABLE: Final = "SSL_CERT_FILE"
"""OpenSSL's, and so known to many programs; comes before STORES."""
STORES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",  # older Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)
MOST_BYTES: Final = 4 << 20

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = re.compile(
    rb"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----.+?-----END (?:RSA |EC )?PRIVATE KEY-----", re.DOTALL
)
_ENCRYPTED: Final = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")


def trust(ca: str, environ: Mapping[str, str], stores: tuple[str, ...] = STORES) -> bytes:
    """Give the certificates of `ca` (--proxy-ca), or of the system where it is empty. Raises ProxyvpnError."""
    if ca:
        return _certificates(_read(ca, "--proxy-ca"), ca, "--proxy-ca")
    if environ.get(VARIABLE):
        return _certificates(_read(environ[VARIABLE], VARIABLE), environ[VARIABLE], VARIABLE)
    for store in stores:
        if os.path.exists(store):
            return _certificates(_read(store, "the trust store"), store, "the trust store")
    raise ProxyvpnError(
        "this machine has no list of certificate authorities to trust",
        "an https:// proxy is checked against it",
        "install the package ca-certificates, or give --proxy-ca FILE",
    )


def identity(cert: str, key: str) -> bytes:
    """Give the client certificate of `cert`, those that follow it there, and its key, from `key` or, where that is
    empty, from the same file. Raises UsageError.
    """
    where, option = (key, "--proxy-key") if key else (cert, "--proxy-cert")
    certificates = _certificates(_read(cert, "--proxy-cert"), cert, "--proxy-cert")
    found = _key(_read(where, option), where, option)
    _check_pair(cert, where)
    return certificates + found


def sealed(name: str, content: bytes) -> int:
    """Give a descriptor of memory that holds `content` and can no longer be changed."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _read(path: str, option: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the file of {option} cannot be read", f"{_shown(path)}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"the file of {option} cannot be read", "its name holds a NUL") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"the file of {option} is too long for certificates", _shown(path))
    return content


def _certificates(content: bytes, path: str, option: str) -> bytes:
    found = _CERTIFICATE.findall(content)
    if not found:
        name = _shown(path)
        der = content.startswith(b"\x30\x82")
        why = f"{name} is in the form DER, not PEM" if der else f"{name} has no line -----BEGIN CERTIFICATE-----"
        advice = f"openssl x509 -inform der -in {name} -out {name}.pem" if der else ""
        raise UsageError(f"the file of {option} holds no certificate", why, advice)
    for each in found:
        try:
            ssl.PEM_cert_to_DER_cert(each.decode("ascii"))
        except ValueError as error:
            raise UsageError(f"the file of {option} holds a broken certificate", _shown(path)) from error
    return b"\n".join(found) + b"\n"


def _key(content: bytes, path: str, option: str) -> bytes:
    name = _shown(path)
    if _ENCRYPTED.search(content):
        raise UsageError(
            f"the key in the file of {option} is encrypted",
            "nobody could type its pass phrase when the tunnel is started anew",
            f"openssl pkey -in {name} -out plain.pem, for nobody else's eyes, and give --proxy-key plain.pem",
        )
    found = _KEY.search(content)
    if found is None:
        why = f"{name} has no line -----BEGIN PRIVATE KEY-----"
        advice = "" if option == "--proxy-key" else "give the file of the key with --proxy-key"
        raise UsageError(f"the file of {option} holds no private key", why, advice)
    return found[0] + b"\n"


def _check_pair(cert: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                "the client certificate and the key do not belong together",
                f"{_shown(cert)} and {_shown(key)}",
                "the certificate must be the first one in its file",
            ) from error
        why = (error.reason or "OpenSSL does not say why").replace("_", " ").lower()
        raise UsageError("the client certificate and its key cannot be used", why) from error


def _shown(path: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in path[:200])
