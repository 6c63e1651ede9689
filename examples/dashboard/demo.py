"""Serve `app.py` under gunicorn with two workers, and keep its live page open until Ctrl-C.

Run it with `make demo-page`. It listens on loopback alone, and leaves nothing behind.
"""

import argparse
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
WORKERS = 2
PATIENCE = 30.0
POLL = 0.05


class DemoError(Exception):
    """What had to happen did not."""


def serve(port: int) -> None:
    """Serve until Ctrl-C. Raises DemoError."""
    password = secrets.token_urlsafe(6)
    with tempfile.TemporaryDirectory() as name:
        env = os.environ | {"SHOP_FOLDER": name, "FLASK_DASHBOARD_PASSWORD": f'"{password}"'}
        seed = [sys.executable, "-m", "flask", "--app", "app:create_app()", "seed"]
        seeded = subprocess.run(seed, cwd=FOLDER, env=env, capture_output=True, text=True)  # noqa: PLW1510, S603
        if seeded.returncode:
            raise DemoError(seeded.stderr)
        log = Path(name, "log")
        gunicorn = ["-m", "gunicorn", "--no-control-socket", f"--bind=127.0.0.1:{port}"]
        options = [f"--workers={WORKERS}", "--threads=8", "app:create_app()"]
        with log.open("wb") as file:
            # In a group of its own: Ctrl-C is for this process, which ends it in order.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, *gunicorn, *options],
                cwd=FOLDER,
                env=env,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            address = wait_for_address(process, log)
            print(f"The live page of a shop: {address}/tasks/")
            print(f'The browser asks for a name, which is yours to choose, and "{password}".')
            print(f"{WORKERS} workers of gunicorn serve it, on this machine only. Ctrl-C ends it.")
            sys.stdout.flush()
            process.wait()
            raise DemoError(log.read_text())
        finally:
            end(process)


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address at which gunicorn listens, once its workers are there."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        text = log.read_text()
        address = re.search(r"Listening at: (http://\S+)", text)
        if address and text.count("Booting worker with pid") >= WORKERS:
            return address[1]
        time.sleep(POLL)
    raise DemoError(f"gunicorn does not serve:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Let the server end in order, and kill what does not."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    options = parser.parse_args()
    # A supervisor ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(options.port)
    except KeyboardInterrupt:
        print("\nEnds.")
        return 0
    except (DemoError, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
