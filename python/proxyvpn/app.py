"""The order of life of one `up`: children, proxy, record, Open, worker, Engage, ready, supervise, Close.

Holds no privilege and touches nothing in the kernel itself: it asks the helper. What becomes of the machine when
something fails is decided in one place, `_fail`, by the phase that was reached and the killswitch:

    killswitch   FRESH       OPEN (Open was sent)     ENGAGED
    off          as it was   Close: rolled back       Close, or where the helper died, Reclaim by a fresh one
    on           as it was   Close: rolled back       end of file without Close: the helper leaves it locked

Where the helper dies in OPEN under the killswitch, a fresh one looks: with the guard loaded it is locked, else Reclaim.

A machine that was locked before (`up` took over) is never opened by a failure.
"""

from __future__ import annotations

import contextlib
import enum
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from proxyvpn import briefing, control, direct, plan, renewal, report, resolvers, restarts, trial
from proxyvpn.channel import Channel
from proxyvpn.children import ChildGone
from proxyvpn.confirming import Confirming
from proxyvpn.errors import Exit, MachineLocked, ProtocolError, ProxyUnreachable, ProxyvpnError, RolledBack
from proxyvpn.exclusion import NOBODY, Excluded
from proxyvpn.messages import Ask, Closed, Confirm, Confirmed, Counters, Down, Report, Standing, Update
from proxyvpn.options import Options
from proxyvpn.pac import source
from proxyvpn.pac.refresh import Refresh
from proxyvpn.plan import Endpoint, IPAddress, Tunnel
from proxyvpn.reach import Interrupted, Place
from proxyvpn.renewal import Found, Renewal
from proxyvpn.resolvers import Resolvers
from proxyvpn.state import VERSION, Record, StateDir
from proxyvpn.tunnel import MOST_PROXIES
from proxyvpn.wishes import Wishes
from proxyvpn.world import World


class Phase(enum.Enum):
    """How far the kernel was touched."""

    FRESH = "fresh"
    OPEN = "opening"
    ENGAGED = "engaged"


def up(options: Options, state: StateDir, world: World) -> Exit:
    """Run a tunnel from beginning to end; `state` is locked. Raises what it ends by when it does not end in order."""
    life = Life(options, state, world)
    try:
        return life.run()
    finally:
        life.release()


def dry_run(options: Options, world: World) -> tuple[str, ...]:
    """Give every step that `up` would take, as text; needs names to resolve, and nothing else."""
    chosen = _resolvers(options, world.read)
    for warning in chosen.warnings:
        world.say(warning)
    places = world.resolve(options, world.stop)
    tunnel = _tunnel(options, places, chosen, world.identity.queues, world.exclude(options, places))
    return tuple(step.text for step in plan.steps(tunnel, world.host()))


class Life:
    """One tunnel."""

    def __init__(self, options: Options, state: StateDir, world: World) -> None:
        self._options = options
        self._state = state
        self._world = world
        self._phase = Phase.FRESH
        self._was_locked = False
        self._restarts = restarts.Restarts()
        self._control: control.Control | None = None
        self._asked_to_end: Channel | None = None
        self._places: tuple[Place, ...] = ()
        self._resolvers = Resolvers(())
        self._excluded = NOBODY
        self._confirming = Confirming(0, 0.0)
        self._renewal: Renewal | None = None
        self._unconfirmed = False
        self._record: Record | None = None
        self._weaker: tuple[str, ...] = ()
        self._state.read()  # a corrupt record is said before anything starts
        providers = world.providers(options)
        ways = providers.get(source.KIND)
        permits = direct.anywhere
        if isinstance(ways, source.Source) and options.script is not None:
            permits = ways.permits
            providers["refresh"] = Refresh(options.script, ways, self._dial, world.say)
        self._wishes = Wishes({direct.KIND: direct.Direct(self._dial, self._direct_resolvers, permits), **providers})
        self._helper = world.helper()
        self._worker = world.worker()

    def run(self) -> Exit:
        """Bring the tunnel up, keep it, end it."""
        try:
            self._bring_up()
            self._supervise()
        except ProxyvpnError as error:
            outcome = self._fail(error)
            if outcome is error:
                raise
            raise outcome from error
        code = self._end()
        return Exit.ROLLED_BACK if code is Exit.OK and self._unconfirmed else code

    def release(self) -> None:
        """End the children (end of file does the rest) and hang up on everybody."""
        if self._asked_to_end is not None:
            self._asked_to_end.close()
        if self._control is not None:
            self._control.close()
        self._worker.end()
        self._helper.end()
        self._wishes.end()

    # Up.

    def _bring_up(self) -> None:
        world, options = self._world, self._options
        self._resolvers = _resolvers(options, world.read)
        for warning in (*options.warnings, *self._resolvers.warnings):
            world.say(warning)
        self._try_proxies()
        self._prepare_worker()
        for line in self._weaker:
            world.say(f"the worker's sandbox is weaker here: {line}")
        if trial.is_needed(self._places) or world.ticket:
            trial.run(self._worker, self._wishes, self._places, world.stop)
        tunnel = _tunnel(options, self._places, self._resolvers, world.identity.queues, self._excluded)
        self._write_record(tunnel)
        self._check_signals()
        ifname, queues = self._open(tunnel)
        self._worker.carry(queues)
        self._check_signals()
        with self._undone_when_refused():
            steps = self._helper.engage()
        self._phase = Phase.ENGAGED
        self._was_locked = False  # what the machine is from here on is this tunnel's doing
        self._save(ifname=ifname, phase="engaged", steps=steps)
        self._control = control.Control.listen(self._state)
        self._confirming = Confirming(options.confirm, time.monotonic(), world.terminal)
        self._renewal = Renewal(options.proxies, self._look_for_proxies, world.renew_every)
        world.ready(report.ready_line(options, ifname, tuple(map(str, self._resolvers.addresses)), world.remote))

    def _try_proxies(self) -> None:
        """Find the proxies and try one, while the children start; look what an earlier tunnel left."""
        world = self._world
        try:
            self._places = world.resolve(self._options, world.stop)
            world.attempt(self._places, world.stop)
            self._excluded = world.exclude(self._options, self._places)
            left = self._helper.status()
        except ProxyvpnError as error:
            if isinstance(error, ProxyUnreachable) and self._helper.status().locked:
                advice = "a killswitch left behind may be in the way: `proxyvpn teardown` opens it"
                raise ProxyUnreachable(error.what, error.why, advice) from error
            raise
        for note in self._excluded.notes:
            world.say(note)
        self._was_locked = left.locked
        if left.locked:
            going_on = (
                "taking over without opening it" if self._options.killswitch else "it ends when this tunnel is up"
            )
            world.say(f"a killswitch was left behind by a crash; {going_on}")

    def _open(self, tunnel: Tunnel) -> tuple[str, tuple[int, ...]]:
        self._phase = Phase.OPEN
        with self._undone_when_refused():
            return self._helper.open(tunnel)

    @contextlib.contextmanager
    def _undone_when_refused(self) -> Iterator[None]:
        """What the helper refused has changed nothing, or it has undone it itself, and its error says which."""
        try:
            yield
        except ChildGone:
            raise
        except ProxyvpnError:
            self._phase = Phase.FRESH
            raise

    def _prepare_worker(self) -> None:
        files = briefing.files(self._options, self._state)
        uid = self._world.identity.worker_uid
        start = briefing.start(self._options, self._places, uid, tuple(files), bool(self._resolvers.addresses))
        self._weaker = self._worker.prepare(start, tuple(files.values()))

    def _write_record(self, tunnel: Tunnel) -> None:
        identity = self._world.identity
        self._record = Record(
            version=VERSION,
            boot_id=identity.boot_id,
            netns=identity.netns,
            pid=identity.pid,
            ifname="",
            proxies=tuple(map(str, self._options.proxies)),
            resolvers=tuple(map(str, tunnel.resolvers)),
            bypass=tuple(map(str, tunnel.bypass)),
            killswitch=tunnel.killswitch,
            phase="opening",
            steps=tuple(step.line for step in plan.steps(tunnel, self._world.host())),
            since=int(time.time()),
        )
        self._state.write(self._record)

    def _save(self, **changes: str | tuple[str, ...]) -> None:
        """Write the record again; from here on a full disk must not bring a working tunnel down."""
        assert self._record is not None  # noqa: S101
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]
        try:
            self._state.write(self._record)
        except ProxyvpnError as error:
            self._world.say(f"{error.what}: {error.why}")

    def _clear_state(self) -> None:
        """Remove the record; that it cannot be is nothing to fail for, as it is only shown."""
        try:
            self._state.clear()
        except ProxyvpnError as error:
            self._world.say(f"{error.what}: {error.why}")

    def _check_signals(self) -> None:
        poll = select.poll()
        poll.register(self._world.stop, select.POLLIN)
        if poll.poll(0):
            raise Interrupted("ended before it was ready")

    # Run.

    def _supervise(self) -> None:
        """Serve until a signal or a client asks to end, or nobody confirms. Raises when it cannot go on."""
        assert self._control is not None and self._renewal is not None  # noqa: S101
        look = time.monotonic() + self._world.look_every
        while True:
            ready = self._wait(look)
            if self._world.stop in ready:
                return
            if self._helper.fileno() in ready:
                raise ChildGone("the helper process has ended", "", "its last lines above may say why")
            if self._worker.fileno() in ready:
                self._hear_worker()
            if self._renewal.fileno() in ready:
                self._follow_proxies()
            if self._confirming.fileno() in ready and self._confirming.read():
                self._world.say("confirmed: the tunnel stays up")
            self._grant_wishes()
            for client, question in self._control.questions(ready):
                if isinstance(question, Down):
                    self._asked_to_end = client
                    return
                with contextlib.closing(client):
                    control.answer(client, self._answer(question))
            if not self._confirming.left(time.monotonic()):
                self._world.say(f"not confirmed within {self._options.confirm} s: undoing everything")
                self._unconfirmed = True
                return
            if time.monotonic() >= look:
                self._follow_resolvers()
                self._renewal.begin(time.monotonic(), self._counters()[0].values)
                look = time.monotonic() + self._world.look_every

    def _hear_worker(self) -> None:
        """Begin with what it wishes for; replace it when it has ended."""
        try:
            self._begin_wishes(readable=True)
        except (ChildGone, ProtocolError):
            self._replace_worker()

    def _begin_wishes(self, readable: bool) -> None:
        for wish in self._worker.hear(readable)[0]:
            self._wishes.begin(wish)

    def _grant_wishes(self) -> None:
        """Tell the worker what has been granted; one that cannot be told has ended, which shows by itself."""
        self._begin_wishes(readable=False)  # those that came beside an answer
        for grant, fds in self._wishes.take():
            with contextlib.suppress(ChildGone):
                self._worker.grant(grant, fds)

    def _direct_resolvers(self) -> tuple[IPAddress, ...]:
        return self._resolvers.addresses

    def _dial(self, address: IPAddress, port: int) -> int:
        """Let the helper of now connect past the tunnel."""
        return self._helper.dial(address, port)

    def _wait(self, look: float) -> set[int]:
        """Give the descriptors that are ready, at the latest when it is time to look around."""
        assert self._control is not None and self._renewal is not None  # noqa: S101
        poll = select.poll()
        children = self._helper.fileno(), self._worker.fileno()
        others = self._renewal.fileno(), self._confirming.fileno(), *self._control.filenos(), *self._wishes.filenos()
        for fd in (self._world.stop, *children, *others):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        now = time.monotonic()
        seconds = min(look - now, self._confirming.left(now))
        return {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}

    def _answer(self, question: Ask | Confirm) -> Report | Confirmed:
        if isinstance(question, Ask):
            return self._report()
        waited = self._confirming.confirm()
        if waited:
            self._world.say("confirmed: the tunnel stays up")
        return Confirmed(waited)

    def _report(self) -> Report:
        assert self._record is not None  # noqa: S101
        counters, notes = self._counters()
        record, held = self._record, self._helper.status()
        weaker = (f"the worker's sandbox is weaker here: {line}" for line in self._weaker)
        notes = (*weaker, *notes, *held.notes, *self._unconfirmed_note())
        if record.killswitch and not held.locked:
            notes = (*notes, report.FIREWALL_GONE)
        return Report(
            ifname=record.ifname,
            proxies=record.proxies,
            resolvers=record.resolvers,
            bypass=record.bypass,
            killswitch=record.killswitch,
            since=record.since,
            restarts=self._restarts.count,
            dropped=held.dropped,
            notes=notes,
            counters=counters.values,
            standings=self._named(counters.standings),
            names=self._options.names,
        )

    def _counters(self) -> tuple[Counters, tuple[str, ...]]:
        """Give the worker's counters, and what `status` is to say when it has none."""
        try:
            return self._worker.counters(), ()
        except ProxyvpnError as error:
            return Counters({}), (error.what,)

    def _named(self, standings: tuple[Standing, ...]) -> tuple[Standing, ...]:
        """Say which proxy each standing is of."""
        names = {place.endpoint: str(place.proxy) for place in self._places}
        return tuple(replace(standing, proxy=names.get(standing.endpoint, "")) for standing in standings)

    def _unconfirmed_note(self) -> tuple[str, ...]:
        if not self._confirming.is_waiting:
            return ()
        left = self._confirming.left(time.monotonic())
        return (f"everything is undone in {left:.0f} s unless it is confirmed: `proxyvpn confirm`",)

    def _replace_worker(self) -> None:
        """Start a new worker on the same queues, again if need be: no route, rule or firewall moves."""
        while True:
            ending = restarts.ending(self._worker.end())
            self._restarts.died(time.monotonic(), ending)
            self._world.say(f"the worker process ended {ending}; starting a new one (open connections are reset)")
            self._wishes.forget()
            self._worker = self._world.worker()
            if not self._could(self._prepare_worker):
                continue
            queues = self._helper.attach()
            if self._could(partial(self._worker.carry, queues)):
                return

    def _could(self, act: Callable[[], None]) -> bool:
        """Let the new worker do something; say why it could not."""
        try:
            act()
        except ProxyvpnError as error:
            self._world.say(" ".join(f"{error.what} {error.why}".split()))
            return False
        return True

    def _follow_resolvers(self) -> None:
        """Let the resolvers of a changed resolv.conf through, too."""
        found = _resolvers(self._options, self._world.read)
        if found.addresses == self._resolvers.addresses or not found.addresses:
            return
        self._resolvers = found
        names = tuple(map(str, found.addresses))
        which = "names of direct domains go" if self._options.names.are_captured else "DNS goes directly"
        self._world.say(f"resolvers changed: {which} to {', '.join(names)}")
        self._update()
        self._save(resolvers=names)

    def _look_for_proxies(self) -> Found:
        """Resolve the proxies' names again; runs in a thread of its own."""
        world = self._world
        resolve = partial(world.resolve, self._options, world.stop)
        return renewal.look(resolve, lambda places: world.attempt(places, world.stop))

    def _follow_proxies(self) -> None:
        """Use the addresses that the proxies' names have now; connections that are open stay where they are."""
        assert self._renewal is not None  # noqa: S101
        places = self._renewal.take(self._places, time.monotonic())
        if places == self._places:
            return
        fresh = [str(place.endpoint) for place in places if place not in self._places]
        self._places = places
        if fresh:
            self._world.say(f"the proxy's name has moved: now also at {', '.join(fresh)}")
        self._update()
        try:
            self._worker.replace(briefing.upstreams(self._places))
        except ProxyvpnError as error:  # a new worker will be told; that the old one is gone shows by itself
            self._world.say(error.what)

    def _update(self) -> None:
        """Let the firewall know the resolvers and proxies of now."""
        self._helper.update(Update(self._resolvers.addresses, _endpoints(self._places, self._excluded)))

    # Down.

    def _end(self) -> Exit:
        """Undo in order and tell who asked for it."""
        self._worker.end()  # first, while the TUN is there: it resets every flow, so that no program is left hanging
        try:
            closed = self._helper.close()
        except ChildGone as error:
            closed = self._close_by_another(error)
        self._clear_state()
        for step in closed.left:
            self._world.say(f"left behind: {step}")
        if self._asked_to_end is not None:
            control.answer(self._asked_to_end, closed)
        return Exit.ERROR if closed.left else Exit.OK

    def _fail(self, error: ProxyvpnError) -> ProxyvpnError:
        """Decide what becomes of the machine (see above); give the error to end with."""
        killswitch = self._options.killswitch
        if self._phase is Phase.FRESH:
            if self._record is not None and not self._was_locked:
                self._clear_state()
            return error
        if self._was_locked or (self._phase is Phase.ENGAGED and killswitch):
            return _locked(error)
        self._worker.end()
        try:
            closed = self._helper.close()
        except ProxyvpnError as gone:
            if killswitch and self._is_locked():
                return _locked(error)
            closed = self._close_by_another(gone)
        self._clear_state()
        if isinstance(error, Interrupted):
            return error
        kind = ProxyvpnError if self._phase is Phase.ENGAGED and isinstance(error, ChildGone) else RolledBack
        return kind(error.what, error.why, _outcome(closed))

    def _is_locked(self) -> bool:
        """The helper is gone: let a fresh one look whether it had come as far as the guard."""
        self._helper.end()
        self._helper = self._world.helper()
        try:
            return self._helper.status().locked
        except ProxyvpnError:
            return True  # nobody can look: what must not be said is that it is open

    def _close_by_another(self, error: ProxyvpnError) -> Closed:
        """The helper is gone: let a fresh one find by our tags what is to be undone."""
        self._helper.end()
        self._helper = self._world.helper()
        try:
            reclaimed = self._helper.reclaim()
        except ProxyvpnError as again:
            raise ProxyvpnError(error.what, again.what, "run `proxyvpn teardown` to clean up") from again
        return Closed(reclaimed.removed, reclaimed.left)


def _resolvers(options: Options, read: Callable[[str], str]) -> Resolvers:
    etc, systemd = ("", "") if options.dns else (read(resolvers.RESOLV_CONF), read(resolvers.SYSTEMD_RESOLV_CONF))
    return resolvers.choose(etc, systemd, options.dns, options.allow_dns, options.names.are_captured)


def _tunnel(
    options: Options, places: tuple[Place, ...], chosen: Resolvers, queues: int, excluded: Excluded = NOBODY
) -> Tunnel:
    return Tunnel(
        proxies=_endpoints(places, excluded),
        resolvers=chosen.addresses,
        bypass=options.bypass,
        killswitch=options.killswitch,
        queues=queues,
        inbound=options.inbound,
        names=options.names.mode,
        excluded_users=excluded.users,
        excluded_cgroups=excluded.cgroups,
        pac=options.script is not None,
    )


def _endpoints(places: tuple[Place, ...], excluded: Excluded) -> tuple[Endpoint, ...]:
    """Give where proxies are reached, those in containers behind a published port as well."""
    found = (*(place.endpoint for place in places), *excluded.behind)
    return tuple(dict.fromkeys(found))[:MOST_PROXIES]


def _locked(error: ProxyvpnError) -> MachineLocked:
    return MachineLocked(
        f"locked: {error.what}{f' ({error.why})' if error.why else ''}",
        "the killswitch stays closed: nothing leaves this machine",
        "`proxyvpn up` goes on without a gap, `proxyvpn teardown` opens it",
    )


def _outcome(closed: Closed) -> str:
    if closed.left:
        return f"left behind: {'; '.join(closed.left)}"
    return "everything was undone; TCP goes directly again"
