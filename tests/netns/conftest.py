"""One test bed for each test file, with all servers of the internet running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns import internet as servers
from tests.netns import proxies
from tests.netns.rig import Rig, rig


@pytest.fixture(scope="module")
def bed() -> Iterator[Rig]:
    """The four namespaces (rig.py has the drawing)."""
    with rig() as found:
        yield found


@pytest.fixture(scope="module")
def world(bed: Rig) -> Iterator[servers.Internet]:
    """The servers of the internet."""
    with servers.internet(bed.world) as found:
        yield found


@pytest.fixture(scope="module")
def squid(bed: Rig) -> Iterator[proxies.RunningProxy]:
    """A real squid that lets everything through."""
    with proxies.squid(bed.mid) as found:
        yield found
