"""The pytest plugin of Flask-Delay: fixtures and a leak check, described in docs/testing.md.

A separate package, because every pytest session in an environment with Flask-Delay imports it. The
code is in `flask_delay.testing`, which a test imports on use.
"""

from collections.abc import Iterator
from typing import Any

import pytest

_CHECK = "delay_leak_check"
_GRACE = "delay_leak_grace"
# Seconds that a task has to end after its test.
_DEFAULT_GRACE = 1.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings of the leak check."""
    parser.addini(
        _CHECK,
        "fail every test that leaves tasks of Flask-Delay running or waiting",
        type="bool",
        default=False,
    )
    # Older versions have no type for numbers.
    number: Any = "float" if pytest.version_tuple >= (8, 4) else "string"
    parser.addini(
        _GRACE,
        "seconds that such tasks have to end when their test is over",
        type=number,
        default=_DEFAULT_GRACE,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Apply the leak check to every test, if asked; otherwise no test gets one more fixture."""
    if config.getini(_CHECK):
        _grace(config)
        config.pluginmanager.register(_LeakCheck(), "flask-delay-leak-check")


@pytest.fixture
def delayed() -> Iterator[Any]:
    """The tasks that are submitted during the test: a `flask_delay.testing.Delayed`."""
    from flask_delay import testing  # noqa: PLC0415

    with testing.Delayed() as captured:
        yield captured


@pytest.fixture
def no_delayed_leaks(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail the test if tasks it submitted are running or waiting at its end."""
    from flask_delay import testing  # noqa: PLC0415

    grace = _grace(pytestconfig)
    with testing.LeakCheck() as check:
        yield
        left = check.left(grace)
    if left:
        pytest.fail(left, pytrace=False)


class _LeakCheck:
    @pytest.fixture(autouse=True)
    def _no_delayed_leaks(self, no_delayed_leaks: None) -> None:
        pass


def _grace(config: pytest.Config) -> float:
    try:
        seconds = float(config.getini(_GRACE))
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{_GRACE} must be a number of seconds: {error}") from None
    # "nan" is not a valid time either.
    if not seconds >= 0:
        raise pytest.UsageError(f"{_GRACE} is {seconds:g}, but must be 0 or more seconds")
    return seconds
