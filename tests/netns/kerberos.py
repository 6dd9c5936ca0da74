"""A real MIT KDC: a realm with a proxy, a user with a password and one with a keytab.

krb5.conf is that of the namespaces which were enrolled; nothing of the machine's own is read or written.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns.namespaces import Namespace, end

REALM, DOMAIN = "CORP.EXAMPLE", "corp.example"
PROXY = f"proxy.{DOMAIN}"
SERVICE = f"HTTP/{PROXY}"
PASSWORD = "correct horse"

KRB5_CONF = """
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
[realms]
    {realm} = {{
        kdc = {address}
    }}
[domain_realm]
    .{domain} = {realm}
"""
_KDC_CONF = """
[kdcdefaults]
    kdc_listen = {address}:88
    kdc_tcp_listen = {address}:88
[realms]
    {realm} = {{
        database_name = {home}/principal
        key_stash_file = {home}/stash
        acl_file = {home}/acl
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
    }}
[logging]
    kdc = FILE:{home}/kdc.log
"""
_MAKE = f"""
export KRB5_CONFIG="$1/krb5.conf" KRB5_KDC_PROFILE="$1/kdc.conf"; cd "$1"
kdb5_util create -s -r {REALM} -P "the realm's"
kadmin.local addprinc -randkey {SERVICE}
kadmin.local addprinc -pw "{PASSWORD}" ann
kadmin.local addprinc -randkey robot
kadmin.local ktadd -k proxy.keytab {SERVICE}
kadmin.local ktadd -k robot.keytab robot
"""


@dataclass(frozen=True, slots=True)
class Kdc:
    """A running KDC, and the keys of its principals: the proxy's and robot's."""

    home: Path
    process: subprocess.Popen[bytes]
    proxy_keytab: Path
    robot_keytab: Path
    log: Path

    def enrol(self, space: Namespace) -> None:
        """Make this realm the one that programs in `space` find in /etc/krb5.conf."""
        space.run("mount", "--bind", str(self.home / "krb5.conf"), "/etc/krb5.conf")

    def ticket(self, space: Namespace, cache: Path, user: str = "ann", lifetime: str = "1h") -> dict[str, str]:
        """Log in by password, as a person does with kinit; give the variable that names the cache."""
        space.run("kinit", "-l", lifetime, "-c", f"FILE:{cache}", user, input=f"{PASSWORD}\n")
        return {"KRB5CCNAME": f"FILE:{cache}"}


@contextlib.contextmanager
def kdc(space: Namespace, address: str) -> Iterator[Kdc]:
    """Run a KDC in `space`, at an address that it has."""
    home = space.home / "kdc"
    home.mkdir()
    for name, text in (("krb5.conf", KRB5_CONF), ("kdc.conf", _KDC_CONF)):
        (home / name).write_text(text.format(realm=REALM, domain=DOMAIN, address=address, home=home))
    (home / "acl").touch()
    space.sh(_MAKE, str(home))
    shutil.chown(home / "proxy.keytab", "proxy")
    where = {"KRB5_CONFIG": str(home / "krb5.conf"), "KRB5_KDC_PROFILE": str(home / "kdc.conf")}
    process = space.start("krb5kdc", "-n", env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **where})
    try:
        space.wait_for_port(address, 88)
        yield Kdc(home, process, home / "proxy.keytab", home / "robot.keytab", home / "kdc.log")
    finally:
        end(process)
