"""How sure the embedded model is of the objects that captions name, as stored by a run, and the filters made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence.mentions import STORED, stored_certainties, tokens_of
from mmhall.benchmarks.evidence.plain_arms import DENIED, SAME_FILTER, SAME_MENTIONS, matched_arms, mention_ends
from mmhall.benchmarks.evidence.threshold import yes_score
from mmhall.benchmarks.report.captions import caption_remarks
from mmhall.benchmarks.run.inputs import BatchInputs
from mmhall.benchmarks.run.runner import answers
from mmhall.benchmarks.run.runs import Part
from mmhall.benchmarks.scenes.dataset import write_scenes
from mmhall.decoders.greedy import Greedy
from mmhall.errors import DataError
from mmhall.generation import _requests as requests_module
from mmhall.objects import question_about
from mmhall.results.store import Row
from mmhall.strategies import strategy


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 2, 0))
    chair, pictures = Chair(max_new_tokens=24), read_coco(folder / "annotations.json", folder)
    return Part(chair, chair.items(pictures, 0), {one.id: one.path for one in pictures.pictures})


@pytest.mark.slow
def test_a_run_stores_it_with_the_baselines_captions(embedded, part):
    """As read from the whole caption, and asked one by one; no other captions have it."""
    asked = [Greedy(), strategy("vdd(alpha=0.5)")]
    inputs = BatchInputs(embedded, part, part.items)
    rows = {(r.strategy, r.item): r for done in answers(inputs, asked, 0, set()) for r in done}
    assert [STORED in row.extra for (name, _), row in rows.items() if name != "greedy"] == [False, False]
    (alone,) = answers(BatchInputs(embedded, part, part.items[:1]), asked[:1], 0, set())
    assert STORED in alone[0].extra  # strategies can be added later
    for item in part.items:
        row, path = rows["greedy", item.id], part.picture(item)
        (known,) = stored_certainties(part.benchmark, [item], [row])
        named = part.benchmark.named(item, row.text)
        assert [(one.start, one.end) for one in known] == [(m.start, m.end) for m in named] != []
        answer = embedded.generate(path, item.prompt, max_new_tokens=24, uncertainty=True)
        places = tokens_of(embedded.adapter.tokenizer, answer, named)
        wanted = [answer.uncertainty.logprobs[tokens[0]] for tokens in places]
        assert [one.logprob for one in known] == pytest.approx(wanted, abs=1e-3)
        for one, mention in zip(known, named, strict=True):
            said = embedded.generate(path, question_about(mention.name), max_new_tokens=1, scores=True)
            assert one.yes == pytest.approx(yes_score(embedded.adapter, said.scores[0]), abs=1e-3)


def test_a_run_opens_and_processes_a_picture_once_for_captions_and_questions(embedded, part, monkeypatch):
    opened, processed, kind = [], [], type(embedded.processor.image_processor)
    preprocess, opening = kind.preprocess, requests_module.open_image
    monkeypatch.setattr(kind, "preprocess", lambda *a, **o: processed.append(a[1]) or preprocess(*a, **o))
    monkeypatch.setattr(requests_module, "open_image", lambda source: opened.append(source) or opening(source))
    (rows,) = answers(BatchInputs(embedded, part, part.items), [Greedy()], 0, set())
    assert all(row.extra[STORED] for row in rows)
    assert len(opened) == len(processed) == len(part.items)


OBJECTS = ["dog", "car", "cup"]
CAPTION = "A dog. A hot dog. A car. A cup."


def sure(*known):
    """A caption of a picture without a hot dog, with log-probability and score of yes for each mention."""
    item = Item("1", "1", "?", Chair.groups, {"objects": OBJECTS})
    places = [(start, end) for start, end, _ in Chair().mark(item, CAPTION)]
    stored = {STORED: [[*place, *one] for place, one in zip(places, known, strict=True)]}
    return item, Row("chair", "1", "greedy", CAPTION, "eos", 9, 1.0, 0, stored)


def evaluated(row):
    items = [Item(f"{n}", f"{n}", "?", Chair.groups, {"objects": OBJECTS}) for n in range(8)]
    rows = [replace(row, item=item.id, strategy=name) for item in items for name in ("greedy", "other")]
    return evaluate(Chair(), items, rows, ["greedy", "other"])


def arms_of(row):
    (frontier,) = evaluated(row).frontiers.values()
    return {arm.name: (arm.recall, arm.error) for arm in frontier.arms}


def test_filters_leave_out_what_the_model_is_unsure_of_or_denies():
    """Of four mentions the hot dog is the least probable one, and denied; with it a quarter is wrong.

    Of 32 mentions, eight each at -9, -3, -2 and -1, the quantiles up to 20 % are -9, of which none is less; those of
    30 and 40 % are -3, so that the hot dogs go. "dog" of the hot dog is no mention that is left.
    """
    _, row = sure((-1.0, 2.0), (-9.0, -1.5), (-2.0, 0.0), (-3.0, 4.0))
    arms = arms_of(row)
    assert arms["whole captions"] == (1.0, 0.25)
    assert arms[DENIED] == arms["least probable 30% deleted"] == arms["least probable 40% deleted"] == (1.0, 0.0)
    assert "least probable 20% deleted" not in arms  # which are the whole captions


def test_the_most_probable_mentions_are_as_many_as_the_strategys():
    """A strategy with three mentions: the three most probable ones of greedy's, all right; with five, all four."""
    item, row = sure((-1.0, 2.0), (-9.0, -1.5), (-2.0, 0.0), (-3.0, 4.0))
    known, ends = stored_certainties(Chair(), [item], [row]), mention_ends(Chair(), [item], [row])
    for text, named, absent in (("A dog. A dog. A dog.", 3, 0), ("A dog. " * 5, 4, 1), ("Hm.", 0, 0)):
        arms = matched_arms(Chair(), [item], [row], [replace(row, text=text)], ends, known)
        (counts,) = arms.get(SAME_FILTER, [{"named": 0, "absent": 0}])
        assert (counts["named"], counts["absent"]) == (named, absent)
        (counts,) = arms[SAME_MENTIONS]
        assert (counts["named"], counts["absent"]) == (named, min(1, named))  # the hot dog is the second mention
    assert SAME_FILTER not in matched_arms(Chair(), [item], [row], [row], ends, None)


def test_without_scores_of_yes_nothing_is_denied():
    _, row = sure((-1.0, None), (-9.0, None), (-2.0, None), (-3.0, None))
    arms = arms_of(row)
    assert DENIED not in arms
    assert "least probable 40% deleted" in arms


@pytest.mark.slow
def test_what_is_not_stored_makes_no_filter_and_what_is_damaged_is_refused():
    item, row = sure((-1.0, 2.0), (-9.0, -1.5), (-2.0, 0.5), (-3.0, 4.0))
    assert stored_certainties(Chair(), [item], [replace(row, extra=None)]) is None
    other_rule = replace(row, extra={STORED: row.extra[STORED][1:]})
    assert stored_certainties(Chair(), [item], [other_rule]) is None
    assert not any("deleted" in name for name in arms_of(other_rule))
    assert all("no filters" in caption_remarks(evaluated(each))[0] for each in (other_rule, replace(row, extra=None)))
    assert "no filters" not in caption_remarks(evaluated(row))[0]
    with pytest.raises(DataError, match="chair: the certainty stored with the caption of greedy to item 1 cannot be"):
        stored_certainties(Chair(), [item], [replace(row, extra={STORED: [[1, 2, "x"]]})])
