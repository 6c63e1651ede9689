"""The logger of the package, for what is logged in Python."""

import logging

from flask_delay._native import _logger


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Logs to `flask_delay`, which no configuration of logging disables in passing."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 (logging's)
        """Whether somebody may hear it. Asked before each message."""
        return _logger().isEnabledFor(level)


log = _Log(_logger())
