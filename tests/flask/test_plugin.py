"""The pytest plugin, in sessions of its own."""

import pytest

pytest_plugins = ["pytester"]

APP = """
    import threading
    import pytest
    from flask import Flask
    from flask_delay import Delay, delay

    executor = Delay()
    go, started = threading.Event(), threading.Event()

    @pytest.fixture
    def app():
        app = Flask("shop")
        executor.init_app(app)
        with app.app_context():
            yield app

    @pytest.fixture(scope="session", autouse=True)
    def end():
        yield
        go.set()

    def hold():
        started.set()
        go.wait(20)

    def start():
        started.clear()
        delay(hold)
        assert started.wait(20)
"""


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch):
    # Where it finds one of these, pytest says everything twice.
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(pytester):
    def run(*arguments):
        # In a process of its own, which meets the plugin as a user's would; without the one that
        # takes four times as long to import as all else, and without that of Dash, which warns.
        options = ["-W", "error", "-p", "no:hypothesispytest", "-p", "no:dash"]
        return pytester.runpytest_subprocess(*options, *arguments, timeout=50)

    return run


def test_a_session_without_it_does_not_import_the_package(pytester, run):
    pytester.makepyfile("""
        import sys

        def test_imported(request):
            assert "pytest_flask_delay" in sys.modules
            assert not [name for name in sys.modules if name.split(".")[0] == "flask_delay"]
            assert not [name for name in request.fixturenames if "delay" in name]
    """)
    run().assert_outcomes(passed=1)


def test_fixtures_are_listed_with_what_they_do(run):
    result = run("--fixtures")
    result.stdout.re_match_lines([r"delayed -- .*", r".*submitted during the test.*"])
    result.stdout.re_match_lines([r"no_delayed_leaks -- .*", r".*Fail the test if tasks.*"])


def test_what_differs_is_shown(pytester, run):
    pytester.makepyfile(
        APP
        + """
    def greet(name):
        pass

    def test_differs(app, delayed):
        from flask_delay.testing import call
        delay(greet, "ann").result(20)
        assert delayed == [call(greet, "bob")]
    """
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*At index 0 diff: call(greet, 'ann') != call(greet, 'bob')*"])


LEAK = (
    APP
    + """
    def test_leaks(app, {fixture}):
        start()

    def test_waits(app, {fixture}):
        delay(int).result(20)

    def test_delays_nothing({fixture}):
        pass
"""
)
NAMED = "*1 task is not done 0.1 s after the test: hold (running)*"


def test_leaks_of_a_test_that_asks(pytester, run):
    pytester.makepyfile(LEAK.format(fixture="no_delayed_leaks"))
    result = run("-o", "delay_leak_grace=0.1")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaks*", NAMED])


def test_leaks_of_every_test(pytester, run):
    pytester.makepyfile(LEAK.format(fixture="request"))
    pytester.makepyprojecttoml("[tool.pytest]\ndelay_leak_check = true\ndelay_leak_grace = 0.1\n")
    result = run()
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines([NAMED])


def test_unasked_no_leak_is_looked_for(pytester, run):
    pytester.makepyfile(LEAK.format(fixture="request"))
    run().assert_outcomes(passed=3)


def test_an_apps_fixture_may_end_the_tasks(pytester, run):
    pytester.makepyfile(
        APP
        + """
    @pytest.fixture
    def drained(app):
        yield
        go.set()
        assert executor.drain(20)

    def test_leaves_it_to_the_fixture(drained):
        start()
    """
    )
    run("-o", "delay_leak_check=true", "-o", "delay_leak_grace=0").assert_outcomes(passed=1)


def test_together_what_manual_mode_did_not_run_is_no_leak(pytester, run):
    pytester.makepyfile(
        APP
        + """
    def test_only_looks(delayed):
        app = Flask("shop")
        app.config["DELAY_MODE"] = "manual"
        Delay(app)
        with app.app_context():
            delay(hold)
        assert len(delayed) == 1
    """
    )
    result = run("-o", "delay_leak_check=true", "-o", "delay_leak_grace=0")
    result.assert_outcomes(passed=1)
    # Nor is it what the exit warns of.
    assert "did not finish" not in result.stderr.str()


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_bad_grace(pytester, run, value):
    pytester.makepyfile("def test(): pass")
    result = run("-o", "delay_leak_check=true", "-o", f"delay_leak_grace={value}")
    assert result.ret != 0
    # The last is pytest's own to refuse, since it is no number.
    result.stderr.fnmatch_lines([f"ERROR: *{value}*"])


@pytest.mark.slow
def test_with_xdist(pytester, run):
    pytest.importorskip("xdist")
    pytester.makepyfile(
        APP
        + """
    @pytest.mark.parametrize("number", range(4))
    def test_leaks(app, delayed, number):
        delay(int, number).result(20)
        start()
        assert [it.args for it in delayed] == [(number,), ()]
    """
    )
    result = run("-n", "2", "-o", "delay_leak_check=true", "-o", "delay_leak_grace=0")
    result.assert_outcomes(passed=4, errors=4)
    assert result.stdout.str().count("after the test: hold (running)") == 4
