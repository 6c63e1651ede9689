"""The logger of the package, for messages from Python code."""

import logging

from flask_delay._native import _logger


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Logs to `flask_delay`, which a configuration of logging does not disable by accident."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 (logging's)
        """Whether a handler may get the message. Called before each message."""
        return _logger().isEnabledFor(level)


log = _Log(_logger())
