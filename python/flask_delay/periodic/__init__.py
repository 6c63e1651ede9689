"""Periodic jobs, and the choice of the process that runs each of them."""
