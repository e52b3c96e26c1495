"""Seeds of sampled answers: one run for each, in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmhall.errors import OptionError
from mmhall.results.store import FILE

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark

_FOLDER = "seed-"
EXPECTED = "different integers >= 0, such as 0,1,2"


def parse_seeds(text: str) -> list[int]:
    """Parse seeds, separated by commas.

    Raises:
        OptionError: One is no seed, or is repeated.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise OptionError("bench", "seeds", text, EXPECTED)
    return [int(part) for part in parts]


def seeded_runs(
    out: Path, benchmarks: Sequence[Benchmark], seeds: str | Sequence[int] | None
) -> list[tuple[Path, Sequence[Benchmark]]]:
    """Return folder and benchmarks of each run: one in `out`; with seeds, one in `out`/seed-N for each.

    Args:
        out: Folder of the run, or of the runs.
        benchmarks: The benchmarks.
        seeds: Seeds, also as text, separated by commas; None: a single run.

    Raises:
        OptionError: The seeds are unreadable, or a benchmark does not sample answers.
    """
    if seeds is None:
        return [(out, benchmarks)]
    greedy = next((str(each) for each in benchmarks if not each.settings.get("do_sample")), None)
    if greedy is not None:
        raise OptionError(
            "bench", "seeds", seeds, f'left out with {greedy}, which is not sampled; write "pope(sample=True)"'
        )
    chosen = parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, seeds)))
    return [(out / f"{_FOLDER}{seed}", [each.with_seed(seed) for each in benchmarks]) for seed in chosen]


def seed_folders(out: Path) -> list[Path]:
    """Return the folders of runs with different seeds in a folder, by their seeds; none if there are no such runs."""
    named = (folder for folder in out.glob(f"{_FOLDER}*") if folder.name.removeprefix(_FOLDER).isdigit())
    found = [folder for folder in named if (folder / FILE).is_file()]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix(_FOLDER)))
