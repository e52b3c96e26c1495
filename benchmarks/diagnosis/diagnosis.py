"""The diagnosis of a model on pictures with known objects: asks, reads attention, and measures every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import PROMPT, Chair
from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.diagnosis import captions as of_captions, causes, questions as of_questions
from mmhall.benchmarks.diagnosis.asking import Asker, Progress
from mmhall.benchmarks.diagnosis.captions import Caption
from mmhall.benchmarks.diagnosis.figures import Figure, Missing, UnmeasuredError
from mmhall.benchmarks.diagnosis.gaze import gaze_figure, read_gaze
from mmhall.benchmarks.diagnosis.lift import changed_answers, changed_captions, lift_figure
from mmhall.benchmarks.diagnosis.negative import negative_figure, read_leanings
from mmhall.benchmarks.diagnosis.questions import Questions, likely_absent, make_questions
from mmhall.benchmarks.diagnosis.reading import Reading
from mmhall.benchmarks.diagnosis.retrieval import read_needles, retrieval_figure
from mmhall.benchmarks.rules.thoughts import is_thoughts_only
from mmhall.errors import DataError
from mmhall.lvlm import LVLM

GREY = (128, 128, 128)
_SIDE = 224  # pixels of the grey picture


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The diagnosis of a model.

    Attributes:
        pictures: Number of pictures.
        captions: Number of captions.
        questions: Number of yes/no questions.
        figures: What was measured.
        missing: What could not be measured, with the reason.
        remarks: Notes for the reader.
    """

    pictures: int
    captions: int
    questions: int
    figures: tuple[Figure, ...]
    missing: tuple[Missing, ...]
    remarks: tuple[str, ...]


class Collector:
    """Collects figures, and the reasons of those that cannot be measured."""

    def __init__(self) -> None:
        """Start empty."""
        self.figures: list[Figure] = []
        self.missing: list[Missing] = []

    def add(self, title: str, measure: Callable[[], Figure | Iterable[Figure]]) -> None:
        """Measure one or several figures; those before an `UnmeasuredError` error are kept.

        Args:
            title: What is measured, in words.
            measure: Measures it.
        """
        try:
            measured = measure()
            for figure in (measured,) if isinstance(measured, Figure) else measured:
                self.figures.append(figure)
        except UnmeasuredError as error:
            self.missing.append(Missing(title, str(error)))


def diagnose(
    lvlm: LVLM,
    pictures: PictureSet,
    *,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int = 256,
    progress: Progress = lambda answers: None,
) -> Diagnosis:
    """Diagnose a model.

    Args:
        lvlm: The model.
        pictures: Pictures with known objects.
        seed: Seed of the questions.
        batch_size: Largest number of questions answered together.
        max_new_tokens: Limit of tokens of a caption.
        progress: Called with the number of new answers; see `expected`.

    Raises:
        DataError: No picture shows a known object.
        MmhallError: A picture cannot be opened, or the model cannot answer.
    """
    asker = Asker(lvlm, pictures, batch_size, progress)
    items, questions = plan(pictures, seed)
    reading = Reading(asker)
    captions = [caption for batch in asker.captions(items, max_new_tokens) for caption in reading.read(batch)]
    answers = asker.yes_no(questions.everything())
    found = Collector()
    found.add("hallucination in captions", lambda: of_captions.hallucination(captions))
    found.add("growth of hallucination", lambda: of_captions.growth(captions))
    found.add("AUROC of the entropy", lambda: of_captions.entropy(captions, lvlm.adapter.tokenizer))
    found.add("headroom of the yes/no threshold", lambda: of_questions.headroom(questions, answers))
    found.add("present against likely absent objects", lambda: of_questions.partner_auroc(questions, answers))
    likely = likely_absent(pictures, questions.pope)
    found.add("causes in captions", lambda: causes.in_captions(captions, pictures, likely))
    found.add("causes in answers", lambda: causes.in_answers(questions, answers))
    found.add("answers before a grey picture", lambda: _grey(asker, questions, captions, max_new_tokens))
    for title, measure in reading.mechanisms():
        found.add(title, measure)
    found.add("gaze", lambda: gaze_figure(read_gaze(asker, questions.present), len(lvlm.adapter.layers)))
    for title, measure in _further(asker, questions, captions, pictures, seed):
        found.add(title, measure)
    return Diagnosis(
        len(pictures.pictures),
        len(captions),
        len(answers),
        tuple(found.figures),
        tuple(found.missing),
        (*pictures.remarks, *_remarks(captions, max_new_tokens)),
    )


def _further(
    asker: Asker, questions: Questions, captions: Sequence[Caption], pictures: PictureSet, seed: int
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the figures that need passes of their own, each as its title and a function that measures it."""
    written = [(caption.item, caption.answer) for caption in captions]
    asked, words = [*questions.likely, *questions.present], pictures.categories
    lifted = partial(lift_figure, asker=asker)
    yield "captions with more attention", lambda: lifted("captions", read=lambda: changed_captions(asker, written))
    yield "answers with more attention", lambda: lifted("answers", read=lambda: changed_answers(asker, asked))
    yield (
        "heads that copy words",
        lambda: retrieval_figure(
            "copy_head",
            "words that the best head copies",
            "words (%)",
            read_needles(asker, words, seed),
            "needle tokens",
        ),
    )
    yield (
        "negative attention score",
        lambda: negative_figure(read_leanings(asker, questions.present, questions.likely)),
    )


def plan(pictures: PictureSet, seed: int) -> tuple[list[Item], Questions]:
    """Return the captions and the questions to ask for.

    Raises:
        DataError: No picture shows a known object.
    """
    items = Chair().items(pictures, seed)
    if not items:
        raise DataError("diagnose: no picture shows a known object; give pictures that do")
    return items, make_questions(pictures, seed)


def expected(pictures: PictureSet, seed: int) -> int:
    """Return the number of answers that `diagnose` asks for.

    Raises:
        DataError: No picture shows a known object.
    """
    items, questions = plan(pictures, seed)
    boxed = sum(bool(pictures[str(item.picture)].boxes.get(item.truth["object"])) for item in questions.present)
    return len(items) + len(questions.everything()) + len(_by_object(questions)) + 1 + boxed


def _grey(asker: Asker, questions: Questions, captions: Sequence[Caption], max_new_tokens: int) -> Iterator[Figure]:
    """Ask about present objects, and for a caption, before a grey picture."""
    grey, asked = Image.new("RGB", (_SIDE, _SIDE), GREY), _by_object(questions)
    rows = asker.yes_no(list(asked.values()), grey)
    texts = [rows[asked[item.truth["object"]].id].text for item in questions.present]
    yield causes.of_grey(questions.present, texts)
    yield causes.unlike_grey(captions, asker.lvlm.generate(grey, PROMPT, max_new_tokens=max_new_tokens).text)
    asker.progress(1)


def _by_object(questions: Questions) -> dict[str, Item]:
    """Return one question about each object that is present somewhere."""
    return {item.truth["object"]: item for item in questions.present}


def _remarks(captions: Sequence[Caption], max_new_tokens: int) -> Iterator[str]:
    cut = sum(caption.answer.stopped_by == "length" for caption in captions)
    if cut:
        yield (
            f"{cut} of {len(captions)} captions were cut off at {max_new_tokens} tokens, before the model's own last "
            "sentence; raise --max-new-tokens."
        )
    thoughts = sum(is_thoughts_only(caption.answer.text) for caption in captions)
    if thoughts:
        yield f"{thoughts} captions are thoughts alone and count as saying nothing; raise --max-new-tokens."
