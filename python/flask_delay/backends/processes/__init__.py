"""`backend="processes"`: tasks that compute, in worker processes of this machine."""

from flask_delay.backends.processes.backend import Backend, problem

__all__ = ["Backend", "problem"]
