import concurrent.futures
import io

import pytest

tqdm = pytest.importorskip("tqdm")

from tqdm.contrib import concurrent as tqdm_concurrent  # noqa: E402

from flask_delay import Executor  # noqa: E402


def bar(*args, **kwargs):
    return tqdm.tqdm(*args, file=io.StringIO(), mininterval=0, **kwargs)


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    # A thread of tqdm's own, which would stay.
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


def test_over_as_completed(executor, where, is_ours):
    futures = [executor.submit(where) for _ in range(50)]
    progress = bar(concurrent.futures.as_completed(futures), total=50)
    assert all(is_ours(future.result()) for future in progress)
    assert progress.n == 50


def test_over_map(executor, where, is_ours):
    progress = bar(executor.map(where, range(50)), total=50)
    assert all(map(is_ours, progress))
    assert progress.n == 50


def test_updated_by_callbacks(executor):
    with bar(total=50) as progress:
        futures = [executor.submit(int) for _ in range(50)]
        for future in futures:
            future.add_done_callback(lambda _: progress.update())
        assert executor.drain(20)
    assert progress.n == 50


def test_thread_map(where, is_ours):
    """What `thread_map` does, given our executor: its pool's class is an argument there."""
    names = tqdm_concurrent._executor_map(
        Executor,
        where,
        range(50),
        max_workers=3,
        tqdm_class=tqdm.tqdm,
        file=io.StringIO(),
        thread_name_prefix="ours",
    )
    assert len(names) == 50
    assert all(map(is_ours, names))
