"""What --proxy-auth may say, and what it means for a proxy."""

from __future__ import annotations

import pytest

from proxyvpn import options, schemes
from proxyvpn.errors import UsageError
from proxyvpn.proxy import Proxy
from proxyvpn.schemes import Schemes

ANN = Proxy("proxy.example", 3128, "ann", "hunter2")
NOBODY = Proxy("proxy.example", 3128)


@pytest.mark.parametrize(
    ("text", "names", "preemptive"),
    [
        ("basic", ("basic",), False),
        ("Basic, DIGEST,negotiate", ("negotiate", "digest", "basic"), False),
        ("preemptive", (), True),
        ("preemptive,basic,ntlm", ("ntlm", "basic"), True),
    ],
)
def test_schemes_are_read_in_any_case_and_order(text: str, names: tuple[str, ...], preemptive: bool) -> None:
    assert schemes.parse(text) == Schemes(names, preemptive)


@pytest.mark.parametrize("text", ["", "kerberos", "basic,", "basic\x1b[31m", "preemptive,digest", "a" * 1000])
def test_what_is_no_scheme_is_refused_in_printable_words(text: str) -> None:
    with pytest.raises(UsageError, match="--proxy-auth") as caught:
        schemes.parse(text)
    assert str(caught.value).replace("\n", "").isprintable()


def test_all_but_negotiate_need_a_user() -> None:
    assert schemes.apply(Schemes(("negotiate", "basic"), False), NOBODY).schemes == ("negotiate", "basic")
    assert schemes.apply(Schemes((), True), ANN).preemptive
    for wanted in (Schemes(("basic",), False), Schemes((), True)):
        with pytest.raises(UsageError, match="no user"):
            schemes.apply(wanted, NOBODY)


def test_option_is_for_every_proxy() -> None:
    typed = options.Typed(proxy=("http://a.example:1", "http://b.example:2"), proxy_user="ann", proxy_auth="digest")
    assert [each.schemes for each in options.read(typed, {}).proxies] == [("digest",)] * 2
    assert options.read(options.Typed(proxy=("http://a.example:1",)), {}).proxies[0].schemes == ()
