"""`sudo proxyvpn setup`, once; then `up`, `status` and `teardown` as a plain user (plain.py has the machine)."""

from __future__ import annotations

import pytest

from tests.netns import plain
from tests.netns.dumps import difference, dump
from tests.netns.internet import Internet
from tests.netns.plain import ANN, Plain
from tests.netns.proxies import RunningProxy
from tests.netns.rig import Rig

pytestmark = pytest.mark.privileged


@pytest.fixture(scope="module")
def machine(bed: Rig) -> Plain:
    return plain.prepare(bed.host)


def test_user_without_setup_is_told_the_one_command(machine: Plain, squid: RunningProxy) -> None:
    done = machine.proxyvpn(ANN, "up", "--proxy", squid.url4)
    assert done.returncode == 4, done.stderr
    assert f"sudo {machine.program} setup" in done.stderr


def test_user_of_the_group_brings_the_tunnel_up_without_sudo(
    machine: Plain, bed: Rig, world: Internet, squid: RunningProxy
) -> None:
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    machine.join("ann")
    before = dump(bed.host)
    with machine.up(ANN, "--proxy", squid.url4, "--killswitch") as running:
        print(running.said())
        assert machine.run(ANN, "curl", "-sS", "--noproxy", "*", "http://198.51.100.10/").returncode == 0
        assert machine.proxyvpn(ANN, "status").returncode == 0
        done = machine.proxyvpn(ANN, "teardown")
        assert done.returncode == 0, done.stderr
        assert running.wait() == 0
    assert difference(before, dump(bed.host)) == ""
