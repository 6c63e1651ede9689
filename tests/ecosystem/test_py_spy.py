"""py-spy, which looks at a process from outside, sees the workers by their names."""

import json
import shutil
import subprocess
import sys
import sysconfig
import textwrap

import pytest

PY_SPY = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")

SCRIPT = textwrap.dedent("""
    import os, sys, threading
    from flask_delay import Executor

    started = threading.Barrier(3)
    release = threading.Event()

    def work_on_a_worker():
        started.wait(20)
        release.wait(60)

    async def work_on_the_loop():
        print("started", flush=True)
        release.wait(60)

    executor = Executor(2, "ours")
    for _ in range(2):
        executor.submit(work_on_a_worker)
    started.wait(20)
    executor.submit(work_on_the_loop)
    sys.stdin.read()
    os._exit(0)
""")


@pytest.mark.skipif(PY_SPY is None, reason="py-spy is not installed")
def test_dump_shows_workers_by_name():
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "started\n"
            dump = subprocess.run(
                [PY_SPY, "dump", "--json", "--pid", str(process.pid)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if dump.returncode != 0 and "ermission" in dump.stderr:
                pytest.skip("py-spy may not look into other processes here (ptrace)")
            assert dump.returncode == 0, dump.stderr
        finally:
            process.stdin.close()
            process.kill()
    frames = {
        thread["thread_name"]: [frame["name"] for frame in thread["frames"]]
        for thread in json.loads(dump.stdout)
    }
    assert {"MainThread", "ours_0", "ours_1", "delay-loop_0"} <= frames.keys()
    for name in ("ours_0", "ours_1"):
        assert "work_on_a_worker" in frames[name]
    assert "work_on_the_loop" in frames["delay-loop_0"]
