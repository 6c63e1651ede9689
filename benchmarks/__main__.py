"""`python -m benchmarks`: measure, and write the report."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, plot, report
from benchmarks.model import Noise, Results, Run
from benchmarks.peers import PEERS
from benchmarks.run import run
from benchmarks.table import CASES

HERE = Path(__file__).parent
RAW = HERE.parent / "target/bench.json"
ROUNDS = 5


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes, for a quick look")
    parser.add_argument("--raw", type=Path, default=RAW, help="where measurements are kept")
    parser.add_argument("--again", action="store_true", help="report what is kept there")
    options = parser.parse_args(given)
    for what, all_of_them in (("cases", names), ("peers", list(PEERS))):
        chosen = getattr(options, what) or all_of_them
        if unknown := sorted(set(chosen) - set(all_of_them)):
            parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(all_of_them)}")
        setattr(options, what, chosen)
    if options.rounds < 1 or not 0 < options.scale <= 1:
        parser.error("--rounds must be at least 1, --scale more than 0 and at most 1")
    return options


def _load(path: Path) -> Results:
    kept: dict[str, Any] = json.loads(path.read_text())
    runs = [
        Run(**each | {"noise": Noise(**each["noise"]) if each["noise"] else None})
        for each in kept["runs"]
    ]
    return Results(kept["head"], runs, kept["skipped"])


def _measure(options: argparse.Namespace) -> Results:
    cases = [case for case in CASES if case.name in options.cases]
    whole = len(cases) == len(CASES) and len(options.peers) == len(PEERS) and options.scale == 1
    command = "make bench" if whole else "part of make bench"
    head = machine.head(PEERS.values(), f"{command} ROUNDS={options.rounds}")
    runs, skipped = run(
        cases,
        options.peers,
        options.rounds,
        options.scale,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    results = Results(head, runs, skipped)
    options.raw.parent.mkdir(parents=True, exist_ok=True)
    options.raw.write_text(json.dumps(dataclasses.asdict(results)))
    return results


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; the page goes to results.md only if all was measured."""
    options = _arguments(given)
    results = _load(options.raw) if options.again else _measure(options)
    cases = [case for case in CASES if case.name in options.cases]
    if results.head["command"].startswith("`make bench"):
        try:
            files = plot.draw(results, HERE / "plots")
        except ImportError as error:
            print(f"no plots: {error}", file=sys.stderr)
            files = []
        names = [str(file.relative_to(HERE)) for file in files]
        (HERE / "results.md").write_text(report.page(cases, results, names))
        print(f"written: {HERE / 'results.md'}, {', '.join(names)}")
    else:
        print(report.page(cases, results))
    return any(each.error and each.peer == report.OURS for each in results.runs)


if __name__ == "__main__":
    sys.exit(main())
