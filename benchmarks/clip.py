"""Image-text similarity of captions, by a CLIP model of your choice.

Paper    CLIPScore: Hessel et al., EMNLP 2021, arXiv:2104.08718.
Items    One caption per picture.
Prompt   "Please describe this image in detail.", as for CHAIR.
Rule     "cosine": cosines between the embeddings of picture and text, of the CLIP that `model` names (any of open_clip:
         see `mmhall.clip.load_clip`). SigLIP models work, too, without their scale and bias. Cosines are measured when
         an answer is generated, after a model's thoughts, and stored with it.
Metrics  similarity, the mean cosine of all sentences of the corpus; CLIPScore, 2.5 max(cosine, 0) of a caption as a
         whole, mean over captions; cut, the share of captions longer than the CLIP's context, whose CLIPScore is that
         of their beginning; sentences and words per caption. A caption without a word scores 0. Tables show the first
         three times 100.
Differs  Without the paper's prefix "A photo depicts": captions of these models often begin with such words.
         Scores of different CLIPs are not comparable. A CLIP measures how a text fits a picture, not what is missing
         from the picture: read it beside CHAIR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmhall.benchmarks.base import Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.rules.thoughts import remove_thoughts
from mmhall.clip import CLIP_NAMES, Clip, check_clip, is_clip_name, load_clip, sentences
from mmhall.errors import DataError
from mmhall.images import open_image
from mmhall.options import option

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.lvlm import LVLM
    from mmhall.results.store import Row

PROMPT = "Please describe this image in detail."


@dataclass(frozen=True)
class ClipAgreement(PictureBenchmark):
    """Captions compared with their pictures by a CLIP model.

    Attributes:
        model: CLIP model: a folder, "architecture/weights" or "hf-hub:name"; see `mmhall.clip.load_clip`.
        rule: Similarity measure.
        max_new_tokens: Limit of tokens of a caption.
    """

    name: ClassVar[str] = "clip"
    groups: ClassVar[tuple[str, ...]] = ("captions",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("similarity", {"similarity": 1}, {"sentences": 1}, "higher"),
        Metric("CLIPScore", {"score": 1}, {"n": 1}, "higher"),
        Metric("cut", {"cut": 1}, {"n": 1}),
        Metric("words", {"words": 1}, {"n": 1}, percent=False),
        Metric("sentences", {"sentences": 1}, {"n": 1}, percent=False),
    )

    model: str = option("", holds=lambda name: not name or is_clip_name(name), expected=CLIP_NAMES)
    rule: str = option("cosine", choices=("cosine",))
    max_new_tokens: int = option(128, low=1)

    def material(self, source: Source) -> Material:
        """Check the CLIP model, then read the pictures and make the items.

        Raises:
            OptionError: No CLIP model is given.
            ModelError: There is no CLIP model of that name.
            DataError: The data is missing, malformed, or insufficient.
        """
        self.check("model", bool(self.model), CLIP_NAMES)
        check_clip(self.model)
        return super().material(source)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption per picture."""
        return [Item(p.id, p.id, PROMPT, ("captions",)) for p in pictures.pictures]

    def measure(
        self, lvlm: LVLM, questions: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Compare captions with their pictures, on the device of the model that wrote them."""
        clip = load_clip(self.model, lvlm.adapter.device)
        return [
            None if file is None else compare_caption(clip, file, remove_thoughts(answer.text))
            for (_, file), answer in zip(questions, answers, strict=True)
        ]

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count captions by their stored similarities.

        Raises:
            DataError: An answer was not measured.
        """
        return [{**self.count(item, row.text), **_scores(item, row)} for item, row in zip(items, rows, strict=True)]

    def count(self, item: Item, text: str) -> Counts:
        """Count the sentences and words of a caption."""
        text = remove_thoughts(text)
        return {"n": 1, "sentences": len(sentences(text)), "words": len(re.findall(r"[\w'-]+", text))}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark nothing: similarity is neither right nor wrong."""
        return []


def compare_caption(clip: Clip, picture: Path, caption: str) -> dict[str, Any]:
    """Compare a caption with its picture.

    Returns:
        "similarity", the cosine of each sentence; "caption", that of the whole, 0 if it is empty; "cut", whether
        the whole is longer than the CLIP's context; "clip", its name.

    Raises:
        ImageError: The picture cannot be opened.
    """
    parts = sentences(caption)
    cosines = clip.similarity(open_image(picture), [*parts, caption]).tolist() if parts else [0.0]
    return {
        "similarity": cosines[:-1],
        "caption": cosines[-1],
        "cut": bool(parts) and clip.find_truncated([caption])[0],
        "clip": clip.name,
    }


def clip_score(cosine: float) -> float:
    """Return the CLIPScore of a cosine.

    >>> clip_score(0.3), clip_score(-0.1)
    (0.75, 0.0)
    """
    return 2.5 * max(cosine, 0.0)


def _scores(item: Item, row: Row) -> Counts:
    """Return the counts of the similarities stored with an answer."""
    try:
        stored = row.extra or {}
        cosines, whole = [float(cosine) for cosine in stored["similarity"]], float(stored["caption"])
        return {"similarity": sum(cosines), "score": clip_score(whole), "cut": int(stored["cut"])}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"clip: the answer of {row.strategy} to item {item.id!r} was not compared with its picture when it was "
            "made; run the benchmark itself"
        ) from error
