"""What an older release of the shop had. Only its command `seed` knows it."""

from flask_delay import task


@task(durable=True)
def print_catalogue(year: int) -> None:
    """Wait for code that can run it."""
