"""Durable tasks that are submitted with a transaction: rows of the user's own database.

A row is written by the session whose transaction it belongs to, with the id of the task. It is
carried over after the commit: the journal accepts the task by this id, which does nothing the
second time, and then the row is deleted. So a process may die at any moment in between.

Imported where it is used, so that an app without SQLAlchemy need not have it.
"""

import contextlib
import hashlib
import json
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    inspect,
    select,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from flask_delay import context, transactions
from flask_delay._native import (
    DuplicateTask,
    Executor,
    Future,
    QueueFull,
    _Journal,
    _Rhythm,
    _service_executor,
    _Ticker,
)
from flask_delay.logs import log as _log
from flask_delay.periodic import leader

NAME = "delay_outbox"

# Seconds between two looks for rows that no process has carried over.
_EVERY = 30
# Seconds in which a database may still end a commit whose connection is lost.
_UNSURE = 10.0
# How many rows are read or deleted at once.
_MANY = 500

# What the native module raises for something else than a row.
_UNREADABLE = (KeyError, TypeError, OverflowError)

tables: weakref.WeakSet[Table] = weakref.WeakSet()
"""What `make_table` has made."""


def make_table(metadata: MetaData) -> Table:
    """Add the table to the metadata, and return it."""
    for table in tables:
        if table.metadata is metadata:
            return table
    made = _table(metadata)
    tables.add(made)
    return made


def _table(metadata: MetaData) -> Table:
    return Table(
        NAME,
        metadata,
        Column("id", String(100), primary_key=True),
        # Another app, or another machine, may use the same database.
        Column("journal", String(32), nullable=False, index=True),
        Column("body", Text(), nullable=False),
    )


class _Submitted:
    """A task whose row was written in a transaction that has not ended, or was not carried over."""

    def __init__(
        self,
        place: tuple[Engine, Table],
        future: Future[Any],
        row: dict[str, Any],
        *,
        refuses_twin: bool,
    ) -> None:
        self.engine, self.table = place
        self.future = future
        self.row = row
        self.id: str = row["id"]
        self.refuses_twin = refuses_twin
        self.is_committed = False
        # When the row was first looked for and not found.
        self.missed: float | None = None


class Outbox:
    """The outboxes of one `Delay`, in whichever databases. May be used from any thread."""

    def __init__(
        self,
        journal: Callable[[], _Journal],
        executor: Executor,
        *,
        app: Callable[[], Flask | None],
        space: str,
        folder: Path,
        url: str | None,
    ) -> None:
        """Look at nothing yet. `space` separates the apps that use the journal in `folder`."""
        self._journal = journal
        self._app = app
        self._space = space
        self._url = url
        # The engine of that URL.
        self._named: Engine | None = None
        # What was seen at submits.
        self._places: weakref.WeakKeyDictionary[Engine, Table] = weakref.WeakKeyDictionary()
        # Rows of tasks that the journal has, and tasks that it does not have yet. No locks: each
        # access is atomic, and a fork finds nothing half done.
        self._carried: deque[tuple[Engine, Table, str]] = deque()
        self._unsettled: dict[str, _Submitted] = {}
        # All tasks that this process has submitted and not carried over. Looks leave them alone:
        # two threads would tell one future of two answers.
        self._own: dict[str, Future[Any]] = {}
        self._hand = _service_executor("delay-outbox")
        self._rhythm = _Rhythm(every=_EVERY)
        id = hashlib.md5(f"outbox {space}".encode(), usedforsecurity=False).hexdigest()
        self._lead = leader.lead(folder, id, f"{space} {NAME}")
        this = weakref.ref(self)

        def tick(at: int) -> None:
            outbox = this()
            if outbox is not None:
                outbox._tick(at)  # noqa: SLF001

        self._ticker = _Ticker(executor, self._rhythm, tick)
        # The process that looks.
        self._watching: int | None = None
        self._failed = False

    # --- Submits ----------------------------------------------------------------------

    def put(
        self, given: Any, future: Future[Any], row: dict[str, Any], *, refuses_twin: bool
    ) -> None:
        """Write the row of a draft of the journal into the transaction of a session.

        If the task `refuses_twin`, its future fails where another task has its key.

        Raises TypeError for a session of asyncio, ValueError for a database that other threads do
        not share, RuntimeError if it has no table, and what the database raises.
        """
        if transactions.is_async(given):
            raise TypeError(
                f"the option 'within' is {given!r}, but rows are carried over by a thread, which"
                f" cannot use an engine of asyncio: submit with a Session, or a plain task with"
                f" after_commit"
            )
        session = transactions.session_of(given)
        engine, table = self._place_of(session)
        connection = session.connection(bind_arguments={"clause": table})
        if engine not in self._places:
            if not inspect(connection).has_table(table.name, schema=table.schema):
                raise RuntimeError(
                    f"the database {engine.url!r} has no table {table.name!r}, which"
                    f" flask_delay.contrib.outbox.table() has added to the metadata: make it by"
                    f" metadata.create_all() or a migration"
                )
            self._places[engine] = table
            if self._watching == os.getpid():
                # The last look did not know it.
                self._hand.submit(self._look)
            self.watch()
        body = json.dumps(row, separators=(",", ":"))
        values = {"id": row["id"], "journal": self._mark(), "body": body}
        connection.execute(table.insert(), [values])
        self._own[row["id"]] = future
        submitted = _Submitted((engine, table), future, row, refuses_twin=refuses_twin)
        transactions.tie(session, self, submitted)

    def _place_of(self, session: Session) -> tuple[Engine, Table]:
        found: dict[Engine | Connection, Table] = {}
        for table in list(tables):
            found.setdefault(session.get_bind(clause=table), table)
        if not found:
            raise RuntimeError(
                "no table for the option 'within' is known: call"
                " flask_delay.contrib.outbox.table(metadata) where the models are"
            )
        if len(found) > 1:
            urls = ", ".join(sorted(repr(bind.engine.url) for bind in found))
            raise ValueError(
                f"the session of the option 'within' has tables {NAME!r} in several databases"
                f" ({urls}): call flask_delay.contrib.outbox.table() for one of them"
            )
        [(bind, table)] = found.items()
        if isinstance(bind, Connection):
            raise ValueError(  # noqa: TRY004 (it is a session)
                "the session of the option 'within' is bound to a connection, on which a"
                " transaction around its own may be rolled back later: bind it to the engine"
            )
        if bind.dialect.is_async:
            raise ValueError(
                f"the engine {bind.url!r} of the option 'within' is one of asyncio, which the"
                f" thread that carries rows over cannot use: use a plain one"
            )
        if isinstance(bind.pool, StaticPool | SingletonThreadPool):
            raise ValueError(  # noqa: TRY004 (it is an engine)
                f"the database {bind.url!r} of the option 'within' is in memory, or has one"
                f" connection for all threads: use a file or a server or, in tests, DELAY_MODE"
                f' "immediate" or "manual"'
            )
        return bind, table

    def _mark(self) -> str:
        """The journal in which the tasks of this app are, as rows have it."""
        text = f"{self._journal().identity} {self._space}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    # --- Ends of transactions ---------------------------------------------------------

    def committed(self, items: list[_Submitted]) -> None:
        """Carry tasks over whose transaction was committed."""
        items = _local(items)
        for it in items:
            it.is_committed = True
        self._settle(items)
        self._sweep_soon()

    def dropped(self, items: list[_Submitted], *, is_certain: bool) -> None:
        """Cancel tasks whose transaction was rolled back, or ask the database whether it was."""
        for it in _local(items):
            if is_certain:
                self._withdraw(it)
            else:
                self._unsettled[it.id] = it
        if not is_certain:
            self._sweep_soon()

    def _withdraw(self, it: _Submitted) -> None:
        self._own.pop(it.id, None)
        self._journal().withdraw(it.future)

    def _sweep_soon(self) -> None:
        with contextlib.suppress(RuntimeError):
            # The executor is shut down: a look of another process finds the rows.
            self._hand.submit(self._sweep)

    def _settle(self, items: Sequence[_Submitted]) -> None:
        """Carry tasks of this process over, or learn that there is nothing to carry.

        The caller alone has them: those that are left are in `_unsettled` afterwards.
        """
        committed = []
        for it in items:
            with self._keeping(it):
                if it.is_committed or self._is_decided(it):
                    if it.is_committed:
                        committed.append(it)
                    else:
                        self._withdraw(it)
                else:
                    self._unsettled[it.id] = it
        for it, answer in zip(committed, self._accept([it.row for it in committed]), strict=True):
            with self._keeping(it):
                if isinstance(answer, Exception):
                    raise answer
                if answer is False:
                    self._unsettled[it.id] = it
                    continue
                if isinstance(answer, str):
                    self._follow(it, answer)
                self._carried.append((it.engine, it.table, it.id))
                self._own.pop(it.id, None)

    @contextlib.contextmanager
    def _keeping(self, it: _Submitted) -> Iterator[None]:
        """Keep a task for the next sweep if there is an error; its row stays meanwhile."""
        try:
            yield
        except Exception as error:
            self._unsettled[it.id] = it
            self._warn(it.engine, error)

    def _is_decided(self, it: _Submitted) -> bool:
        """Ask the database whether it has committed a task; False if it may still do so."""
        with it.engine.connect() as connection:
            found = connection.execute(select(it.table.c.id).where(it.table.c.id == it.id)).first()
        it.is_committed = found is not None or self._journal().view(it.id) is not None
        now = time.monotonic()
        it.missed = it.missed or now
        return it.is_committed or now - it.missed >= _UNSURE

    def _accept(self, rows: list[dict[str, Any]]) -> Sequence[bool | str | Exception]:
        """Have the journal accept tasks; its answers, or what keeps it from answering."""
        if not rows:
            return []
        try:
            return self._journal().accept(rows)
        except _UNREADABLE as error:
            # None of them was accepted. Each by itself, to find out which is no row.
            return [error] if len(rows) == 1 else [self._accept([row])[0] for row in rows]
        except Exception as error:
            return [error] * len(rows)

    def _follow(self, it: _Submitted, id: str) -> None:
        """End the future of a task as the task that excludes it by its key."""
        row = self._journal().view(id)
        twin = None if row is None else self._journal().get(id)
        error: Exception | None = None
        if row is not None and it.row["once"] and row["function"] != it.row["function"]:
            error = ValueError(
                f"the option 'once' is {it.row['once']!r}, which belongs to a task of"
                f" {row['function']!r} already, not of {it.row['function']!r}: give each function"
                f" keys of its own"
            )
            _log.error("task %s (%s) was not accepted: %s", it.future.name, it.row["id"], error)
        elif twin is None or it.refuses_twin:
            error = DuplicateTask(f"there is a task with the same key already: {id}")
        if twin is None or error is not None:
            it.future.set_exception(error)
        else:
            twin.add_done_callback(partial(self._end_like, it.future))

    def _end_like(self, future: Future[Any], twin: Future[Any]) -> None:
        if twin.cancelled():
            self._journal().withdraw(future)
            return
        try:
            future.set_result(twin.result())
        except Exception as error:
            # That of the task, or of a result that is not kept.
            future.set_exception(error)

    # --- Looks ------------------------------------------------------------------------

    def watch(self) -> None:
        """Look for rows now, and then regularly, in this process."""
        if self._watching == os.getpid():
            return
        self._watching = os.getpid()
        with contextlib.suppress(RuntimeError):
            # The executor is shut down.
            self._ticker.start()
            self._hand.submit(self._look)

    def close(self) -> None:
        """Stop looking; delete the rows of tasks that are carried over."""
        self._ticker.stop()
        self._hand.shutdown(wait=True)

    def _tick(self, at: int) -> None:
        try:
            come = self._lead.take(
                at, lambda last: self._rhythm.has_come(at, last, time.time_ns()), alone=False
            ).runs
        except OSError as error:
            # Two looks at once do no harm.
            _log.warning("several processes look for rows of %s: %s", NAME, error)
            come = True
        with contextlib.suppress(RuntimeError):
            self._hand.submit(self._look if come else self._sweep)

    def _sweep(self) -> None:
        """Settle the tasks of this process, and delete the rows of those that are carried over."""
        found = [self._unsettled.pop(id, None) for id in list(self._unsettled)]
        # In a forked process, those are its parent's.
        self._settle(_local([it for it in found if it is not None]))
        rows: dict[tuple[Engine, Table], list[str]] = {}
        while self._carried:
            engine, table, id = self._carried.popleft()
            rows.setdefault((engine, table), []).append(id)
        for (engine, table), ids in rows.items():
            with self._guarded(engine):
                _delete(engine, table, ids)

    def _look(self) -> None:
        """Carry over all rows of this journal."""
        self._sweep()
        for engine, table in self._known():
            with self._guarded(engine):
                self._look_at(engine, table)

    def _look_at(self, engine: Engine, table: Table) -> None:
        with engine.connect() as connection:
            if not inspect(connection).has_table(table.name, schema=table.schema):
                return
        last, mark = "", self._mark()
        rows: Sequence[Any] = range(_MANY)
        while len(rows) == _MANY:
            wanted = select(table.c.id, table.c.body).order_by(table.c.id).limit(_MANY)
            with engine.connect() as connection:
                rows = connection.execute(
                    wanted.where(table.c.journal == mark, table.c.id > last)
                ).all()
            done, trouble = self._carry({row.id: row.body for row in rows})
            _delete(engine, table, done)
            if trouble is not None:
                raise trouble
            last = rows[-1].id if rows else last

    def _carry(self, bodies: dict[str, str]) -> tuple[list[str], Exception | None]:
        """Have the journal accept tasks by their rows.

        Returns the ids of those that it has now, and what kept it from accepting others.
        """
        rows = []
        for id, body in bodies.items():
            own = self._own.get(id)
            if own is not None and not own._is_foreign():
                continue
            try:
                row = json.loads(body)
                if row["id"] != id:
                    raise ValueError(f"it is that of {row['id']!r}")  # noqa: TRY301
            except (ValueError, RecursionError, *_UNREADABLE) as error:
                _tell_unreadable(id, error)
            else:
                rows.append(row)
        done, trouble = [], None
        for row, answer in zip(rows, self._accept(rows), strict=True):
            if isinstance(answer, _UNREADABLE):
                _tell_unreadable(row["id"], answer)
            elif isinstance(answer, Exception):
                trouble = answer
            elif answer is False:
                trouble = QueueFull("the journal has as many tasks as JOURNAL_WAITING allows")
            else:
                done.append(row["id"])
        return done, trouble

    def _known(self) -> Iterator[tuple[Engine, Table]]:
        """The databases that may have rows."""
        found = dict(self._places)
        if self._url is not None:
            if self._named is None:
                self._named = create_engine(self._url, poolclass=NullPool)
            if self._named.url not in {engine.url for engine in found}:
                found[self._named] = _table(MetaData())
        app = self._app()
        extension = None if app is None else app.extensions.get("sqlalchemy")
        metadatas = getattr(extension, "metadatas", None)
        if app is not None and isinstance(metadatas, dict):
            with context.scope(app)():
                engines = extension.engines  # type: ignore[union-attr]
            for key, metadata in metadatas.items():
                for table in list(tables):
                    if table.metadata is metadata and key in engines:
                        found.setdefault(engines[key], table)
        yield from found.items()

    @contextlib.contextmanager
    def _guarded(self, engine: Engine) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._warn(engine, error)
        else:
            self._failed = False

    def _warn(self, engine: Engine, error: Exception) -> None:
        # Once, until it works again: the next look is soon.
        if not self._failed:
            self._failed = True
            _log.warning(
                "rows of %s in %r are not carried over now; the next try is in %d s: %s",
                NAME,
                engine.url,
                _EVERY,
                error,
            )


def _delete(engine: Engine, table: Table, ids: list[str]) -> None:
    for start in range(0, len(ids), _MANY):
        with engine.begin() as connection:
            connection.execute(table.delete().where(table.c.id.in_(ids[start : start + _MANY])))


def _local(items: list[_Submitted]) -> list[_Submitted]:
    """Those of this process: in a forked one, the others are for its parent, or for a look."""
    return [it for it in items if not it.future._is_foreign()]


def _tell_unreadable(id: str, error: Exception) -> None:
    _log.error("the row of task %s in %s cannot be read: %s", id, NAME, error)
