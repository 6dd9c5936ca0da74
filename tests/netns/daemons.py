"""Daemons that resolve names for programs: on the machine itself, for its containers, and in the world."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.netns import wait
from tests.netns.certificates import Certificate
from tests.netns.namespaces import Namespace, end

_ROOTS = (Path("/"), Path(__file__).parents[2] / "target" / "parts")
"""Where systemd-resolved may be: installed, or unpacked by scripts/test.sh."""
_NSCD_CONF = """
paranoia no
enable-cache hosts yes
positive-time-to-live hosts 60
negative-time-to-live hosts 2
shared hosts yes
persistent hosts no
"""
_UNBOUND_CONF = """
server:
  interface: {address}@53
  interface: {address}@{https}
  https-port: {https}
  tls-service-pem: {certificate.chain}
  tls-service-key: {certificate.key}
  access-control: 0.0.0.0/0 allow
  username: ""
  chroot: ""
  directory: {home}
  pidfile: ""
  use-syslog: no
  logfile: {home}/log
  log-queries: yes
  module-config: "iterator"
{records}
remote-control:
  control-enable: no
"""
_BUS_CONF = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
<allow user="*"/></policy>
</busconfig>
"""
_RESOLVED_USER = """
mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
cp /etc/passwd /etc/group "$1"; mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group
id systemd-resolve > /dev/null 2>&1 || {
    echo 'systemd-resolve:x:41010:41010::/:/usr/sbin/nologin' >> /etc/passwd
    echo 'systemd-resolve:x:41010:' >> /etc/group; }
chown systemd-resolve:systemd-resolve /run/systemd/resolve
printf '[Resolve]\\nDNS=%s\\nLLMNR=no\\nMulticastDNS=no\\nDNSSEC=no\\n' "$2" > /run/systemd/resolved.conf.d/test.conf
"""


@contextlib.contextmanager
def nscd(space: Namespace) -> Iterator[None]:
    """Let nscd resolve for all programs of glibc in `space`."""
    conf, run = space.home / "nscd.conf", "/run/nscd"
    conf.write_text(_NSCD_CONF)
    space.run("mkdir", "-p", run)
    process = space.start("nscd", "-F", "-f", str(conf), stderr=subprocess.DEVNULL)
    try:
        wait.until(lambda: _is_there(space, f"{run}/socket"), "nscd listens")
        yield
    finally:
        end(process)
        space.run("rm", "-rf", run)


@contextlib.contextmanager
def forwarder(space: Namespace, address: str, resolver: str) -> Iterator[None]:
    """Run a stub at `address` that passes questions on to `resolver`, as Docker does for its containers."""
    process = space.start(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *(f"--listen-address={address}", "--bind-interfaces", f"--server={resolver}", "--cache-size=0"),
        stderr=subprocess.DEVNULL,
    )
    try:
        space.wait_for_port(address, 53)
        yield
    finally:
        end(process)


@contextlib.contextmanager
def unbound(
    space: Namespace, address: str, https: int, certificate: Certificate, records: dict[str, str]
) -> Iterator[Path]:
    """Run unbound at `address`, by UDP, TCP and HTTPS, with A records of its own; give its log of questions."""
    home = space.home / "unbound"
    home.mkdir()
    lines = "\n".join(f'  local-data: "{name}. A {value}"' for name, value in records.items())
    conf = _UNBOUND_CONF.format(home=home, address=address, https=https, certificate=certificate, records=lines)
    (home / "unbound.conf").write_text(conf)
    with (home / "errors").open("wb") as errors:
        process = space.start("unbound", "-d", "-p", "-c", str(home / "unbound.conf"), stderr=errors)
    try:
        for port in (53, https):
            space.wait_for_port(address, port)
        yield home / "log"
    finally:
        end(process)


@contextlib.contextmanager
def resolved(space: Namespace, resolver: str) -> Iterator[Path]:
    """Run systemd-resolved and a system bus in `space`, which asks `resolver`; give the path of resolvectl."""
    root = next(root for root in _ROOTS if _binary(root).exists())
    home = space.home / "resolved"
    home.mkdir()
    space.sh(_RESOLVED_USER, str(home), resolver)
    (home / "bus.conf").write_text(_BUS_CONF)
    with (home / "errors").open("wb") as errors:
        bus = space.start("dbus-daemon", f"--config-file={home}/bus.conf", "--nofork", "--nopidfile", stderr=errors)
        wait.until(lambda: _is_there(space, "/run/dbus/system_bus_socket"), "the bus listens")
        process = space.start(str(_binary(root)), stderr=errors)
    resolvectl = root / "usr/bin/resolvectl"
    try:
        wait.until(lambda: space.run(str(resolvectl), "status", check=False).returncode == 0, "resolved answers")
        yield resolvectl
    finally:
        end(process)
        end(bus)


def _binary(root: Path) -> Path:
    found = root / "usr/lib/systemd/systemd-resolved"
    return found if found.exists() else root / "lib/systemd/systemd-resolved"


def _is_there(space: Namespace, path: str) -> bool:
    return space.run("test", "-S", path, check=False).returncode == 0
