"""The blueprint behind `Delay.dashboard_blueprint`: who may see a page, and what a button does."""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from flask import Blueprint, Flask, g, request, request_started, url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.wrappers import Response as AnyResponse

from flask_delay import context, rights, validators
from flask_delay._native import DuplicateTask, JournalUnavailable
from flask_delay.dashboard import answers, lists, pages, plots, polls, recorder
from flask_delay.dashboard.assets import Assets
from flask_delay.dashboard.lists import Redact
from flask_delay.dashboard.pages import Pages
from flask_delay.journal.commands import OF_JOBS, sentence
from flask_delay.observe.signals import dashboard_acted
from flask_delay.rights import Authorize
from flask_delay.state import State

_log = logging.getLogger("flask_delay.dashboard")

_HEX = re.compile(r"#[0-9a-fA-F]{6}")
# A place of the page: below its own prefix, and so on this site.
_BACK = re.compile(r"(?:[a-z][^\s\\]*)?")
# An id as tasks have it, if nobody gave them another one.
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Characters of a filter.
_LONGEST = 500


class Options(NamedTuple):
    """The arguments of `Delay.dashboard_blueprint`, checked."""

    authorize: Authorize
    title: str | None
    environment: str | None
    arguments: bool
    redact: Redact | None
    actor: Callable[[], object] | None
    poll: float


class RefusedError(Exception):
    """What was asked for cannot be done: the status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def blueprint(
    name: str,
    url_prefix: str | None,
    find: Callable[[], State],
    *,
    authorize: Any = rights.MISSING,
    title: str | None,
    environment: str | tuple[str, str] | None,
    arguments: bool,
    redact: Redact | None,
    actor: Callable[[], object] | None,
    poll: float,
) -> Blueprint:
    """Make the blueprint; see `Delay.dashboard_blueprint`. `find` is called during a request."""
    rights.check(authorize, rights.OF_DASHBOARD)
    for key, value in (("redact", redact), ("actor", actor)):
        if value is not None and not callable(value):
            raise TypeError(f"{key} must be callable or None, not {value!r}")
    seconds = validators.checked(_poll, poll, "poll", "a number of seconds from 1 to 60")
    label, style = _environment(environment)
    options = Options(authorize, title, label, arguments, redact, actor, seconds)
    made = Blueprint(name, __name__, url_prefix=url_prefix)

    def record(state: BlueprintSetupState) -> None:
        own = recorder.of(cast("Flask", state.app))
        if arguments:
            own.keep_arguments()

    made.record(record)
    made.record(_learn_server)
    _Views(find, options, Assets(style)).add_to(made)
    return made


def _learn_server(state: BlueprintSetupState) -> None:
    """Have the first request tell what serves the app, for the page of processes."""

    def served(app: Flask) -> None:
        request_started.disconnect(served, sender=app)
        for it in list(app.extensions.values()):
            if isinstance(it, State):
                it.record(_server())

    request_started.connect(served, sender=state.app, weak=False)


def _server() -> str:
    return str(request.environ.get("SERVER_SOFTWARE", ""))


def _as_data(groups: Sequence[lists.Group]) -> list[dict[str, Any]]:
    return [{"class": it.kind, "count": it.number, "last": it.last} for it in groups]


def _poll(value: object) -> float:
    seconds = validators.seconds(value)
    if not 1 <= seconds <= 60:  # noqa: PLR2004 (as the message says)
        raise ValueError
    return seconds


def _environment(given: str | tuple[str, str] | None) -> tuple[str | None, str]:
    """The text of the badge, and its style: the text has a contrast of 4.5 or more."""
    if given is None or isinstance(given, str):
        return given, ""
    try:
        text, colour = map(validators.text, given)
        if not _HEX.fullmatch(colour):
            raise ValueError  # noqa: TRY301 (as for another number of values)
    except (TypeError, ValueError):
        raise ValueError(
            f"environment is {given!r}, but must be a text, or a text and a colour such as"
            f' ("production", "#b3261e")'
        ) from None
    # The better one of the two always has enough.
    front = max("#ffffff", "#000000", key=lambda it: answers.contrast(colour, it))
    return text, f".environment{{background:{colour};color:{front};border-color:{colour}}}\n"


class _Views:
    """The views of one blueprint."""

    def __init__(self, find: Callable[[], State], options: Options, assets: Assets) -> None:
        self._find = find
        self._options = options
        self._assets = assets

    def add_to(self, made: Blueprint) -> None:
        """Add the rules. Each has the right that it needs, or None."""
        made.before_request(self._enter)
        made.register_error_handler(RefusedError, self._refused)
        made.register_error_handler(JournalUnavailable, self._unavailable)
        made.register_error_handler(ConnectionError, self._unavailable)
        made.add_url_rule("/assets/<name>", "asset", self.asset)
        for rule, endpoint, view in (
            ("/", "overview", self.overview),
            ("/running", "running", self.running),
            ("/queue", "queue", self.queue),
            ("/failed", "failed", self.failed),
            ("/finished", "finished", self.finished),
            ("/jobs", "jobs", self.jobs),
            ("/names", "names", self.names),
            ("/names/<path:name>", "name", self.name),
            ("/processes", "processes", self.processes),
            ("/tasks/<id>", "task", self.task),
            ("/tasks/<id>/stack", "stack", self.stack),
        ):
            made.add_url_rule(rule, endpoint, view)
            if endpoint != "stack":
                # What of it changes, for a page that is open.
                made.add_url_rule(f"/live{rule}", f"live_{endpoint}", self._polled(endpoint, view))
        for rule, endpoint, verb, act in (
            ("/tasks/<id>/stop", "stop", "stop", self.stop),
            ("/tasks/<id>/cancel", "cancel", "cancel", self.cancel),
            ("/tasks/<id>/retry", "retry", "retry", self.retry),
            ("/failed/retry", "retry_all", "retry", self.retry_all),
            ("/jobs/<key>/run", "run", "run", self.run),
            ("/jobs/<key>/pause", "pause_job", "pause", self.pause_job),
            ("/jobs/<key>/resume", "resume_job", "pause", self.resume_job),
            ("/names/<path:name>/pause", "pause", "pause", self.pause),
            ("/names/<path:name>/resume", "resume", "pause", self.resume),
        ):
            made.add_url_rule(rule, endpoint, _needing(verb, act), methods=["POST"])

    # --- Who may --------------------------------------------------------------------------

    def _enter(self) -> AnyResponse | None:
        authorize = self._options.authorize
        verdict: object = "read"
        if authorize is not None:
            verdict = self._app.ensure_sync(authorize)()
        try:
            found = rights.read(verdict)
        except ValueError as error:
            _log.error("the dashboard is closed: %s", error)
            found = None
        if isinstance(found, AnyResponse):
            # A page that is open would put the login into its table.
            return answers.reload() if _is_live() or answers.wants_no_page() else found
        if found is None:
            return answers.forbidden("You may not see this page.")
        if request.method not in rights.SAFE:
            why = rights.foreign(request.headers, request.host)
            if why is not None:
                return answers.forbidden(
                    f"This request was not made by a page of this site, so nothing was done: {why}."
                )
        g._delay_rights = found  # noqa: SLF001 (under a name of its own)
        return None

    @property
    def _app(self) -> Flask:
        return context.current()

    def _pages(self) -> Pages:
        state = self._find()
        own = recorder.of(self._app)
        return Pages(state, own, self._options.redact, arguments=self._options.arguments)

    # --- Answers --------------------------------------------------------------------------

    def _polled(self, page: str, view: Callable[..., AnyResponse]) -> Callable[..., AnyResponse]:
        """The view, for a page that is open: it is not made if nothing can have changed."""

        def poll(**arguments: str) -> AnyResponse:
            state, own = self._find(), recorder.of(self._app)
            key = (id(state), request.full_path, g._delay_rights, *self._visitor())  # noqa: SLF001
            tag, pulse = request.headers.get("HX-PTag"), own.polls.pulse(page, state, own.news)
            if own.polls.is_same(key, tag, pulse):
                return answers.unchanged()
            response = view(**arguments)
            tag = response.headers.get("HX-PTag", tag)
            # A process that did not answer may do so the next time, without news in the journal.
            is_whole = not g.get("_delay_silent")
            if tag is not None and is_whole and response.status_code in {200, 304}:
                own.polls.note(key, tag, pulse)
            return response

        return poll

    def _visitor(self) -> tuple[str | None, ...]:
        return () if self._options.redact is None else polls.visitor()

    def _show(self, page: str, data: dict[str, Any], status: int = 200) -> AnyResponse:
        """A page as HTML, or its data as JSON if the visitor would rather have that."""
        g._delay_silent = data.get("silent")  # noqa: SLF001
        if answers.wants_json():
            return answers.as_json({"page": page, **data}, status)
        # The process that answers is another one each time.
        told = {key: it for key, it in data.items() if key != "process"}
        tag = answers.tag_of({"rights": sorted(g._delay_rights), **told})  # noqa: SLF001
        if _is_live() and request.headers.get("HX-PTag") == tag:
            return answers.unchanged()
        state = self._find()
        frame = {
            "layout": "fragment.html" if _is_part() else "base.html",
            "live": _live(page, status),
            "tag": tag,
            "poll": self._options.poll,
            "page": page,
            "pid": os.getpid(),
            "title": self._options.title or _title(self._app, state),
            "environment": self._options.environment,
            "rights": g._delay_rights,  # noqa: SLF001
            "assets": self._assets,
            "alone": not state.store.is_there,
            "of_all": state.store.is_there and state.config.journal is not None,
            "setting": f"{state.owner.prefix}JOURNAL",
            "said": _asked(),
            "back": _here(),
        }
        if "filters" in data:
            # What a filter may be: a browser shows those that begin as what is typed.
            frame["functions"] = sorted({*map(_short, state.store.functions.names())})
        response = answers.as_html(f"{page}.html", {**frame, **data}, status)
        response.headers["HX-PTag"] = tag
        return response

    def _refused(self, error: RefusedError) -> AnyResponse:
        return self._trouble(error.status, error.why)

    def _unavailable(self, error: Exception) -> AnyResponse:
        _log.warning("the dashboard cannot be shown: %s", error)
        return self._trouble(503, f"The tasks cannot be read at the moment: {error}")

    def _trouble(self, status: int, why: str) -> AnyResponse:
        if answers.wants_json():
            return answers.as_json({"page": "trouble", "message": why}, status)
        if request.method == "POST" and answers.wants_no_page():
            return answers.told(why, status)
        return self._show("trouble", {"why": why, "status": status, "back": _asked_back()}, status)

    def _did(self, verb: str, task: str, said: str, count: int = 1) -> AnyResponse:
        """Tell everybody who did what, and send the visitor back."""
        self._note(verb, task)
        return self._return(said, count)

    def _return(self, said: str, count: int) -> AnyResponse:
        text = _said(said, count)
        if answers.wants_json():
            status = 202 if said == "asked" else 200
            return answers.as_json({"done": said, "count": count, "message": text}, status)
        if answers.wants_no_page():
            return answers.told(text)
        place = _asked_back()
        path, _, query = place.partition("?")
        kept = [it for it in query.split("&") if it and not it.startswith(("said=", "count="))]
        query = "&".join([*kept, urlencode({"said": said, "count": count})])
        return answers.redirect(f"{url_for('.overview')}{path}?{query}")

    def _actor(self) -> str | None:
        actor = self._options.actor
        return None if actor is None else str(self._app.ensure_sync(actor)())

    def _note(self, verb: str, task: str) -> None:
        name = self._actor()
        self._pages().note(task, verb, name)
        _log.info("%s %s, by %s", verb, task, name or "somebody")
        dashboard_acted.send(
            self._app, _async_wrapper=self._app.ensure_sync, verb=verb, task=task, actor=name
        )

    # --- Pages ----------------------------------------------------------------------------

    def asset(self, name: str) -> AnyResponse:
        """A file of the page."""
        found = self._assets.find(name)
        if found is None:
            raise RefusedError(404, "There is no such file.")
        return answers.as_asset(found)

    def overview(self) -> AnyResponse:
        """How it is: numbers, names, the last failures."""
        found = self._pages()
        running = found.running()
        asked = request.args.get("span", "")
        span = asked if asked in plots.SPANS else next(iter(plots.SPANS))
        data = {
            "counts": found.counts(running),
            "names": found.names(),
            "sparklines": found.sparklines(),
            "running": running[:_FEW],
            "failures": found.last_failures(_FEW),
            "paused": found.paused(),
            "process": found.process(request.environ.get("SERVER_SOFTWARE", "")),
            "processes": found.processes(),
            "silent": found.silent,
            "points": plots.points_of(found.plots(span), span, time.time()),
        }
        return self._show("overview", data)

    def running(self) -> AnyResponse:
        """The tasks that run."""
        found = self._pages()
        tasks = found.running()
        return self._show(
            "running",
            {
                "tasks": tasks[: lists.SHOWN],
                "count": found.count_of(tasks),
                "silent": found.silent,
            },
        )

    def queue(self) -> AnyResponse:
        """The tasks that wait, and why."""
        found = self._pages()
        (name,) = _filters("name")
        queued, held = found.waiting(name)
        data = {
            "queued": queued.tasks,
            "held": held.tasks,
            "counts": found.waiting_counts(),
            "paused": found.paused(),
            "silent": found.silent,
            "filters": {"name": name, "class": None},
        }
        return self._named(found, name) or self._show("queue", data)

    def failed(self) -> AnyResponse:
        """The tasks that failed, by their exceptions."""
        name, kind, before = _filters("name", "class", "before")
        found = self._pages()
        groups, part = found.failures(name, kind, before)
        data = {
            "groups": _as_data(groups),
            "tasks": part.tasks,
            "before": part.before,
            "filters": {"name": name, "class": kind},
        }
        return self._named(found, name) or self._show("failed", data)

    def finished(self) -> AnyResponse:
        """The tasks that returned or were cancelled."""
        name, before = _filters("name", "before")
        found = self._pages()
        part = found.ended(name, before)
        data = {
            "tasks": part.tasks,
            "before": part.before,
            "filters": {"name": name, "class": None},
        }
        return self._named(found, name) or self._show("finished", data)

    def _named(self, found: Pages, name: str | None) -> AnyResponse | None:
        """The way to a task whose id was asked for as if it were the name of a function."""
        if name is None or not _ID.fullmatch(name) or found.task(name) is None:
            return None
        return answers.redirect(url_for(".task", id=name))

    def jobs(self) -> AnyResponse:
        """The periodic jobs."""
        return self._show("jobs", {"jobs": self._pages().jobs()})

    def names(self) -> AnyResponse:
        """The outcomes of all functions."""
        found = self._pages()
        return self._show(
            "names",
            {
                "names": found.names(),
                "sparklines": found.sparklines(),
                "durable": sorted(set(map(_short, found.durable_names())))
                if found.has_journal
                else [],
                "paused": [it and _short(it) for it in found.paused()],
            },
        )

    def name(self, name: str) -> AnyResponse:
        """The outcomes of one function, and its last tasks."""
        found = self._pages()
        figures, tasks = found.names().get(name), found.of_name(name)
        durable = found.durable_names() if found.has_journal else []
        if figures is None and not tasks and name not in durable:
            raise RefusedError(404, f"No function {name!r} has had a task here.")
        full = [it for it in durable if it == name or it.rpartition(".")[2] == name]
        paused = found.paused()
        return self._show(
            "name",
            {
                "name": name,
                "figures": figures,
                "minutes": found.sparklines().get(name),
                "groups": _as_data(found.failures_of(name)),
                "histograms": found.histograms(name),
                "tasks": tasks,
                "durable": full,
                "paused": [it for it in full if it in paused],
            },
        )

    def processes(self) -> AnyResponse:
        """The processes that are known."""
        found = self._pages()
        return self._show(
            "processes",
            {
                "process": found.process(_server()),
                "processes": found.processes(),
                "workers": found.workers(_server()),
            },
        )

    def task(self, id: str) -> AnyResponse:
        """Everything about one task."""
        found = self._pages()
        view = found.task(id)
        if view is None:
            raise RefusedError(404, _unknown(id, found))
        run = found.own.run_of(found.state, id)
        # Asking another process takes a moment: its stack has a page of its own.
        missing, frames = found.stack(id) if run is not None else (None, [])
        here = None if run is None else {"thread": lists.thread_name(run)}
        return self._show(
            "task",
            {
                "task": view,
                "follows": [it._asdict() for it in view.follows],
                "followed_by": [it._asdict() for it in view.followed_by],
                "here": here,
                "timeline": found.timeline(view),
                "stack": frames,
                "no_stack": missing,
            },
        )

    def stack(self, id: str) -> AnyResponse:
        """Where a task is at this moment."""
        found = self._pages()
        view = found.task(id)
        if view is None:
            raise RefusedError(404, _unknown(id, found))
        missing, frames = None, list[str]()
        if pages.outcome_of(view) == "running":
            missing, frames = found.stack(id)
        return self._show("stack", {"task": view, "stack": frames, "no_stack": missing})

    # --- Actions --------------------------------------------------------------------------

    def _act(self, verb: str, target: str) -> str:
        """Have it done, in whichever process has the target; what there is to say of it."""
        done = self._find().act(verb, target, self._actor())
        if done.status == 404:  # noqa: PLR2004 (not found)
            missing = NO_JOB if verb in OF_JOBS else _unknown(target, self._pages())
            raise RefusedError(404, missing)
        if done.status not in _DONE:
            raise RefusedError(done.status, done.why)
        return verb if done.status == 200 else "asked"  # noqa: PLR2004 (OK)

    def stop(self, id: str) -> AnyResponse:
        """Stop a task that runs."""
        return self._did("stop", id, self._act("stop", id))

    def cancel(self, id: str) -> AnyResponse:
        """Cancel a task that waits."""
        return self._did("cancel", id, self._act("cancel", id))

    def retry(self, id: str) -> AnyResponse:
        """Run a task again that failed."""
        why = self._retry(id)
        if why is not None:
            raise RefusedError(*why)
        return self._did("retry", id, "retry")

    def _retry(self, id: str) -> tuple[int, str] | None:
        try:
            self._find().store.retry(id)
        except LookupError as error:
            return 404, sentence(error)
        except (ValueError, DuplicateTask) as error:
            return 409, sentence(error)
        return None

    def retry_all(self) -> AnyResponse:
        """Run many tasks again: first a page that says how many, then the tasks."""
        form, found = request.form, self._pages()
        name, kind = form.get("name") or None, form.get("class") or None
        if "confirmed" in form:
            ids = list(dict.fromkeys(form.get("ids", "").splitlines()))[: lists.MOST]
            return self._retry_these([id for id in ids if id])
        missed = []
        if "all" in form:
            views = found.matching(name, kind)
        else:
            chosen = list(dict.fromkeys(form.getlist("id")))[: lists.MOST]
            seen = [(id, found.task(id, asks=False)) for id in chosen]
            views = [view for _, view in seen if view is not None and lists.can_retry(view)]
            missed = [{"id": id, "why": why} for id, view in seen if (why := lists.no_retry(view))]
        data = {
            "missed": missed,
            "tasks": views[: lists.SHOWN],
            "ids": [view.id for view in views],
            "filters": {"name": name, "class": kind},
            "most": lists.MOST,
            "back": _asked_back(),
        }
        return self._show("confirm", data)

    def _retry_these(self, ids: Sequence[str]) -> AnyResponse:
        missed = []
        for id in ids:
            why = self._retry(id)
            if why is None:
                self._note("retry", id)
            else:
                missed.append({"id": id, "why": why[1]})
        if not missed:
            return self._return("retry", len(ids))
        data = {"count": len(ids) - len(missed), "missed": missed, "back": _asked_back()}
        return self._show("missed", data)

    def run(self, key: str) -> AnyResponse:
        """Run a job now."""
        return self._with_job("run", key)

    def pause_job(self, key: str) -> AnyResponse:
        """Pause a job."""
        return self._with_job("pause", key)

    def resume_job(self, key: str) -> AnyResponse:
        """End the pause of a job."""
        return self._with_job("resume", key)

    def _with_job(self, verb: str, key: str) -> AnyResponse:
        said = self._act(verb, key)
        return self._did(verb, self._pages().name_of_job(key) or key, said)

    def pause(self, name: str) -> AnyResponse:
        """Start no more durable tasks of a function."""
        return self._set_name(name, paused=True)

    def resume(self, name: str) -> AnyResponse:
        """End the pause of a function."""
        return self._set_name(name, paused=False)

    def _set_name(self, name: str, *, paused: bool) -> AnyResponse:
        store = self._find().store
        if not store.is_there:
            raise RefusedError(409, "There is no journal, and only durable tasks can be paused.")
        try:
            (store.pause if paused else store.resume)(name)
        except LookupError as error:
            raise RefusedError(404, sentence(error)) from None
        return self._did("pause" if paused else "resume", name, "pause" if paused else "resume")


_FEW = 10
# Done, or asked for.
_DONE = frozenset({200, 202})

NO_JOB = "No process that is known has such a job. It may have been cancelled."


def _needing(verb: str, act: Callable[..., AnyResponse]) -> Callable[..., AnyResponse]:
    """The view, for visitors who have the right alone."""

    def view(**arguments: str) -> AnyResponse:
        if verb not in g._delay_rights:  # noqa: SLF001
            return answers.forbidden(f"You may look at this page, but not {_VERBS[verb]}.")
        return act(**arguments)

    return view


_VERBS = {
    "cancel": "cancel tasks",
    "pause": "pause or resume",
    "retry": "run tasks again",
    "run": "run jobs",
    "stop": "stop tasks",
}

_SAID = {
    "asked": "Its process was asked, and has not answered yet. This page shows it once it is done.",
    "cancel": "The task was cancelled.",
    "pause": "Paused: no more of its tasks start.",
    "resume": "Resumed.",
    "run": "The job runs now.",
    "stop": "The task was asked to stop. What became of that shows here soon.",
}


def _asked() -> str | None:
    """What became of the last action, which the address tells; nothing of its text is shown."""
    said, count = request.args.get("said", ""), request.args.get("count", "")
    number = int(count) if count.isdecimal() and len(count) < 6 else 1  # noqa: PLR2004 (a thousand at most)
    return _said(said, number) if said in {*_SAID, "retry"} else None


def _said(said: str, count: int) -> str:
    """What became of an action, in words."""
    if said == "retry":
        return "The task runs again." if count == 1 else f"{count:,} tasks run again."
    return _SAID[said]


def _here() -> str:
    """The address of this page below the prefix, to come back to."""
    base, here = url_for(".overview"), request.full_path.rstrip("?")
    script = request.script_root
    here = f"{script}{here}"
    if _is_live():
        here = here.replace(f"{base}live/", base, 1)
    return here.removeprefix(base) if request.method == "GET" and here.startswith(base) else ""


def _is_live() -> bool:
    """Whether a page that is open asks for what has changed."""
    return (request.endpoint or "").rpartition(".")[2].startswith("live_")


def _is_part() -> bool:
    """Whether a page that is open puts the answer into itself: what has changed, or a dialog."""
    return _is_live() or answers.wants_no_page()


def _live(page: str, status: int) -> str | None:
    """The address that a page asks for its changes; None if it has none."""
    if page in {"stack", "confirm", "missed", "trouble"} or status != 200:  # noqa: PLR2004
        return None
    kept: dict[str, Any] = dict(request.view_args or {})
    filters = {"name", "class", "before", "span"}
    kept |= {key: it for key, it in request.args.items() if key in filters}
    return url_for(f".live_{page}", **kept)


def _asked_back() -> str:
    """The page that the visitor came from, as its form tells. It is below our own prefix."""
    asked = request.form.get("back", "") if request.method == "POST" else ""
    return asked if _BACK.fullmatch(asked) else ""


def _filters(*keys: str) -> list[str | None]:
    return [request.args.get(key, "").strip()[:_LONGEST] or None for key in keys]


def _title(app: Flask, state: State) -> str:
    return f"{app.name} {state.owner.name}" if state.owner.name != "delay" else app.name


def _unknown(id: str, found: Pages) -> str:
    if found.has_journal:
        return f"No task {id!r} is known. It may have been forgotten since it ended."
    return (
        f"No task {id!r} is known in this process. It may have been forgotten since it ended, or"
        f" another process has it: without a journal, each knows its own tasks alone."
    )


def _short(name: str) -> str:
    """The name of a function as its tasks have it: without the module."""
    return name.rpartition(".")[2]
