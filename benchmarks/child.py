"""One measurement in its own process: `python -m benchmarks.child CASE PEER SIZE FILE`.

Ends without cleaning up, since nothing after the measurement matters.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.table import CASES


def main() -> None:
    """Measure, and write the values to the file."""
    name, peer, size, output = sys.argv[1:]
    # So that this process ends the servers and workers that it started, also at a timeout.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    case = next(case for case in CASES if case.name == name)
    try:
        values = case.measure(PEERS[peer], int(size))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    Path(output).write_text(json.dumps(values))
    os._exit(0)


if __name__ == "__main__":
    main()
