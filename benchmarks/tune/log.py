"""What a tuning has answered so far, in a file beside its result: one that was killed goes on where it was."""

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
    """The answers of one tuning, a line for each strategy and half; the first line says what they are about."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what is there if it is about the same; else begin anew.

        Args:
            path: The file.
            about: Model, pictures and settings; anything JSON can write.

        Raises:
            OSError: It cannot be read or written.
            DataError: It is damaged otherwise than by a last line that was not finished.
        """
        self._path, self._known = path, dict[str, Scored]()
        head = json.dumps(about, sort_keys=True)
        try:
            lines = files.read_text(path).split("\n") if files.no_file(path) is None else []
        except UnicodeDecodeError as error:
            raise self._damage_error(error) from error
        if lines[:1] != [head]:
            path.write_text(f"{head}\n", encoding="utf-8")
            return
        for line in lines[1:-1]:  # the last is empty, or was being written when the process died
            try:
                key, texts, counts = json.loads(line)
                self._known[key] = Scored(tuple(texts), tuple(np.array(series, np.float64) for series in counts))
            except (ValueError, TypeError, RecursionError) as error:
                raise self._damage_error(error) from error
        path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")

    def get_or_ask(self, key: str, ask: Callable[[], Scored]) -> tuple[Scored, bool]:
        """Return the answers kept under a key, else ask and keep them; also say whether they were kept."""
        if key in self._known:
            return self._known[key], True
        scored_answers = ask()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps([key, scored_answers.texts, [series.tolist() for series in scored_answers.counts]]) + "\n"
            )
        return scored_answers, False

    def _damage_error(self, error: Exception) -> DataError:
        return DataError(f"{self._path}: is damaged ({error}); delete it, and the search begins anew")

    def close(self) -> None:
        """Throw it away: the tuning is complete."""
        self._path.unlink(missing_ok=True)
