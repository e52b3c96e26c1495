"""Yes/no questions with their right answers, for fitting strategies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmhall.errors import DataError
from mmhall.strategies._pairs import digest_picture

RECOMMENDED_QUESTIONS = 50  # with fewer, what is fitted may be chance


@dataclass(frozen=True, slots=True)
class Question:
    """A yes/no question about a picture.

    Attributes:
        id: Id of the picture in its data set.
        picture: Its file.
        text: The whole prompt.
        is_yes: Whether yes is the right answer.
    """

    id: str
    picture: Path
    text: str
    is_yes: bool


@dataclass(frozen=True)
class QuestionSet:
    """Questions and their source.

    Attributes:
        questions: At least one of each answer.
        source: A name such as "drawn scenes", or of a file.
        remarks: Remarks for a reader.
    """

    unit: ClassVar[str] = "questions"
    recommended: ClassVar[int] = RECOMMENDED_QUESTIONS

    questions: tuple[Question, ...]
    source: str
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that something can be learned from the questions.

        Raises:
            DataError: All questions have the same right answer, or there is none.
        """
        answers = {question.is_yes for question in self.questions}
        if len(answers) < 2:
            same = f"the right answer to all questions is {'yes' if True in answers else 'no'}"
            raise DataError(f"{self.source}: {same if answers else 'no questions'}; give questions of both kinds")

    @property
    def samples(self) -> tuple[Question, ...]:
        """The questions."""
        return self.questions

    @property
    def digest(self) -> str:
        """SHA-256 of questions, answers and picture files, 16 hex digits; equal digests mean equal sets.

        Raises:
            DataError: A picture cannot be read.
        """
        digest = hashlib.sha256()
        for question in self.questions:
            digest.update(json.dumps([question.id, question.text, question.is_yes]).encode())
            digest.update(digest_picture(question.picture))
        return digest.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return the record of the questions for an artifact; JSON can write it."""
        return {
            "source": self.source,
            "digest": self.digest,
            "questions": len(self.questions),
            "yes": sum(question.is_yes for question in self.questions),
            "ids": list(dict.fromkeys(question.id for question in self.questions)),
        }

    def find_imbalance(self, tokenizer: Any) -> list[str]:
        """Describe how right answers are distributed, if not evenly."""
        share = sum(question.is_yes for question in self.questions) / len(self.questions)
        if abs(share - 0.5) <= 0.05:
            return []
        return [f"yes is right for {share:.0%} of the questions: accuracy favours the more frequent answer."]
