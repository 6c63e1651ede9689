"""The ends of transactions of SQLAlchemy's sessions.

Imported where a task is tied to a session, so that an app without SQLAlchemy need not have it.
"""

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from flask_delay._native import Future
from flask_delay.logs import log as _log

Submit = Callable[..., Future[Any]]


class Party(Protocol):
    """What is told of the ends of transactions, and of the items that were tied to each."""

    def committed(self, items: list[Any]) -> None:
        """Called after the commit."""

    def dropped(self, items: list[Any], *, is_certain: bool) -> None:
        """Called if there was no commit; it may have happened all the same unless `is_certain`."""


_Tied = list[tuple[Party, Any]]


class _Ledger:
    """What is tied to the transactions of one session. Used by the session's thread alone."""

    def __init__(self) -> None:
        # By the ids of transactions, which would keep the session alive.
        self.tied: dict[int, _Tied] = {}
        self.committed: set[int] = set()
        # The commits that have begun and have not ended.
        self.commits = 0
        self.is_flushing = False

    def abandon(self) -> None:
        """Called if the session was dropped in the middle of a transaction."""
        found, self.tied = self.tied, {}
        for tied in found.values():
            _end(tied, is_committed=False, is_certain=self.commits == 0)


def session_of(given: Any) -> Session:
    """The session that `given` is or stands for now. Raises TypeError if there is none."""
    found = given
    if isinstance(given, scoped_session) or _is_of_asyncio(given, "async_scoped_session"):
        found = given()
    if _is_of_asyncio(found, "AsyncSession"):
        found = found.sync_session
    if not isinstance(found, Session):
        raise TypeError(f"{found!r} is no session of SQLAlchemy")
    return found


def is_async(given: Any) -> bool:
    """Whether `given` is a session for coroutines."""
    return _is_of_asyncio(given, "AsyncSession", "async_scoped_session")


def _is_of_asyncio(given: Any, *names: str) -> bool:
    # Never imported here: SQLAlchemy's part for asyncio needs a library that it does not install.
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return module is not None and isinstance(given, tuple(getattr(module, it, ()) for it in names))


def begun(session: Session) -> SessionTransaction:
    """The innermost transaction or savepoint of the session, which begins one if it has none.

    Raises RuntimeError if the session does not begin one by itself.
    """
    if not session.in_transaction():
        if not session.autobegin:
            raise RuntimeError(
                "the session has no transaction that the task could belong to: call its begin()"
                " before"
            )
        session.begin()
    found = _current(session)
    assert found is not None  # noqa: S101 (it has just begun)
    return found


def tie(session: Session, party: Party, item: Any) -> None:
    """Tell `party` of the item when the current transaction of the session has ended.

    A savepoint's commit is that of the transaction around it.
    """
    ledger = _ledger(session)
    if ledger is None:
        ledger = session.info[_Ledger] = _Ledger()
        weakref.finalize(session, ledger.abandon).atexit = False
    ledger.tied.setdefault(id(begun(session)), []).append((party, item))


class _Withheld:
    """Plain tasks that start after a commit; the items are their futures."""

    def committed(self, items: list[Future[Any]]) -> None:
        for future in items:
            _release(future, wanted=True)

    def dropped(self, items: list[Future[Any]], *, is_certain: bool) -> None:
        for future in items:
            if not is_certain:
                _log.warning(
                    "task %s (%s) was dropped: the commit that it was to follow has failed",
                    future.name,
                    future.id,
                )
            _release(future, wanted=False)


_withheld = _Withheld()


def _release(future: Future[Any], *, wanted: bool) -> None:
    # The transaction of a parent process ends there.
    if not future._is_foreign():
        with _logged():
            future._release(wanted)  # noqa: SLF001


def releasing(given: Any, submit: Submit) -> Submit:
    """`submit`, for tasks that are withheld until the transaction of a session is committed."""
    return functools.partial(_submit_withheld, given, submit)


def _submit_withheld(
    given: Any, submit: Submit, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    session = session_of(given)
    # Before the task is submitted: nothing is to be taken back if this fails.
    begun(session)
    future = submit(fn, *args, **kwargs)
    tie(session, _withheld, future)
    return future


def _ledger(session: Session) -> _Ledger | None:
    found: _Ledger | None = session.info.get(_Ledger)
    return found


def _current(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _end(tied: _Tied, *, is_committed: bool, is_certain: bool = True) -> None:
    items: dict[Party, list[Any]] = {}
    for party, item in tied:
        items.setdefault(party, []).append(item)
    for party, its in items.items():
        with _logged():
            if is_committed:
                party.committed(its)
            else:
                party.dropped(its, is_certain=is_certain)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except Exception:
        # The commit has succeeded, so it must not raise.
        _log.exception("a task could not be told of the end of its transaction")


# --- SQLAlchemy's events, for all sessions. First, as handlers of others may raise. ------


@event.listens_for(Session, "before_commit", insert=True)
def _before_commit(session: Session) -> None:
    ledger = _ledger(session)
    if ledger is not None:
        ledger.commits += 1


@event.listens_for(Session, "before_flush", insert=True)
def _before_flush(session: Session, *_: object) -> None:
    ledger = _ledger(session)
    if ledger is not None:
        ledger.is_flushing = True


@event.listens_for(Session, "after_flush", insert=True)
def _after_flush(session: Session, *_: object) -> None:
    ledger = _ledger(session)
    if ledger is not None:
        ledger.is_flushing = False


@event.listens_for(Session, "after_rollback", insert=True)
def _after_rollback(session: Session) -> None:
    ledger = _ledger(session)
    if ledger is not None and ledger.is_flushing:
        # The commit has failed before the database heard of it.
        ledger.is_flushing = False
        ledger.commits = max(ledger.commits - 1, 0)


@event.listens_for(Session, "after_commit", insert=True)
def _after_commit(session: Session) -> None:
    ledger, transaction = _ledger(session), _current(session)
    if ledger is not None and transaction is not None:
        ledger.commits = max(ledger.commits - 1, 0)
        ledger.committed.add(id(transaction))


@event.listens_for(Session, "after_transaction_end", insert=True)
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    ledger = _ledger(session)
    # Those of a flush are neither savepoints nor have they ends of their own.
    if ledger is None or not (transaction.nested or transaction.parent is None):
        return
    tied = ledger.tied.pop(id(transaction), [])
    is_committed = id(transaction) in ledger.committed
    ledger.committed.discard(id(transaction))
    outer = transaction.parent
    if outer is None:
        is_certain, ledger.commits = ledger.commits == 0, 0
        _end(tied, is_committed=is_committed, is_certain=is_certain)
        return
    while not outer.nested and outer.parent is not None:
        outer = outer.parent
    if is_committed:
        ledger.tied.setdefault(id(outer), []).extend(tied)
    else:
        _end(tied, is_committed=False)
