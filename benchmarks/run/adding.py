"""Add strategies to a run: everything but them is as the run has it, and nothing is asked anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmhall.benchmarks.run.config import LOADING, WHERE, Config, check_words
from mmhall.benchmarks.run.config_file import write_config
from mmhall.benchmarks.run.runs import make_strategies, reopen
from mmhall.benchmarks.run.seeds import seed_folders
from mmhall.errors import OptionError, RunError
from mmhall.results.store import FILE


def add_strategies(out: Path, specs: Sequence[str], given: Mapping[str, Any]) -> list[tuple[Path, Config]]:
    """Return folder and configuration of a run, or of each seed's run in a folder, with further strategies.

    Args:
        out: Folder of the run, or of the runs.
        specs: The strategies; those that a run has already stay as they are.
        given: Other words. Those that say how the model is loaded and where the run is answered win; another value of
            what is asked is refused.

    Raises:
        RunError: There is no run, or one without a stored configuration.
        MmhallError: There is no such strategy, or a word differs from the run's.
    """
    check_words(given)
    added, found = make_strategies(specs), []
    for folder in seed_folders(out) or [out]:
        config = reopen(folder).config
        if config is None:
            raise RunError(
                f"{folder}: stores no configuration, as runs of older versions; repeat the command that made it, with "
                f"--strategy {specs[0]} in addition"
            )
        words = config.words()
        for word, value in given.items():
            if word not in (*LOADING, *WHERE) and words.get(word) != value:
                stored = words.get(word, "left out")
                raise OptionError("bench", word, value, f"{stored} with --add, as the run has it")
        found.append((folder, Config.from_words({**words, **given}).adding(added)))
    return found


def write_shared_config(out: Path, config: Config) -> None:
    """Write the configuration that makes all runs in a folder which differ in their seed, if there are such runs.

    Args:
        out: The folder.
        config: Configuration of one of the runs.

    Raises:
        RunError: It cannot be written.
    """
    seeds = [int(folder.name.rpartition("-")[2]) for folder in seed_folders(out)]
    if seeds and not (out / FILE).is_file():
        write_config(out, config.settled().with_seeds(seeds).words())
