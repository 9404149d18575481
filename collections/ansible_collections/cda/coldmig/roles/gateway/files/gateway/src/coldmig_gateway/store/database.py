# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to the database and its two kinds of transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

_WRITES = "coldmig_writes"  # execution option: this transaction is going to change something
BUSY_SECONDS = 30


class Database:
    """One database. Threads and processes may use it at once.

    SQLite runs with a write-ahead log and ``synchronous=FULL``: a committed transaction survives a loss of power.
    """

    def __init__(self, url: str) -> None:
        where = make_url(url)
        # As many connections as threads that serve requests at once, for opening one costs more than most questions.
        pool = {} if where.database in (None, "", ":memory:") else {"pool_size": 40, "max_overflow": 24}
        self.engine: Engine = create_engine(where, pool_pre_ping=not url.startswith("sqlite"), **pool)
        self._turn: AbstractContextManager[object] = nullcontext()
        if self.engine.dialect.name == "sqlite":
            self._turn = _Turns()
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self.writer = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; nothing that is changed in it is kept."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: everything in it is kept, or nothing when an exception leaves it."""
        with self._turn, Session(self.writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


class _Turns:
    """A lock that threads get in the order in which they asked.

    SQLite lets writers that wait try again now and then, and whoever comes at the right moment goes first: of many
    threads some would wait for very long. They queue here; only another process is left to wait for there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        mine.acquire()  # whoever leaves hands over

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False


def _set_up_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError("the SQLite dialect must come with the sqlite3 module")
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    # The timeout first: changing the journal mode may have to wait for another process.
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and writes later fails at once when another writer was faster; one that
    # takes the write lock at its beginning waits for its turn.
    immediate = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
