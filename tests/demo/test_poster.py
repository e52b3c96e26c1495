"""The picture of a comparison: its size, its margins, its marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image, ImageColor

from mmhall.demo.compare import Column
from mmhall.demo.poster import MARGIN, WIDTH, poster
from mmhall.demo.typeset import BLUE, TINT, VERMILLION
from mmhall.demo.words import pieces

pytestmark = pytest.mark.slow

SPECS = ("greedy", "vdd", "vhr+vdd", "vcd(alpha=0.5)")


def marks(image):
    """Say which of the marks' colours are in a picture."""
    found = {colour for _, colour in image.getcolors(1 << 24)}
    return {colour for colour in (BLUE, VERMILLION, TINT) if ImageColor.getrgb(colour) in found}


def assert_margins_are_white(image):
    assert image.width == WIDTH
    framed = image.copy()
    framed.paste("white", (MARGIN - 2, MARGIN, WIDTH - MARGIN + 2, image.height - MARGIN))
    assert framed.getcolors() == [(image.width * image.height, (255, 255, 255))]


@pytest.fixture
def draw(embedded):
    def run(image, setup, columns, present, model="embedded"):
        drawn = poster(image, setup, columns, present, model, embedded.processor.tokenizer)
        assert_margins_are_white(drawn)
        return drawn

    return run


@pytest.mark.parametrize("count", [1, 3, 4])
def test_one_to_four_strategies_fit(draw, compared, count):
    image, setup, columns, present = compared(4, SPECS, max_new_tokens=24)
    drawn = draw(image, setup, columns[:count], present)
    assert 400 < drawn.height < 1500


def test_vermillion_is_there_if_and_only_if_something_is_hallucinated(draw, compared, embedded):
    """Greedy makes up a boat, vdd nothing; of no object in the picture, all are made up."""
    image, setup, columns, present = compared(4)
    plain, seen = Image.new("RGB", image.size, "grey"), set()
    for shown, there in ((columns, present), (columns[1:], present), (columns, [])):
        cut = [pieces(embedded.processor.tokenizer, column.answer, there) for column in shown]
        kinds = frozenset(piece.kind for one in cut for piece in one)
        found = marks(draw(plain, setup, shown, there))
        assert (VERMILLION in found, TINT in found) == (("hallucinated" in kinds),) * 2
        assert (BLUE in found) == ("supported" in kinds)
        seen.add(kinds & {"hallucinated", "supported"})
    assert len(seen) == 3


def test_the_mark_is_on_the_card_that_hallucinates(draw, compared):
    image, setup, columns, present = compared(4)
    plain = Image.new("RGB", image.size, "grey")
    drawn = draw(plain, setup, columns, present)
    cards = drawn.crop((0, 0, WIDTH, drawn.height - 110))
    middle = (MARGIN + 440 + WIDTH) // 2
    assert VERMILLION in marks(cards.crop((0, 0, middle, cards.height)))
    assert marks(cards.crop((middle, 0, WIDTH, cards.height))) == {BLUE}


def test_without_a_truth_no_word_is_marked(draw, compared):
    image, setup, columns, _ = compared(4)
    assert marks(draw(Image.new("RGB", image.size, "grey"), setup, columns, None)) == set()


def test_the_same_comparison_gives_the_same_picture(draw, compared):
    made = compared(4)
    assert draw(*made).tobytes() == draw(*made).tobytes()


@pytest.mark.parametrize("size", [(2000, 90), (90, 2000), (1, 1)])
def test_pictures_of_any_shape_fit(draw, compared, size):
    image, setup, columns, present = compared(4)
    draw(image.resize(size), setup, columns, present)


@pytest.mark.parametrize(
    "column",
    [
        Column("vcd", "failed", error="the model cannot carry it " + "because " * 400),
        Column("vcd", "failed", "The image", 3, 0.1, error="NaN logits"),
        Column("vcd", "stopped"),
        Column("vcd", "waiting"),
        Column("vcd", "writing", "The im", 2, 0.1),
        Column("vcd(" + "alpha=0.5, " * 27 + ")", "stopped", "W" * 1500),
        Column("vcd", "stopped", "a\u202eb\x00\ud800 日本 \n\n\n x", 1, 0.1),
    ],
)
def test_columns_without_an_answer_are_shown_as_far_as_they_came(draw, compared, column):
    image, setup, columns, present = compared(4)
    alone = draw(image, setup, [columns[0], replace(column, text="", error="", state="done")], present)
    shown = draw(image, setup, [columns[0], column], present)
    assert shown.tobytes() != alone.tobytes()
    draw(image, setup, [column, columns[0]], present)


def test_long_answers_and_prompts_fit(draw, compared):
    image, setup, columns, present = compared(4, SPECS[:2], max_new_tokens=60, temperature=2.0, seed=1)
    long = [replace(one, answer=None, text=" ".join([one.text] * 60), state="stopped") for one in columns]
    draw(image, replace(setup, prompt="Was für ein Bild? " * 110), long, present, "models/" + "x" * 300)


def test_an_answer_that_was_cut_off_says_so(draw, compared):
    image, setup, columns, present = compared(4, ("greedy",), max_new_tokens=5)
    (column,) = columns
    assert column.answer.stopped_by == "length"
    whole = replace(column, answer=replace(column.answer, stopped_by="eos"))
    assert draw(image, setup, [whole], present).tobytes() != draw(image, setup, columns, present).tobytes()
