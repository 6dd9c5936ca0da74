"""The gate of the privileged tests: never run by accident, never skipped where they were asked for."""

from __future__ import annotations

import os
import shutil

import pytest

ASKED = os.environ.get("PROXYVPN_PRIVILEGED_TESTS") == "1"
PROGRAMS = (
    *("ip", "nft", "iptables", "ip6tables", "unshare", "nsenter", "setpriv", "mount", "sysctl", "tcpdump"),
    *("squid", "tinyproxy", "nginx", "dnsmasq", "sshd", "ssh", "ssh-keygen", "curl", "openssl", "git"),
    *("groupadd", "groupdel", "usermod", "gpasswd", "cc", "systemd-analyze"),
)


def missing() -> list[str]:
    """Give what this machine lacks for the privileged tests, empty when nothing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = [f"the program {name}" for name in PROGRAMS if shutil.which(name, path=path) is None]
    return found + (["root"] if os.geteuid() != 0 else [])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a privileged test that nobody asked for; fail one that was asked for and cannot run."""
    if item.get_closest_marker("privileged") is None:
        return
    if not ASKED:
        pytest.skip("privileged: set PROXYVPN_PRIVILEGED_TESTS=1 (see scripts/test-privileged.sh)")
    if lacks := missing():
        pytest.fail(f"privileged tests were asked for, but this machine lacks {', '.join(lacks)}", pytrace=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn any other skip of a privileged test into a failure where they were asked for."""
    outcome = yield
    report = outcome.get_result()
    if ASKED and report.skipped and item.get_closest_marker("privileged") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a privileged test was skipped, which counts as a failure here: {report.longrepr}"
