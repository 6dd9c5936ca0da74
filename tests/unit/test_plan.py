"""plan.py and the two texts below it: what would be done to a machine, compared with the files of golden/.

`python -m tests.unit.test_plan` writes the files anew; then read the difference.
"""

from __future__ import annotations

import dataclasses
import itertools
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from proxyvpn import chains, plan, ruleset
from proxyvpn.errors import UsageError
from proxyvpn.plan import Connection, Endpoint, Host, Tunnel

GOLDEN = Path(__file__).parent.parent / "golden"
PROXIES = (Endpoint(ip_address("192.0.2.10"), 3128), Endpoint(ip_address("2001:db8::10"), 8080))
RESOLVERS = (ip_address("192.0.2.53"), ip_address("2001:db8::53"))
BYPASS = (ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("192.0.2.7"), ip_network("fd00::/8"))
INBOUND = (51820, 443)
EARLIER = (
    Connection(ip_address("192.0.2.1"), 22, ip_address("198.51.100.7"), 50022),
    Connection(ip_address("2001:db8::1"), 22, ip_address("2001:db8:7::7"), 50026),
)
CASES = {
    "-".join(
        ("killswitch" if killswitch else "open", "ipv6" if ipv6 else "ipv4-only")
        + (("bypass",) if bypass else ())
        + (("resolvers",) if resolvers else ())
        + (("iptables",) if backend == "iptables" else ())
    ): (
        Tunnel(
            PROXIES, RESOLVERS if resolvers else (), BYPASS if bypass else (), killswitch, 2, INBOUND if bypass else ()
        ),
        Host("pvpn0", ipv6, backend, EARLIER if resolvers else ()),
    )
    for killswitch, ipv6, bypass, resolvers, backend in itertools.product(
        (True, False), (True, False), (True, False), (True, False), ("nft", "iptables")
    )
    if backend == "nft" or bypass == resolvers
}
CASES |= {
    name.replace("bypass-resolvers", "names"): (dataclasses.replace(tunnel, names="virtual"), host)
    for name, (tunnel, host) in CASES.items()
    if "bypass-resolvers" in name
}
"""DNS is captured: two ways to answer it, one plan."""
CASES |= {
    f"{name}-excluded": (
        dataclasses.replace(tunnel, excluded_users=(13, 1001), excluded_cgroups=("system.slice/cntlm.service",)),
        host,
    )
    for name, (tunnel, host) in CASES.items()
    if name in ("killswitch-ipv6-names", "open-ipv6-names", "open-ipv6-iptables", "killswitch-ipv6-names-iptables")
}


def a_tunnel(**changed: object) -> Tunnel:
    """Give an ordinary tunnel with some fields changed."""
    fields = {"proxies": PROXIES, "resolvers": RESOLVERS, "bypass": BYPASS, "killswitch": True, "queues": 1}
    return Tunnel(**{**fields, **changed})  # type: ignore[arg-type]


def all_text(name: str) -> str:
    """Give every step of a case as text."""
    tunnel, host = CASES[name]
    return "".join(f"{step.text}\n" for step in plan.steps(tunnel, host))


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_golden_file(name: str) -> None:
    assert all_text(name) == (GOLDEN / f"{name}.txt").read_text()


def test_kernel_without_conntrack_timeouts_gets_the_same_ruleset_but_for_them() -> None:
    tunnel, host = CASES["killswitch-ipv6"]
    known = ruleset.text(tunnel, host).splitlines()
    unknown = ruleset.text(tunnel, dataclasses.replace(host, timeouts=False)).splitlines()
    assert [line for line in known if "ct timeout" not in line] == unknown
    assert len(known) - len(unknown) == 6


def test_there_is_no_golden_file_without_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_steps_can_be_said_on_one_line_each(name: str) -> None:
    for step in plan.steps(*CASES[name]):
        assert "\n" not in step.line and "\n" not in step.undo and step.line


@pytest.mark.parametrize("name", [name for name in CASES if "names" in name])
def test_where_names_are_captured_no_resolver_is_an_exception(name: str) -> None:
    lines = all_text(name).splitlines()
    assert not [line for line in lines if "@resolver" in line or "192.0.2.53 --dport" in line]
    assert not [line for line in lines if "lookup main" in line and "192.0.2.53" in line]


def test_older_connection_to_a_resolver_ends_where_names_are_captured() -> None:
    host = Host("pvpn0", True, opened_here=(Connection(ip_address("192.0.2.1"), 999, RESOLVERS[0], 53),))
    ended = {names: plan.engaging(a_tunnel(names=names), host)[-1] for names in ("direct", "virtual", "proxy")}
    assert [len(step.connections) for step in ended.values() if isinstance(step, plan.OpenedHere)] == [0, 1, 1]


def test_with_the_killswitch_nothing_comes_before_the_firewall() -> None:
    tunnel, host = CASES["killswitch-ipv6"]
    assert isinstance(plan.opening(tunnel, host)[0], plan.Firewall)
    assert not any(isinstance(step, plan.Firewall) for step in plan.engaging(tunnel, host))


def test_without_the_killswitch_nothing_is_captured_before_the_way_exists() -> None:
    tunnel, host = CASES["open-ipv6"]
    assert not any(isinstance(step, plan.Firewall) for step in plan.opening(tunnel, host))
    kinds = [type(step) for step in plan.engaging(tunnel, host)]
    assert kinds.index(plan.Firewall) > max(
        index for index, kind in enumerate(kinds) if kind in (plan.Route, plan.Rule)
    )


def test_there_is_never_a_moment_without_an_unreachable_route() -> None:
    tunnel, host = CASES["killswitch-ipv6"]
    routes = [step for step in plan.steps(tunnel, host) if isinstance(step, plan.Route)]
    assert [route.ifname for route in routes] == ["", "pvpn0", "", "pvpn0"]


def test_without_the_killswitch_a_dead_tunnel_means_direct_traffic() -> None:
    text = all_text("open-ipv6-bypass-resolvers")
    assert "unreachable" not in text.replace("icmpx type port-unreachable", "")
    assert "policy drop" not in text and "mark 0x70767076 counter" not in text


def test_the_kernel_without_ipv6_is_told_nothing_of_it() -> None:
    text = all_text("killswitch-ipv4-only-bypass-resolvers")
    assert "ip6" not in text and "ipv6" not in text and "ip -6" not in text and "2001:" not in text


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("proxies", ()),
        ("proxies", PROXIES[:1] * 17),
        ("resolvers", RESOLVERS[:1] * 9),
        ("bypass", (ip_network("10.0.0.0/8"),) * 65),
        ("bypass", (ip_network("0.0.0.0/0"),)),
        ("bypass", (ip_network("::/0"),)),
        ("bypass", (ip_network("2001:db8::%x, 8000::/64"),)),
        ("bypass", (ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1"))),
        ("inbound", (0,)),
        ("inbound", (65536,)),
        ("inbound", tuple(range(1, 17))),
        ("excluded_users", (0,)),
        ("excluded_users", (2**32 - 1,)),
        ("excluded_users", tuple(range(1, 10))),
        ("excluded_cgroups", ("",)),
        ("excluded_cgroups", ("/system.slice",)),
        ("excluded_cgroups", ("system.slice/",)),
        ("excluded_cgroups", ("system.slice/..",)),
        ("excluded_cgroups", ('a"; flush ruleset; "',)),
        ("excluded_cgroups", ("a\nb",)),
        ("excluded_cgroups", ("a*",)),
        ("excluded_cgroups", ("a/" * 200 + "a",)),
        ("excluded_cgroups", tuple("abcdefghi")),
        ("names", "Direct"),
        ("queues", 0),
        ("queues", 5),
    ],
)
def test_a_tunnel_that_makes_no_sense_is_refused(field: str, values: object) -> None:
    with pytest.raises(UsageError):
        a_tunnel(**{field: values})


NOT_A_HOST = (
    *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"),
    *("fe80::1", "::ffff:192.0.2.1", "198.18.0.1", "fd70:7670:6e::1"),
    *("198.18.7.7", "198.19.255.255", "fd70:7670:6e:1::7"),
)


@pytest.mark.parametrize("address", NOT_A_HOST)
def test_an_address_that_is_no_host_elsewhere_is_neither_proxy_nor_resolver(address: str) -> None:
    with pytest.raises(UsageError):
        Endpoint(ip_address(address), 3128)
    with pytest.raises(UsageError):
        a_tunnel(resolvers=(ip_address(address),))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_may_have_a_proxy_and_is_no_resolver(address: str) -> None:
    Endpoint(ip_address(address), 3128)
    with pytest.raises(UsageError):
        a_tunnel(resolvers=(ip_address(address),))


def test_a_cloud_resolver_has_a_link_local_address_and_a_proxy_has_none() -> None:
    a_tunnel(resolvers=(ip_address("169.254.169.253"),))
    with pytest.raises(UsageError):
        Endpoint(ip_address("169.254.169.253"), 3128)


@pytest.mark.parametrize("port", [0, -1, 65536, 70000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(UsageError):
        Endpoint(ip_address("192.0.2.1"), port)


def test_take_over_empties_every_set_and_deletes_no_chain() -> None:
    tunnel, host = CASES["killswitch-ipv6-bypass-resolvers"]
    text = ruleset.take_over(tunnel, host)
    assert text.endswith(ruleset.text(tunnel, host))
    assert "delete" not in text
    declared = {line.split()[1] for line in ruleset.text(tunnel, host).splitlines() if line.startswith("    set ")}
    flushed = {line.split()[-1] for line in text.splitlines() if line.startswith("flush set")}
    assert flushed == declared and len(declared) == 12


def test_iptables_take_over_adds_no_second_jump_and_removal_takes_every_one() -> None:
    tunnel, host = CASES["killswitch-ipv6-bypass-resolvers-iptables"]
    saved = _as_saved(chains.load(tunnel, host, 4, ""))
    assert "-I " not in chains.load(tunnel, host, 4, saved)
    removal = chains.removal(saved).splitlines()
    assert sum(line.startswith("-D ") for line in removal) == 5
    assert sum(line.startswith("-X ") for line in removal) == sum(line.startswith("-F ") for line in removal) == 6


@pytest.mark.parametrize("killswitch", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_iptables_chains_of_ours_are_ours_even_when_emptied(killswitch: bool, version: int) -> None:
    loaded = chains.load(Tunnel(PROXIES, (), (), killswitch, 1), Host("pvpn0", True), version, "")
    emptied = "\n".join(line for line in loaded.splitlines() if not line.startswith("-A "))
    for saved in (loaded, emptied):
        assert chains.strangers(saved) == ()
        assert len(chains.present(saved)) == 6
        assert chains.locked(saved) == (killswitch and saved == loaded)


def test_iptables_chains_that_only_have_our_names_are_somebody_elses() -> None:
    foreign = "*mangle\n:PROXYVPN_GUARD - [0:0]\n:PROXYVPN_MINE - [0:0]\n-A PROXYVPN_GUARD -j DROP\nCOMMIT\n"
    assert chains.strangers(foreign) == ("mangle PROXYVPN_GUARD",)
    assert (chains.present(foreign), chains.removal(foreign), chains.locked(foreign)) == ((), "", False)


@pytest.mark.parametrize("killswitch", [True, False])
def test_nft_tables_are_ours_with_our_chains_and_no_others(killswitch: bool) -> None:
    loaded = ruleset.text(Tunnel(PROXIES, RESOLVERS, BYPASS, killswitch, 1), Host("pvpn0", True))
    inet, _, arp = loaded.partition("table arp")
    emptied = "\n".join(line for line in inet.splitlines() if line.strip().startswith(("table", "chain", "}")))
    assert ruleset.is_ours("inet", inet) and ruleset.is_ours("inet", emptied)
    assert not ruleset.is_ours("inet", inet.replace("chain capture", "chain other"))
    assert not ruleset.is_ours("inet", "table inet proxyvpn {\n}\n")
    assert ruleset.is_ours("arp", f"table arp{arp}")
    assert not ruleset.is_ours("arp", f"table arp{arp}".replace("daddr", "saddr"))
    assert not ruleset.is_ours("arp", "table arp proxyvpn {\n}\n")


def test_iptables_removal_leaves_alone_what_is_not_ours() -> None:
    foreign = (
        "*mangle\n:OUTPUT ACCEPT [0:0]\n:OTHER - [0:0]\n-A OUTPUT -j OTHER\n-A OTHER -d 192.0.2.1 -j DROP\nCOMMIT\n"
    )
    assert chains.removal(foreign) == ""
    assert chains.present(foreign) == ()
    assert not chains.locked(foreign)


def test_iptables_counts_what_guard_and_refuse_stopped() -> None:
    counted = (
        "[5:300] -A PROXYVPN_GUARD -j DROP\n[2:99] -A PROXYVPN_REFUSE -p tcp -j REJECT --reject-with tcp-reset\n"
        "[7:7] -A PROXYVPN_GUARD -o lo -j RETURN\n[9:9] -A PROXYVPN_SHIELD -d 198.18.0.1/32 -j DROP\n"
        "[1:1] -A OTHER -j DROP\n"
    )
    assert chains.dropped(counted) == 7


def _as_saved(text: str) -> str:
    """Give what iptables-save would say after `text` was loaded into empty tables (as far as chains.py reads it)."""
    return text.replace("-I ", "-A ")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in CASES:
        (GOLDEN / f"{each}.txt").write_text(all_text(each))
