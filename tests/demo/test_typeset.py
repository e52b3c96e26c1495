"""Wrapping: nothing is lost, nothing is wider than its line, and marks stay on their words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageColor, ImageDraw

from mmhall.demo.typeset import BLUE, TINT, VERMILLION, Fragment, Paragraph, font, plain, tag, to_fragments, wrap
from mmhall.demo.words import Piece, pieces

FACE = font(20)
KINDS = st.sampled_from(["", "supported", "hallucinated"])
TEXTS = st.text(alphabet="aWi é-.\n\t日", max_size=60)
PARTS = st.lists(st.builds(Fragment, TEXTS, KINDS, st.booleans()), max_size=8)


def width_of(line):
    return sum(part.width(FACE) for part in line)


@given(PARTS, st.integers(60, 400))
@settings(max_examples=300)
def test_lines_fit_and_hold_every_letter(parts, width):
    lines = wrap(parts, width, FACE)
    assert all(width_of(line) <= width for line in lines)
    assert not any("\n" in part.text for line in lines for part in line)
    said = "".join("".join(part.text for part in parts).split())
    assert "".join("".join(part.text for line in lines for part in line).split()) == said


@given(PARTS)
@settings(max_examples=50)
def test_a_line_narrower_than_a_letter_takes_one_letter(parts):
    for line in wrap(parts, 1, FACE):
        assert len("".join(part.text for part in line).strip()) <= 1


def test_punctuation_stays_with_its_word_and_newlines_stay():
    parts = [Fragment("one "), Fragment("boat", "hallucinated", True), Fragment(".\n\nEnd")]
    width = width_of([Fragment("one boat"), parts[1]]) - FACE.getlength("boat") + 1
    lines = ["".join(part.text for part in line) for line in wrap(parts, width, FACE)]
    assert lines == ["one", "boat.", "", "End"]


def test_a_cross_follows_only_the_end_of_a_broken_word():
    (*others, last) = wrap([Fragment("w" * 60, "hallucinated", True)], 200, FACE)
    assert not any(part.has_cross for line in others for part in line)
    assert last[-1].has_cross


def marked(cut):
    return [(part.text, part.kind, part.last) for part in to_fragments(cut) if part.kind]


def test_the_marks_are_on_the_words_of_real_answers(compared, embedded):
    _, _, (greedy, vdd), present = compared(4)
    tokenizer = embedded.processor.tokenizer
    assert [m[:2] for m in marked(pieces(tokenizer, greedy.answer, present))] == [
        ("bird", "supported"),
        ("book", "supported"),
        ("surfboard", "supported"),
        ("book", "supported"),
        ("boat", "hallucinated"),
        ("book", "supported"),
    ]
    assert {kind for _, kind, _ in marked(pieces(tokenizer, vdd.answer, present))} == {"supported"}
    assert marked(pieces(tokenizer, greedy.answer, None)) == []
    written = "".join(part.text for part in to_fragments(pieces(tokenizer, greedy.answer, present)))
    assert written.strip() == greedy.text


def test_the_words_of_one_object_share_one_mark():
    def word(text, name):
        return Piece(text, 0, name, "hallucinated")

    cut = [
        Piece("a "),
        word("wine", "wine glass"),
        Piece(" "),
        word("glass", "wine glass"),
        Piece(" "),
        word("cat", "cat"),
    ]
    assert marked(cut) == [
        ("wine", "hallucinated", False),
        (" ", "hallucinated", False),
        ("glass", "hallucinated", True),
        ("cat", "hallucinated", True),
    ]


def colours(image):
    return {colour for _, colour in image.getcolors(1 << 24)}


def drawn(paragraph):
    image = Image.new("RGB", (400, max(1, paragraph.height) + 40), "white")
    paragraph.draw(ImageDraw.Draw(image), 50, 20)
    return image


@pytest.mark.parametrize(
    ("kind", "there", "missing"),
    [
        ("", [], [BLUE, VERMILLION, TINT]),
        ("supported", [BLUE], [VERMILLION, TINT]),
        ("hallucinated", [VERMILLION, TINT], [BLUE]),
    ],
)
def test_marks_have_their_colours_and_nothing_is_drawn_outside(kind, there, missing):
    parts = [Fragment("some gyp "), Fragment("jQWÉ" * 20, kind, True), Fragment(" and so on.")] * 3
    image = drawn(Paragraph(wrap(parts, 300, FACE), 20))
    found = colours(image)
    assert all(ImageColor.getrgb(colour) in found for colour in there)
    assert not any(ImageColor.getrgb(colour) in found for colour in missing)
    image.paste("white", (48, 20, 353, image.height - 20))
    assert colours(image) == {(255, 255, 255)}


def test_a_tag_stands_in_a_box_that_fits():
    image = drawn(tag("cut off at " + "9" * 50, 300, 20))
    image.paste("white", (50, 20, 351, image.height - 19))
    assert colours(image) == {(255, 255, 255)}


def test_accents_are_letters_and_what_the_font_lacks_is_a_box():
    def look(text):
        return bytes(FACE.getmask(text))

    assert look("é") not in (look("e"), look("\ufffe"))
    assert look("日") == look("本")


def test_hidden_characters_are_written_out():
    (line,) = plain("a\u202eb", 300, 20).lines
    assert "".join(part.text for part in line) == "a\\u202eb"
