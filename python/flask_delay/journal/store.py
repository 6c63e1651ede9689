"""The journal of one `Delay`: it accepts durable tasks, and processes that serve run them."""

import contextlib
import json
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from uuid import uuid4

from flask import Flask, request_started

from flask_delay import context, uploads
from flask_delay._native import (
    DuplicateTask,
    Executor,
    Future,
    JournalUnavailable,
    ResultNotKept,
    __version__,
    _check_call,
    _Journal,
    _journal_decode,
    _journal_decode_call,
    _journal_encode_call,
    _Policy,
    _Rhythm,
    _Schedule,
    _Ticker,
)
from flask_delay.backends import base, table
from flask_delay.backends.base import Backend
from flask_delay.carried import CarriedRetry, carried
from flask_delay.config import Config
from flask_delay.journal import errors
from flask_delay.journal.commands import PATIENCE, Commands, Outcome, decoded, ended
from flask_delay.journal.functions import Functions
from flask_delay.journal.settings import main_of, path_of, space_of
from flask_delay.journal.terms import arguments_of, lane_of, moment, terms_of
from flask_delay.logs import log as _log
from flask_delay.observe import others, signals
from flask_delay.observe.others import Shown
from flask_delay.observe.stats import JournalStats
from flask_delay.observe.view import STATES, Before, Link, TaskView
from flask_delay.options import KNOWN, Chosen, refuse_sessions, refuse_undurable
from flask_delay.registry import task_name
from flask_delay.retry import as_retry
from flask_delay.servers import role, werkzeug

if TYPE_CHECKING:
    from flask_delay.journal.outbox import Outbox

# Where a task runs in its process, for the native module.
_THREADS, _PROCESSES = 0, 2
# The options that count where the task runs.
_RUNNING = ("priority", "timeout", "retry")
# Seconds between two looks whether the app is made, and for how long it may be.
_LOOK, _MAKING = 0.1, 10.0
# Seconds between two looks at the counts of the journal.
_COUNTED = 1.0
# Seconds to wait for what other processes tell of their tasks.
_ANSWER = 0.1
# Seconds between two looks at the uploads of durable tasks; more than a submit takes.
_SWEEP, _SUBMITTING = 600.0, 3600.0
# Tasks of `map` in one commit.
_BATCH = 500
ListKind = Literal["ready", "held", "running", "ended", "failed"]
"""The lists of `Store.listed`."""
FORGETTABLE = ("finished", "failed", "cancelled")
"""The states of tasks that `prune` forgets without being asked for them."""
# Seconds; more than a timeout needs.
_FOREVER = 1e9
# Characters of a message with a text from the journal.
_LONGEST = 500


class End(NamedTuple):
    """Where a list by ends goes on: before a task that ended, in microseconds since 1970."""

    ended: int
    place: int
    """Among those that ended at the same time."""


class Listed(NamedTuple):
    """A task of a list, and where the list goes on after it."""

    view: TaskView
    end: End


class Order(NamedTuple):
    """A submit to the native module, but for the arguments."""

    name: str
    pool: int
    policy: _Policy | None
    options: str | None
    once: str | None
    disk: bool
    executor: Executor | None
    fn: Callable[..., Any]


Step = tuple[Chosen, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A task of a chain: its options, its function and the arguments that are known."""


class Submit(partial[Future[Any]]):
    """`Store.submit` with options and a backend, and the same for many tasks and for chains."""

    def many(self, fn: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[Future[Any]]:
        """See `Store.submit_many`."""
        chosen, backend = self.args
        store: Store = self.func.__self__  # type: ignore[attr-defined]
        return store.submit_many(chosen, backend, fn, calls)

    def chain(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        steps: Iterable[Step],
    ) -> Future[Any]:
        """See `Store.submit_chain`."""
        chosen, backend = self.args
        store: Store = self.func.__self__  # type: ignore[attr-defined]
        return store.submit_chain(backend, (chosen, fn, args, kwargs), steps)


class Store:
    """The durable tasks of one `Delay` on one app. May be used from any thread.

    The file is opened at first use. A forked process continues with it.
    """

    def __init__(
        self,
        name: str,
        settings: Config,
        app: Flask,
        executor: Executor,
        files: uploads.Uploads,
        *,
        backend: weakref.WeakMethod[Callable[[str], Backend]],
        commands: weakref.WeakMethod[Callable[[], Commands]],
    ) -> None:
        """Open nothing yet. `backend` returns the backend of a name.

        `commands` returns what deals with what other processes ask.
        """
        main = main_of(app, settings)
        self.functions = Functions(main)
        self.path = path_of(app, name, settings)
        self._space = space_of(app, name, main)
        self._settings = settings
        self._executor = executor
        self._uploads = files
        # Where those of durable tasks are, and when it was looked at.
        self._files = uploads.lasting_folder(files, f"{self.path} {self._space}")
        self._swept = -math.inf
        self._backend = backend
        self._commands = commands
        # Besides that of the `Delay`. No lock: each access is atomic.
        self._adopted: list[Executor] = []
        # Weak: the app owns it.
        self._app = weakref.ref(app)
        # The journal, once it is open. No lock: each access is atomic, and a fork finds nothing
        # half done.
        self._open: dict[None, _Journal] = {}
        # Whether this process claims no more tasks, and whether it has left the journal.
        self._stopped = self._closed = False
        # The process that began to claim tasks.
        self._claimant: int | None = None
        self._is_command = False
        # Until when the app is being made, at the latest, and whether it still is.
        self._made_by = 0.0
        self._is_making: Callable[[], bool] = lambda: False
        self._ticker: _Ticker | None = None
        # Those of which the journal does not know that this process has them.
        self._jobs: list[_Schedule] = []
        self._counted: tuple[float, JournalStats] | None = None
        self._oldest: datetime | None = None
        self._warned = False
        # What pages say of this process, once there is a page.
        self._about: str | None = None
        # Made at first use; see `_open`.
        self._outboxes: dict[None, Outbox] = {}
        _stores.add(self)

    # --- The file ---------------------------------------------------------------------

    @property
    def is_there(self) -> bool:
        """Whether there is a journal: the app has set one, or has its file already."""
        if self._settings.mode != "threads" or self._closed:
            return False
        return bool(self._open) or self._settings.journal is not None or self.path.exists()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a journal, or the first durable task will make one."""
        if self._settings.mode != "threads":
            return False
        return self.is_there or self._settings.durable or self.functions.has_durable()

    def begin(self) -> None:
        """Open a journal that is there; claim tasks once the app is made, if this process serves.

        Called where the app is made. Raises as `submit`.
        """
        # A shell or a migration may end at any time, and may run as another user.
        self._is_command = role.loads_for_a_command()
        self._is_making, self._made_by = role.making(), time.monotonic() + _MAKING
        if not self.is_there:
            return
        werkzeug.before_watching(_stop)
        self._hear_requests()
        # A process that only starts and watches others may be root, while they are not.
        if not self._is_command and (os.geteuid() != 0 or not role.is_bystander()):
            self._opened()
            self._start_later()

    def _journal(self) -> _Journal:
        """The journal for a submit or a look, which show that the app is in use."""
        found = self._opened()
        if self._claimant is None and not self._is_command and not role.is_child():
            self._start()
        return found

    def _opened(self) -> _Journal:
        found = self._open.get(None)
        if found is not None:
            return found
        settings = self._settings
        main = self.functions.main
        this = weakref.ref(self)

        def revive(name: str, options: str | None) -> Any:
            store = this()
            if store is None:
                raise LookupError("the app is gone")
            return store.revive(name, options)

        def dead(id: str, name: str, deaths: int, error: str) -> None:
            store = this()
            app = None if store is None else store._app()  # noqa: SLF001
            if app is not None:
                exception = errors.decoded(error, main)
                signals.send_dead(app, id=id, name=name, deaths=deaths, error=exception)

        def obey(number: int, verb: str, target: str, actor: str | None, is_open: bool) -> None:
            store = this()
            find = None if store is None else store._commands()  # noqa: SLF001
            if store is not None and find is not None:
                journal = store._opened()  # noqa: SLF001
                find().obey(journal, number, verb, target, actor, is_open=is_open)

        made = _Journal(
            self._executor,
            str(self.path),
            app=self._space,
            sync=cast("Any", settings.journal_sync),
            keep=settings.journal_keep,
            limit=settings.journal_limit,
            deaths=settings.journal_deaths,
            max_bytes=settings.journal_max_bytes,
            timeout=settings.journal_timeout,
            waiting=settings.journal_waiting,
            code=__version__,
            publish=settings.journal is not None,
            revive=revive,
            lane=self.functions.lane_of,
            encode_error=partial(errors.encoded, main=main),
            decode_error=partial(errors.decoded, main=main),
            dead=dead,
            obey=obey,
            show=partial(_shown, this),
        )
        # Of two callers at once, both have made the same one.
        found = self._open.setdefault(None, made)
        for executor in list(self._adopted):
            found.adopt(executor)
        if self._about is not None:
            found.record(self._about)
        self._hear_requests()
        return found

    # --- Claims -----------------------------------------------------------------------

    def _start(self) -> None:
        """Claim tasks from now on, in a process that serves. Raises JournalUnavailable."""
        # A process that was forked from one that claims leaves them to that one.
        if self._stopped or self._claimant is not None or role.is_bystander():
            return
        if role.will_change_user():
            self._start_later()
            return
        journal, known = self._opened(), self.functions.names()
        journal.know(known)
        journal.start()
        self._claimant = os.getpid()
        # Of what was decorated in the meantime by another thread, `learn` has told nothing.
        if known != self.functions.names():
            self.learn()
        self._note_jobs()
        self._sweep()
        self.watch_outbox()

    def _start_or_log(self) -> None:
        try:
            self._start()
        except Exception:
            _log.exception("durable tasks do not run in this process")

    def _start_later(self) -> None:
        """Claim tasks once this process has the app and its user."""
        this = weakref.ref(self)

        def tick(_: int) -> None:
            store = this()
            if store is not None:
                store._start_if_ready()  # noqa: SLF001

        if self._ticker is None:
            self._ticker = _Ticker(self._executor, _Rhythm(every=_LOOK), tick)
        self._ticker.start()

    def _start_if_ready(self) -> None:
        is_early = self._is_making() and time.monotonic() < self._made_by
        if self._ticker is None or is_early or role.will_change_user():
            return
        self._ticker.stop()
        if not role.is_child():
            self._start_or_log()

    def _hear_requests(self) -> None:
        app = self._app()
        if app is not None:
            request_started.connect(self._serve, sender=app)

    def _serve(self, app: Flask, **_: object) -> None:
        """Claim tasks, since this process serves. Called at its first request."""
        request_started.disconnect(self._serve, sender=app)
        self._start_or_log()

    def continue_forked(self) -> None:
        """Claim tasks in a process that was just forked from one that serves nothing itself."""
        if self.is_there and not (self._stopped or self._is_command or self._claimant):
            self._start_later()

    def learn(self) -> None:
        """Claim tasks of functions that were just decorated as well."""
        if self._claimant == os.getpid():
            self._opened().know(self.functions.names())

    def work(self) -> None:
        """Claim tasks in this process, a command that is there to run them. Raises as `submit`."""
        self._is_command = False
        self._required()
        self._start()

    def stop(self) -> None:
        """Claim no more tasks in this process."""
        self._stopped = True
        for journal in self._open.values():
            journal.stop_claiming()

    def close(self) -> None:
        """Leave the journal: the tasks that wait belong to other processes."""
        for outbox in self._outboxes.values():
            outbox.close()
        self._closed = True
        for journal in self._open.values():
            journal.close()

    # --- Tasks ------------------------------------------------------------------------

    def submit(
        self,
        chosen: Chosen,
        backend: Backend | None,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Accept a task: it is in the journal when this returns.

        Raises TypeError for a function that other processes could not find, and for an argument
        that cannot be stored; ValueError for arguments that are too long, for a key of `once` that
        belongs to another function, and for a file where no journal can be; JournalUnavailable if
        the task was not accepted; otherwise as `Executor.submit`.
        """
        order = self.order(chosen, backend, fn)
        within = chosen.given.get("within")
        if backend is not None:
            _check_call(fn, *args, **kwargs)
        journal = self._accepting()
        try:
            if within is None:
                return journal.submit(*order, *args, **kwargs)
            future, row = journal.draft(*order, *args, **kwargs)
        except TypeError:
            if uploads.found(args, kwargs):
                return self._submit_uploads(chosen, backend, fn, args, kwargs)
            # What ends with the request says so itself.
            for value in (*args, *kwargs.values()):
                context.check(value)
            raise
        try:
            if chosen.id is not None and journal.view(chosen.id) is not None:
                raise DuplicateTask(  # noqa: TRY301
                    f"the journal has a task with the id {chosen.id!r} already: each needs one of"
                    f" its own"
                )
            refuses_twin = chosen.given.get("unique") == "raise"
            self._outbox().put(within, future, row, refuses_twin=refuses_twin)
        except BaseException:
            journal.withdraw(future)
            raise
        return future

    def _submit_uploads(
        self,
        chosen: Chosen,
        backend: Backend | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Accept a task with uploads among its arguments. Raises as `submit` and `Uploads.keep`."""
        if "within" in chosen.given:
            raise ValueError(
                "an upload is not for a task that is submitted with a transaction, which may be"
                " rolled back: save it, and pass the path"
            )
        id = chosen.id or str(uuid4())
        self.order(chosen, backend, fn)
        if time.monotonic() - self._swept > _SWEEP:
            self._sweep()
        batch, args, kwargs, notes = self._uploads.keep_lasting(self._files, id, fn, args, kwargs)
        try:
            read = uploads.reader(uploads.read_notes(self._files, notes)[1])
            order = self.order(chosen.naming(id, read), backend, fn)
            options = {**json.loads(order.options or "{}"), "uploads": notes}
            called: Callable[..., Any] = self._opening(fn, notes)
            if backend is not None:
                called = backend.step(called)
            order = order._replace(options=json.dumps(options), fn=called)
            future: Future[Any] = self._accepting().submit(*order, *args, **kwargs)
        except BaseException:
            batch.remove()
            raise
        if future.id == id:
            self._watch(batch, future)
        else:
            # Of the task that has its key.
            batch.remove()
        return future

    def _opening(self, fn: Callable[..., Any], notes: Mapping[str, Any]) -> uploads.Opening:
        batch, texts = uploads.read_notes(self._files, notes)
        return uploads.opening(fn, texts, partial(self._watch, batch))

    def _watch(self, batch: uploads.Batch, future: Future[Any]) -> None:
        """Remove the files of a durable task when it has ended here, unless it may run again."""
        this, id = weakref.ref(self), future.id

        def ended(_: Future[Any]) -> None:
            store = this()
            # Without the journal, nobody knows whether it has ended.
            if store is not None and store.is_there:
                with contextlib.suppress(JournalUnavailable):
                    store._release(batch, id)  # noqa: SLF001

        future.add_done_callback(ended)

    def _release(self, batch: uploads.Batch, id: str) -> bool:
        """Remove the files of a task if it does not run again; whether the journal has the task."""
        row = self._opened().view(id)
        if row is not None and (is_gone(row) or row["state"] in {"finished", "cancelled"}):
            batch.remove()
        return row is not None

    def _sweep(self) -> None:
        """Remove the uploads of durable tasks that do not run again; log what is in the way."""
        self._swept = time.monotonic()
        try:
            for batch, id, made in uploads.lasting(self._files):
                known = id is not None and self._release(batch, id)
                # It may be about to be submitted.
                if not known and time.time() - made > _SUBMITTING:
                    batch.remove()
        except Exception:
            _log.exception("the uploads of durable tasks in %r are not looked through", self._files)

    def before_permits(self, prefix: str) -> None:
        """Open the journal for plain tasks whose limits hold on the machine.

        `prefix` is that of the app's settings. Raises as `submit`, and ValueError without the
        setting `JOURNAL`.
        """
        if self._settings.mode != "threads":
            return
        if self._settings.journal is None:
            # A file that is there without the setting could be seen by some processes alone.
            raise ValueError(
                f"the option 'scope' is 'machine', but without a journal no process knows of the"
                f" others: set {prefix}JOURNAL to True, or to the path of a file"
            )
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._opened()

    def watch_outbox(self) -> None:
        """Look for tasks that were submitted with a transaction and not carried over, if any are.

        In a process that runs durable tasks.
        """
        known = sys.modules.get(f"{__package__}.outbox")
        is_used = self._settings.outbox is not None or (known is not None and known.tables)
        if is_used and self._claimant == os.getpid():
            self._outbox().watch()

    def _outbox(self) -> "Outbox":
        found = self._outboxes.get(None)
        if found is not None:
            return found
        # With SQLAlchemy, which the app need not have.
        from flask_delay.journal.outbox import Outbox  # noqa: PLC0415

        this = weakref.ref(self)

        def journal() -> _Journal:
            store = this()
            if store is None or store._closed:  # noqa: SLF001
                raise JournalUnavailable("the journal is closed")
            return store._opened()  # noqa: SLF001

        made = Outbox(
            journal,
            self._executor,
            app=self._app,
            space=self._space,
            folder=self.path.parent,
            url=self._settings.outbox,
        )
        # The second caller drops its own, which has no thread yet.
        return self._outboxes.setdefault(None, made)

    def submit_many(
        self,
        chosen: Chosen,
        backend: Backend | None,
        fn: Callable[..., Any],
        calls: Iterable[Sequence[Any]],
    ) -> Iterator[Future[Any]]:
        """Accept a task for each tuple of arguments, some hundred in one commit.

        If one is refused, or the iterable raises, those before it are accepted. Raises as `submit`.
        """
        if "within" in chosen.given:
            # The transaction is one commit.
            for it in calls:
                yield self.submit(chosen, backend, fn, *it)
            return
        order = self.order(chosen, backend, fn)
        journal = self._accepting()
        rest = iter(calls)
        fault: BaseException | None = None
        while fault is None:
            batch: list[tuple[Any, ...]] = []
            try:
                batch.extend(tuple(it) for it in islice(rest, _BATCH))
            except BaseException as error:
                fault = error
            if not batch and fault is None:
                return
            yield from self._submit_all(journal, [(*order, it, {}, None) for it in batch])
        raise fault

    def submit_chain(
        self, backend: Backend | None, first: Step, steps: Iterable[Step]
    ) -> Future[Any]:
        """Accept a task and those that follow it in one commit, or none; the last one's future.

        Raises as `submit`, and ValueError for a step that is not durable.
        """
        chosen, fn, args, kwargs = first
        if "within" in chosen.given:
            raise ValueError(
                f"the option 'within' of {task_name(fn)!r} is not for the tasks of a chain: have a"
                f" task with it submit the chain"
            )
        calls: list[Any] = [(*self.order(chosen, backend, fn), args, kwargs, None)]
        for chosen, fn, args, kwargs in steps:
            if not self.makes_durable(chosen):
                raise ValueError(
                    f"{task_name(fn)!r} is not durable, so it cannot follow a task which is: it"
                    f" would be lost with this process; give it @task(durable=True)"
                )
            refuse_sessions(chosen.given)
            order = self.order(chosen, self._backend_for(chosen), fn)
            calls.append((*order, args, kwargs, ("success", None)))
        return self._submit_all(self._accepting(), calls)[-1]

    def follow(
        self,
        chosen: Chosen,
        backend: Backend | None,
        future: Future[Any],
        on: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Accept a task that follows another one. Raises as `submit` and `Future.then`."""
        refuse_sessions(chosen.given)
        order = self.order(chosen, backend, fn)
        calls = [(*order, args, kwargs, (on, future.id))]
        return self._submit_all(self._accepting(), calls)[0]

    def has(self, future: Future[Any]) -> bool:
        """Whether the future is that of a durable task of this journal."""
        return any(journal.has(future) for journal in self._open.values())

    def order(self, chosen: Chosen, backend: Backend | None, fn: Callable[..., Any]) -> Order:
        """What the journal needs of a task but its arguments. Raises as `submit`."""
        task = self.functions.task_of(fn)
        pool, executor, extra = _THREADS, None, self._extra(chosen, task)
        if backend is not None:
            pool, executor, fn = _PROCESSES, backend.executor, backend.step(fn)
            extra["backend"] = chosen.backend or self._settings.backend
        return Order(
            self.functions.name_of_task(task),
            pool,
            chosen.policy,
            json.dumps(extra) if extra else None,
            chosen.once,
            chosen.durable == "disk",
            executor,
            fn,
        )

    def check_call(
        self, order: Order, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Raise the error of `submit` for arguments that a task cannot have."""
        _check_call(fn, *args, **kwargs)
        _journal_encode_call(order.name, args, kwargs, self._settings.journal_max_bytes)

    def schedule(
        self, id: str, name: str, rhythm: _Rhythm, *, alone: bool, noted: bool
    ) -> _Schedule:
        """A job of the journal, whose tasks this process runs from then on if it serves.

        One that is `noted` is known to other processes before its first tick, if this one serves.
        Raises as `submit` for a file that cannot be used.
        """
        journal = self._opened()
        if self._ticker is None and self._claimant is None and not self._is_command:
            # Not at once: the app may still be being made.
            self._start_later()
        made = _Schedule(journal, id, name, rhythm, alone)
        if noted:
            self._jobs.append(made)
            if self._claimant == os.getpid():
                self._note_jobs()
        return made

    def _note_jobs(self) -> None:
        """Tell the journal of the jobs of this process, which has begun to claim tasks."""
        with contextlib.suppress(IndexError):
            while True:
                self._jobs.pop().note()

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that the journal has, see `_Schedule.state`. Raises JournalUnavailable."""
        return self._journal().jobs() if self.is_there else []

    def before_submit(self) -> _Journal:
        """The journal, from which this process claims tasks if it serves.

        A command logs if no process does. Raises JournalUnavailable.
        """
        journal = self._journal()
        if self._is_command:
            self._warn_if_alone(journal)
        return journal

    def _accepting(self) -> _Journal:
        """The journal, for a submit."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self.before_submit()

    @staticmethod
    def _submit_all(journal: _Journal, calls: list[Any]) -> list[Future[Any]]:
        try:
            return journal.submit_all(calls)
        except TypeError:
            # As in `submit`.
            for *_, args, kwargs, _before in calls:
                for value in (*args, *kwargs.values()):
                    context.check(value)
            raise

    def _backend_for(self, chosen: Chosen) -> Backend | None:
        """Where a step of a chain runs, if not on threads. Raises ValueError if it cannot."""
        name = chosen.backend or self._settings.backend
        if chosen.durable is None:
            refuse_undurable(chosen.given, name)
        find = self._backend()
        if find is None or name in {table.THREADS, role.works_for()}:
            return None
        return find(name)

    def makes_durable(self, chosen: Chosen) -> bool:
        """Whether a task with these options is durable."""
        # The setting is not for jobs, which may be of any function.
        if chosen.plan is not None:
            return bool(chosen.durable)
        return self._settings.durable if chosen.durable is None else bool(chosen.durable)

    def carrying(self, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        """A function that submits a task with the arguments as the journal would return them.

        For tests, which have no journal. Raises as `submit` for the function and the arguments.
        """

        def submit_carried(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if uploads.found(args, kwargs):
                # The others as above.
                self._carried(fn, *uploads.without(args, kwargs))
                return submit(fn, *args, **kwargs)
            args, kwargs = self._carried(fn, args, kwargs)
            return submit(fn, *args, **kwargs)

        return submit_carried

    def carrying_step(self, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        """As `carrying`, for a function that adds a follower."""

        def follow_carried(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            args, kwargs = self._carried(fn, args, kwargs)
            return submit(partial(fn, *args, **kwargs) if args or kwargs else fn)

        return follow_carried

    def _carried(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = self.functions.name_of(fn)
        for value in (*args, *kwargs.values()):
            context.check(value)
        text = _journal_encode_call(name, args, kwargs, self._settings.journal_max_bytes)
        args, named = _journal_decode_call(text)
        return args, named or {}

    def revive(
        self, name: str, options: str | None
    ) -> tuple[Callable[..., Any], _Policy | None, Executor | None]:
        """What runs a task of the journal: its function, its policy and another executor.

        Raises LookupError for a function that this process does not have.
        """
        task = self.functions.find(name)
        own = task._chosen.given  # noqa: SLF001
        values = {key: own[key] for key in _RUNNING if key in own}
        if "retry" in values:
            values["retry"] = as_retry(values["retry"])
        try:
            stored = {} if options is None else dict(json.loads(options))
            values |= self._read(stored)
            notes = stored.get("uploads")
            fn = self._opening(task.__wrapped__, notes) if notes else task.__wrapped__
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            why = f"the task's options cannot be read: {options}"
            raise LookupError(why[:_LONGEST]) from None
        policy = _Policy(**values) if values else None
        if "backend" not in stored:
            return fn, policy, None
        backend = self._backend_of(stored["backend"])
        return backend.step(fn), policy, backend.executor

    def get(self, id: str) -> Future[Any] | None:
        """A future of the task with this id, in whichever process it is; None for an unknown id.

        Raises JournalUnavailable.
        """
        return self._journal().get(id) if self.is_there else None

    def row(self, id: str) -> dict[str, Any] | None:
        """What the journal has of a task; None for an unknown id. Raises JournalUnavailable."""
        return self._journal().view(id) if self.is_there else None

    def _exception(self, text: str) -> BaseException:
        return errors.decoded(text, self.functions.main)

    def is_gone(self, id: str) -> bool:
        """Whether the task with this id ended, and was forgotten. Raises JournalUnavailable."""
        return is_gone(self.row(id))

    @staticmethod
    def held(
        future: Future[Any],
    ) -> tuple[Literal["limit", "rate"], str, datetime | None] | None:
        """What holds up a plain task whose limits hold on the machine: see `TaskView`.

        Raises JournalUnavailable.
        """
        told = _Journal.held(future)
        lane = lane_of(told)
        if told is None or lane is None:
            return None
        held_by, reason = lane.obstacle
        return held_by, reason, moment(told["until"]) if held_by == "rate" else None

    def view(self, row: Mapping[str, Any], future: Future[Any] | None) -> TaskView:
        """The state of a task from its row, and from a future of it in this process."""
        error = result = unkept = None
        if row["state"] in {"failed", "dead"}:
            error = self._exception(row["error"] or "")
        elif row["result"] is not None:
            try:
                result = _journal_decode(row["result"], self._exception)
            except ValueError:
                # Written by something else than a journal.
                unkept = "readable text"
        elif row["unkept"] is not None:
            result, unkept = _unkept(row["unkept"], future)
        known = None if future is None else future.progress
        lane, terms = (
            lane_of(row["lane"]),
            terms_of(self.functions, row["function"], row["options"]),
        )
        held_by, reason, due = None, row["reason"], row["due"]
        if lane is not None and row["is_held"]:
            held_by, reason = lane.obstacle
            due = row["lane"]["until"] if held_by == "rate" else None
        began = moment(row["attempt_began"])
        deadline = None
        if row["state"] == "running" and began is not None and terms.timeout is not None:
            deadline = began + timedelta(seconds=min(terms.timeout, _FOREVER))
        return TaskView(
            id=row["id"],
            name=row["name"],
            state=row["state"],
            progress=_progress(row["progress"] if known is None else known),
            attempts=row["attempts"],
            enqueued_at=moment(row["submitted_at"]),
            started_at=moment(row["began"]),
            finished_at=moment(row["ended"]),
            error=error,
            result=result,
            deaths=None if row["plain"] else row["deaths"],
            reason=reason,
            due=moment(due),
            is_paused=row["is_paused"],
            held_by=held_by,
            after=_before(row),
            unkept=unkept,
            arguments=arguments_of(row["arguments"]),
            pid=row["pid"],
            deadline=deadline,
            most_attempts=None if row["plain"] else terms.most_attempts,
            priority=terms.priority,
            lane=lane,
        )

    def tasks(
        self, states: Sequence[str], name: str | None, limit: int, before: str | None
    ) -> list[TaskView]:
        """Up to `limit` tasks, newest first: in one of the states, or in any without one.

        See `Delay.tasks`, also for errors.
        """
        if not self.is_there:
            return []
        journal = self._journal()
        names = None if name is None else self.functions.meant(name, journal.names())
        rows = journal.rows(states, names, limit, before)
        if rows is None:
            raise LookupError(f"there is no task {before!r} to list those from before it")
        return [self.view(row, None) for row in rows]

    def listed(
        self,
        kind: ListKind,
        names: Sequence[str] | None,
        limit: int,
        classes: Sequence[str] | None = None,
        before: End | None = None,
        *,
        arguments: bool = False,
    ) -> list[Listed]:
        """Up to `limit` tasks of a list, see `_Journal.listed`, without their results."""
        if not self.is_there:
            return []
        rows = self._journal().listed(
            kind, names, limit, classes=classes, before=before, arguments=arguments
        )
        return [Listed(self.view(row, None), End(row["ended"] or 0, row["place"])) for row in rows]

    def newest(self, names: Sequence[str], limit: int) -> list[TaskView]:
        """The last `limit` tasks of functions with these registered names."""
        rows = self._journal().rows([], names, limit, None) if self.is_there else None
        return [self.view(row, None) for row in rows or ()]

    def classes(
        self, names: Sequence[str] | None, since: int
    ) -> list[tuple[str | None, int, datetime | None]]:
        """The last failures by classes, see `_Journal.classes`."""
        if not self.is_there:
            return []
        found = self._journal().classes(names, since)
        return [(name, count, moment(last)) for name, count, last in found]

    def lacking(self, ids: Sequence[str]) -> Sequence[str]:
        """Those of the ids that no task in the journal has or has had."""
        return self._journal().lacking(ids) if ids and self.is_there else ids

    def names_of(self, name: str) -> list[str]:
        """The registered names that a name stands for, with or without its module; [] for none."""
        stored = self._journal().names() if self.is_there else ()
        return self.functions.known_as(name, stored)

    def version(self) -> tuple[int, int, int] | None:
        """What changes with each commit to the journal, in this process; None without a journal."""
        return self._journal().version() if self.is_there else None

    def retry(self, id: str) -> Future[Any]:
        """Have a task that failed run again. See `Delay.retry`."""
        outcome, twin = self._journal().retry(id) if self.is_there else ("unknown", None)
        if outcome == "retried":
            future = self.get(id)
            if future is not None:
                return future
        if outcome == "twin":
            raise DuplicateTask(
                f"the task {id} is not run again, since another one with the same key has not"
                f" ended: {twin}"
            )
        if outcome == "follows":
            before = f", {twin}," if twin else ""
            raise ValueError(
                f"the task {id} has never begun, since the one before it{before} had no result for"
                f" it: only that one can run again, and this one follows then"
            )
        if outcome in STATES:
            raise ValueError(f"only a task that failed can run again, and {id} is {outcome}")
        raise (ValueError if outcome == "plain" else LookupError)(_NOT_RETRIED[outcome].format(id))

    def links(self, id: str) -> tuple[list[Link], list[Link]]:
        """The tasks that the one with this id follows, and those that follow it.

        Raises JournalUnavailable.
        """
        if not self.is_there:
            return [], []
        before, after = (
            [Link(id, name.rpartition(".")[2]) for id, name in found]
            for found in self._journal().links(id)
        )
        return before, after

    def claimed(self, id: str) -> Future[Any] | None:
        """The durable task with this id, if this process runs it or is about to."""
        journal = self._open.get(None)
        return None if journal is None else journal.claimed(id)

    def others(self) -> tuple[list[Shown], list[int]]:
        """The plain tasks of the other processes of the app; and the processes that do not answer.

        Waits at most `_ANSWER` seconds for them. Raises JournalUnavailable.
        """
        journal, found, silent = self.shared(), list[Shown](), list[int]()
        for pid, text in () if journal is None else journal.others(_ANSWER):
            try:
                shown = others.decoded(self._space, pid, text or "")
            except ValueError:
                # No answer, or one that something else than a journal has written.
                silent.append(pid)
            else:
                found += () if shown is None else (shown,)
        return found, silent

    def command(
        self,
        verb: str,
        target: str,
        actor: str | None,
        *,
        is_task: bool,
        patience: float = PATIENCE,
    ) -> Outcome:
        """Ask the process that has a task or a job to do something with it.

        Waits at most `patience` seconds for the answer. Raises JournalUnavailable.
        """
        found, text = self._journal().command(verb, target, actor, is_task, patience)
        match found:
            case "done":
                return decoded(text or "")
            case "asked":
                return Outcome(202, "Its process was asked, and has not answered yet.")
            case "gone":
                return Outcome(409, "Its process has gone.")
            case "not running":
                is_over = text in {*FORGETTABLE, "dead"}
                return (
                    ended(verb)
                    if is_over
                    else Outcome(409, f"The task does not run: it is {text}.")
                )
            case "here":
                return Outcome(409, "The task has just begun in this process. Ask again.")
        return Outcome(404, "No process has it.")

    def pause(self, name: str | None) -> None:
        """Start no tasks of the function, or none at all. See `Delay.pause`."""
        journal = self._required()
        for it in self._meant(journal, name):
            journal.pause(it)

    def resume(self, name: str | None) -> None:
        """End a pause. See `Delay.resume`."""
        journal = self._required()
        for it in self._meant(journal, name):
            journal.resume(it)

    def paused(self) -> list[str | None]:
        """The names of the functions that are paused; None among them: all are."""
        return self._journal().paused() if self.is_there else []

    def prune(self, older_than: float, state: str | None, name: str | None) -> int:
        """Forget tasks that ended so many seconds ago. See `Delay.prune`."""
        if not self.is_there:
            return 0
        journal = self._journal()
        names = None if name is None else self.functions.meant(name, journal.names())
        states = FORGETTABLE if state is None else (state,)
        return journal.prune(states, names, int(max(time.time() - older_than, 0) * 1e6))

    def _required(self) -> _Journal:
        """The journal, which is made if there is none."""
        if self._settings.mode != "threads":
            raise RuntimeError(f"there is no journal while the mode is {self._settings.mode!r}")
        if self._closed:
            raise RuntimeError("the journal cannot be used after shutdown")
        return self._journal()

    def _meant(self, journal: _Journal, name: str | None) -> list[str | None]:
        if name is None:
            return [None]
        return [*self.functions.meant(name, journal.names())]

    def adopt(self, executor: Executor) -> None:
        """Have the journal know the plain tasks of another executor of this process."""
        self._adopted.append(executor)
        if (journal := self._open.get(None)) is not None:
            journal.adopt(executor)

    def record(self, about: str) -> None:
        """Note from now on what happens to tasks, for pages. `about` is JSON: see `workers`."""
        self._about = about
        if (journal := self._open.get(None)) is not None:
            journal.record(about)

    def shared(self) -> _Journal | None:
        """The journal if it has what all processes do: pages read it. Raises JournalUnavailable."""
        if self._settings.journal is None or not self.is_there:
            return None
        return self._journal()

    def note(self, id: str, verb: str, actor: str | None) -> None:
        """Add what somebody did to a task to its events, which every process shows.

        Nothing happens without a journal, or if that does not have the task.
        """
        if self.is_there:
            self._journal().note(id, verb, actor)

    def stats(self) -> JournalStats | None:
        """The counts of the journal, at most a second old; None without one.

        Raises JournalUnavailable.
        """
        if not self.is_there:
            return None
        now, last = time.monotonic(), self._counted
        if last is None or now - last[0] >= _COUNTED:
            counts = self._journal().stats()
            since = counts["oldest"]
            # The clock may have been set back since.
            waited = 0.0 if since is None else max(time.time() - since / 1e6, 0.0)
            self._counted = last = now, cast("JournalStats", {**counts, "oldest": waited})
            self._oldest = moment(since)
        return last[1]

    @property
    def oldest(self) -> datetime | None:
        """Since when the oldest task waits for a worker, as `stats` has found it last."""
        return self._oldest

    def _extra(self, chosen: Chosen, task: Any) -> dict[str, Any]:
        """The options that count where the task runs, and which its `@task` does not say."""
        own = task._chosen.given  # noqa: SLF001
        if chosen is task._chosen:  # noqa: SLF001
            return {}
        given: dict[str, Any] = {
            key: value
            for key, value in chosen.given.items()
            if key in _RUNNING and (key not in own or own[key] != value)
        }
        return carried(given, self.functions.main) if given else {}

    def _backend_of(self, name: object) -> Backend:
        find = self._backend()
        try:
            if find is None or not base.kind(table.read(name)).runs_durable:
                raise ValueError  # noqa: TRY301 (as for an unknown one)
        except (TypeError, ValueError):
            raise LookupError(f"no backend {name!r} runs the task here"[:_LONGEST]) from None
        return find(table.read(name))

    def _read(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `_extra` for a policy. KeyError for one that this code does not know."""
        if unknown := stored.keys() - {*_RUNNING, "backend", "uploads"}:
            raise KeyError(*unknown)
        values = {
            key: KNOWN[key].parse(stored[key]) for key in ("priority", "timeout") if key in stored
        }
        if "retry" in stored:
            values["retry"] = CarriedRetry(stored["retry"], self.functions.main)
        return values

    def _warn_if_alone(self, journal: _Journal) -> None:
        """Log once that no process runs the tasks that this one submits."""
        if not self._warned:
            self._warned = True
            if journal.stats()["processes"] == 0:
                _log.warning(
                    "durable tasks of this process wait until another one runs them: none that"
                    " serves the app is alive"
                )


_NOT_RETRIED = {
    "plain": "the task {} is not durable, so the journal does not have its arguments",
    "gone": "the task {} ended, and was forgotten",
    "unknown": "there is no task {} in the journal",
    "retried": "the task {} was forgotten at once",
}


def _shown(this: weakref.ref[Store]) -> str | None:
    """The plain tasks of this process as text."""
    store = this()
    find = None if store is None else store._commands()  # noqa: SLF001
    if store is None or find is None:
        return None
    return others.encoded(store._space, find().show())  # noqa: SLF001


def has_begun_again(row: Mapping[str, Any] | None, future: Future[Any]) -> bool:
    """Whether the durable task of this row was retried by hand after the future's end."""
    if row is None or row["plain"] or not future.done():
        return False
    return row["ended"] is None or row["attempts"] != future.attempts


def is_gone(row: Mapping[str, Any] | None) -> bool:
    """Whether the row is that of a task which was forgotten."""
    return row is not None and row["state"] == "gone"


def _unkept(kind: str, future: Future[Any] | None) -> tuple[Any, str | None]:
    """The result that the journal does not have, or else its type."""
    # The future may have ended otherwise, before the task was retried or its row changed.
    with contextlib.suppress(ResultNotKept, CancelledError):
        if future is not None and future.done() and future.exception() is None:
            return future.result(), None
    return None, kind


def _before(row: Mapping[str, Any]) -> Before | None:
    """The task that the one of the row waits for."""
    if row["after"] is None:
        return None
    name, id = row["after"]
    return Before(id, name.rpartition(".")[2], row["waiting_for"] - 1)


def _progress(told: Any) -> Any:
    """The progress of a row, unless something else than a journal has written it."""
    return told if told is None or all(map(math.isfinite, (told[0], told[1] or 0))) else None


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def learn() -> None:
    """Have all journals of this process know the functions that are decorated by now."""
    for store in list(_stores):
        store.learn()


def watch_outboxes() -> None:
    """Have all journals of this process look into the outboxes that are known by now."""
    for store in list(_stores):
        store.watch_outbox()


def _stop() -> None:
    for store in list(_stores):
        store.stop()


def _continue_forked() -> None:
    for store in list(_stores):
        store.continue_forked()


role.after_fork(_continue_forked)
