"""Configuration files and variables: who decides, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyvpn.cli import up
from proxyvpn.config import files, gather, keys, merge, show
from proxyvpn.config.keys import ONLY_TYPED, Key, Kind
from proxyvpn.errors import UsageError
from proxyvpn.options import Options

CONTEXT = up.make_context("up", [])
KEYS = keys.of(up.to_info_dict(CONTEXT)["params"], CONTEXT.params)


class House:
    """A user's and a machine's directory of configuration files."""

    def __init__(self, root: Path) -> None:
        self.user = root / "home" / ".config" / "proxyvpn" / "config.toml"
        self.machine = root / "etc" / "proxyvpn" / "config.toml"
        self.home = root / "home"
        for path in (self.user, self.machine):
            path.parent.mkdir(parents=True, mode=0o755)

    def write(self, path: Path, text: str, mode: int = 0o600) -> None:
        path.write_text(text)
        path.chmod(mode)

    def gather(self, typed: Mapping[str, keys.Value] = {}, /, **environ: str) -> gather.Gathered:
        """Give what holds with these variables and files, and with `typed` typed."""
        return gather.gather(KEYS, typed, {"HOME": str(self.home), **environ}, str(self.machine))

    def options(self, typed: Mapping[str, keys.Value] = {}, /, **environ: str) -> Options:
        settings = self.gather(typed, **environ).settings
        return gather.options_of(settings, environ, lambda _: None)[0]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    mask = os.umask(0o022)
    yield House(tmp_path)
    os.umask(mask)


def refused(house: House, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        house.gather(**environ)
    return str(caught.value)


def test_every_option_of_up_is_a_key_or_can_only_be_typed() -> None:
    options = {each.name.replace("_", "-") for each in up.params if isinstance(each, click.Option) and each.name}
    assert {key.name for key in KEYS} | set(ONLY_TYPED) == options
    assert not {key.name for key in KEYS} & set(ONLY_TYPED)


def test_key_is_of_the_kind_that_its_option_is() -> None:
    kinds = {key.name: key for key in KEYS}
    for option in up.params:
        assert isinstance(option, click.Option) and option.name
        if (key := kinds.get(option.name.replace("_", "-"))) is None:
            continue
        assert (key.kind is Kind.FLAG) == option.is_flag
        assert key.many == option.multiple
        assert (key.kind is Kind.NUMBER) == isinstance(option.type, click.types.IntParamType)
        is_path = option.metavar in ("FILE", "DIR")
        assert (key.kind is Kind.PATH) == is_path, f"{key.name} should be of type click.Path()"
    assert (kinds["confirm"].least, kinds["confirm"].most) == (1, 86400)


def test_first_that_sets_an_option_decides(house: House) -> None:
    levels = []
    url = "http://{}.example:3128".format
    levels.append(house.gather().settings["proxy"])
    environ = {"https_proxy": url("general")}
    levels.append(house.gather(**environ).settings["proxy"])
    house.write(house.machine, f'proxy = "{url("machine")}"\n')
    levels.append(house.gather(**environ).settings["proxy"])
    house.write(house.user, f'# mine\nproxy = "{url("user")}"\n')
    levels.append(house.gather(**environ).settings["proxy"])
    environ["PROXYVPN_PROXY"] = url("variable")
    levels.append(house.gather(**environ).settings["proxy"])
    levels.append(house.gather({"proxy": (url("typed"),)}, **environ).settings["proxy"])
    names = ("general", "machine", "user", "variable", "typed")
    assert [each.value for each in levels] == [(), *((url(name),) for name in names)]
    assert [each.origin for each in levels] == [
        *("default", "https_proxy", f"{house.machine}, line 1", f"{house.user}, line 2", "PROXYVPN_PROXY"),
        "the command line",
    ]


def test_lists_replace(house: House) -> None:
    house.write(house.machine, 'dns = ["192.0.2.1", "192.0.2.2"]\nbypass = ["10.0.0.0/8"]\n')
    house.write(house.user, 'dns = "192.0.2.3"\nbypass = []\n')
    settings = house.gather().settings
    assert settings["dns"].value == ("192.0.2.3",)
    assert settings["bypass"].value == ()
    assert house.gather(PROXYVPN_DNS=" 192.0.2.4\t192.0.2.5 ").settings["dns"].value == ("192.0.2.4", "192.0.2.5")


def test_empty_variable_sets_nothing(house: House) -> None:
    house.write(house.user, "killswitch = true\n")
    assert house.gather(PROXYVPN_KILLSWITCH="").settings["killswitch"].value is True


def test_typed_no_wins_over_a_file_that_says_yes(house: House) -> None:
    house.write(house.user, "killswitch = true\n")
    assert house.gather({"killswitch": False}).settings["killswitch"].value is False


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("on", True), ("false", False), ("0", False)])
def test_flag_in_a_variable(house: House, text: str, value: bool) -> None:
    assert house.gather(PROXYVPN_KILLSWITCH=text).settings["killswitch"].value is value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kilswitch = true", "line 1: there is no option kilswitch\ndid you mean killswitch?"),
        ("\nproxy_user = 'ann'", "line 2: there is no option proxy_user\ndid you mean proxy-user?"),
        ("zzz = 1", "there is no option zzz"),
        ('"a\\u001bb" = 1', "there is no option a?b"),
        ("detach = true", "can only be typed"),
        ("dry-run = true", "can only be typed"),
        ("[killswitch]\non = true", "line 1: killswitch is a table, and should be true or false"),
        ("killswitch = 1", "killswitch is a whole number, and should be true or false"),
        ('killswitch = "yes"', "killswitch is a string"),
        ("confirm = true", "confirm is true or false, and should be a whole number"),
        ("confirm = 0", "confirm is 0, and should be from 1 to 86400"),
        ("confirm = 1.5", "confirm is a float"),
        ("\n\ndns = 4", "line 3: dns is a whole number, and should be a string, or a list of them"),
        ("dns = [4]", "dns is a list of something else than strings"),
        ("proxy = [['http://x.example']]", "list of something else"),
        ("proxy-user = ['ann']", "proxy-user is a list, and should be a string"),
        ("proxy-password-file = 'secret'", "does not begin with / or ~/"),
        ("state-dir = 'x'", "does not begin with / or ~/"),
        ("dns = 1979-05-27", "dns is a date"),
        ("killswitch = yes", "line 1, column 14"),
        ("proxy = 'a'\nproxy = 'b'", "is not TOML\nat its end"),
        ("proxy = 'a", "is not TOML"),
        ("proxy-password-file = '/a'\nproxy-password-command = 'b'", "given twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(house: House, text: str, says: str) -> None:
    house.write(house.machine, text)
    assert says in refused(house)
    assert str(house.machine) in refused(house)


@pytest.mark.parametrize(
    "text", ["hunter2 = 'x", "proxy = hunter2", "proxy = 'http://a:hunter2@x' hunter2", "[hunter2"]
)
def test_no_error_of_toml_quotes_the_file(house: House, text: str) -> None:
    house.write(house.user, text)
    assert "hunter2" not in refused(house).replace("hunter2 =", "")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PROXYVPN_KILSWITCH", "1", "did you mean PROXYVPN_KILLSWITCH?"),
        ("PROXYVPN_PROXYS", "http://x.example", "did you mean PROXYVPN_PROXY?"),
        ("PROXYVPN_KILLSWITCH", "maybe", "neither true nor false"),
        ("PROXYVPN_CONFIRM", "1e3", "whole number"),
        ("PROXYVPN_CONFIRM", "86401", "from 1 to 86400"),
        ("PROXYVPN_CONFIRM", "٣", "whole number"),
        ("PROXYVPN_CONFIRM", "0", "PROXYVPN_CONFIRM is 0"),
        ("PROXYVPN_NAMES", "virtul", "PROXYVPN_NAMES is none of direct, virtual, proxy"),
    ],
)
def test_bad_variable_is_refused(house: House, name: str, value: str, says: str) -> None:
    assert says in refused(house, **{name: value})


def test_variable_of_something_else_is_nobody_s_business(house: House) -> None:
    house.gather(PROXYVPN_LEAK_PACKETS="1", PROXYVPN_SEED="2")


@pytest.mark.parametrize(
    ("mode", "says"),
    [(0o620, "its group can write to it"), (0o602, "others can write to it"), (0o666, "others can write to it")],
)
def test_file_that_somebody_else_can_write_is_not_believed(house: House, mode: int, says: str) -> None:
    house.write(house.user, "killswitch = true\n", mode)
    assert says in refused(house)
    assert f"chmod go-w {house.user}" in refused(house)


def test_directory_that_somebody_else_can_write_is_not_believed(house: House) -> None:
    house.write(house.user, "killswitch = true\n")
    house.user.parent.chmod(0o777)
    assert "others can write to it" in refused(house)
    house.user.parent.chmod(0o1777)  # sticky: nobody else's file can be replaced there
    house.gather()


def test_link_is_judged_by_what_it_leads_to(house: House, tmp_path: Path) -> None:
    away = tmp_path / "dotfiles"
    away.mkdir()
    house.write(away / "real.toml", "killswitch = true\n")
    house.user.symlink_to(away / "real.toml")
    assert house.gather().settings["killswitch"].value is True
    away.chmod(0o775)
    assert "its group can write" in refused(house)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_file_of_somebody_else_is_not_believed_by_root(house: House) -> None:
    house.write(house.user, "killswitch = true\n", 0o644)
    os.chown(house.user, 12345, 0)
    assert "belongs to uid 12345" in refused(house)
    assert "root would do what it says" in refused(house)


def test_what_is_no_file_is_refused(house: House) -> None:
    house.user.mkdir()
    assert "is not a file" in refused(house)


def test_pipe_is_refused_and_not_waited_for(house: House) -> None:
    os.mkfifo(house.user, 0o600)
    assert "is not a file" in refused(house)


def test_loop_of_links_is_an_error_and_no_missing_file(house: House) -> None:
    house.user.symlink_to(house.user)
    assert "cannot be read" in refused(house)


def test_file_of_another_encoding_or_size_is_refused(house: House) -> None:
    house.user.write_bytes(b"proxy = '\xff'")
    assert "UTF-8" in refused(house)
    house.write(house.user, "#" * (files.MAX_BYTES + 1))
    assert "longer than 64 KiB" in refused(house)


@pytest.mark.parametrize(
    "text",
    ["proxy = 'http://ann:hunter2@x.example'", "proxy-user = 'ann:hunter2'", "proxy = ['ann:hunter2@x.example']"],
)
def test_password_in_a_file_that_others_can_read_is_refused(house: House, text: str) -> None:
    house.write(house.user, text, 0o644)
    assert "holds a password" in refused(house)
    assert "hunter2" not in refused(house)
    house.write(house.user, text, 0o600)
    house.gather()


def test_user_alone_is_no_secret(house: House) -> None:
    house.write(house.user, "proxy = 'http://ann@x.example'\nproxy-user = 'ann'", 0o644)
    house.gather()


def test_only_root_may_let_a_group_read_a_password() -> None:
    assert [files.is_private(0, mode) for mode in (0o600, 0o640, 0o644, 0o604)] == [True, True, False, False]
    assert [files.is_private(7, mode) for mode in (0o600, 0o640, 0o644, 0o604)] == [True, False, False, False]


def test_password_option_of_a_stronger_source_hides_the_others(house: House, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")
    house.write(house.user, f"proxy = 'http://ann@x.example'\nproxy-password-file = '{tmp_path}/wrong'\n")
    assert house.options({"proxy_password_command": "echo right"}).proxies[0].password == "right"


def test_tilde_in_a_file_is_the_home_directory(house: House) -> None:
    (house.home / "secret").write_text("right\n")
    house.write(house.user, "proxy = 'http://ann@x.example'\nproxy-password-file = '~/secret'\n")
    assert house.options().proxies[0].password == "right"


def test_error_says_where_an_option_is_from(house: House) -> None:
    house.write(house.user, "proxy = 'http://x.example'\nbypass = ['nonsense']\n")
    with pytest.raises(UsageError, match=f"--bypass nonsense is not a network \\(from {house.user}, line 2\\)"):
        house.options()
    house.write(house.user, "proxy = 'http://x.example:0'\n")
    with pytest.raises(UsageError, match=f"from {house.user}, line 1"):
        house.options()
    with pytest.raises(UsageError) as caught:
        house.options({"proxy": ("http://x.example",), "bypass": ("nonsense",)})
    assert "from" not in str(caught.value)


def test_only_what_is_typed_is_said_to_be_visible(house: House) -> None:
    house.write(house.user, "proxy-user = 'ann:secret'\n")
    assert house.options(PROXYVPN_PROXY="http://x.example").warnings == ()
    assert house.options({"proxy": ("http://x.example",)}).warnings == ()
    typed: dict[str, keys.Value] = {"proxy": ("http://x.example",), "proxy_user": "ann:secret"}
    assert "ps" in house.options(typed).warnings[0]


def test_credential_of_our_name_needs_no_option(house: House, tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "proxyvpn.password").write_text("right\n")
    (tmp_path / "credentials" / "other").write_text("other\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "PROXYVPN_PROXY": "http://ann@x.example"}
    assert house.options(**environ).proxies[0].password == "right"
    assert house.options(**environ, PROXYVPN_PROXY_PASSWORD_CREDENTIAL="other").proxies[0].password == "other"
    environ["PROXYVPN_PROXY"] = "http://ann:mine@x.example"
    assert house.options(**environ).proxies[0].password == "mine"


def test_home_and_xdg(house: House) -> None:
    user, machine = files.paths({"HOME": "/h"})
    assert (str(user), str(machine)) == ("/h/.config/proxyvpn/config.toml", "/etc/proxyvpn/config.toml")
    assert str(files.paths({"HOME": "/h", "XDG_CONFIG_HOME": "/x"})[0]) == "/x/proxyvpn/config.toml"
    assert str(files.paths({"HOME": "/h", "XDG_CONFIG_HOME": "x"})[0]) == "/h/.config/proxyvpn/config.toml"
    assert files.paths({})[0].is_absolute()


SECRETS = {
    "proxy": "http://ann:hunter2@a.example ann:hunter2@b.example pac:https://ann:hunter2@c.example/p.pac?hunter2",
    "proxy_user": "ann:hunter2",
    "proxy_password_command": "printf hunter2",
}


def test_show_hides_every_secret_and_says_where_from(house: House) -> None:
    environ = {f"PROXYVPN_{name.upper()}": value for name, value in SECRETS.items()}
    house.write(house.machine, "killswitch = true")
    found = house.gather(**environ)
    text = "\n".join(show.as_text(found.settings, found.files))
    written = json.dumps(show.as_json(found.settings, found.files))
    assert "hunter2" not in text + written
    shown = json.loads(written)
    assert shown["options"]["killswitch"] == {"value": True, "from": f"{house.machine}, line 1"}
    assert shown["options"]["proxy"] == {
        "value": ["http://ann:***@a.example", "ann:***@b.example", "pac:https://ann:***@c.example/p.pac?***"],
        "from": "PROXYVPN_PROXY",
    }
    assert [each["found"] for each in shown["files"]] == [False, True]
    assert len(text.splitlines()) == 2 + len(KEYS)


@given(st.text(max_size=20), st.text(max_size=20).filter(lambda text: len(text) > 3))
def test_password_of_any_letters_is_hidden(user: str, password: str) -> None:
    user = user.replace(":", "").replace("@", "")
    for head in ("http://", "", "pac:http://"):
        text = f"{head}{user}:{password}@proxy.example"
        if password not in f"{head}{user}:***@proxy.example":
            assert password not in merge.hidden(text)


WHATEVER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)


@given(st.sampled_from(KEYS), WHATEVER)
def test_any_value_has_the_type_of_its_key_or_is_refused(key: Key, value: object) -> None:
    try:
        found = keys.from_toml(key, value)
    except UsageError:
        return
    wanted = {Kind.FLAG: bool, Kind.NUMBER: int}.get(key.kind, str)
    if key.many:
        assert type(found) is tuple and all(type(each) is str for each in found)
    else:
        assert type(found) is wanted
