"""The settings of a `Delay` for this backend. Needs no cloudpickle."""

from dataclasses import dataclass

from flask_delay import validators
from flask_delay.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The number of worker processes, when they are replaced, and the app that they load."""

    processes: int | None = setting(
        None,
        validators.optional(validators.count(1)),
        "an integer of at least 1, or None for one per CPU",
        "How many worker processes there may be, for tasks with the backend of that name.",
    )
    processes_max_tasks: int | None = setting(
        None,
        validators.optional(validators.count(1)),
        "an integer of at least 1, or None for any number",
        "After how many tasks a worker process is replaced by a new one.",
    )
    processes_max_rss: int | None = setting(
        None,
        validators.optional(validators.count(1)),
        "a number of bytes, or None for any number",
        "From how much memory in use after a task a worker process is replaced by a new one.",
    )
    app: str | None = setting(
        None,
        validators.optional(validators.text),
        'where the app is, as FLASK_APP is written ("module:app", "module:create_app()"), or None',
        "What worker processes load, to run tasks in the app's context.",
    )
