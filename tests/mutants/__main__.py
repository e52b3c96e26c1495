"""Whether the tests notice small changes of the code; not part of any other run.

Changes are drawn from the syntax trees of modules (`operators.py`), evenly over the files, and made one at a time in a
temporary copy of the tree. The tests to notice are those of the folder that stands where the module does, the closest
files first (`selection.py`), as far as they enter the changed function: a first run of a file records which do, in
`build/mutants`, and takes about twice as long as its tests. They run until one fails, the quick ones first: some
seconds for a change that is noticed. A survivor may be noticed by tests of other folders (`--wide`), or in more time
(`--seconds`); else it calls for a test, or for an entry in `explained.toml` that says why nothing can be noticed: its
file, the function around it, the line as it is after the change, and why. The status is 1 if a survivor is unexplained.
Linux, Python 3.11 or newer.

python -m tests.mutants                                        60 changes of the core, the adapters and the benchmarks
python -m tests.mutants --only mmhall/attention --count 20     of a folder, or of one file
python -m tests.mutants --seed 1 --list                        other changes; only shown
"""

from __future__ import annotations

import argparse
import itertools
import queue
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomllib

from tests.mutants.operators import Mutation
from tests.mutants.selection import chosen, draw, files_for, modules
from tests.mutants.trees import LANES, ROOT, Outcome, Tree

FOLDERS = {"mmhall/attention": 1.0, "mmhall/generation": 1.0, "decoders": 1.0, "mmhall/results": 1.0}
LESS = {"mmhall/adapters": 0.15, "benchmarks/*.py": 0.15}  # share of the changes that a file of the first ones gets
EXPLAINED = Path(__file__).with_name("explained.toml")


@dataclass(frozen=True)
class Explanation:
    """Why no test can notice a change: it does the same."""

    file: str
    function: str
    line: str
    why: str

    def fits(self, mutation: Mutation) -> bool:
        """Whether it explains this change."""
        return (self.file, self.function, self.line) == (mutation.file, mutation.function, mutation.changed)


class Bench:
    """Copies of the tree, and what tests do there without a change."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        """Make a copy for each job."""
        self._lanes = LANES[:1] if options.quick else LANES
        self._seconds, self._wide = options.seconds, options.wide
        self._trees: queue.Queue[Tree] = queue.Queue()
        self._recording = threading.Lock()
        for job in range(options.jobs):
            self._trees.put(Tree(folder / str(job)))

    def test(self, mutation: Mutation) -> Outcome:
        """Test a change in a copy that nobody uses."""
        tree, spent = self._trees.get(), 0.0
        try:
            for lane, files in itertools.product(self._lanes, files_for(ROOT, mutation.file, self._wide)):
                with self._recording:  # files are looked at only for a change that needs them
                    tests = chosen(mutation, tree.recorded(files, lane), files, self._seconds)
                outcome = tree.test(mutation, tests, lane) if tests else Outcome("survived", "", 0.0)
                spent += outcome.seconds
                if outcome.verdict != "survived":
                    break
            return Outcome(outcome.verdict, outcome.by, spent)
        finally:
            self._trees.put(tree)

    def close(self) -> None:
        """End the copies' processes."""
        while not self._trees.empty():
            self._trees.get().close()


def main() -> int:
    """Draw changes, test them and report; return the exit status."""
    options = parsed()
    drawn = drawn_for(options)
    if options.list:
        for mutation in drawn:
            print(headed(mutation), *mutation.diff, "", sep="\n")
        return 0
    told: list[tuple[Mutation, Outcome]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        bench = Bench(Path(folder), options)
        for mutation, outcome in zip(drawn, pool.map(bench.test, drawn), strict=True):
            told.append((mutation, outcome))
            verdict = f"{outcome.verdict}, {outcome.seconds:.0f} s"
            print(f"{len(told)}/{len(drawn)} {verdict}: {headed(mutation)}", *mutation.diff, sep="\n")
            print(f"  {outcome.by}\n" if outcome.by else "", flush=True)
        bench.close()
    return reported(told, options.seed)


def reported(told: list[tuple[Mutation, Outcome]], seed: int) -> int:
    """Print the survivors and the counts; return the exit status."""
    entries = [Explanation(**entry) for entry in tomllib.loads(EXPLAINED.read_text()).get("survivor", [])]
    survivors = [mutation for mutation, outcome in told if outcome.verdict == "survived"]
    unexplained = [mutation for mutation in survivors if not any(entry.fits(mutation) for entry in entries)]
    for mutation in survivors:
        why = [f"  {entry.why}" for entry in entries if entry.fits(mutation)]
        print(f"survived: {headed(mutation)}", *mutation.diff, *why, "", sep="\n")
    gone = sorted({entry.file for entry in entries if not (ROOT / entry.file).exists()})
    if gone:
        print(f"== {EXPLAINED.name} names files that are gone: {', '.join(gone)}")
    counts = [sum(outcome.verdict == verdict for _, outcome in told) for verdict in ("killed", "timed out")]
    alive = f"{len(survivors)} survived, {len(survivors) - len(unexplained)} of them explained"
    print(f"== seed {seed}, {len(told)} changes: {counts[0]} killed, {counts[1]} timed out, {alive}")
    return int(bool(unexplained))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60, help="how many changes")
    parser.add_argument("--only", action="append", metavar="PATH", help="folder or file instead; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="changes tested at a time, each in a copy of its own")
    parser.add_argument("--seconds", type=float, default=150, help="of tests for a change, by their times without it")
    parser.add_argument("--quick", action="store_true", help="leave slow tests out")
    parser.add_argument("--wide", action="store_true", help="tests of all folders, as far as they enter the function")
    parser.add_argument("--list", action="store_true", help="show the changes, and test none")
    return parser.parse_args()


def drawn_for(options: argparse.Namespace) -> list[Mutation]:
    """Draw the changes that were asked for."""
    shares = dict.fromkeys(options.only, 1.0) if options.only else {**FOLDERS, **LESS}
    files = {folder: modules(ROOT, folder) for folder in shares}
    missing = [folder for folder, names in files.items() if not names]
    if missing:
        raise SystemExit(f"nothing to change in {', '.join(missing)}")
    total = sum(share * len(files[folder]) for folder, share in shares.items())
    drawn: list[Mutation] = []
    for share in sorted(set(shares.values())):
        names = [name for folder in shares if shares[folder] == share for name in files[folder]]
        rest = share == max(shares.values())
        count = options.count - len(drawn) if rest else round(options.count * share * len(names) / total)
        drawn = [*draw(ROOT, sorted(set(names)), count, options.seed), *drawn]
    return drawn


def headed(mutation: Mutation) -> str:
    """Say where a change is, and which operator made it."""
    return f"{mutation.file}:{mutation.line} {mutation.function or 'module'} ({mutation.operator})"


if __name__ == "__main__":
    sys.exit(main())
