"""Where a thread sleeps until its group of tasks has news.

The task of that thread may be interrupted by its `timeout` and by `stop`, but not just anywhere in
the code of this package. It may be here, where nothing is half done.
"""

from flask_delay._native import Future


def wait(bell: Future[None], seconds: float | None) -> None:
    """Wait until the bell is rung. Raises TimeoutError after so many seconds."""
    bell.result(seconds)
