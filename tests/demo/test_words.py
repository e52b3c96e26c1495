"""Marks on words, by truth made by hand and by the model's own figures."""

from __future__ import annotations

import pytest

from mmhall.answers import Answer, Uncertainty, Usage
from mmhall.demo.setups import setup
from mmhall.demo.words import (
    SIGNALS,
    Piece,
    canonical_name,
    judge_object,
    named_objects,
    pieces,
    signal_range,
    split_by_truth,
)

TEXT = "A man with two wine glasses near a car, and two dogs on the couch."


@pytest.fixture(scope="module")
def tokenizer(embedded):
    return embedded.adapter.tokenizer


@pytest.fixture(scope="module")
def said(tokenizer):
    """Answer a text by hand; the figure of each token is its number, and ten and a hundred times that."""

    def answer(text, sure=True):
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        count = tuple(float(number) for number in range(len(ids)))
        figures = Uncertainty(
            logprobs=count,
            entropies=tuple(100 * one for one in count),
            image_gains=count,
            image_shares=tuple(10 * one for one in count),
        )
        tokens = tuple(tokenizer.decode([one]) for one in ids)
        usage = Usage(1.0, 5, len(ids), None)
        return Answer(text, tokens, ids, "eos", "greedy", {}, usage, uncertainty=figures if sure else None)

    return answer


def marks(cut):
    return {piece.text: (piece.object, piece.kind) for piece in cut if piece.object}


def test_objects_are_marked_by_the_truth(tokenizer, said):
    cut = pieces(tokenizer, said(TEXT), ["wine glass", "dog", "person"])
    assert marks(cut) == {
        "man": ("person", "supported"),
        "wine": ("wine glass", "supported"),
        "glasses": ("wine glass", "supported"),
        "car": ("car", "hallucinated"),
        "dogs": ("dog", "supported"),
        "couch": ("couch", "hallucinated"),
    }
    assert not any(piece.missing_in_first for piece in cut)


def test_pieces_make_up_the_whole_text(tokenizer, said):
    cut = pieces(tokenizer, said(TEXT), None)
    assert "".join(piece.text for piece in cut) == TEXT
    words = [piece for piece in cut if piece.word is not None]
    assert [piece.word for piece in words] == list(range(len(words)))
    assert [piece.text for piece in words] == TEXT.replace(",", "").replace(".", "").split()


def test_nothing_is_right_or_wrong_where_the_truth_is_not_known(tokenizer, said):
    cut = pieces(tokenizer, said(TEXT), None)
    assert {piece.kind for piece in cut} == {""}
    assert "wine glass" in {piece.object for piece in cut}
    assert marks(pieces(tokenizer, said("A dog."), [])) == {"dog": ("dog", "hallucinated")}


def test_what_the_first_column_does_not_name_is_its_own(tokenizer, said):
    cut = pieces(tokenizer, said(TEXT), None, ["car", "person"])
    assert [piece.text for piece in cut if piece.missing_in_first] == ["wine", "glasses", "dogs", "couch"]


def test_objects_that_coco_lacks_count_where_they_are_known(tokenizer, said):
    assert named_objects("a carrot and a lighthouse") == ["carrot"]
    assert named_objects("a carrot and a lighthouse", ["lighthouse"]) == ["carrot", "lighthouse"]
    cut = pieces(tokenizer, said("A dog and a picture."), ["picture"])
    assert marks(cut) == {"dog": ("dog", "hallucinated"), "picture": ("picture", "supported")}


def test_objects_are_named_once_in_order():
    assert named_objects("Dogs chase a dog near wine glasses; a cup, a wine glass.") == ["dog", "wine glass", "cup"]
    assert named_objects("") == []


def test_figures_are_means_over_the_tokens_of_a_word(embedded, tokenizer, scene):
    from mmhall.words import split_words

    answer = embedded.generate(scene.image, "Please describe this image in detail.", "vdd", uncertainty=True)
    cut = [piece for piece in pieces(tokenizer, answer, None) if piece.word is not None]
    words = split_words(tokenizer, answer.token_ids)
    assert [piece.text for piece in cut] == [word.text for word in words]
    for piece, word in zip(cut, words, strict=True):
        for signal, value in zip(SIGNALS, piece.values, strict=True):
            figures = [getattr(answer.uncertainty, signal.name)[token] for token in word.tokens]
            assert value == pytest.approx(sum(figures) / len(figures))


def test_without_figures_there_are_none(tokenizer, said):
    cut = pieces(tokenizer, said(TEXT, sure=False), None)
    assert {piece.values for piece in cut} == {()}
    assert signal_range([cut], 0) is None


def test_a_scale_spans_all_columns():
    one, other = [Piece("a", 0, values=(1.0, None)), Piece(" ")], [Piece("b", 0, values=(-2.0, None))]
    assert signal_range([one, other], 0) == (-2.0, 1.0)
    assert signal_range([one, other], 1) is None
    assert signal_range([], 0) is None


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("No, there is no dog in the image.", []),
        ("There are no cars, but a cup.", ["cup"]),
        ("A table without a cup and a chair.", ["dining table"]),
        ("There isn't any cat. A dog sleeps.", ["dog"]),
        ("A man not wearing a tie sits on a couch.", ["couch"]),
        ("There is no person near the car, which stands beside a bench.", ["car", "bench"]),
        ("There are no cups or bowls on the table.", ["dining table"]),
        ("Yes, there is a dog in the image.", ["dog"]),
        ("A nobleman and a knot; nothing but a cup", ["person", "cup"]),
    ],
)
def test_what_an_answer_denies_is_not_named(text, objects):
    assert [name for name in named_objects(text) if name != "person"] == [name for name in objects if name != "person"]


def test_objects_go_by_the_names_of_coco():
    assert [canonical_name(name) for name in ("Sofa", "people", " TV ", "drone", "hot  dogs")] == [
        "couch", "person", "tv", "drone", "hot dog",
    ]  # fmt: skip
    made, _ = setup({"prompt": "?", "strategies": ["greedy"], "present": ["sofa", "people", "couch"], "absent": ["TV"]})
    assert (made.present, made.absent) == (("couch", "person"), ("tv",))


def test_what_was_never_asked_about_is_not_judged():
    assert [judge_object(name, None) for name in ("cup", "dog")] == ["", ""]
    assert [judge_object(name, ["cup"]) for name in ("cup", "dog")] == ["supported", "hallucinated"]
    assert [judge_object(name, ["cup"], ["cat"]) for name in ("cup", "dog", "cat")] == ["supported", "", "hallucinated"]
    assert split_by_truth(["cup", "dog", "cat"], ["cup"], ["cat"]) == (["cup"], ["cat"])
