"""All at once, as it is met: TLS in front of squids that want names and credentials, and several of them behind one.

host: programs, `proxyvpn up` ==TLS==> mid: haproxy, stunnel ---- squids, tinyproxy, KDC ---- world: servers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxyvpn.errors import Exit
from tests.netns import clients, corporate, fronts, programs, proxies
from tests.netns.certificates import Authority, Certificate, authority
from tests.netns.corporate import INSIDE, Corporation
from tests.netns.internet import PAGE, Internet
from tests.netns.kerberos import DOMAIN, PROXY
from tests.netns.proxies import SECOND_SQUID
from tests.netns.published import Fetchers, publish
from tests.netns.rig import MID4, Rig
from tests.netns.up import proxyvpn, up

pytestmark = pytest.mark.privileged

USER, PASSWORD = "ann", "words with @, & and %"
NAMES = ("--names", "virtual", "--direct-domain", DOMAIN, "--bypass", f"{INSIDE}/32")


@dataclass(frozen=True, slots=True)
class Scene:
    """The corporate network, the corporation's authority, and the certificate of its proxy."""

    bed: Rig
    world: Internet
    office: Corporation
    ours: Authority
    certificate: Certificate

    def fetch_all(self, folder: Path) -> None:
        """Check that each program fetches what it should."""
        fetchers = Fetchers(self.world, folder)
        assert programs.together(self.bed.host, fetchers.commands(), fetchers.environment()) == {}
        assert all(fetchers.fetched().values()), fetchers.fetched()


@pytest.fixture(scope="module")
def scene(bed: Rig, world: Internet) -> Iterator[Scene]:
    """All that the tests have in common."""
    publish(world.www)
    ours = authority(bed.home / "authority", "authority of the corporation")
    with corporate.corporation(bed) as office:
        bed.host.resolv_conf.write_text(f"nameserver {INSIDE}\n")
        yield Scene(bed, world, office, ours, ours.issue(PROXY, f"DNS:{PROXY}"))


@pytest.fixture
def credentials(bed: Rig) -> tuple[str, ...]:
    """The options of a user with a password."""
    (bed.home / "password").write_text(f"{PASSWORD}\n")
    return ("--proxy-user", USER, "--proxy-password-file", str(bed.home / "password"))


def test_programs_get_through_tls_with_a_ticket(scene: Scene, tmp_path: Path) -> None:
    ann = scene.ours.issue("ann")
    identity = ("--proxy-ca", str(scene.ours.certificate), "--proxy-cert", str(ann.chain), "--proxy-key", str(ann.key))
    with (
        proxies.squid(scene.bed.mid, users={"nobody": "x"}, auth=corporate.kerberos(scene.office.kdc)) as squid,
        fronts.stunnel(scene.bed.mid, scene.certificate, scene.ours.certificate, squid.port) as front,
        up(
            scene.bed.host,
            *("--proxy", f"https://{PROXY}:{front.port}", *identity, *NAMES, "--killswitch"),
            env=scene.office.kdc.ticket(scene.bed.host, tmp_path / "cache"),
        ) as running,
    ):
        assert f"https://{PROXY}:{front.port}" in running.ready_line()
        scene.fetch_all(tmp_path)
        assert "CONNECT git.world.test:22 ann@" in squid.log.read_text()


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_programs_get_through_tls_with_a_password(
    scene: Scene, credentials: tuple[str, ...], scheme: str, tmp_path: Path
) -> None:
    asks = {"digest": corporate.DIGEST, "basic": corporate.BASIC}[scheme]
    auth = corporate.BY_NAME_ONLY + asks + corporate.USERS_ONLY
    with (
        proxies.squid(scene.bed.mid, users={USER: PASSWORD}, auth=auth) as squid,
        fronts.front(scene.bed.mid, scene.certificate, squid.port) as front,
        up(
            scene.bed.host,
            *("--proxy", f"https://{PROXY}:{front.port}", "--proxy-ca", str(scene.ours.certificate)),
            *(*credentials, *NAMES, "--killswitch"),
        ),
    ):
        scene.fetch_all(tmp_path)
        assert f"CONNECT pypi.world.test:443 {USER} " in squid.log.read_text()


def test_wrong_password_is_found_out_by_a_name_where_addresses_are_refused(scene: Scene) -> None:
    auth = corporate.BY_NAME_ONLY + corporate.BASIC + corporate.USERS_ONLY
    (scene.bed.home / "wrong").write_text("wrong\n")
    words = ("--proxy-user", USER, "--proxy-password-file", str(scene.bed.home / "wrong"))
    with proxies.squid(scene.bed.mid, users={USER: PASSWORD}, auth=auth) as squid:
        done = proxyvpn(scene.bed.host, "up", "--proxy", f"http://{PROXY}:{squid.port}", *words, *NAMES)
    assert (done.returncode, "ready:" in done.stdout) == (Exit.PROXY_REFUSES, False), done.stderr


def test_one_of_two_squids_behind_haproxy_may_die(scene: Scene, credentials: tuple[str, ...]) -> None:
    auth = corporate.BY_NAME_ONLY + corporate.BASIC + corporate.USERS_ONLY
    with (
        proxies.squid(scene.bed.mid, users={USER: PASSWORD}, auth=auth) as first,
        proxies.squid(scene.bed.mid, users={USER: PASSWORD}, auth=auth, port=SECOND_SQUID) as second,
        proxies.haproxy(scene.bed.mid, first.port, second.port) as front,
        up(scene.bed.host, "--proxy", f"http://{PROXY}:{front.port}", *credentials, *NAMES),
    ):
        for _ in range(4):
            assert clients.curl(scene.bed.host, "http://www.world.test/").stdout == PAGE
        assert all("CONNECT www.world.test:80" in each.log.read_text() for each in (first, second))
        first.process.kill()
        for _ in range(4):
            assert clients.curl(scene.bed.host, "http://www.world.test/").stdout == PAGE


def test_name_of_the_proxy_is_direct_without_being_said(scene: Scene) -> None:
    with (
        proxies.squid(scene.bed.mid) as squid,
        up(scene.bed.host, "--proxy", f"http://{PROXY}:{squid.port}", "--names", "virtual"),
    ):
        assert scene.bed.host.run("getent", "ahosts", PROXY).stdout.split()[0] == MID4
        assert scene.bed.host.run("getent", "ahostsv4", f"other.{DOMAIN}").stdout.startswith("198.18.")


def test_tinyproxy_is_given_names(scene: Scene) -> None:
    scene.bed.mid.resolv_conf.write_text("nameserver 198.51.100.53\n")
    with (
        proxies.tinyproxy(scene.bed.mid) as proxy,
        up(scene.bed.host, "--proxy", f"http://{PROXY}:{proxy.port}", *NAMES),
    ):
        assert clients.curl(scene.bed.host, "https://www.world.test/", world=scene.world).stdout == PAGE
        assert "www.world.test" in proxy.log.read_text()
