"""The log of a tuning: its answers so far, in a file beside its result, so that a killed tuning can continue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmhall import files
from mmhall.benchmarks.tune.objective import Scored
from mmhall.errors import DataError


class TuningLog:
    """The answers of one tuning, a line for each strategy and half; the first line identifies the tuning."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read an existing log of the same tuning; else start a new one.

        Args:
            path: The file.
            about: Model, pictures and settings, as JSON values.

        Raises:
            OSError: The file cannot be read or written.
            DataError: The file is damaged before its last line.
        """
        self._path, self._known = path, dict[str, Scored]()
        head = json.dumps(about, sort_keys=True)
        try:
            lines = files.read_text(path).split("\n") if files.why_not_a_file(path) is None else []
        except UnicodeDecodeError as error:
            raise self._damage_error(error) from error
        if lines[:1] != [head]:
            path.write_text(f"{head}\n", encoding="utf-8")
            return
        for line in lines[1:-1]:  # the last line is empty or unfinished
            try:
                key, texts, counts = json.loads(line)
                self._known[key] = Scored(tuple(texts), tuple(np.array(series, np.float64) for series in counts))
            except (ValueError, TypeError, RecursionError) as error:
                raise self._damage_error(error) from error
        path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")

    def get_or_ask(self, key: str, ask: Callable[[], Scored]) -> tuple[Scored, bool]:
        """Return the stored answers of a key, else ask and store them; also return whether they were stored before."""
        if key in self._known:
            return self._known[key], True
        score_answers = ask()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps([key, score_answers.texts, [series.tolist() for series in score_answers.counts]]) + "\n"
            )
        return score_answers, False

    def _damage_error(self, error: Exception) -> DataError:
        return DataError(f"{self._path}: is damaged ({error}); delete it to start the search again")

    def close(self) -> None:
        """Delete the log of a complete tuning."""
        self._path.unlink(missing_ok=True)
