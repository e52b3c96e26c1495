"""Image-text agreement of captions, by a CLIP of your choice.

Paper    CLIPScore: Hessel et al., EMNLP 2021, arXiv:2104.08718.
Items    One caption per picture.
Prompt   "Please describe this image in detail.", as CHAIR asks.
Rule     "cosine": cosines between the embeddings of picture and text, of the CLIP that `model` names (any of open_clip:
         see `mmhall.clip.load_clip`). Of SigLIP models too, whose scale and bias are left out. They are measured when
         an answer is made, behind a model's thoughts, and kept with it.
Metrics  similarity, the mean cosine of all sentences of the corpus; CLIPScore, 2.5 max(cosine, 0) of a caption as a
         whole, mean over captions; cut, the share of captions longer than the CLIP's context, whose CLIPScore is that
         of their beginning; sentences and words per caption. A caption without a word scores 0. Tables show the first
         three times 100.
Differs  Without the paper's prefix "A photo depicts": captions of these models begin in many ways, often like that.
         Scores of different CLIPs do not compare. A CLIP sees what fits a picture as a whole, not what is missing
         from it: read it beside CHAIR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmhall.benchmarks.base import Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.rules.thoughts import spoken
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
    """Captions compared with their pictures by a CLIP.

    Attributes:
        model: Which CLIP: a folder, "architecture/weights" or "hf-hub:name"; see `mmhall.clip.load_clip`.
        rule: What is compared, and how.
        max_new_tokens: Most tokens a caption may have.
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
        """Read the pictures and make the items, once it is known that there is a CLIP to compare them with.

        Raises:
            OptionError: No CLIP is named.
            ModelError: There is none of that name.
            DataError: As of every benchmark.
        """
        self.check("model", bool(self.model), CLIP_NAMES)
        check_clip(self.model)
        return super().material(source)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption per picture."""
        return [Item(p.id, p.id, PROMPT, ("captions",)) for p in pictures.pictures]

    def measure(
        self, lvlm: LVLM, asked: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Compare captions with their pictures, on the device of the model that wrote them."""
        clip = load_clip(self.model, lvlm.adapter.device)
        return [
            None if file is None else measured(clip, file, spoken(answer.text))
            for (_, file), answer in zip(asked, answers, strict=True)
        ]

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count captions by what was measured when they were made.

        Raises:
            DataError: An answer was not measured.
        """
        return [{**self.count(item, row.text), **_scores(item, row)} for item, row in zip(items, rows, strict=True)]

    def count(self, item: Item, text: str) -> Counts:
        """Count what can be told from a caption alone."""
        text = spoken(text)
        return {"n": 1, "sentences": len(sentences(text)), "words": len(re.findall(r"[\w'-]+", text))}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark nothing: agreement is no matter of right and wrong."""
        return []


def measured(clip: Clip, picture: Path, caption: str) -> dict[str, Any]:
    """Compare a caption with its picture.

    Returns:
        "similarity", the cosine of each sentence; "caption", that of the whole, 0 where nothing is said; "cut", whether
        the whole is longer than the CLIP's context; "clip", its name.

    Raises:
        ImageError: The picture cannot be opened.
    """
    parts = sentences(caption)
    found = clip.similarity(open_image(picture), [*parts, caption]).tolist() if parts else [0.0]
    return {
        "similarity": found[:-1],
        "caption": found[-1],
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
    """Read what was measured of an answer."""
    try:
        kept = row.extra or {}
        cosines, whole = [float(cosine) for cosine in kept["similarity"]], float(kept["caption"])
        return {"similarity": sum(cosines), "score": clip_score(whole), "cut": int(kept["cut"])}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"clip: the answer of {row.strategy} to item {item.id!r} was not compared with its picture when it was "
            "made; run the benchmark itself"
        ) from error
