"""Answer one prompt about every picture of a folder with several strategies, one line of JSON an answer.

Lines    {"image": "sub/a.png", "prompt": ..., "strategy": "vcd", "text": ..., "stopped_by": ..., "fitted": the strategy
         with all options in force, "settings": ..., "model": ...}; instead of an answer {"error": ...} where the
         picture cannot be opened or asked about. `mmhall score` reads them.
Resumed  A file goes on where it stopped: answers are kept, failures and a line that was cut off are asked again. A file
         of another model, or of other settings, is refused.
Memory   A batch of pictures is open at a time, and is asked with every strategy before the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmhall.errors import DataError, GenerationError, ImageError, PromptError, is_out_of_memory
from mmhall.files import atomic_path, why_not_a_file
from mmhall.generation import make_recipe
from mmhall.images import open_image
from mmhall.lvlm import LVLM
from mmhall.strategies import Strategy

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_ITEM_ERRORS = ImageError, PromptError, GenerationError
_DEVICE = "device"  # the same model on another device goes on


def find_pictures(folder: Path) -> list[str]:
    """List the pictures in a folder and in its subfolders, by name relative to it, sorted; hidden ones are left out.

    Raises:
        DataError: The folder does not exist, cannot be read, or holds no pictures.
    """
    reason = why_not_a_file(folder)
    if reason != "is a folder":
        raise DataError(f"{folder}: {reason or 'is a file'}; give a folder of pictures, or ask by `mmhall generate`")
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(folder)
        names += [
            (inside / name).as_posix() for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not names:
        raise DataError(f"{folder}: holds no pictures; their names end in {', '.join(SUFFIXES)}")
    return sorted(names)


@dataclass(frozen=True, slots=True)
class Captioning:
    """What is asked, and the file that takes the answers.

    Attributes:
        lvlm: The model.
        folder: The folder of the pictures.
        names: Pictures, relative to it.
        prompt: The question.
        strategies: Strategies by the text that asked for them.
        out: The file.
        settings: Generation settings.
    """

    lvlm: LVLM
    folder: Path
    names: Sequence[str]
    prompt: str
    strategies: Mapping[str, Strategy]
    out: Path
    settings: Mapping[str, Any]
    _model: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Identify the model, which every line names."""
        object.__setattr__(self, "_model", self.lvlm.identity())

    def resume(self) -> set[tuple[str, str]]:
        """Return picture and strategy of the answers in the file; failures and a line cut off are taken out of it.

        Raises:
            DataError: The file is none of these, is of another model or settings, or cannot be read or written.
        """
        reason = why_not_a_file(self.out)
        if reason == "does not exist":
            return set()
        try:
            content = self.out.read_bytes() if reason is None else b""
        except OSError as error:
            reason = str(error)
        if reason is not None:
            raise DataError(f"{self.out}: cannot be continued ({reason}); choose another file with --out")
        made = {name: self._recipe(method) for name, method in self.strategies.items()}
        lines = content.removesuffix(b"\n").split(b"\n") if content else []  # texts may hold other ends of lines
        kept, done = b"", set()
        for number, text in enumerate(lines, 1):
            line = self._read(text, number, last=number == len(lines))
            if line is None or "error" in line:
                continue
            self._check(line, number, made)
            kept += text + b"\n"
            if line["prompt"] == self.prompt:
                done.add((line["image"], line["strategy"]))
        if kept != content:
            with atomic_path(self.out) as scratch:
                scratch.write_bytes(kept)
        return done

    def answer(self, done: set[tuple[str, str]], batch_size: int) -> Iterator[list[dict[str, Any]]]:
        """Ask what is not done, and add it to the file; yields the lines of each batch as soon as they are written.

        Raises:
            MmhallError: A strategy does not work with the model.
        """
        with self.out.open("a", encoding="utf-8") as file:
            for start in range(0, len(self.names), batch_size):
                for lines in self._answer_batch(self.names[start : start + batch_size], done):
                    file.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
                    file.flush()
                    yield lines

    def _answer_batch(self, names: Sequence[str], done: set[tuple[str, str]]) -> Iterator[list[dict[str, Any]]]:
        left = {name: [s for s in self.strategies if (printed(name), s) not in done] for name in names}
        pictures: dict[str, Image.Image] = {}
        for name in (name for name in names if left[name]):
            try:
                pictures[name] = open_image(self.folder / name)
            except ImageError as error:
                reason = str(error).removeprefix(f"{self.folder / name}: ")
                yield [self._line(name, strategy, error=reason) for strategy in left[name]]
        for strategy in self.strategies:
            asked = {name: picture for name, picture in pictures.items() if strategy in left[name]}
            if asked:
                yield self._ask(strategy, asked)

    def _ask(self, strategy: str, pictures: Mapping[str, Image.Image]) -> list[dict[str, Any]]:
        """Ask about pictures together; after an error alone, out of memory in halves."""
        try:
            requests = [(picture, self.prompt) for picture in pictures.values()]
            answers = self.lvlm.generate_batch(requests, self.strategies[strategy], **self.settings)
        except (*_ITEM_ERRORS, MemoryError, RuntimeError) as error:
            full = is_out_of_memory(error)
            if not full and not isinstance(error, _ITEM_ERRORS):
                raise
            if len(pictures) == 1:
                reason = str(error).partition("\n")[0] or "out of memory"
                return [self._line(name, strategy, error=reason) for name in pictures]
            named, size = list(pictures.items()), len(pictures) // 2 if full else 1
            pieces = [dict(named[start : start + size]) for start in range(0, len(named), size)]
            return [line for piece in pieces for line in self._ask(strategy, piece)]
        return [
            self._line(
                name,
                strategy,
                text=answer.text,
                stopped_by=answer.stopped_by,
                fitted=answer.strategy,
                settings=answer.settings,
            )
            for name, answer in zip(pictures, answers, strict=True)
        ]

    def _line(self, name: str, strategy: str, **result: Any) -> dict[str, Any]:
        return {"image": printed(name), "prompt": self.prompt, "strategy": strategy, **result, "model": self._model}

    def _recipe(self, method: Strategy) -> dict[str, Any]:
        """Return what a line says of a strategy and its settings."""
        recipe = make_recipe(self.lvlm.adapter, method, self.settings)
        return {"fitted": str(recipe.strategy), **recipe.settings.record(recipe.config)}

    def _read(self, text: bytes, number: int, *, last: bool) -> dict[str, Any] | None:
        """Read a line; None for the last one if it was cut off."""
        try:
            line = json.loads(text)
        except ValueError:
            if last:
                return None
            line = None
        kinds = {"image": str, "prompt": str, "strategy": str, "model": dict}
        if isinstance(line, dict) and "error" not in line:
            kinds |= {"fitted": str, "settings": dict}
        if not isinstance(line, dict) or not all(isinstance(line.get(name), kind) for name, kind in kinds.items()):
            raise DataError(
                f"{self.out}, line {number}: is not of `mmhall caption`; choose another file with --out, or move this"
            )
        return line

    def _check(self, line: Mapping[str, Any], number: int, recipes: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a line of another model, of other settings, or of the strategy with other options in force."""
        own = {"fitted": line["fitted"], **line["settings"]}
        for made, wanted in ((line["model"], self._model), (own, recipes.get(line["strategy"], {}))):
            for name, value in wanted.items():
                if name != _DEVICE and made.get(name) != value:
                    raise DataError(
                        f"{self.out}, line {number}: was made with {name} {made.get(name)!r}, not {value!r}; "
                        "choose another file with --out"
                    )


def printed(name: str) -> str:
    """Return a file name as UTF-8 can write it."""
    return name.encode("utf-8", "backslashreplace").decode()
