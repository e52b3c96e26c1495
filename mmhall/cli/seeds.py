"""The option --seeds of `mmhall bench`: one run for each seed of the draws, in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmhall.errors import OptionError

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark

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
    out: Path, benchmarks: Sequence[Benchmark], seeds: str | None
) -> list[tuple[Path, Sequence[Benchmark]]]:
    """Return folder and benchmarks of each run: one in `out`; with seeds, one in `out`/seed-N for each.

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
    return [(out / f"seed-{seed}", [each.with_seed(seed) for each in benchmarks]) for seed in parse_seeds(seeds)]
