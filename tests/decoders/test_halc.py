"""HALC against a slow search that reads everything anew for each token, its parts by hand, and its refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, product
from typing import ClassVar

import pytest
import torch
from PIL import Image
from transformers.generation import BaseStreamer

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.decoders._nouns import CENTRE, ObjectBoxes, random_box
from mmhall.decoders.cgd import embed_sentences
from mmhall.decoders.halc import FocalContrast, contrast_pairs, fields_of_view, propose_tokens, read_views
from mmhall.detection import Box, crop, load_detector
from mmhall.errors import CompositionError, GenerationError, OptionError
from mmhall.generation import run_searches
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import CONTRAST, SEARCH, Composed, Session, Strategy, strategy
from tests.clip import CLIP
from tests.decoders.halc_reference import LENGTH, Naive, apart
from tests.detector import DETECTOR
from tests.generation.reference import QUIET, REQUESTS, built, cut, in_turn
from tests.jobs import opened, run
from tests.zoo import REPRESENTATIVES

pytestmark = [QUIET, pytest.mark.usefixtures("clip", "detector")]

GIVEN = f"detector={str(DETECTOR)!r}, clip={str(CLIP)!r}, threshold=0.55"
PLAIN = f"halc({GIVEN}, base='plain')"
LETTERS = tuple("".join(word) for length in (1, 2, 3) for word in product("aens", repeat=length))
VARIANTS = {
    "beams": f"contrast=0.4, words={LETTERS[:20]}, num_beams=3, fields=3, candidates=6, expand=0.9",
    "deleted": f"contrast=0.4, words={LETTERS}, delete=True, exempt=('e',)",
    "skipped": f"contrast=0.4, words={LETTERS}, skip=0.3, seed=1, num_beams=2",
    "twin": f"contrast=0.4, words={LETTERS}, twin=7, fields=5, candidates=2",
}


@cache
def wordy(name):
    """A family's adapter whose model writes short words of few letters, and may end an answer by a period."""
    model, processor = built(name)
    ids = processor.tokenizer.convert_tokens_to_ids(["a", "e", "n", "s", "Ġ", "."])

    def write(module, inputs, logits):
        few = torch.stack([logits[..., letter::6].amax(dim=-1) for letter in range(6)], dim=-1)
        few = (few - few.mean(dim=-1, keepdim=True)) / few.std(dim=-1, keepdim=True).clamp_min(1e-3)
        few = few + torch.tensor([0.0, 0.0, 0.0, 0.0, 1.5, -1.5])
        return torch.full_like(logits, -50.0).index_copy(-1, torch.tensor(ids), few)

    model.get_output_embeddings().register_forward_hook(write)
    adapter = adapter_for(model, processor)
    adapter.generator.generation_config.eos_token_id = ids[-1:]
    return adapter


def said(adapter, inputs, spec="greedy", **settings):
    """What mmhall says with as many beams as the strategy wants, a row for each answer, ends included."""
    method = strategy(spec)
    config = Settings(**{"max_new_tokens": LENGTH, **settings}).resolved(adapter.generator, method.beams)
    rows = run(adapter, inputs, method, config, 0).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows]


def spec_of(more, base="plain"):
    return f"halc({GIVEN}, base={base!r}, {more})"


def searches(adapter, requests, spec, *, instead=None, **settings):
    """Run the search for each prompt of a batch, and return the searches and their answers.

    Args:
        instead: A detector instead of the strategy's.
    """
    inputs = adapter.inputs(requests)
    config = Settings(max_new_tokens=LENGTH, **settings).resolved(adapter.generator, strategy(spec).beams)
    with torch.inference_mode():
        session = strategy(spec).fitted(adapter).prepare(adapter, inputs)
        decoding, _ = opened(adapter, inputs, session, config)
        own = session.search
        given = own.options, instead or own.detector, own.clip, decoding
        functions = partial(read_views, decoding), partial(embed_sentences, own.clip)
        found = [Recording(*given, prompt, *functions) for prompt in range(len(requests))]
        run_searches(decoding, found)
    return [(search, search.answers) for search in found]


class Recording(FocalContrast):
    """A search that keeps what it reads of each noun's crops."""

    def __init__(self, *given):
        super().__init__(*given)
        self.views = []

    def run(self):
        found = yield from super().run()
        self.answers = [tuple(answer.tolist()) for answer in found]
        return found

    def _ends(self, text, scores):
        said = self._with_prompt([text.said[:-1]] * len(scores))
        self.views.append(self._processed(said, scores).log_softmax(dim=-1))
        return super()._ends(text, scores)


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_it_finds_what_a_slow_search_finds(name, variant):
    adapter, spec = wordy(name), spec_of(VARIANTS[variant])
    found, views = searches(adapter, REQUESTS[1:3], spec), []
    for (search, answers), request in zip(found, REQUESTS[1:3], strict=True):
        naive = Naive(adapter, request, strategy(spec).fitted(adapter))
        wanted = naive.run()
        assert [text.kept for text in search.texts] == wanted
        assert answers == wanted[:1]
        assert [noun.written for noun in search.looked] == [noun[0] for noun in naive.looked]
        assert [noun.detected for noun in search.looked] == [noun[-1] for noun in naive.looked]
        views += zip(search.views, naive.views, strict=True)
    for got, seen in views:
        torch.testing.assert_close(got, torch.stack(seen), rtol=0, atol=1e-4)
    assert views


@dataclass(frozen=True)
class Decaying(Strategy):
    """Moves away from what was predicted before, the latest most."""

    name: ClassVar[str] = "decaying"

    def prepare(self, adapter, inputs):
        return Session(combine=self.combine)

    @staticmethod
    def combine(step):
        past, count = (step.memory.get(name) for name in ("decaying past", "decaying count"))
        past, count = (step.main * 0 if one is None else one for one in (past, count))
        assert (count == step.t).all(), "a row does not know how many tokens it has said"
        step.memory["decaying past"], step.memory["decaying count"] = 0.5 * past + step.main.clamp_min(-5), count + 1
        return step.main - 0.4 * past


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["beams", "deleted"])
def test_what_a_contrast_remembers_is_that_of_the_text(variant):
    """Texts are read anew after each noun, with another token at their end."""
    adapter, spec, request = wordy("llava"), spec_of(VARIANTS[variant]), REQUESTS[3]
    ((search, answers),) = searches(adapter, [request], Composed((Decaying(), strategy(spec))))
    naive = Naive(adapter, request, strategy(spec).fitted(adapter))

    def scores(answer):
        past = 0.0
        for length in range(len(answer) + 1):
            main = naive.read(request.images, answer[:length])
            found, past = main - 0.4 * past, 0.5 * past + main.clamp_min(-5)
        return found

    naive.scores = cache(scores)
    assert answers == naive.run()[:1]
    assert [noun.written for noun in search.looked] == [noun[0] for noun in naive.looked]
    assert search.looked


def test_the_base_step_is_dolas():
    adapter = wordy("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    own = said(adapter, inputs, spec_of(f"words={LETTERS}", base="dola"))
    assert own == said(adapter, inputs, f"dola+{spec_of(f'words={LETTERS}')}")
    assert own != said(adapter, inputs, spec_of(f"words={LETTERS}"))


@pytest.mark.parametrize(("base", "alone"), [("dola", "dola"), ("plain", "greedy")])
def test_where_no_noun_is_written_only_the_base_step_is_left(base, alone):
    adapter = wordy("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    wanted = said(adapter, inputs, alone)
    for more in ("words=('dog', 'traffic light')", f"words={LETTERS}, exempt={LETTERS}", "skip=1"):
        assert said(adapter, inputs, spec_of(more, base)) == wanted, more
    assert said(adapter, inputs, str(strategy(spec_of("contrast=0.4", base), threshold=1.0))) == wanted


def test_fields_of_view_by_hand():
    """Of a box 0.2 wide and 0.4 high, with 0.6: sides move inwards by 0.06 and 0.12, or outwards by as much, then by
    0.3 of 0.32 and 0.58 (one side is the picture's edge)."""
    views = fields_of_view(Box(0.4, 0.6, 0.6, 1.0), 4, 0.6)
    wanted = [(0.46, 0.72, 0.54, 0.88), (0.4, 0.6, 0.6, 1.0), (0.34, 0.48, 0.66, 1.0), (0.244, 0.324, 0.756, 1.0)]
    for box, corners in zip(views, wanted, strict=True):
        assert (box.left, box.top, box.right, box.bottom) == pytest.approx(corners, abs=1e-9)
    shrunk, *_, last = fields_of_view(Box(0.0, 0.0, 1.0, 0.5), 3, 2.0)  # shrunk by 0.8 at most
    assert (shrunk.left, shrunk.top, shrunk.right, shrunk.bottom) == pytest.approx((0.4, 0.2, 0.6, 0.3))
    assert (last.left, last.top, last.right, last.bottom) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        (Box(0.25, 0.5, 0.75, 1.0), (50, 50, 150, 100)),
        (Box(0.251, 0.5, 0.749, 0.999), (50, 50, 150, 100)),  # whole pixels, outwards
        (Box(0.5, 0.5, 0.5, 0.5), (95, 47, 105, 53)),  # at least a twentieth: 10 of 200 pixels, 5 of 100
        (Box(1.0, 0.0, 1.0, 0.01), (190, 0, 200, 5)),
        (Box(0.0, 0.0, 1.0, 1.0), (0, 0, 200, 100)),
    ],
)
def test_crops_by_hand(box, wanted):
    """A picture of 200 x 100 pixels whose colours tell where they are."""
    image = Image.new("RGB", (200, 100))
    image.putdata([(x, y, 0) for y in range(100) for x in range(200)])
    cut_out = crop(image, box)
    left, top, right, bottom = wanted
    assert cut_out.getpixel((0, 0)) == (left, top, 0)
    assert cut_out.getpixel((cut_out.width - 1, cut_out.height - 1)) == (right - 1, bottom - 1, 0)


def test_pairs_and_their_candidates_by_hand():
    """With (KL(M || p) + KL(M || q)) / 2 of (.5, .3, .2), (.6, .3, .1), (.1, .1, .8): 0.0141 for the first two, then
    0.2112 and 0.2944. Logits a - 0.5 b of the most different pair, in log: token 0, and token 2."""
    views = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]).log()
    assert [apart(views[one], views[other]) for one, other in ((0, 1), (0, 2), (1, 2))] == pytest.approx(
        [hand(views[one].exp(), views[other].exp()) for one, other in ((0, 1), (0, 2), (1, 2))]
    )
    assert contrast_pairs(views, 3) == [(1, 2), (0, 2), (0, 1)]
    assert contrast_pairs(views, 1) == [(1, 2)]
    assert propose_tokens(views, [(1, 2)], 0.5) == [0, 2]
    assert propose_tokens(views, [(1, 2), (0, 2)], 0.5) == [0, 2]  # each token once
    # log .3 - 2 log .1 = 3.40 of token 1 is more than log .5 - 2 log .6 = 0.33 and log .2 - 2 log .1 = 3.00 of others
    assert propose_tokens(torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]]).log(), [(0, 1)], 2.0)[0] == 1


def hand(one, other):
    mixed = [(p + q) / 2 for p, q in zip(one.tolist(), other.tolist(), strict=True)]
    return sum(
        m * (math.log(m / p) + math.log(m / q)) / 2 for m, p, q in zip(mixed, one.tolist(), other.tolist(), strict=True)
    )


def test_tokens_that_cannot_be_said_are_never_proposed():
    views = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0]]).log()
    assert contrast_pairs(views, 1) == [(1, 2)]
    assert propose_tokens(views, contrast_pairs(views, 3), 5.0) == [1, 0]


class Listed:
    """A detector with boxes for some phrases, which counts how often it is asked."""

    def __init__(self, **boxes):
        self.boxes, self.asked = boxes, []

    def find(self, picture, phrase):
        self.asked.append(phrase)
        return self.boxes.get(phrase.replace(" ", "_"), [])


SMALL, WIDE = Box(0.1, 0.1, 0.3, 0.3), Box(0.0, 0.0, 1.0, 0.5)
BOXES = {"dog": [WIDE, SMALL], "bus": [WIDE] * 3, "dogs": [SMALL], "cup": [SMALL] * 4, "traffic_light": [WIDE]}


def located(text, more=""):
    options = strategy(f"halc({GIVEN}, {more})")
    return ObjectBoxes(options, Listed(**BOXES), REQUESTS[0].images).locate(text, 9)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A dog", ("dog", 2, SMALL)),  # the smallest of several
        ("Two Dogs", ("dogs", 4, SMALL)),
        ("A bus", ("bus", 2, WIDE)),  # three boxes are not too many
        ("A cup", None),  # four are
        ("A fox", None),  # no box
        ("Outside", None),  # no content word
        ("A dog and its", None),
        ("A dog.", None),
    ],
)
def test_without_words_every_content_word_with_a_box_is_a_noun(text, found):
    noun = located(text)
    assert (noun and (noun.written, noun.start, noun.box)) == found
    assert noun is None or noun.detected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two Dogs", ("dogs", 4, SMALL, True)),  # the detector is asked for a dog
        ("A bus", ("bus", 2, WIDE, True)),
        ("Buses", ("buses", 0, WIDE, True)),
        ("A light", None),
        ("A traffic light", ("traffic light", 2, WIDE, True)),  # the longest
        ("A fox", ("fox", 2, CENTRE, False)),
        ("A hotdog", None),
        ("A cup", None),
        ("A cat", None),  # exempt
    ],
)
def test_the_nouns_of_words_are_looked_at_in_both_numbers(text, found):
    more = "words=('dog', 'bus', 'traffic light', 'fox', 'cup', 'cat'), exempt=('cat',)"
    noun = located(text, more)
    assert (noun and (noun.written, noun.start, noun.box, noun.detected)) == found


def test_a_detector_is_asked_once_for_a_word_and_never_for_what_is_skipped():
    detector = Listed(**BOXES)
    boxes = ObjectBoxes(strategy(f"halc({GIVEN})"), detector, REQUESTS[0].images)
    assert boxes.locate("A dog", 2) == boxes.locate("A dog", 2)
    assert boxes.locate("The", 2) is None
    assert detector.asked == ["dog"]


def test_draws_of_skipped_nouns_are_repeated_and_have_the_share_asked_for():
    def drawn(seed):
        boxes = ObjectBoxes(strategy(f"halc({GIVEN}, skip=0.3, seed={seed})"), Listed(**BOXES), REQUESTS[0].images)
        return [boxes.locate("A dog", position) is None for position in range(400)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert sum(drawn(1)) == pytest.approx(120, abs=30)


def test_a_twins_boxes_have_the_size_and_lie_in_the_picture():
    twins = [random_box(SMALL, twin, "dog 3") for twin in range(1, 200)]
    for box in twins:
        assert (box.width, box.height) == pytest.approx((SMALL.width, SMALL.height))
        assert min(box.left, box.top) >= 0
        assert max(box.right, box.bottom) <= 1 + 1e-9
    assert random_box(SMALL, 5, "dog 3") == twins[4] != random_box(SMALL, 5, "dog 4")
    assert sum(box.left for box in twins) / len(twins) == pytest.approx(0.4, abs=0.06)
    assert located("A dog", "twin=5").box == random_box(SMALL, 5, "dog 9")
    assert located("A fox", "twin=5, words=('fox',)").box == CENTRE  # no choice of the detector's


def test_several_answers_are_the_best_first_and_the_best_fills_up():
    adapter = wordy("llava")
    spec, inputs = spec_of(VARIANTS["beams"]), adapter.inputs(REQUESTS[1:2])
    ((search, answers),) = searches(adapter, REQUESTS[1:2], spec, num_return_sequences=3)
    found = [text.kept for text in search.texts]
    assert len(found) > 1
    assert answers == [*found, *found[:1]][:3]
    nothing = spec_of("num_beams=2, words=('dog',)")
    assert said(adapter, inputs, nothing, num_return_sequences=2) == said(adapter, inputs) * 2


class SecondIsSmallest:
    """A detector that finds anything in three pictures, in the second one, which is wide, in the smallest box."""

    def find(self, picture, phrase):
        return [Box(0.5, 0.1, 0.7, 0.4) if picture.width > picture.height else WIDE]


def test_of_several_pictures_the_one_with_the_smallest_box_is_cropped():
    adapter = wordy("qwen2_5_vl")
    request = Request("Please describe what differs.", tuple(one.images[0] for one in REQUESTS[:3]))
    spec = spec_of(f"words={LETTERS}, contrast=0.4")
    ((search, answers),) = searches(adapter, [request], spec, instead=SecondIsSmallest())
    naive = Naive(adapter, request, strategy(spec).fitted(adapter))
    naive.detector = SecondIsSmallest()
    assert answers == naive.run()
    assert {noun.picture for noun in search.looked} == {1}
    for got, seen in zip(search.views, naive.views, strict=True):
        torch.testing.assert_close(got, torch.stack(seen), rtol=0, atol=1e-4)


def test_the_crops_that_were_read_are_found_at_each_image_token():
    """The tokens of the picture whose middle is in a crop, counted over the crops of all nouns."""
    adapter, spec, request = wordy("llava"), spec_of(f"words={LETTERS}, contrast=0.4"), REQUESTS[1]
    trace = LVLM(adapter.model, adapter.processor).trace(request.images[0], request.prompt, spec, max_new_tokens=LENGTH)
    ((search, _),) = searches(adapter, [request], spec)
    wanted = []
    for left, top, right, bottom in trace.grid.edges.tolist():
        x, y = (left + right) / 2, (top + bottom) / 2
        views = [box for noun in search.looked for box in fields_of_view(noun.box, 4, 0.6)]
        wanted.append(sum(box.left <= x < box.right and box.top <= y < box.bottom for box in views))
    assert trace.findings["crops"].tolist() == wanted
    assert len(set(wanted)) > 1


class Heard(BaseStreamer):
    def __init__(self):
        self.puts, self.ended = [], False

    def put(self, value):
        self.puts.append(value.tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("variant", ["beams", "deleted", "twin"])
def test_what_is_streamed_is_what_is_said(variant):
    adapter, method = wordy("llava"), strategy(spec_of(VARIANTS[variant]))
    pieces = 0
    for request in REQUESTS[1:3]:
        streamer, config = Heard(), Settings(max_new_tokens=LENGTH).resolved(adapter.generator, method.beams)
        (row,) = run(adapter, adapter.inputs([request]), method, config, 0, streamer).tolist()
        assert streamer.ended
        assert list(chain(*streamer.puts)) == row
        pieces += len(streamer.puts)
    assert pieces > 2


def test_half_precision_runs_and_looks_at_nothing_where_it_is_neutral():
    model, processor = built("llava")
    adapter = adapter_for(model.bfloat16(), processor)
    adapter.generator.generation_config.eos_token_id = [processor.tokenizer.eos_token_id]
    inputs = adapter.inputs(REQUESTS[:2])
    assert said(adapter, inputs, spec_of("skip=1.0, twin=3")) == said(adapter, inputs)
    assert said(adapter, inputs, spec_of(f"words={LETTERS}"))


def test_a_detector_that_fails_stops_the_run_in_words(monkeypatch):
    adapter = wordy("llava")
    detector = load_detector(str(DETECTOR))

    def fail(*_, **__):
        raise RuntimeError("out of order")

    monkeypatch.setattr(detector.model, "forward", fail)
    with pytest.raises(GenerationError, match=r"^halc: the detector .* fails on '\w+': out of order; use another"):
        said(adapter, adapter.inputs(REQUESTS[:2]), spec_of(f"words={LETTERS}"))


def test_it_needs_a_detector_and_a_clip(llava, pictures):
    for spec in ("halc", f"halc(clip={str(CLIP)!r})", f"vhr+halc(clip={str(CLIP)!r})"):
        with pytest.raises(OptionError, match=r"halc: detector must be the folder or hub id of an open-vocab.*got ''"):
            llava.generate(pictures[0], "What?", spec)
    with pytest.raises(OptionError, match=r"halc: clip must be a folder .*got ''"):
        llava.generate(pictures[0], "What?", f"halc(detector={str(DETECTOR)!r})")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("detector", "owl"),
        ("detector", "truth:"),
        ("clip", "somewhere"),
        ("num_beams", 0),
        ("fields", 1),
        ("expand", -0.1),
        ("contrast", float("nan")),
        ("candidates", 3),
        ("candidates", 14),
        ("words", ("Dog",)),
        ("words", (" dog",)),
        ("words", (3,)),
        ("exempt", ("",)),
        ("threshold", 1.5),
        ("base", "greedy"),
        ("skip", 1.1),
        ("delete", True),
        ("twin", -1),
    ],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^halc: {option} must be .*, got"):
        strategy("halc", **{option: value})


def test_pictures_that_only_a_processor_saw_are_refused(llava, pictures):
    inputs = llava.adapter.inputs([Request("What?", (pictures[0],))])
    own = mmhall.custom_generate(PLAIN, processor=llava.processor)
    with pytest.raises(CompositionError, match=r"halc: .* parts of the pictures.*; use LVLM\.generate"):
        llava.model.generate(**inputs, max_new_tokens=4, do_sample=False, custom_generate=own)


def test_what_it_claims():
    assert strategy("halc").claims == {SEARCH, CONTRAST}
    assert strategy("halc(base='plain')").claims == {SEARCH}
    with pytest.raises(CompositionError, match=r"vcd\+halc: both want the contrast .* or halc\(base='plain'\)"):
        strategy(f"vcd+halc({GIVEN})")
    with pytest.raises(CompositionError, match="both want the search"):
        strategy(f"opera+{PLAIN}")


def test_without_a_picture_it_asks_for_nothing():
    adapter = wordy("llava")
    assert strategy(PLAIN).fitted(adapter).prepare(adapter, adapter.inputs([Request("What?")])) == Session()
