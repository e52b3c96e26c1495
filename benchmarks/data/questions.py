"""Yes/no questions for fitting strategies, made from pictures with known objects or read from a file.

Each picture is asked for one object that it shows and for one that it does not, as in POPE. The absent object follows
POPE's settings in turn, from picture to picture: drawn at random, the most frequent one, the most frequent one beside
the present object.
"""

from __future__ import annotations

from pathlib import Path

from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.data.pope_maker import SETTINGS, Recipe, make_questions
from mmhall.benchmarks.data.pope_wording import SUFFIX, question_about
from mmhall.benchmarks.data.reading import find_pictures, read_records
from mmhall.strategies import Question, QuestionSet

QUESTION_LINES = 'JSON Lines such as {"image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}'


def read_yes_no_questions(path: Path, images: Path, limit: int | None = None) -> QuestionSet:
    """Read questions from JSON Lines, such as POPE's own files; the text is the whole prompt.

    Args:
        path: The file.
        images: Base folder of picture names.
        limit: Number of questions to keep, from the first.

    Raises:
        DataError: The file or a picture is missing or malformed, or all right answers are the same.
    """
    records = read_records(path, QUESTION_LINES)[:limit]
    files = find_pictures((record.text("image", "picture") for record in records), [images])
    questions = []
    for record in records:
        picture, is_yes = record.text("image", "picture"), record.choice("label", ("yes", "no")) == "yes"
        questions.append(Question(picture, files[picture], record.text("text", "question"), is_yes))
    return QuestionSet(tuple(questions), path.name)


def make_yes_no_questions(pictures: PictureSet, source: str, seed: int, limit: int | None = None) -> QuestionSet:
    """Make two questions about each suitable picture, the same for the same pictures and seed.

    Args:
        pictures: Pictures with known objects.
        source: Name of the picture set.
        seed: Seed of the choice of objects.
        limit: Number of questions to make.

    Raises:
        DataError: No picture is suitable.
    """
    made = make_questions(pictures, seed, Recipe(per_picture=1, positives="random"))
    by_id = {picture.id: picture for picture in pictures.pictures}
    asked = dict.fromkeys(question.picture for question in made)
    turns = {picture: SETTINGS[number % len(SETTINGS)] for number, picture in enumerate(asked)}
    questions = [
        Question(one.picture, by_id[one.picture].path, question_about(str(one.object)) + SUFFIX, one.label == "yes")
        for one in made
        if turns[one.picture] in one.ids
    ]
    return QuestionSet(tuple(questions[:limit]), source, pictures.remarks)
