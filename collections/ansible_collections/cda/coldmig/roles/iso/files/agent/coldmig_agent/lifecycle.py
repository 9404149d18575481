# SPDX-License-Identifier: GPL-3.0-or-later
"""From boot to "you can power off": network, discovery, registration, confirmation, copy, verification.

The state is in memory only. Whatever the site does meanwhile (restarts, long silence), the agent asks again and goes on
from what the site says; only the site's refusals that no waiting helps against end a migration.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coldmig_agent import discover, fence, network, summary
from coldmig_agent.api import ControlClient, Enrolment, SessionState
from coldmig_agent.config import Config, DiskRule
from coldmig_agent.copying.controller import Plan
from coldmig_agent.copying.engine import Copier, CopyError
from coldmig_agent.copying.planner import Backoff
from coldmig_agent.copying.sender import CopyStopped, SessionLost
from coldmig_agent.discover import Found, Roots
from coldmig_agent.fence import FenceError
from coldmig_agent.interfaces import all_states
from coldmig_agent.keys import Keys
from coldmig_agent.machine import LeftOut
from coldmig_agent.orders import CanceledHereError, DisksChosenError, Orders
from coldmig_agent.site import ProblemError, Site, SiteError
from coldmig_agent.status import Phase, Status

LOG = logging.getLogger(__name__)

REPORT_SECONDS = 3.0
NETWORK_SECONDS = 2.0
VERIFY_SECONDS = 2.0
RETRY_SECONDS = 15.0
REFUSED_SECONDS = 60.0
LOG_TRIES = 5
KEY_SECONDS = 0.5
_MAX_DETAIL = 1000

#: What a refused registration means to the person at the console.
_REFUSALS = {
    "not-activated": "site is not activated for cold migration: ask the provider",
    "credential-expired": "the credential of this ISO has expired: make a new ISO",
    "credential-revoked": "the credential of this ISO was revoked: make a new ISO",
    "credential-unknown": "the site does not know the credential of this ISO: make a new ISO",
    "template-deleted": "the template of this ISO was deleted: make a new ISO",
}
_COMPLETE = frozenset({"copied", "importing", "finished"})
_ENDED = frozenset({"failed", "canceled"})


class Stopped(Exception):  # noqa: N818 - an order, not an error
    """The agent is to end."""


class EndedError(RuntimeError):
    """This boot's migration cannot go on. ``phase`` says how it ended, the text why."""

    def __init__(self, phase: Phase, text: str) -> None:
        super().__init__(text)
        self.phase = phase


def refusal(error: ProblemError) -> tuple[str, float]:
    """The sentence for a refused registration and the seconds until the next try."""
    known = _REFUSALS.get(error.slug)
    seconds = RETRY_SECONDS if error.slug == "not-activated" or error.status >= 500 else REFUSED_SECONDS
    text = known or f"the site refuses this machine: {error}"
    return f"{text}; trying again in {seconds:.0f} s", seconds


@dataclass(slots=True)
class Agent:
    """One boot. ``stop`` ends it from outside (a signal)."""

    config: Config
    status: Status
    stop: threading.Event
    roots: Roots = field(default_factory=Roots)
    images: Sequence[Path] = ()
    #: What has been logged, for the site if it asks for that at the end.
    logged: Callable[[], bytes] = bytes
    #: What people at the consoles want.
    orders: Orders = field(default_factory=Orders)
    #: The machine as it was found last; None before that.
    found: Found | None = None
    #: What the site said last of this boot's migration.
    last_session: SessionState | None = None
    site: Site = field(init=False)

    def __post_init__(self) -> None:
        self.site = Site(self.config.site)

    def run(self) -> bool:
        """Go through all phases; True when the site has all that it wanted of this machine. Raises Stopped.

        May be called again, to begin anew after an end.
        """
        template = self.config.template
        self.status.configured(self.config.site.url, f"{template.name} ({template.organization})")
        self.orders.clear()
        try:
            while True:
                try:
                    self._migrate()
                except DisksChosenError:
                    self.status.event("other disks were chosen at this machine")
                else:
                    return True
        except EndedError as error:
            self.status.phase(error.phase, str(error))
        except CanceledHereError:
            self.status.phase(Phase.CANCELED, "at the console of this machine")
        return False

    def _migrate(self) -> None:
        """One migration from the network to its end. Raises EndedError, DisksChosenError."""
        self._wait_for_network()
        control = ControlClient(self.site)
        found = self._discover()
        enrolment = self._enrol(control, found)
        token = enrolment.session_token
        try:
            if enrolment.assess:
                self._assessed(self._session(control, token))
            else:
                self._follow(control, enrolment, found)
        except (DisksChosenError, CanceledHereError) as order:
            self.orders.clear()
            disks = isinstance(order, DisksChosenError)
            reason = "disks-chosen" if disks else "canceled-at-machine"
            what = "Other disks were chosen" if disks else "The migration was canceled"
            with contextlib.suppress(DisksChosenError, CanceledHereError):
                self._give_up(control, token, reason, f"{what} at the console of the machine.")
                if not disks:
                    self._send_logs(control, token)
            raise
        except EndedError as error:
            # How it ended is to be in the logs too.
            self.status.phase(error.phase, str(error))
            self._send_logs(control, token)
            raise
        self._send_logs(control, token)

    def sleep(self, seconds: float) -> None:
        """Wait, less long when somebody wants a new try. Raises Stopped, CanceledHereError, DisksChosenError."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if self.stop.wait(min(max(0.0, left), KEY_SECONDS)):
                raise Stopped
            self.orders.check()
            if left <= KEY_SECONDS or self.orders.take_retry():
                return

    def key(self, keys: Keys, seconds: float, *, besides: str = "") -> str:
        """After an end: the key (not ``besides``) that is pressed within this time, or nothing.

        Raises Stopped, and BeginAgainError when a person wants a new migration.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.stop.is_set():
                raise Stopped
            self.orders.check_again()
            pressed = keys.read(min(left, KEY_SECONDS))
            if pressed and pressed != besides:
                return pressed
        return ""

    def _wait_for_network(self) -> None:
        self.status.phase(Phase.NETWORK)
        while True:
            states = all_states(self.roots.sys, self.roots.proc)
            network.write_resolv_conf()
            self.status.network([network.describe_interface(state) for state in states])
            # Image files come from a laboratory, where the way to the site may be the loopback interface.
            if network.is_ready(states) or self.images:
                self.status.problem(None)
                return
            self.status.problem(network.advice(states))
            self.sleep(NETWORK_SECONDS)

    def _discover(self) -> Found:
        self.status.phase(Phase.DISCOVERING)
        while True:
            try:
                found = discover.discover(self.roots, self.images, self.status.step, self._leave_out())
            except FenceError as error:
                raise EndedError(Phase.FAILED, str(error)) from error
            self.found = found
            if found.sources:
                machine = found.machine
                table = summary.readiness_table(machine.guest)
                self.status.machine(summary.lines(machine), machine.warnings, summary.system_lines(machine), table)
                return found
            self.status.problem(no_disk(found.machine.left_out))
            self.sleep(RETRY_SECONDS)

    def _leave_out(self) -> tuple[DiskRule, ...]:
        """Disks that the settings, or a person at the machine, do not want to be copied."""
        chosen = [DiskRule(path=path, text="chosen at the console") for path in sorted(self.orders.left_out)]
        return (*self.config.disks.leave_out, *chosen)

    def _enrol(self, control: ControlClient, found: Found) -> Enrolment:
        if self.orders.held:
            self.status.step("nothing is registered before the disks are chosen at the console")
            while self.orders.held:
                self.sleep(KEY_SECONDS)
        self.orders.check()
        self.status.phase(Phase.ENROLLING)
        boot_key = secrets.token_urlsafe(16)
        while True:
            try:
                enrolment = control.enrol(self.config.credential, found.machine, boot_key)
            except SiteError as error:
                if isinstance(error, ProblemError):
                    text, seconds = refusal(error)
                else:
                    seconds = RETRY_SECONDS
                    text = f"{error}; trying again in {seconds:.0f} s"
                self.status.problem(text)
                self.sleep(seconds)
                network.write_resolv_conf()
                continue
            self.status.problem(None)
            self.status.migration(enrolment.migration_id, enrolment.name)
            return enrolment

    def _session(self, control: ControlClient, token: str) -> SessionState:
        """The migration's state; asks until the site answers. Raises EndedError for an unknown session."""
        backoff = Backoff()
        while True:
            try:
                session = control.session(token)
            except SiteError as error:
                if isinstance(error, ProblemError) and error.status == 401:
                    raise _session_lost() from error
                self.status.problem(str(error))
                self.sleep(backoff.next())
                continue
            self.status.problem(None)
            self.last_session = session
            return session

    def _assessed(self, session: SessionState) -> None:
        """The site has everything; say what would be in the way of a migration."""
        held = f"warnings would hold its migration back: {', '.join(session.blocked)}" if session.blocked else ""
        refused = f"the site would refuse it: {session.message}" if session.message else ""
        self.status.phase(Phase.ASSESSED, "; ".join(filter(None, (held, refused))) or "nothing would hold it back")

    def _follow(self, control: ControlClient, enrolment: Enrolment, found: Found) -> None:
        """Do what the state of the migration asks for, until it is complete. Raises EndedError."""
        token = enrolment.session_token
        halt = threading.Event()
        status = self.status
        copier = Copier(
            self.site,
            token,
            found.sources,
            halt,
            status.problem,
            on_pass=lambda: status.phase(Phase.COPYING),
            note=status.event,
            sys=self.roots.sys,
        )
        self.status.watch_disks(
            lambda: [item.view() for item in copier.progress.values()], lambda: describe_plan(copier.plan)
        )
        bad_places = _BadPlaces(token, copier)
        while True:
            self.orders.check()
            session = self._session(control, token)
            if session.state in _COMPLETE:
                damage = [f"disk {disk}: {text}" for disk, text in copier.damage().items()]
                what = f"{'; '.join(damage)}. Accept that at the site, or repair the source and begin again"
                self.status.phase(Phase.DONE, what if damage else "")
                return
            if session.state in _ENDED:
                phase = Phase.FAILED if session.state == "failed" else Phase.CANCELED
                raise EndedError(phase, ": ".join(part for part in (session.reason, session.message) if part))
            if session.state == "waiting":
                self.status.phase(Phase.WAITING, held_back(session.blocked))
            elif session.queue is not None and session.state == "confirmed":
                self.status.phase(Phase.QUEUED, f"{session.queue.place} of {session.queue.waiting}")
            else:
                self._copy(control, token, copier, halt, session, bad_places)
            self.sleep(min(session.poll_seconds, VERIFY_SECONDS) if self._verifying() else session.poll_seconds)

    def _verifying(self) -> bool:
        return self.status.snapshot().phase is Phase.VERIFYING

    def _copy(  # noqa: PLR0917 - the parts of one session
        self,
        control: ControlClient,
        token: str,
        copier: Copier,
        halt: threading.Event,
        session: SessionState,
        bad_places: _BadPlaces,
    ) -> None:
        """Bring everything to the site that it does not have. Returns too when the site wants no more chunks."""
        halt.clear()
        try:
            copier.check_session(session)
            with _Reporter(token, copier, self, halt, bad_places):
                copier.run(session.connections)
        except SessionLost as error:
            raise _session_lost() from error
        except CopyStopped as error:
            LOG.info("the copy stopped: %s", error)
            if self.stop.is_set():
                raise Stopped from error
        except (CopyError, FenceError) as error:
            reason = error.reason if isinstance(error, CopyError) else "source-not-read-only"
            self._give_up(control, token, reason, str(error))
            raise EndedError(Phase.FAILED, str(error)) from error
        else:
            self.status.phase(Phase.VERIFYING)
            bad_places.report(control)

    def _send_logs(self, control: ControlClient, token: str) -> None:
        """Send the logs if the template asks for them; not for ever."""
        if self.last_session is None or not self.last_session.collect_logs:
            return
        backoff = Backoff()
        for _attempt in range(LOG_TRIES):
            try:
                control.logs(token, self.logged())
            except SiteError as error:
                LOG.warning("sending the logs: %s", error)
                if isinstance(error, ProblemError) and error.status < 500:
                    return
                self.sleep(backoff.next())
            else:
                self.status.event("the site has this machine's logs, as its template asks")
                return

    def _give_up(self, control: ControlClient, token: str, reason: str, detail: str) -> None:
        """Tell the site that this migration fails; not for ever, the console says it anyway."""
        backoff = Backoff()
        for _attempt in range(5):
            try:
                control.failure(token, reason, detail[:_MAX_DETAIL])
            except SiteError as error:
                LOG.warning("reporting the failure: %s", error)
                self.sleep(backoff.next())
            else:
                return


def no_disk(left_out: Sequence[LeftOut]) -> str:
    """Why there is nothing to copy."""
    if not left_out:
        return "no disk was found: does this ISO have a driver for the disk controller?"
    paths = ", ".join(disk.path for disk in left_out)
    return f"there is no disk to copy: all that were found ({paths}) are left out by the settings or at the console"


def _session_lost() -> EndedError:
    return EndedError(
        Phase.FAILED,
        "the site does not know this session any more (its migration was removed, or the site was set up anew)",
    )


def held_back(codes: Sequence[str]) -> str:
    """``held back by its warnings tpm-sealed, …``, for a migration that waits; empty when nothing holds it back."""
    if not codes:
        return ""
    return f"held back by its warning{'s' * (len(codes) != 1)} {', '.join(codes)}, which somebody has to accept"


class _BadPlaces:
    """Tells the site which places could not be read, as often as that changes, until it knows."""

    def __init__(self, token: str, copier: Copier) -> None:
        self._token = token
        self._unreadable = copier.unreadable
        self._lock = threading.Lock()
        self._reported = 0

    def report(self, control: ControlClient) -> None:
        """Report what is new. A site that cannot take it now is told the next time."""
        with self._lock:
            if self._unreadable.version == self._reported:
                return
            version, disks = self._unreadable.report()
            try:
                control.unreadable(self._token, disks)
            except SiteError as error:
                LOG.warning("reporting unreadable places: %s", error)
            else:
                self._reported = version


#: What limits the copy, as the person at the console reads it.
_LIMITS = {
    "disk": "this machine's disk limits the speed",
    "cpu": "this machine's processors limit the speed",
    "link": "the link to the site limits the speed",
    "site": "the site limits the speed",
}


def describe_plan(plan: Plan | None) -> str:
    """``the link to the site limits the speed; 4 connections, zstd-3``; empty before anything is known."""
    if plan is None or plan.limited_by is None:
        return ""
    return f"{_LIMITS[plan.limited_by]}; {plan.connections} connection{'s' * (plan.connections != 1)}, {plan.codec}"


class _Reporter:
    """While the copy runs: reports progress to the site and stops the copy when the migration has ended there."""

    def __init__(
        self,
        token: str,
        copier: Copier,
        agent: Agent,
        halt: threading.Event,
        bad_places: _BadPlaces,
    ) -> None:
        self._bad_places = bad_places
        self._control = ControlClient(agent.site)
        self._token = token
        self._copier = copier
        self._agent = agent
        self._halt = halt
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> _Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.join()
        self._report()
        self._control.close()

    def _run(self) -> None:
        while not self._finished.wait(REPORT_SECONDS):
            if self._agent.stop.is_set() or self._agent.orders.pressing:
                self._halt.set()
                return
            self._report()
            try:
                if self._control.session(self._token).state in _ENDED:
                    self._halt.set()
                    return
            except SiteError as error:
                LOG.info("asking for the state: %s", error)

    def _report(self) -> None:
        self._bad_places.report(self._control)
        try:
            self._control.progress(self._token, self.report())
        except SiteError as error:
            LOG.info("reporting progress: %s", error)

    def report(self) -> dict[str, object]:
        """The document of POST /session/progress."""
        snapshot = self._agent.status.snapshot()
        disks = []
        for view in snapshot.disks:
            counters = fence.write_counters(self._copier.path_of(view.index), self._agent.roots.sys)
            disks.append(
                {
                    "index": view.index,
                    "read_bytes": view.read_bytes,
                    "sent_bytes": view.sent_bytes,
                    "done_chunks": view.done_chunks,
                    "bytes_per_second": view.bytes_per_second,
                    "seconds_left": view.seconds_left,
                    "skipped_bytes": view.skipped_bytes,
                    "reused_chunks": view.reused_chunks,
                    "unreadable_bytes": view.unreadable_bytes,
                    "kernel_writes": {"ios": counters.ios, "sectors": counters.sectors},
                }
            )
        lost = sum(view.unreadable_bytes for view in snapshot.disks)
        message = snapshot.problem or (f"{lost} bytes of the source could not be read" if lost else "")
        plan, sampled = self._copier.plan, self._copier.sampled
        return {
            "phase": snapshot.phase.value,
            "message": message,
            "disks": disks,
            "limited_by": plan.limited_by if plan else None,
            "connections": plan.connections if plan else 0,
            "codec": plan.codec if plan else None,
            "sample": {"checked": sampled.checked, "mismatched": sampled.mismatched} if sampled else None,
        }
