import pytest

dask = pytest.importorskip("dask")


@pytest.fixture
def graph(where):
    return [dask.delayed(lambda n: (where(), n * n), pure=False)(n) for n in range(50)]


def check(results, is_ours):
    assert [square for _, square in results] == [n * n for n in range(50)]
    assert all(is_ours(name) for name, _ in results)


def test_pool_from_the_configuration(executor, graph, is_ours):
    with dask.config.set(scheduler="threads", pool=executor):
        check(dask.compute(*graph), is_ours)


def test_pool_of_one_call(executor, graph, is_ours):
    check(dask.compute(*graph, scheduler="threads", pool=executor), is_ours)


def test_executor_as_the_scheduler(executor, graph, is_ours):
    check(dask.compute(*graph, scheduler=executor), is_ours)


def test_graph_with_dependencies(executor, is_ours, where):
    names = []

    @dask.delayed(pure=False)
    def add(*numbers):
        names.append(where())
        return sum(numbers)

    level = [add(n) for n in range(16)]
    while len(level) > 1:
        level = [add(*level[n : n + 2]) for n in range(0, len(level), 2)]
    assert level[0].compute(scheduler="threads", pool=executor) == sum(range(16))
    assert len(names) == 31
    assert all(map(is_ours, names))


def test_failure(executor):
    task = dask.delayed(divmod)(1, 0)
    with pytest.raises(ZeroDivisionError):
        task.compute(scheduler="threads", pool=executor)
