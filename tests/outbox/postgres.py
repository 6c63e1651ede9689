"""A PostgreSQL server of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"


def programs() -> Path | None:
    """The folder of the server's programs, which Debian has in none of the usual ones."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextmanager
def running() -> Iterator[str]:
    """Run a server while the block does; its URL for SQLAlchemy."""
    found = programs()
    assert found is not None
    # The server does not run as root, and its user cannot enter the folders of a test.
    user = USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [found / "initdb", "-D", f"{folder}/data", "-A", "trust", "-U", USER, "-E", "UTF8"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        control = [str(found / "pg_ctl"), "-D", f"{folder}/data", "-w", "-l", f"{folder}/log"]
        # The machine does not lose power, and the server is not killed.
        options = f"-c listen_addresses=127.0.0.1 -c fsync=off -p {port} -k {folder}"
        subprocess.run(
            [*control, "-o", options, "start"],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"],
                user=user,
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if programs() is None:
        return "PostgreSQL is not installed"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"there is no user {USER!r}"
    return None
