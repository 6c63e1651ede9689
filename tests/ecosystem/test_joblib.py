"""joblib takes executors by way of a backend; this one is all it needs."""

import os
import threading

import pytest

joblib = pytest.importorskip("joblib")

from joblib.parallel import ParallelBackendBase, parallel_config, register_parallel_backend  # noqa: E402


class Backend(ParallelBackendBase):
    supports_retrieve_callback = True
    supports_sharedmem = True
    uses_threads = True

    def __init__(self, executor=None, **options):
        super().__init__(**options)
        self._executor = executor
        self._futures = []

    def effective_n_jobs(self, n_jobs):
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max((os.cpu_count() or 1) + 1 + n_jobs, 1)

    def submit(self, func, callback=None):
        future = self._executor.submit(func)
        self._futures.append(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out):
        return out.result()

    def retrieve_result(self, out, timeout=None):
        return out.result(timeout)

    def abort_everything(self, ensure_ready=True):
        for future in self._futures:
            future.cancel()

    def terminate(self):
        self._futures.clear()


register_parallel_backend("ours", Backend)


@pytest.fixture(autouse=True)
def _backend(executor):
    with parallel_config("ours", n_jobs=4, executor=executor):
        yield


def test_results_in_order(where, is_ours):
    work = joblib.delayed(lambda n: (where(), n * n))
    results = joblib.Parallel()(work(n) for n in range(100))
    assert [square for _, square in results] == [n * n for n in range(100)]
    assert all(is_ours(name) for name, _ in results)


def test_generator(where, is_ours):
    work = joblib.delayed(where)
    names = joblib.Parallel(return_as="generator_unordered")(work(n) for n in range(50))
    assert sum(map(is_ours, names)) == 50


def test_failure(executor):
    ran = []
    work = joblib.delayed(lambda n: ran.append(n) or 1 // (n - 3))
    with pytest.raises(ZeroDivisionError):
        joblib.Parallel(n_jobs=2, pre_dispatch="all")(work(n) for n in range(100))
    assert executor.drain(20)


def test_shared_memory(where, is_ours):
    lock, names = threading.Lock(), []

    def note(_):
        with lock:
            names.append(where())

    joblib.Parallel(require="sharedmem")(joblib.delayed(note)(n) for n in range(50))
    assert len(names) == 50
    assert all(map(is_ours, names))
