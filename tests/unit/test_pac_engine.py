"""The functions that a PAC file may call, as Netscape and Microsoft describe them, and what it may not."""

from __future__ import annotations

import calendar
import time

import pytest

pytest.importorskip("_quickjs", reason="the extra `pac` is not installed")

from proxyvpn.pac.engine import Engine, Exhausted
from proxyvpn.pac.routes import ScriptFailed

NAMES = {
    "www.example.com": ("192.0.2.7", "2001:db8::7"),
    "six.example.com": ("2001:db8::6",),
    "intranet": ("10.1.2.3",),
}
MINE = ("10.9.8.7", "2001:db8::9")
#                       a Wednesday: 2026-03-18 14:05:30 GMT
NOW = calendar.timegm((2026, 3, 18, 14, 5, 30))


def evaluate(expression: str, now: float = NOW) -> str:
    """Give what an expression is in a PAC file, as text."""
    script = f"function FindProxyForURL(url, host) {{ return String({expression}); }}"
    engine = Engine(script, lambda host: NAMES.get(host, ()), MINE, lambda: now)
    return engine.find("https://www.example.com/", "www.example.com")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("url + ' ' + host", "https://www.example.com/ www.example.com"),
        ("isPlainHostName('intranet')", "true"),
        ("isPlainHostName('www.example.com')", "false"),
        ("isPlainHostName('2001:db8::1')", "false"),
        ("dnsDomainIs('www.example.com', '.example.com')", "true"),
        ("dnsDomainIs('www.Example.com', '.example.COM')", "true"),
        ("dnsDomainIs('www.example.org', '.example.com')", "false"),
        ("localHostOrDomainIs('www.example.com', 'www.example.com')", "true"),
        ("localHostOrDomainIs('www', 'www.example.com')", "true"),
        ("localHostOrDomainIs('ww', 'www.example.com')", "false"),
        ("localHostOrDomainIs('www.example.org', 'www.example.com')", "false"),
        ("dnsDomainLevels('www')", "0"),
        ("dnsDomainLevels('www.example.com')", "2"),
        ("isResolvable('www.example.com')", "true"),
        ("isResolvable('six.example.com')", "false"),
        ("isResolvable('nowhere.example')", "false"),
        ("isResolvableEx('six.example.com')", "true"),
        ("isResolvableEx('nowhere.example')", "false"),
        ("dnsResolve('www.example.com')", "192.0.2.7"),
        ("dnsResolve('192.0.2.9')", "192.0.2.9"),
        ("dnsResolve('six.example.com')", "null"),
        ("dnsResolve('nowhere.example')", "null"),
        ("dnsResolve('')", "null"),
        ("dnsResolve(undefined)", "null"),
        ("dnsResolve({})", "null"),
        ("dnsResolve('é.example')", "null"),
        ("dnsResolveEx('www.example.com')", "192.0.2.7;2001:db8::7"),
        ("'[' + dnsResolveEx('nowhere.example') + ']'", "[]"),
        ("myIpAddress()", "10.9.8.7"),
        ("myIpAddressEx()", "10.9.8.7;2001:db8::9"),
        ("isInNet('intranet', '10.0.0.0', '255.0.0.0')", "true"),
        ("isInNet('10.1.2.3', '10.1.2.3', '255.255.255.255')", "true"),
        ("isInNet('192.0.2.7', '10.0.0.0', '255.0.0.0')", "false"),
        ("isInNet('nowhere.example', '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNet('intranet', 'nonsense', '255.0.0.0')", "false"),
        ("isInNet('intranet')", "false"),
        ("isInNetEx('2001:db8::7', '2001:db8::/32')", "true"),
        ("isInNetEx('192.0.2.7', '192.0.2.0/24')", "true"),
        ("isInNetEx('192.0.2.7', '2001:db8::/32')", "false"),
        ("isInNetEx('nonsense', '2001:db8::/32')", "false"),
        ("sortIpAddressList('10.0.0.9;2001:db8::2;10.0.0.1;2001:db8::1')", "2001:db8::1;2001:db8::2;10.0.0.1;10.0.0.9"),
        ("'[' + sortIpAddressList('nonsense') + ']'", "[]"),
        ("getClientVersion()", "1.0"),
        ("shExpMatch('www.example.com', '*.example.com')", "true"),
        ("shExpMatch('www.example.com', 'www.*.com')", "true"),
        ("shExpMatch('www.example.com', 'WWW.*')", "false"),
        ("shExpMatch('www.example.com', '*')", "true"),
        ("shExpMatch('', '')", "true"),
        ("shExpMatch('', '*')", "true"),
        ("shExpMatch('x', '')", "false"),
        ("shExpMatch('abc', 'a?c')", "true"),
        ("shExpMatch('abc', 'a?')", "false"),
        ("shExpMatch('abcabc', '*abc')", "true"),
        ("shExpMatch('a.b', 'a.b')", "true"),
        ("shExpMatch('axb', 'a.b')", "false"),
        ("shExpMatch('http://a/b/c', '*/a/*c')", "true"),
        ("alert('x')", "undefined"),
    ],
)
def test_function(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("weekdayRange('WED', 'GMT')", True),
        ("weekdayRange('MON', 'FRI', 'GMT')", True),
        ("weekdayRange('mon', 'wed', 'gmt')", True),
        ("weekdayRange('THU', 'SAT', 'GMT')", False),
        ("weekdayRange('SAT', 'THU', 'GMT')", True),
        ("weekdayRange('FRI', 'TUE', 'GMT')", False),
        ("weekdayRange('NONSENSE', 'GMT')", False),
        ("weekdayRange()", False),
        ("dateRange(18, 'GMT')", True),
        ("dateRange(17, 'GMT')", False),
        ("dateRange('MAR', 'GMT')", True),
        ("dateRange('APR', 'GMT')", False),
        ("dateRange(2026, 'GMT')", True),
        ("dateRange(2025, 'GMT')", False),
        ("dateRange(1, 20, 'GMT')", True),
        ("dateRange(20, 1, 'GMT')", False),
        ("dateRange(20, 18, 'GMT')", True),
        ("dateRange('JAN', 'MAR', 'GMT')", True),
        ("dateRange('NOV', 'MAR', 'GMT')", True),
        ("dateRange('APR', 'FEB', 'GMT')", False),
        ("dateRange(2025, 2026, 'GMT')", True),
        ("dateRange(18, 'MAR', 'GMT')", True),
        ("dateRange(1, 'MAR', 18, 'MAR', 'GMT')", True),
        ("dateRange(19, 'MAR', 1, 'MAY', 'GMT')", False),
        ("dateRange(1, 'DEC', 31, 'MAR', 'GMT')", True),
        ("dateRange('MAR', 2026, 'APR', 2026, 'GMT')", True),
        ("dateRange('APR', 2025, 'FEB', 2026, 'GMT')", False),
        ("dateRange(18, 'MAR', 2026, 18, 'MAR', 2026, 'GMT')", True),
        ("dateRange(19, 'MAR', 2026, 1, 'JAN', 2027, 'GMT')", False),
        ("dateRange(18, 'MAR', 2026, 'GMT')", True),
        ("dateRange()", False),
        ("dateRange('nonsense', 'GMT')", False),
        ("dateRange(1, 2, 3, 'GMT')", False),
        ("timeRange(14, 'GMT')", True),
        ("timeRange(13, 'GMT')", False),
        ("timeRange(9, 17, 'GMT')", True),
        ("timeRange(15, 17, 'GMT')", False),
        ("timeRange(22, 6, 'GMT')", False),
        ("timeRange(13, 6, 'GMT')", True),
        ("timeRange(14, 5, 14, 5, 'GMT')", True),
        ("timeRange(14, 6, 17, 0, 'GMT')", False),
        ("timeRange(14, 5, 30, 14, 5, 30, 'GMT')", True),
        ("timeRange(14, 5, 31, 17, 0, 0, 'GMT')", False),
        ("timeRange('nonsense', 'GMT')", False),
        ("timeRange(1, 2, 3, 'GMT')", False),
        ("timeRange()", False),
    ],
)
def test_function_of_time(expression: str, value: bool) -> None:
    assert evaluate(expression) == str(value).lower()


def test_time_without_gmt_is_this_machine_s() -> None:
    assert evaluate(f"timeRange({time.localtime(NOW).tm_hour})") == "true"


@pytest.mark.parametrize(
    "name", ["std", "os", "require", "process", "fetch", "XMLHttpRequest", "setTimeout", "pacResolve"]
)
def test_script_has_no_way_out(name: str) -> None:
    assert evaluate(f"typeof {name} + typeof globalThis.{name}") == "undefinedundefined"


def test_module_cannot_be_imported() -> None:
    with pytest.raises(ScriptFailed):
        Engine("import * as std from 'std'; function FindProxyForURL() {}", lambda _: (), ())


def test_script_may_keep_values_and_replace_functions() -> None:
    script = """
        let count = 0;
        const FindProxyForURL = (url, host) => { count++; return String(count) + isPlainHostName(host); };
        function isPlainHostName(host) { return "mine"; }"""
    engine = Engine(script, lambda _: (), ())
    assert [engine.find("https://x/", "x"), engine.find("https://x/", "x")] == ["1mine", "2mine"]


def test_ex_is_asked_only_where_there_is_no_other() -> None:
    only = "function FindProxyForURLEx(url, host) { return 'DIRECT'; }"
    assert Engine(only, lambda _: (), ()).find("https://x/", "x") == "DIRECT"
    both = only + "function FindProxyForURL(url, host) { return 'PROXY a.example:1'; }"
    assert Engine(both, lambda _: (), ()).find("https://x/", "x") == "PROXY a.example:1"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("function FindProxyForURL(", "SyntaxError"),
        ("<html>404</html>", "SyntaxError"),
        ("", "no function FindProxyForURL"),
        ("FindProxyForURL = 'DIRECT'", "no function FindProxyForURL"),
        ("throw new Error('at once')", "at once"),
    ],
)
def test_script_that_cannot_be_loaded_says_why(script: str, says: str) -> None:
    with pytest.raises(ScriptFailed) as caught:
        Engine(script, lambda _: (), ())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("throw new Error('a\\nb\\u001b[31m')", "Error: a"),
        ("throw null", "failed"),
        ("nonsense()", "not defined"),
        ("return null", "gives no text"),
        ("return {toString() { return 'DIRECT'; }}", "gives no text"),
        ("return 1", "gives no text"),
        ("", "gives no text"),
        ("return '\\ud800'", ""),
    ],
)
def test_script_that_fails_says_why_in_one_printable_line(body: str, says: str) -> None:
    engine = Engine(f"function FindProxyForURL(url, host) {{ {body} }}", lambda _: (), ())
    try:
        engine.find("https://x/", "x")
    except ScriptFailed as error:
        assert says in str(error)
        assert error.what.isprintable() and error.why.isprintable()
    else:
        assert says == ""


@pytest.mark.parametrize(
    "body",
    [
        "const all = []; for (;;) all.push('x'.repeat(100000) + all.length)",
        "const f = () => f() + 1; return f()",
        "return 'x'.repeat(1e9)",
    ],
)
def test_memory_and_stack_have_an_end(body: str) -> None:
    engine = Engine(f"function FindProxyForURL(url, host) {{ {body} }}", lambda _: (), ())
    with pytest.raises(ScriptFailed) as caught:
        engine.find("https://x/", "x")
    assert isinstance(caught.value, Exhausted) or "Range" in str(caught.value) or "string" in str(caught.value)


def test_no_pattern_of_shexpmatch_takes_long() -> None:
    begun = time.monotonic()
    assert evaluate("shExpMatch('a'.repeat(20000), '*a*a*a*a*a*a*a*a*b')") == "false"
    assert time.monotonic() - begun < 1.0
