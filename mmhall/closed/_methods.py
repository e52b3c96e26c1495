"""The methods of `LVLM` that choose among given answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmhall.adapters import Adapter
from mmhall.answers import Choice
from mmhall.closed._calibration import Calibration
from mmhall.closed._choosing import choose_answers
from mmhall.closed._domain import DomainContext
from mmhall.generation import Images, Prompt


class ChoiceMethods:
    """Methods that choose among given answers, for a class with an adapter.

    Attributes:
        adapter: The model.
    """

    adapter: Adapter

    def choose(
        self,
        image: Images,
        question: Prompt,
        choices: Sequence[str] = ("yes", "no"),
        *,
        calibrate: str | Calibration | DomainContext | None = None,
        **options: Any,
    ) -> Choice:
        """Choose the most probable of given answers by the plain model, without generating text.

        Choices that are single tokens are scored by their next-token probability, summed over all spellings that the
        tokenizer has: "Yes", " yes", ... ("labels"). Otherwise each is scored by the probability of all its tokens,
        summed over a small and a capital first letter, with and without a space before it ("strings"). Longer texts are
        less probable; calibration corrects for it. A choice need not end the answer, except where one choice is the
        beginning of another: then all are scored with an end mark, else the longer one could not win.

        Args:
            image: As in `generate`.
            question: As `prompt` in `generate`.
            choices: At least two distinct texts.
            calibrate: Take out the model's prior among the choices: the name of picture-free inputs, such as "none" or
                "none+unk" (see `mmhall.strategies.picture_free_inputs`); "words", or "words(part='cup')" with options
                of `mmhall.closed.DomainContext`: the question with random words in place of its own; or a prior
                fitted over a data set. Without a picture nothing is taken out.
            **options: mode, "diagonal" (divide by the prior) or "identity" (subtract it); smoothing, added to each
                probability of the prior, 1e-4; scoring, "auto", "labels", "strings" or "compat" (as the authors of
                the method do: the likeliest spelling among the 10 likeliest tokens, or 100 if the choices are not
                yes and no; uncalibrated where none is there, or, of the 100, where the prior lacks one);
                temperature, which divides log-probabilities, 1, with "compat" 0.2 as in the authors' scripts; seed
                and draw ("picture" or "seed"), of picture-free inputs that are noise.

        Raises:
            MmhallError: The picture, the question, a choice or an option is unusable.
        """
        return self.choose_batch([(image, question)], choices, calibrate=calibrate, **options)[0]

    def choose_batch(
        self,
        requests: Sequence[tuple[Images, Prompt]],
        choices: Sequence[str] = ("yes", "no"),
        *,
        calibrate: str | Calibration | DomainContext | None = None,
        **options: Any,
    ) -> list[Choice]:
        """Choose for several questions in one batch; each choice is the same as alone.

        Args:
            requests: Pairs of picture and question.
            choices: As in `choose`, the same for all questions.
            calibrate: As in `choose`.
            **options: As in `choose`.

        Raises:
            MmhallError: As in `choose`; also when questions with and without pictures are mixed.
        """
        return choose_answers(self.adapter, requests, choices, calibrate, options)
