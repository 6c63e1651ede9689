"""`python -m benchmarks`: measure, and write the report."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import kept, machine, plot, report
from benchmarks.model import Noise, Results, Run
from benchmarks.peers import PEERS
from benchmarks.run import run
from benchmarks.table import CASES

HERE = Path(__file__).parent
RAW = HERE.parent / "target/bench.json"
ROUNDS = 5
# Stands for all cases whose names begin so; alone, they have a page of their own.
_JOURNAL = "journal"


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes, for a quick look")
    parser.add_argument("--before", metavar="PYTHON", help="the interpreter of an earlier package")
    parser.add_argument("--raw", type=Path, default=RAW, help="where measurements are kept")
    parser.add_argument("--again", action="store_true", help="report what is kept there")
    parser.add_argument(
        "--instructions", choices=("compare", "keep"), help="count them alone; no page"
    )
    options = parser.parse_args(given)
    if options.instructions:
        options.cases, options.peers, options.rounds = ["instructions"], ["ours"], 1
    options.page = "results-journal.md" if options.cases == [_JOURNAL] else None
    if _JOURNAL in (options.cases or ()):
        options.cases += [name for name in names if name.startswith(f"{_JOURNAL}-")]
    for what, all_of_them in (("cases", names), ("peers", list(PEERS))):
        chosen = getattr(options, what) or all_of_them
        if unknown := sorted(set(chosen) - set(all_of_them)):
            parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(all_of_them)}")
        setattr(options, what, chosen)
    if not options.before:
        options.peers = [name for name in options.peers if name != "before"]
    if options.rounds < 1 or not 0 < options.scale <= 1:
        parser.error("--rounds must be at least 1, --scale more than 0 and at most 1")
    return options


def _load(path: Path) -> Results:
    raw: dict[str, Any] = json.loads(path.read_text())
    runs = [
        Run(**each | {"noise": Noise(**each["noise"]) if each["noise"] else None})
        for each in raw["runs"]
    ]
    return Results(raw["head"], runs, raw["skipped"])


def _measure(options: argparse.Namespace) -> Results:
    cases = [case for case in CASES if case.name in options.cases]
    whole = len(cases) == len(CASES) and len(options.peers) == len(PEERS) - 1 and options.scale == 1
    command = "make bench" if whole else "part of make bench"
    head = machine.head(PEERS.values(), f"{command} ROUNDS={options.rounds}")
    if options.before:
        head["before"] = Path(options.before).parents[1].name
    runs, skipped = run(
        cases,
        options.peers,
        options.rounds,
        lambda line: print(line, file=sys.stderr, flush=True),
        scale=options.scale,
        before=options.before,
    )
    return Results(head, runs, skipped)


def _instructions(results: Results, *, keep: bool) -> int:
    """Compare the figure with the kept one, or keep it; prints one line."""
    found = report.figures(results.runs, "instructions")
    if not found:
        print(*results.skipped.values(), *(each.error for each in results.runs), file=sys.stderr)
        return 2
    figure, name, known = found[report.OURS]["each"].median, kept.interpreter(), kept.load()
    if keep:
        kept.save(known | {name: figure})
        print(f"kept: {figure:,.0f} instructions per task for {name}")
        return 0
    said, failed = kept.judge(figure, known.get(name), name)
    print(f"instructions: {said}")
    return failed


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; writes results.md only if every case was measured, or the journal's page."""
    options = _arguments(given)
    results = _load(options.raw) if options.again else _measure(options)
    if options.instructions:
        return _instructions(results, keep=options.instructions == "keep")
    options.raw.parent.mkdir(parents=True, exist_ok=True)
    options.raw.write_text(json.dumps(dataclasses.asdict(results)))
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
    elif options.page:
        (HERE / options.page).write_text(report.page(cases, results))
        print(f"written: {HERE / options.page}")
    else:
        print(report.page(cases, results))
    return any(each.error and each.peer == report.OURS for each in results.runs)


if __name__ == "__main__":
    sys.exit(main())
