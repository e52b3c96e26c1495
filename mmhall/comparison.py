"""Compare strategies on one picture: what the comparison page shows, in one line of Python.

The records are made by the functions that the page calls, and drawn by its scripts: a notebook shows the same words,
marks and maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhall.display.gaze import gaze_record
from mmhall.display.marks import canonical_name
from mmhall.display.page import facts as facts_of, to_html, to_page
from mmhall.display.records import Truth, answer_record
from mmhall.errors import DataError, OptionError
from mmhall.files import atomic_path
from mmhall.loading import load
from mmhall.strategies import Strategy, strategy
from mmhall.words import locate_words

if TYPE_CHECKING:
    from mmhall.analysis import Trace
    from mmhall.answers import Answer
    from mmhall.generation import Images
    from mmhall.lvlm import LVLM


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Answers of several strategies to one prompt. Made by `mmhall.compare`; a notebook draws it.

    Attributes:
        traces: The answers with the attention to the picture, one for each strategy.
        records: What is drawn of each answer, as plain data; see `mmhall.display.records`.
        gazes: Its maps, as plain data; see `mmhall.display.gaze`. Empty without a picture.
    """

    traces: tuple[Trace, ...]
    records: tuple[Mapping[str, Any], ...]
    gazes: tuple[Mapping[str, Any], ...]

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers, with their uncertainty."""
        return tuple(trace.answer for trace in self.traces)

    def __str__(self) -> str:
        """Return the answers as text."""
        return "\n\n".join(f"{record['strategy']}\n{record['text']}\n({facts_of(record)})" for record in self.records)

    def __repr__(self) -> str:
        """Return prompt and strategies."""
        return f"<Comparison of {', '.join(record['strategy'] for record in self.records)}: {self.traces[0].prompt!r}>"

    def _repr_html_(self) -> str:
        return to_html(self.records, self.gazes, next(iter(self.traces[0].pictures), None))

    def save(self, path: str | Path) -> Path:
        """Write the comparison as one HTML page that needs no other file; return its path.

        Raises:
            DataError: The file cannot be written.
        """
        try:
            with atomic_path(Path(path)) as scratch:
                scratch.write_text(to_page(self._repr_html_(), self.traces[0].prompt), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}; give another name") from error
        return Path(path)


def compare(
    picture: Images,
    prompt: str,
    strategies: str | Strategy | type[Strategy] | Sequence[str | Strategy | type[Strategy]],
    lvlm: LVLM | None = None,
    *,
    present: Sequence[str] | None = None,
    absent: Sequence[str] | None = None,
    **settings: Any,
) -> Comparison:
    """Ask several strategies the same about a picture, and show their answers side by side.

    Args:
        picture: Path or picture, or several, of which the first is shown; None: a prompt without.
        prompt: The user's text.
        strategies: Names such as "vcd(alpha=0.5)", objects or classes; the answers are compared with the first.
        lvlm: The model; None: the embedded one.
        present: Objects in the picture; None: not known, and no word is marked as made up.
        absent: Objects that are not in it; None: all others.
        **settings: As in `LVLM.generate`.

    Raises:
        MmhallError: The picture, the prompt, a strategy or a setting is unusable.
    """
    given: Any = strategies
    several = isinstance(given, Sequence) and not isinstance(given, str)
    methods = [strategy(spec) for spec in (given if several else [given])]
    if not methods:
        raise OptionError("compare", "strategies", strategies, 'at least one strategy, such as ["greedy", "vcd"]')
    truth, model = Truth(_names("present", present), _names("absent", absent)), load() if lvlm is None else lvlm
    traces, records, gazes = list["Trace"](), list[Mapping[str, Any]](), list[Mapping[str, Any]]()
    for number, method in enumerate(methods):
        answer = model.generate(picture, prompt, method, uncertainty=True, **settings)
        followed = model.follow(picture, prompt, answer, strategy=method)
        located = locate_words(model.adapter.tokenizer, answer.token_ids)
        facts = {"strategy": str(method), "id": str(number)}
        traces.append(followed.trace)
        records.append(answer_record(answer, located, followed.trace.prompt, truth, **facts))
        if followed.trace.pictures:
            gazes.append(gaze_record(followed.trace, followed.candidates, key=facts["id"]))
    return Comparison(tuple(traces), tuple(records), tuple(gazes))


def _names(owner: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names of objects in the words of the vocabulary."""
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names):
        raise OptionError("compare", owner, names, 'a list of objects, such as ["cup", "dining table"]')
    return tuple(dict.fromkeys(map(canonical_name, names)))
