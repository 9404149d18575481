# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides, from what the last second was spent on, how many connections are used, how hard is compressed, and how far
is read ahead. No clock and no I/O: it is told everything.

- The link limits: fewer bytes are worth processor time (zstd 3, and more effort while processors idle), and more
  connections may get more of it. Where that is beyond question it is decided within the first second, in glances.
- The processors limit: ISA-L's fast deflate, which also spares the site its transcoding; plain where that does not pay
  (the encoder sees to that by itself).
- The disk limits: fewer connections, because heads and buffers gain nothing from more, and more reads at once.
- The site limits: it does not read what arrives, because it is busy or holds the copy to a bandwidth. Fewer bytes are
  tried, and taken back where they make it slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Limit = Literal["disk", "cpu", "link", "site"]

MAX_DEPTH: Final = 4
_FIRST_CONNECTIONS: Final = 4
_EFFORTS: Final = (3, 6)
#: A share of the senders' time that decides at once, and one that decides when it was so in the second before, too.
_CLEAR, _LIKELY = 0.8, 0.5
#: Of the time in which data waited to leave: more than this because the receiver did not read.
_UNREAD = 0.5
#: Bytes per second above which zstd's effort, here and at the site, costs more than the bytes that it saves.
_FAST_LINK = 60e6
#: Below this a link is slow enough for zstd from the first glances on, if its speed stays the same within _SAME.
_SLOW_LINK = 20e6
_SAME = 1.3
#: Glances at what is being sent, and with those until something is: connections take their time on a long way.
_GLANCES, _GLANCES_IN_ALL = 10, 40
#: Bytes of content that one processor compresses in a second with the strongest effort, what they shrink to, and the
#: share of the idle processors that this may take.
_STRONGEST_SPEED, _SHRINKS, _ROOM = 40e6, 0.45, 0.5
#: Seconds for which a site must have been what limits before zstd is tried on it.
_STEADY = 4
_IDLE_FOR_ZSTD = 0.25
_IDLE_FOR_MORE = 0.6
_IDLE_FOR_LESS = 0.1
#: Seconds after which a change must have shown, and for which one that did not help is not tried again.
_TRIAL = 5
_HOLD = 120
_WORTH = 1.05
_WORSE = 0.9


@dataclass(frozen=True, slots=True)
class Sample:
    """About one second, or a part of it. Times are sums over all senders."""

    #: Waiting for something to send.
    starved: float
    #: Digesting and encoding.
    computing: float
    #: Waiting for a connection, sending, and waiting for answers.
    blocked: float
    #: Share of the time with unsent data in which the receiver's window was closed; None where unknown.
    unread: float | None
    #: Share of all processors' time that nobody used.
    cpu_idle: float
    #: Bytes of disk content (not of frames, and not zeros) that became durable.
    progress: int
    #: Bytes that the site's end acknowledged.
    sent: int
    #: Length of the time that this is about.
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. ``level`` 0: GRAINS; else ZSTD of that level."""

    connections: int
    level: int
    depth: int
    limited_by: Limit | None = None

    @property
    def codec(self) -> str:
        """For reports."""
        return f"zstd-{self.level}" if self.level else "grains"


class Controller:
    """One copy's settings."""

    def __init__(self, most_connections: int, codecs: Sequence[str], processors: int = 1) -> None:
        """``codecs``: what the site takes, of ``grains`` and ``zstd``."""
        self._most = max(1, most_connections)
        self._processors = processors
        self._zstd = "zstd" in codecs
        self.plan = Plan(connections=min(_FIRST_CONNECTIONS, self._most), level=0, depth=2)
        self._before: Limit | None = None
        self._rates: list[int] = []
        #: The running trial: the plan before it, the rate before it, and the seconds it has lasted.
        self._trial: tuple[Plan, float, int] | None = None
        #: Sum of the idle shares in these seconds.
        self._idle = 0.0
        self._hold = {"connections": 0, "codec": 0}
        #: Seconds for which the same has limited the copy, and the bytes on the wire in the last ones.
        self._steady = 0
        self._sent: list[int] = []
        #: Bytes per second on the wire in the glance before.
        self._glanced = 0.0
        self._glances, self._glances_in_all = _GLANCES, _GLANCES_IN_ALL

    @property
    def glancing(self) -> bool:
        """Whether the next look should come soon, and be a glance."""
        return self._glances > 0 and self._glances_in_all > 0

    def glance(self, sample: Sample) -> Plan:
        """Look at a part of the copy's first second: a slow link, and nothing else, is answered at once."""
        self._glances -= sample.sent > 0
        self._glances_in_all -= 1
        rate = sample.sent / sample.seconds
        # A connection that has just begun is slow on every link, but soon twice as fast.
        settled = 0 < rate < _SLOW_LINK and self._glanced / _SAME < rate < self._glanced * _SAME
        self._glanced = rate
        clear = self._limit(sample) == "link" and self._share(sample) >= _CLEAR
        if clear and settled and self._zstd and not self.plan.level and sample.cpu_idle >= _IDLE_FOR_ZSTD:
            idle = sample.cpu_idle * self._processors
            strong = rate / _SHRINKS / _STRONGEST_SPEED <= idle * _ROOM
            self.plan = replace(self.plan, level=_EFFORTS[-1 if strong else 0], limited_by="link")
            self._before = "link"
        return self.plan

    def tick(self, sample: Sample) -> Plan:
        """Look at one more second."""
        limit = self._limit(sample)
        certain = limit is not None and (limit == self._before or self._share(sample) >= _CLEAR)
        self._steady = self._steady + 1 if limit == self._before else 1
        self._before = limit
        self._sent = [*self._sent[-2:], sample.sent]
        self._rates = [*self._rates[-(_TRIAL - 1) :], sample.progress]
        self._hold = {what: max(0, seconds - 1) for what, seconds in self._hold.items()}
        self.plan = replace(self.plan, limited_by=limit or self.plan.limited_by)
        if self._trial is not None:
            self._idle += sample.cpu_idle
            self._judge(limit)
        elif certain:
            self._act(limit, sample)
        return self.plan

    @staticmethod
    def _share(sample: Sample) -> float:
        """The largest part of the senders' time."""
        total = sample.starved + sample.computing + sample.blocked
        return max(sample.starved, sample.computing, sample.blocked) / total if total > 0 else 0.0

    @staticmethod
    def _limit(sample: Sample) -> Limit | None:
        total = sample.starved + sample.computing + sample.blocked
        if total <= 0:
            return None
        if sample.blocked / total >= _LIKELY:
            return "site" if sample.unread is not None and sample.unread > _UNREAD else "link"
        # Readers that get no processor starve the senders as a slow disk does.
        if sample.cpu_idle < _IDLE_FOR_LESS or sample.computing / total >= _LIKELY:
            return "cpu"
        return "disk" if sample.starved / total >= _LIKELY else None

    def _act(self, limit: Limit | None, sample: Sample) -> None:
        plan = self.plan
        if limit == "disk":
            # An idle link needs one connection, and one more while the answer on the first is awaited.
            fewer = max(min(2, self._most), plan.connections - 1)
            self.plan = replace(plan, connections=fewer, depth=min(MAX_DEPTH, plan.depth + 1))
        elif limit == "cpu":
            self.plan = replace(plan, level=_weaker(plan.level), depth=max(2, plan.depth - 1))
        elif limit in {"link", "site"}:
            stronger = self._stronger(limit, sample.cpu_idle)
            if stronger != plan.level:
                self._try(replace(plan, level=stronger))
            else:
                self._more_connections()

    def _stronger(self, limit: Limit, cpu_idle: float) -> int:
        """A level worth a trial. A site that does not read may hold us to a bandwidth, and then fewer bytes help."""
        level = self.plan.level
        enough = _IDLE_FOR_MORE if level else _IDLE_FOR_ZSTD
        slow = 0 < max(self._sent) <= _FAST_LINK
        if not self._zstd or self._hold["codec"] or cpu_idle < enough or not slow:
            return level
        if limit == "site" and (level or self._steady < _STEADY):
            return level
        return next((higher for higher in _EFFORTS if higher > level), level)

    def _more_connections(self) -> None:
        if self.plan.connections < self._most and not self._hold["connections"]:
            self._try(replace(self.plan, connections=min(self._most, self.plan.connections * 2)))

    def _try(self, plan: Plan) -> None:
        rate = sum(self._rates) / len(self._rates)
        self._trial = (self.plan, rate, 0)
        self._idle = 0.0
        self.plan = plan
        self._rates = []

    def _judge(self, limit: Limit | None) -> None:
        """After some seconds: was the change good for the copy?"""
        before, rate, seconds = self._trial or (self.plan, 0.0, 0)
        seconds += 1
        self._trial = (before, rate, seconds)
        if seconds < _TRIAL:
            return
        self._trial = None
        now = sum(self._rates) / len(self._rates)
        if self.plan.connections != before.connections:
            # A connection more that brings nothing is left out again: somebody else may share the link.
            if now < rate * _WORTH and limit in {"link", "site"}:
                self.plan = replace(self.plan, connections=before.connections)
                self._hold["connections"] = _HOLD
        elif now < rate * _WORSE or (limit == "cpu" and self._idle < _IDLE_FOR_LESS * _TRIAL):
            self.plan = replace(self.plan, level=before.level)
            self._hold["codec"] = _HOLD


def _weaker(level: int) -> int:
    return max((lower for lower in _EFFORTS if lower < level), default=0)
