"""The command line: parse, print, exit code; no logic.

Every error ends here as at most three lines on stderr, never as a traceback. What a command needs is imported when it
runs, so that `--help` is quick and `up` starts its children early.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from proxyvpn.errors import Exit, ProxyvpnError, UsageError
from proxyvpn.voice import Voice

_STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="Where the lock and the record live. Default: /run/proxyvpn as root, else $XDG_RUNTIME_DIR/proxyvpn.",
)


class Commands(click.Group):
    """Knows `down` as another name of `teardown`, and lists it once."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "teardown" if cmd_name == "down" else cmd_name)


@click.group(
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Ends with 0; 1 error, 2 usage, 3 not running, 4 privilege missing, 5 proxy unreachable, "
    "6 proxy refuses the credentials, 7 already up, 8 rolled back, 9 locked.",
)
@click.version_option(package_name="proxyvpn", message="proxyvpn %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Carry every TCP connection of this machine through an HTTP proxy.

    \b
      proxyvpn up --proxy http://proxy.example:3128
      proxyvpn status
      proxyvpn teardown
    """
    ctx.ensure_object(Voice)


@cli.command()
@click.option("--proxy", multiple=True, metavar="URL", help="http[s]://[user:password@]host:port, or pac:URL.")
@click.option("--proxy-user", metavar="USER[:PASSWORD]", help="User (and password) for the proxy.")
@click.option("--proxy-password-file", type=click.Path(), metavar="FILE", help="Read the password from FILE.")
@click.option("--proxy-password-command", metavar="COMMAND", help="Run COMMAND; the first line is the password.")
@click.option("--proxy-password-credential", metavar="NAME", help="The systemd credential that is the password.")
@click.option(
    "--proxy-auth", metavar="SCHEMES", help="negotiate, digest, ntlm, basic, with commas; preemptive: Basic at once."
)
@click.option(
    "--proxy-ca", type=click.Path(), metavar="FILE", help="Trust FILE alone (PEM) to sign for an https:// proxy."
)
@click.option("--proxy-cert", type=click.Path(), metavar="FILE", help="Show an https:// proxy this certificate (PEM).")
@click.option("--proxy-key", type=click.Path(), metavar="FILE", help="Its key, if it is not in the same file.")
@click.option(
    "--balance",
    type=click.Choice(("order", "round-robin", "least-connections", "destination")),
    help="Which of several proxies is asked first. Default: order.",
)
@click.option("--health-check", metavar="HOST:PORT", help="Check each proxy by asking it for HOST:PORT.")
@click.option("--failover-on-refusal", is_flag=True, help="Ask the next proxy after a 4xx, too.")
@click.option(
    "--names",
    type=click.Choice(("direct", "virtual", "proxy")),
    default="direct",
    help="Who resolves names: the machine's resolvers, the proxy itself, or --dns behind it. Default: direct.",
)
@click.option("--direct-domain", multiple=True, metavar="NAME", help="Names in NAME are always resolved directly.")
@click.option("--dns", multiple=True, metavar="IP|URL", help="Ask this resolver, instead of those in /etc/resolv.conf.")
@click.option("--allow-dns", multiple=True, metavar="IP", help="Let DNS go to IP, too.")
@click.option("--killswitch/--no-killswitch", default=False, help="Drop what cannot go through the proxy. Default: no.")
@click.option("--bypass", multiple=True, metavar="NET", help="Leave traffic to NET alone.")
@click.option("--exclude-user", multiple=True, metavar="USER", help="Leave alone what programs of USER send.")
@click.option("--exclude-cgroup", multiple=True, metavar="NAME", help="The same for a service or a cgroup's path.")
@click.option("--inbound", multiple=True, metavar="udp/PORT", help="With the killswitch: let a UDP server here answer.")
@click.option(
    "--confirm",
    type=click.IntRange(1, 86400),
    metavar="SECONDS",
    help="Undo everything after SECONDS unless confirmed: by Enter, or `proxyvpn confirm` from anywhere.",
)
@_STATE_DIR
@click.option("--detach", is_flag=True, help="Return when traffic flows; go on in the background.")
@click.option("--dry-run", is_flag=True, help="Print every step and change nothing.")
@click.pass_context
def up(ctx: click.Context, /, detach: bool, dry_run: bool, **_: Any) -> Exit:
    """Bring the tunnel up, until Ctrl-C or `proxyvpn teardown`.

    What is not typed is taken from PROXYVPN_* (PROXYVPN_PROXY …), ~/.config/proxyvpn/config.toml or
    /etc/proxyvpn/config.toml, the proxy at last from https_proxy, HTTPS_PROXY, all_proxy, ALL_PROXY or http_proxy.

    \b
      proxyvpn up --proxy http://proxy.example:3128
      proxyvpn up --proxy proxy.example:3128 --proxy-user ann --proxy-password-file secret --killswitch
      proxyvpn up --bypass 10.0.0.0/8 --allow-dns 10.0.0.53 --detach
      proxyvpn up --killswitch --inbound udp/51820
      proxyvpn up --names virtual --direct-domain corp.example
      proxyvpn up --names proxy --dns https://dns.example/dns-query
    """
    from proxyvpn.config import gather  # noqa: PLC0415

    voice: Voice = ctx.obj
    settings = _gathered(_typed(ctx)).settings
    say = None if dry_run else voice.say
    wanted, state_dir = gather.options_of(settings, os.environ, say, lambda typed: _expanded(typed, voice))
    if dry_run:
        return _dry_run(voice, wanted)
    with _state(state_dir, voice, create=True) as state:
        state.lock()
        if detach:
            voice.detach(state.log())
        from proxyvpn import app, world  # noqa: PLC0415

        return app.up(wanted, state, world.real(voice.say, voice.ready))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything, for programs.")
@_STATE_DIR
@click.pass_obj
def status(voice: Voice, /, state_dir: Path | None, as_json: bool) -> Exit:
    """Show how the tunnel is.

    Ends with 0 when it runs, 3 when not, 9 when the machine is locked.
    """
    import json  # noqa: PLC0415

    from proxyvpn import children, report, teardown, way, world  # noqa: PLC0415

    here = teardown.Here(world.identity().boot_id, way.there_is_one())
    with _state(state_dir, voice) as state:
        found = teardown.condition(state, here, children.Helper.start)
    now = int(time.time())
    voice.print(json.dumps(report.as_json(found, now), indent=1) if as_json else report.as_text(found, now))
    return teardown.exit_code(found)


@cli.command()
@_STATE_DIR
@click.pass_obj
def teardown(voice: Voice, /, state_dir: Path | None) -> Exit:
    """End the tunnel, or clean up after one that crashed (also: down)."""
    from proxyvpn import children, teardown  # noqa: PLC0415

    with _state(state_dir, voice) as state:
        return teardown.end(state, children.Helper.start, voice.print)


@cli.command()
@click.option("--group", metavar="NAME", default="proxyvpn", help="Who may use it. Default: proxyvpn; made if missing.")
@click.option("--systemd", is_flag=True, help="Let systemd start the helper, instead of a file with a capability.")
@click.option("--check", is_flag=True, help="Say what is wrong and how to mend it; change nothing.")
@click.option("--uninstall", is_flag=True, help="Take away all that was installed.")
@click.pass_obj
def setup(voice: Voice, /, group: str, systemd: bool, check: bool, uninstall: bool) -> Exit:
    """Install the helper, once and as root: no later command needs root then.

    \b
      sudo proxyvpn setup
      sudo usermod -aG proxyvpn ann
    """
    from proxyvpn.setup import command  # noqa: PLC0415

    if check and uninstall:
        raise UsageError("--check and --uninstall cannot be meant together")
    if check:
        return command.check(voice.print)
    if uninstall:
        return command.uninstall(voice.print)
    return command.install(group, systemd, voice.print)


@cli.command()
@_STATE_DIR
@click.pass_obj
def confirm(voice: Voice, /, state_dir: Path | None) -> Exit:
    """Say to `up --confirm` that this machine can still be reached, so that the tunnel stays up.

    Ends with 3 when no tunnel is running.
    """
    from proxyvpn import teardown  # noqa: PLC0415

    with _state(state_dir, voice) as state:
        return teardown.confirm(state, voice.print)


@cli.group("config", no_args_is_help=False)
def config_group() -> None:
    """Show what the options of `up` are set to, by whom."""


@config_group.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_obj
def config_show(voice: Voice, /, as_json: bool) -> Exit:
    """Show each option of `up` as it is without being typed, and where that is from; secrets are hidden.

    \b
      PROXYVPN_*, then ~/.config/proxyvpn/config.toml, then /etc/proxyvpn/config.toml
    """
    import json  # noqa: PLC0415

    from proxyvpn.config import show  # noqa: PLC0415

    found = _gathered({})
    if as_json:
        voice.print(json.dumps(show.as_json(found.settings, found.files), indent=1))
    else:
        for line in show.as_text(found.settings, found.files):
            voice.print(line)
    return Exit.OK


def main() -> None:
    """Run a command and exit with its code."""
    keep_standard_descriptors()
    sys.exit(run(sys.argv[1:], Voice()))


def keep_standard_descriptors() -> None:
    """Open what was closed of 0, 1 and 2, lest a lock or a socket be given that number and written to."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def run(arguments: list[str], voice: Voice) -> int:
    """Run the command line `arguments`; give the exit code."""
    try:
        code = cli.main(arguments, prog_name="proxyvpn", standalone_mode=False, obj=voice)
        return int(code or 0)
    except ProxyvpnError as error:
        voice.error(error)
        return int(error.code)
    except click.ClickException as error:
        advice = f"see `{error.ctx.command_path} --help`" if isinstance(error, click.UsageError) and error.ctx else ""
        voice.error(UsageError(error.format_message().rstrip("."), "", advice))
        return int(Exit.USAGE)
    except (KeyboardInterrupt, click.Abort):
        voice.say("interrupted")
        return int(Exit.ERROR)
    except Exception as error:  # noqa: BLE001 - a person gets a sentence; the text could hold a secret, the place cannot
        voice.error(ProxyvpnError("this should not have happened", _place(error), "please report it with this line"))
        return int(Exit.ERROR)


def _dry_run(voice: Voice, wanted: Any) -> Exit:
    from proxyvpn import app, world  # noqa: PLC0415

    for warning in wanted.warnings:
        voice.say(warning)
    for line in app.dry_run(wanted, world.real(voice.say, voice.ready)):
        voice.print(line)
    return Exit.OK


def _gathered(typed: Mapping[str, Any]) -> Any:
    """Give each option of `up` as it is, with `typed` over variables and files."""
    from proxyvpn.config import gather, keys  # noqa: PLC0415

    context = up.make_context("up", [])
    return gather.gather(keys.of(up.to_info_dict(context)["params"], context.params), typed, os.environ)


def _expanded(typed: Any, voice: Voice) -> Any:
    """Give what was typed with proxies in the place of a PAC file."""
    if not any(url.lower().startswith("pac:") for url in typed.proxy):
        return typed
    from proxyvpn.pac import evaluator, load  # noqa: PLC0415

    return load.expanded(typed, evaluator.starter(os.environ), voice.say)


def _typed(ctx: click.Context) -> dict[str, Any]:
    """Give what was typed, and nothing that click would say instead."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) is source}


def _state(path: Path | None, voice: Voice, create: bool = False) -> Any:
    """Give the state directory as a context; None in it when there is none. No bad file keeps it from being found."""
    from proxyvpn.state import StateDir, default_path  # noqa: PLC0415

    if path is None and not create:
        try:
            named = _gathered({}).settings["state-dir"].value
        except UsageError as error:
            voice.say(f"{error.what}; the state directory is looked for in the usual place")
        else:
            path = None if named is None else Path(named)
    return StateDir.open(path or default_path(os.geteuid(), os.environ), create) or contextlib.nullcontext()


def _place(error: BaseException) -> str:
    """Say which error came up where, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    return f"{type(error).__name__} at {where}"
