"""The pools for tasks: that of a `Delay` on an app, or that of the process."""

import functools
import json
import platform
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from flask import Flask

from flask_delay import config, context, uploads
from flask_delay._native import DuplicateTask, Executor, Future, _scoped_executor
from flask_delay.backends import base, table
from flask_delay.backends.base import Backend
from flask_delay.journal import commands, store
from flask_delay.journal import settings as journal_settings
from flask_delay.journal.commands import OF_JOBS, Commands, Outcome
from flask_delay.journal.periodic import DurableLead, JournalLead
from flask_delay.journal.store import Store
from flask_delay.observe import signals, stats
from flask_delay.observe.others import Shown
from flask_delay.observe.stats import Stats
from flask_delay.observe.view import TaskView, view_of
from flask_delay.options import (
    NONE,
    Chosen,
    follower,
    refuse_lasting,
    refuse_undurable,
    submitter,
    watched,
)
from flask_delay.periodic.job import Jobs
from flask_delay.servers import role

DEFAULT_NAME = "delay"
"""Of the `Delay` that the functions of the package use."""

# Seconds until another process has told the journal of a task whose id was just asked for.
_JUST_NOW = 0.05
# Seconds to wait until another process has told it of a task that a page shows.
_SOON = 0.1


class Owner(Protocol):
    """The part of a `Delay` that this module needs."""

    name: str
    prefix: str

    def _default_callbacks(self) -> tuple[Callable[[Future[Any]], object], ...]:
        """The default callbacks of all its tasks."""


def make_executor(
    app: Flask,
    settings: config.Config,
    *,
    max_workers: int | None,
    name: str,
    files: uploads.Uploads | None = None,
    step: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    late_start: bool = False,
) -> Executor:
    """Make a pool with the app's settings, which starts no thread yet.

    With `files`, uploads may be arguments. With `step`, a task that follows one of its tasks calls
    `step(fn)`. With `late_start`, a task starts its clock itself: see `Future._begin`.
    """
    return _scoped_executor(
        max_workers=max_workers,
        thread_name_prefix=name,
        # Weak: the app owns the pool, and is freed with its last reference. Tasks keep the app.
        scope=weakref.WeakMethod(context.scope(app)),
        hidden=context.hidden_variables(),
        reject_types=context.reject_types,
        reject=context.reject,
        uploads=None if files is None else files.submit,
        log_failures=settings.log_failures,
        shutdown_timeout=settings.shutdown_timeout,
        result_limit=settings.result_limit,
        stream_items=settings.stream_items,
        stream_bytes=settings.stream_bytes,
        switch_interval=settings.switch_interval,
        mode=settings.mode,
        queue_size=settings.queue_size,
        when_full=settings.when_full,
        block_timeout=settings.block_timeout,
        signals=signals.senders(app),
        step=step,
        late_start=late_start,
    )


def uploads_of(app: Flask, name: str, settings: config.Config) -> uploads.Uploads:
    """The uploads of the tasks of the `Delay` of this name. Makes no folder yet.

    Raises ValueError if nothing can be written in the folder that the settings name.
    """
    given, prefix = settings.upload_dir, f"{name.upper()}_"
    folder = journal_settings.path_of(app, name, settings).parent / "uploads"
    found = uploads.Uploads(
        folder if given is None else Path(app.instance_path) / given,
        settings.upload_max_bytes,
        prefix,
    )
    problem = None if given is None else found.problem()
    if problem is not None:
        raise ValueError(f"{prefix}UPLOAD_DIR is {given!r}, but {problem}")
    return found


class State:
    """The state of one `Delay` on one app, in `app.extensions`."""

    __slots__ = (
        "__weakref__",
        "_app",
        "_backends",
        "_is_recorded",
        "_is_watched",
        "config",
        "executor",
        "jobs",
        "owner",
        "store",
        "submit",
        "uploads",
    )

    def __init__(
        self,
        owner: "Owner",
        settings: config.Config,
        executor: Executor,
        app: Flask,
        files: uploads.Uploads,
    ) -> None:
        self.owner = owner
        self.config = settings
        self.executor = executor
        self.uploads = files
        # Weak, as in the pool.
        self._app = weakref.ref(app)
        # No lock: each access is atomic, and a fork finds nothing half done.
        self._backends: dict[str, Backend] = {}
        self._is_recorded = self._is_watched = False
        self.store = Store(
            owner.name,
            settings,
            app,
            executor,
            files,
            backend=weakref.WeakMethod(self.backend),
            commands=weakref.WeakMethod(self._found_commands),
        )
        self.jobs = Jobs(
            executor,
            folder=Path(app.instance_path) / (settings.jobs_folder or owner.name),
            owner=f"{app.name} {owner.name} ",
            remedy=f"give that user the folder, or set {owner.prefix}JOBS_FOLDER to one of his",
            active=settings.mode == "threads",
            check=context.check,
            # A file that is there without the setting could be seen by some processes alone.
            journal=None
            if settings.journal is None
            else functools.partial(JournalLead, self.store),
        )
        # Bound once, since every task passes through here.
        self.submit: Callable[..., Future[Any]] = executor.submit
        if settings.durable or self._is_elsewhere(settings.backend):
            self.submit = self._submit_as_set
        if self._is_elsewhere(settings.backend):
            # Missing packages and settings are reported where the app is made.
            base.kind(settings.backend)
        self.store.begin()
        if any(is_shown(app) for is_shown in watchers):
            self.watch()
        _states.add(self)

    @property
    def app(self) -> Flask:
        """The app that owns this. RuntimeError if it is gone."""
        app = self._app()
        if app is None:
            raise RuntimeError(f"the app of the Delay {self.owner.name!r} is gone")
        return app

    def find(
        self, chosen: Chosen, future: Future[Any] | None = None, on: str = "success"
    ) -> Callable[..., Any]:
        """The function that submits with these options or, with a future, adds a follower to it.

        Raises as `submitter`, as `follower`, as a backend, and ValueError for options that are not
        for durable tasks.
        """
        name = chosen.backend or self.config.backend
        is_first = future is None or future._is_durable()  # noqa: SLF001
        is_durable = is_first and self.store.makes_durable(chosen)
        # What a task says itself was checked where it was said.
        if is_durable and (chosen.durable is None or name not in {chosen.backend, table.THREADS}):
            self._check_durable(chosen, name)
        backend = self.backend(name) if self._is_elsewhere(name) else None
        if chosen.id is not None:
            self._require_free(chosen.id)
        if is_durable:
            return self._find_durable(chosen, backend, future, on)
        if future is None:
            refuse_lasting(chosen.given)
            submit = submitter(chosen, self.jobs, self.app, backend)
        else:
            submit = follower(
                chosen, future, self.app, executor=self.executor, backend=backend, on=on
            )
        if chosen.on_machine:
            self.store.before_permits(self.owner.prefix)
        return submit

    def _check_durable(self, chosen: Chosen, backend: str) -> None:
        key = f"{self.owner.prefix}DURABLE"
        try:
            refuse_undurable(chosen.given, backend)
        except ValueError as error:
            if chosen.durable is not None:
                raise
            raise ValueError(f"{error} ({key} makes it durable)") from None

    def _find_durable(
        self, chosen: Chosen, backend: Backend | None, future: Future[Any] | None, on: str
    ) -> Callable[..., Any]:
        if self.config.mode == "threads":
            submit: Callable[..., Any] = store.Submit(self.store.submit, chosen, backend)
            if future is not None:
                submit = functools.partial(self.store.follow, chosen, backend, future, on)
            if chosen.plan is not None:
                lead = functools.partial(DurableLead, self.store, chosen, backend)
                return functools.partial(self.jobs.start, chosen.plan._replace(lead=lead), submit)
            return watched(submit, chosen.given)
        chosen = chosen.keeping(self.config.journal_max_bytes)
        if future is None:
            return self.store.carrying(submitter(chosen, self.jobs, self.app))
        return self.store.carrying_step(follower(chosen, future, self.app, on=on))

    def _require_free(self, id: str) -> None:
        """Raise DuplicateTask if another pool has a task with this id; a pool checks its own."""
        if self._backends and self._known(id) is not None:
            raise DuplicateTask(
                f"there is a task with the id {id!r} already: each needs one of its own, until the"
                f" task has been forgotten"
            )

    def backend(self, name: str) -> Backend:
        """The backend of this name, made at first use. Raises as its class."""
        found = self._backends.get(name)
        if found is None:
            made = base.kind(name)(self.owner.name, self.config, self.app)
            if made.executor is not None:
                for callback in self.owner._default_callbacks():
                    made.executor.add_default_done_callback(callback)
            found = self._backends.setdefault(name, made)
            if made.executor is not None:
                if found is made and made.runs_durable:
                    self.store.adopt(made.executor)
                if self._is_recorded:
                    made.executor._sample()  # noqa: SLF001
                if self._is_watched:
                    made.executor._record()  # noqa: SLF001
        return found

    def watch(self) -> None:
        """Record what happens to the tasks of all pools from now on, for the lists of a page."""
        self._is_watched = True
        for executor in self.executors():
            executor._record()  # noqa: SLF001

    def record(self, server: str = "") -> None:
        """Take samples of all pools from now on, and note what happens to tasks, for a page.

        `server` is what serves the app in this process, once that is known.
        """
        self._is_recorded = True
        for executor in self.executors():
            executor._sample()  # noqa: SLF001
        about = {"host": platform.node(), "server": server, "python": platform.python_version()}
        self.store.record(json.dumps(about))

    def pools(self) -> list[tuple[str, Executor]]:
        """All pools of its tasks, with the names of their backends; its own pool is first."""
        others = [(name, backend.executor) for name, backend in list(self._backends.items())]
        return [
            (table.THREADS, self.executor),
            *((name, other) for name, other in others if other is not None),
        ]

    def executors(self) -> list[Executor]:
        """The pools without the names."""
        return [executor for _, executor in self.pools()]

    def get(self, id: str) -> Future[Any] | None:
        """The future of the task with this id, or None. See `Delay.get`."""
        known = self._known(id)
        if known is not None:
            row = self.store.row(id) if known.done() else None
            # What was pruned is gone, whatever futures there are.
            if store.is_gone(row):
                return None
            if not store.has_begun_again(row, known):
                return known
        found = self.store.get(id)
        if found is None:
            others = (backend.find(id) for backend in self._shared())
            found = next((future for future in others if future is not None), None)
        return found

    def view(self, id: str) -> TaskView | None:
        """The state of the task with this id; None for an unknown or forgotten id.

        Raises as `get`.
        """
        found = self.look(id)
        if found is None and self.store.is_there and not self.is_gone(id):
            time.sleep(_JUST_NOW)
            found = self.look(id)
        return found

    def look(self, id: str) -> TaskView | None:
        """As `view`, of a task that another process need not have told of just now."""
        known, row = self._known(id), self.store.row(id)
        if store.is_gone(row):
            return None
        if known is not None and store.has_begun_again(row, known):
            known = None
        # A process knows more of its own plain tasks than the journal.
        is_plain = row is None or row["plain"]
        view = self.held(view_of(known), known) if known is not None and is_plain else None
        if view is None and row is not None:
            view = self.store.view(row, known)
        if view is None:
            others = (backend.view(id) for backend in self._shared())
            view = next((view for view in others if view is not None), None)
        return view

    def held(self, view: TaskView | None, future: Future[Any]) -> TaskView | None:
        """The view of a task of this process, with what the journal says of a plain one."""
        if view is None or view.state != "pending":
            return view
        held = self.store.held(future)
        if held is None:
            return view
        held_by, reason, due = held
        return replace(view, held_by=held_by, reason=reason, due=due)

    def knows(self, id: str) -> bool:
        """Whether a task of this process has the id, and the id was asked for."""
        return self._known(id) is not None

    def place_of(self, future: Future[Any]) -> str | None:
        """The name of the backend that runs a task of this process."""
        id = future.id
        return next((name for name, it in self.pools() if it._get(id) is future), None)

    def act(self, verb: str, target: str, actor: str | None) -> Outcome:
        """Stop, cancel or look at a task, or run or pause a job, in whichever process has it.

        Raises as `get`.
        """
        done = self._found_commands().act(verb, target)
        if done is not None:
            return done
        row = None if verb in OF_JOBS else self.store.row(target)
        is_with_another = row is not None and row["plain"]
        if verb in {"stop", "cancel"} and not (verb == "cancel" and is_with_another):
            # The journal, or a broker, reaches it.
            future = self.get(target)
            if future is not None:
                return commands.with_task(verb, future)
        if not self.store.is_there or store.is_gone(row):
            return Outcome(404)
        return self.store.command(verb, target, actor, is_task=verb not in OF_JOBS)

    def _found_commands(self) -> Commands:
        """What does what this process or another one asks."""
        return Commands(self._has, self._stack, self.jobs, self.show)

    def publish(self, id: str) -> bool:
        """Have the journal know a plain task of another process from now on; whether it does.

        Raises as `get`.
        """
        if self.config.journal is None or not self.store.is_there:
            return False
        done = self.store.command("publish", id, None, is_task=True, patience=_SOON)
        return done.status == 200  # noqa: PLR2004 (OK)

    def show(self) -> Shown:
        """The plain tasks of this process; without a page only how many wait."""
        counts = [executor._now() for executor in self.executors()]
        queued, held = (sum(it[key] for it in counts) for key in ("queued", "held"))
        found = (show(self) for show in showers if self._is_watched)
        told = next(found, Shown())
        # A task may have gone on meanwhile.
        return told._replace(
            queued=told.queued._replace(number=max(queued, len(told.queued.tasks))),
            held=told.held._replace(number=max(held, len(told.held.tasks))),
        )

    def _has(self, id: str) -> Future[Any] | None:
        """The task with this id, if this process has it."""
        found = self._known(id)
        if found is None:
            found = next((it for find in finders if (it := find(self, id)) is not None), None)
        if found is not None and not found._is_durable():  # noqa: SLF001
            return found
        # Of a durable task, and of a plain one of another process, it may be a handle.
        return self.store.claimed(id)

    def _stack(self, future: Future[Any]) -> Outcome:
        place = self.place_of(future)
        if place is None or place == table.THREADS:
            return commands.stack_here(future)
        try:
            return Outcome(200, value=commands.cut(self.backend(place).stack(future)))
        except LookupError as error:
            return Outcome(409, str(error))

    def stats(self) -> Stats:
        """The current counts and the outcomes of the tasks of this process."""
        own, *others = ((name, cast("Stats", it.stats())) for name, it in self.pools())
        return functools.reduce(lambda sum_, it: stats.added(sum_, it[1], it[0]), others, own[1])

    def _known(self, id: str) -> Future[Any] | None:
        """The future of a task of this process."""
        found = (executor._get(id) for executor in self.executors())
        return next((future for future in found if future is not None), None)

    def _shared(self) -> Iterator[Backend]:
        """The configured backends that know the tasks of other processes.

        This process need not have submitted to them.
        """
        for name in table.used() if self.config.mode == "threads" else ():
            if not base.kind(name).is_shared:
                continue
            try:
                backend = self.backend(name)
            except ValueError:
                # It is for another Delay: this one has no settings for it.
                continue
            yield backend

    def is_gone(self, id: str) -> bool:
        """Whether the task with this id is one of the last forgotten ones."""
        return self.store.is_gone(id) or any(it._is_gone(id) for it in self.executors())

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Accept no more tasks, here and in backends. See `Delay.shutdown`."""
        self.jobs.cancel()
        self.store.stop()
        for backend in list(self._backends.values()):
            backend.shutdown(wait, cancel_futures=cancel_futures)
        self.executor.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            # Not before: the ends of tasks are stored.
            self.store.close()

    def drain(self, timeout: float | None) -> bool:
        """Wait until no task is left, here and in backends. See `Delay.drain`."""
        end = None if timeout is None else time.monotonic() + timeout
        left = timeout
        places: list[Backend | Executor] = [*self._backends.values(), self.executor]
        for place in places:
            if not place.drain(left):
                return False
            left = None if end is None else max(end - time.monotonic(), 0)
        return True

    def _is_elsewhere(self, name: str) -> bool:
        # In tests the submitting thread runs the task, whatever its backend.
        if name == role.works_for():
            return False
        return name != table.THREADS and self.config.mode == "threads"

    def _submit_as_set(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self.find(NONE)(*args, **kwargs)
        return future


finders: list[Callable[[State, str], Future[Any] | None]] = []
"""What finds tasks of this process whose ids nobody has asked for."""

watchers: list[Callable[[Flask], bool]] = []
"""What tells whether a page shows the tasks of an app, when a `Delay` is initialised on it."""

showers: list[Callable[[State], Shown]] = []
"""What tells the pages of other processes of the plain tasks of this one."""

_states: weakref.WeakSet[State] = weakref.WeakSet()


def states() -> list[State]:
    """The states of all existing apps."""
    return list(_states)


def limits() -> dict[str, float | None]:
    """The `SHUTDOWN_TIMEOUT` of each Delay of this process, by its config key."""
    return {
        f"{state.owner.prefix}SHUTDOWN_TIMEOUT": state.config.shutdown_timeout for state in _states
    }


def app_or_none() -> Flask | None:
    """The current app itself, or None."""
    try:
        return context.current()
    except RuntimeError:
        return None


def default_state(app: Flask) -> State:
    """The state of the app's `Delay` of the default name; RuntimeError if it has none."""
    state = app.extensions.get(DEFAULT_NAME)
    if isinstance(state, State):
        return state
    raise RuntimeError(not_initialised(app, DEFAULT_NAME))


def not_initialised(app: Flask, name: str) -> str:
    """The message for an app without a `Delay` of this name."""
    arguments = "app" if name == DEFAULT_NAME else f"app, name={name!r}"
    found = app.extensions.get(name)
    if found is not None and not isinstance(found, State):
        return (
            f"app {app.name!r} has another extension under the name {name!r}, a"
            f" {type(found).__name__}: give the Delay a name of its own, such as"
            f" Delay(app, name={name + '_tasks'!r})"
        )
    return (
        f"the Delay {name!r} is not initialised on app {app.name!r}; call"
        f" Delay({arguments}), or init_app(app) if there is one already"
    )


_shared: dict[str, Jobs] = {}


def shared_executor() -> Executor:
    """The executor of the whole process, made at first use."""
    return shared_jobs().executor


def shared_jobs() -> Jobs:
    """The shared executor in the form that `submitter` takes. It never has jobs."""
    jobs = _shared.get(DEFAULT_NAME)
    if jobs is None:
        # Atomic and without a lock, which a fork in another thread could leave locked; the second
        # caller drops a pool that has no threads yet.
        new = Jobs(Executor(thread_name_prefix=DEFAULT_NAME))
        jobs = _shared.setdefault(DEFAULT_NAME, new)
    return jobs


def only_state() -> State | None:
    """The state of the only app with a default `Delay`, for use without a current app.

    None if there is no such app. Raises RuntimeError if there are several.
    """
    found = {}
    for state in list(_states):
        app = state._app()  # noqa: SLF001
        # Skip a state that was removed from its app.
        if app is not None and app.extensions.get(DEFAULT_NAME) is state:
            found[app.name, id(app)] = state
    if len(found) > 1:
        names = ", ".join(repr(name) for name, _ in sorted(found))
        raise RuntimeError(
            f"several apps have a Delay ({names}), and none is current, so it is not known whose"
            f" task this would be; push one's context: with app.app_context()"
        )
    return next(iter(found.values()), None)


def meant_state() -> State | None:
    """The state of the current app's default `Delay` or, without an app, the only one's.

    None without any app. Raises RuntimeError if the current app has no Delay, and as `only_state`.
    """
    app = app_or_none()
    return only_state() if app is None else default_state(app)


def find(
    chosen: Chosen, future: Future[Any] | None = None, on: str = "success"
) -> Callable[..., Any]:
    """The function that submits to the current app's default `Delay`, or to the only one.

    Without any app, it submits to the process's pool. With a future, it adds a follower to the
    future. Raises RuntimeError as `meant_state`, and for options that need an app; otherwise as
    `submitter` and `follower`.
    """
    state = meant_state()
    if state is not None:
        return state.find(chosen, future, on)
    return _found_without_app(shared_jobs(), chosen, future, on)


def found_in(executor: Executor) -> Callable[..., Callable[..., Any]]:
    """`find` for an executor that belongs to no app."""
    return functools.partial(_found_without_app, Jobs(executor))


def _found_without_app(
    jobs: Jobs, chosen: Chosen, future: Future[Any] | None = None, on: str = "success"
) -> Callable[..., Any]:
    if chosen.plan is not None:
        raise RuntimeError(
            "a job belongs to an app, and there is none with a Delay yet: call Delay(app), or"
            " init_app(app), before it is started, or start it in the app's context"
        )
    if chosen.backend not in {None, table.THREADS}:
        raise RuntimeError(
            f"the option 'backend' is {chosen.backend!r}, which needs an app with a Delay, and"
            f" there is none: call Delay(app), or init_app(app), before"
        )
    if future is None:
        if chosen.durable:
            raise RuntimeError(
                f"the option 'durable' is {chosen.durable!r}, which needs an app with a Delay, and"
                f" there is none: call Delay(app), or init_app(app), before"
            )
        refuse_lasting(chosen.given)
        return submitter(chosen, jobs, None)
    return follower(chosen, future, on=on)


def following(
    find: Callable[..., Callable[..., Any]], chosen: Chosen, future: Future[Any], on: str
) -> Callable[..., Any]:
    """The function that adds a follower to a durable future, in its own journal.

    Without one, that which `find` finds. Raises as `State.find`.
    """
    owner = next((it for it in states() if it.store.has(future)), None)
    return (find if owner is None else owner.find)(chosen, future, on)
