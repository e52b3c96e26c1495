"""Tuning chooses what is better on some pictures, says what it is worth on others, and does not chase noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.tuning import entry, held_out_lines, tried_lines
from mmhall.benchmarks.scenes import write_scenes
from mmhall.benchmarks.tune.log import TuningLog
from mmhall.benchmarks.tune.objective import Figures, Gain, Scored, Sheet, _objective
from mmhall.benchmarks.tune.tuning import Candidate, _search, choose, expected, halves, tries_of, tune
from mmhall.errors import DataError, GenerationError, OptionError
from mmhall.options import by_model, option
from mmhall.results.intervals import percentile_interval
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row
from mmhall.strategies import Session, Strategy, strategy
from mmhall.strategies.tuned import check_options

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Muddle(Strategy):
    """Prefers some words over others, whatever the picture.

    Attributes:
        strength: How much.
        way: Which.
        kept: Not tuned.
    """

    name: ClassVar[str] = "muddle"

    strength: float = by_model(9.0, low=0, tries=(0.0, 3.0, 9.0))
    way: int = by_model(1, tries=(1, 2))
    kept: float = option(0.5)

    def prepare(self, adapter, inputs):
        def combine(step):
            main = step.main
            return main + self.strength * ((7 * self.way * main.new_ones(main.shape[-1]).cumsum(0)) % 5 > 2)

        return Session(combine=combine) if self.strength else Session()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 10, 77))
    return read_coco(folder / "annotations.json", folder)


@pytest.fixture(scope="module")
def sheets(scenes):
    return halves(scenes, 5)


@pytest.fixture(scope="module")
def few(scenes):
    """Halves of fewer pictures, asked for short answers: for what needs a model."""
    return halves(replace(scenes, pictures=scenes.pictures[:6]), 5, 16)


@pytest.fixture(scope="module")
def muddled(embedded, few):
    """What tuning finds for a strategy that only harms, and how far it said it was."""
    seen = []
    return tune(embedded, Muddle(), few, progress=seen.append), sum(seen)


def picture_ids(scenes):
    return [picture.id for picture in scenes.pictures]


def test_the_halves_share_no_picture_and_leave_none_out(scenes, sheets):
    first, second = (set(sheet.pictures) for sheet in sheets)
    assert not first & second
    assert first | second == set(picture_ids(scenes))
    assert len(first) == len(second) == 5
    assert [set(sheet.pictures) for sheet in halves(scenes, 6)] != [first, second]
    assert [sheet.pictures for sheet in halves(scenes, 5)] == [sheet.pictures for sheet in sheets]


def test_figures_are_those_of_the_benchmarks(embedded, scenes):
    """Popular and adversarial ask equally many questions: their accuracies' mean is the accuracy of both together."""
    scenes = replace(scenes, pictures=scenes.pictures[:4])
    sheet = Sheet(scenes, picture_ids(scenes), 0)
    told = sheet.figures(*[sheet.answer(embedded, strategy("greedy"), 16, lambda count: None)] * 2)
    by_metric = {}
    for benchmark in (Pope(), Chair()):
        items = benchmark.items(scenes, 0)
        asked = [(scenes[item.picture].path, item.prompt) for item in items]
        said = embedded.generate_batch(asked, max_new_tokens=benchmark.max_new_tokens)
        rows = [
            Row(benchmark.name, item.id, "greedy", answer.text, "eos", 1, 1.0, 0)
            for item, answer in zip(items, said, strict=True)
        ]
        cells = evaluate(benchmark, items, rows, ["greedy"]).cells
        by_metric |= {(cell.group, cell.metric.name): cell.estimate.value for cell in cells}
    accuracy = (by_metric["popular", "accuracy"] + by_metric["adversarial", "accuracy"]) / 2
    precision, recall = 1 - by_metric["captions", "CHAIR_i"], by_metric["captions", "recall"]
    f1 = 2 * precision * recall / (precision + recall)
    wanted = ((accuracy + f1) / 2, accuracy, f1, precision, recall, by_metric["captions", "words"], 0.0)
    assert vars_of(told) == pytest.approx(wanted)


def vars_of(figures):
    return [getattr(figures, name) for name in Figures.__slots__]


def made_up(sheet, seed):
    """Counts drawn by chance, questions first: asked, right, named, absent, present, found, words."""
    rng = np.random.default_rng(seed)
    rows = [(2, 2 * rng.integers(0, 2), 0, 0, 0, 0, 0) for _ in range(sheet.questions)]
    rows += [(0, 0, 9, rng.integers(0, 5), 6, rng.integers(1, 6), 20) for _ in range(sheet.captions)]
    return Scored(tuple(f"{seed} {n}" for n in range(len(sheet))), tuple(np.array(rows, float).T))


def test_the_interval_is_a_bootstrap_by_picture(sheets, scenes):
    """Against a slow one that builds every drawn set of pictures item by item."""
    sheet, own = sheets[0], set(sheets[0].pictures)
    one, other = made_up(sheet, 1), made_up(sheet, 2)
    asked = [i for i in Pope().items(scenes, 5) if i.picture in own and {"popular", "adversarial"} & set(i.groups)]
    pictures = [item.picture for item in (*asked, *(i for i in Chair().items(scenes, 5) if i.picture in own))]
    names = sorted(set(pictures))

    def objective(scored, items):
        rows = np.array(scored.counts).T[items].sum(axis=0)
        precision, recall = 1 - rows[3] / rows[2], rows[5] / rows[4]
        return (rows[1] / rows[0] + 2 * precision * recall / (precision + recall)) / 2

    rng, slow = np.random.default_rng(0), []
    for weights in rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=10_000)[:2000]:
        items = [n for n, picture in enumerate(pictures) for _ in range(weights[names.index(picture)])]
        slow.append(objective(one, items) - objective(other, items))
    gain, everything = sheet.gain(one, other), list(range(len(pictures)))
    assert gain.value == pytest.approx(objective(one, everything) - objective(other, everything))
    assert gain.value == pytest.approx(sheet.figures(one, one).objective - sheet.figures(other, one).objective)
    assert gain.error == pytest.approx(np.std(slow), rel=0.1)
    low, high = percentile_interval(np.array(slow), len(names))
    assert gain.low <= low + 0.02
    assert gain.high >= high - 0.02


def test_a_gain_has_two_sides(sheets):
    one, other = made_up(sheets[1], 1), made_up(sheets[1], 2)
    there, back = sheets[1].gain(one, other), sheets[1].gain(other, one)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    same = sheets[1].gain(one, one)
    assert (same.value, same.error, same.p) == (0, 0, 1)


def test_captions_that_name_nothing_are_worth_nothing(sheets):
    silent = made_up(sheets[0], 1)
    counts = list(silent.counts)
    counts[2] = counts[3] = counts[5] = np.zeros_like(counts[2])
    figures = sheets[0].figures(replace(silent, counts=tuple(counts)), silent)
    assert (figures.precision, figures.recall, figures.f1) == (0, 0, 0)
    assert figures.objective == figures.accuracy / 2


def searched(start, objective):
    order = []

    def reached(method):
        order.append((method.strength, method.way))
        return objective(method)

    _search(start, tries_of(Muddle()), reached)
    return order


def test_options_are_tried_one_after_the_other_from_the_best():
    """Worth -(strength - 3)^2 + way: the best strength is found first, and the best way tried with it."""
    order = searched(Muddle(9.0, 1), lambda m: m.way - (m.strength - 3) ** 2)
    first, second = order[1:6], order[6:]
    assert order[0] == (9.0, 1)
    assert first == [(0.0, 1), (3.0, 1), (9.0, 1), (3.0, 1), (3.0, 2)]
    assert second == [(0.0, 2), (3.0, 2), (9.0, 2), (3.0, 1), (3.0, 2)]


def test_the_second_round_finds_what_only_the_other_option_uncovers():
    """Strength matters with way 2 only."""
    order = searched(Muddle(9.0, 1), lambda m: (m.way == 2) * (10 - m.strength))
    assert order[-1] == (0.0, 2)


def test_equals_are_not_moved_to():
    assert searched(Muddle(9.0, 1), lambda m: 0.0)[6:] == [(0.0, 1), (3.0, 1), (9.0, 1), (9.0, 1), (9.0, 2)]


def candidate(objective, moved, changed, behind=0.0, error=0.0):
    figures = Figures(objective, 0, 0, 0, 0, 0, changed)
    return Candidate(Muddle(), moved, figures, Gain(behind, 0, 0, error, 1.0))


def test_of_alike_candidates_the_one_nearest_to_the_defaults_is_chosen():
    best, near = candidate(0.90, 2, 0.3), candidate(0.88, 1, 0.4, 0.02, 0.03)
    nearest_but_worse = candidate(0.80, 0, 0.1, 0.10, 0.03)
    assert choose((nearest_but_worse, near, best), 0.70) is near
    assert choose((nearest_but_worse, best), 0.70) is best


def test_of_those_as_near_the_weakest_and_then_the_first_is_chosen():
    strong, weak, twin = (candidate(0.9, 1, changed) for changed in (0.5, 0.2, 0.2))
    assert choose((strong, weak, twin), 0.7) is weak


def test_defaults_worse_than_greedy_are_not_chosen_for_being_near():
    assert choose((candidate(0.79, 0, 0.2, 0.02, 0.03), best := candidate(0.81, 2, 0.3)), 0.80) is best


def test_where_nothing_beats_greedy_the_weakest_is_chosen():
    default, weak = candidate(0.79, 0, 0.5), candidate(0.78, 2, 0.1, 0.01, 0.02)
    assert choose((default, weak, candidate(0.60, 1, 0.0, 0.2, 0.02)), 0.80) is weak


def test_a_strategy_that_only_harms_is_turned_off(muddled):
    found, _ = muddled
    assert found.chosen.method.strength == 0.0
    assert found.tried[0].method == Muddle(9.0, 1)
    assert found.tried[0].figures.objective < found.greedy[0].objective - 0.2
    assert found.verdict == "does not help on this model: it changes no answer"
    assert not found.helps
    assert found.options == {"strength": 0.0, "way": 1}
    assert found.judged.objective == found.greedy[1].objective
    assert (found.over_greedy.value, found.over_greedy.p) == (0, 1)
    assert found.over_default.value > 0.1


def test_every_candidate_is_answered_once_and_progress_adds_up(muddled, few):
    found, settled = muddled
    methods = [c.method for c in found.tried]
    assert len(set(methods)) == len(methods) == 4
    assert settled == expected(Muddle(), few)


def test_what_was_found_can_be_written_down_and_read(muddled):
    found, _ = muddled
    told = entry(found, {"seed": 5})
    assert told["options"] == found.options
    assert told["verdict"] == found.verdict
    assert told["held_out"]["chosen_minus_greedy"]["value"] == 0
    lines = tried_lines(found)
    assert [line[0] for line in lines].count("*") == 1
    assert next(line for line in lines if line[0] == "*")[1].startswith("muddle(strength=0.0")
    assert lines[1][1].endswith("(defaults)")
    assert {len(line) for line in lines} == {len(held_out_lines(found)[0]) + 1}


@pytest.mark.parametrize(
    ("verdict", "value", "p", "best", "pictures"),
    [
        ("helps on this model", 0.05, 0.012, 1.0, 100),
        ("better than greedy, but by chance with p = 0.052, corrected for 4 candidates", 0.05, 0.013, 1.0, 100),
        ("no better than greedy on", -0.01, 0.001, 1.0, 100),
        ("no values", 0.05, 0.001, 0.0, 100),
        ("not decided: it takes 100 held-out pictures, and there are 99; use --n 200", 0.05, 0.001, 1.0, 99),
    ],
)
def test_the_verdict_is_a_corrected_test_on_a_hundred_other_pictures(muddled, verdict, value, p, best, pictures):
    """Four candidates: 4 x 0.012 = 0.048, 4 x 0.013 = 0.052."""
    found = replace(muddled[0], judged=replace(muddled[0].judged, changed=0.5))
    one = replace(found.tried[0], figures=replace(found.tried[0].figures, objective=best))
    gain, sheet = Gain(value, value - 0.04, value + 0.04, 0.02, p), SimpleNamespace(pictures=range(pictures))
    found = replace(found, tried=(one,) * 4, over_greedy=gain, held_out=sheet)
    assert verdict in found.verdict
    assert found.helps is (verdict == "helps on this model")


def test_tuning_rarely_says_that_chance_helps(muddled):
    """A strategy that changes answers at random helps in at most 5 of 100 runs, with one candidate to correct for."""
    rng, own = np.random.default_rng(6), Resampler([f"{n:03}" for n in range(100) for _ in range(7)], draws=499)
    asked, said, helped = np.tile([1.0] * 6 + [0.0], 100), np.tile([0.0] * 6 + [1.0], 100), []

    def answered():
        right, absent, found = asked * (rng.random(700) < 0.8), said * rng.binomial(6, 0.2, 700), said * 4
        return asked, right, 6 * said, absent, 6 * said, found, 20 * said

    for _ in range(100):
        found = own.difference_of(_objective, answered(), answered())
        gain = Gain(found.value, found.low, found.high, 0.02, found.p)
        promising = replace(muddled[0].tried[0], figures=replace(muddled[0].tried[0].figures, objective=1.0))
        sheet = SimpleNamespace(pictures=range(100))
        helped.append(replace(muddled[0], tried=(promising,), over_greedy=gain, held_out=sheet).helps)
    assert sum(helped) <= 5


@pytest.mark.parametrize(
    "spec",
    [
        "vhr+vcd",
        *(pytest.param(spec, marks=pytest.mark.long) for spec in ("vaf", "vcd(beta=0.2)", "vhr(layers='0:2')")),
    ],
)
def test_strategies_and_compositions_are_tuned(llava, scenes, spec):
    method, sheets = strategy(spec), halves(replace(scenes, pictures=scenes.pictures[:4]), 1, 4)
    found = tune(llava, method, sheets, batch_size=64)
    assert found.options == check_options(method.tuned_as, found.options)
    if spec == "vcd(beta=0.2)":
        again = tune(llava, method, sheets, batch_size=16)
        assert [c.figures for c in found.tried] == [c.figures for c in again.tried]
        assert found.options == again.options
    wanted = {
        "vhr+vcd": {"vhr.alpha", "vhr.layers", "vcd.alpha"},
        "vaf": {"alpha", "layers"},
        "vcd(beta=0.2)": {"alpha"},
        "vhr(layers='0:2')": {"alpha", "layers"},
    }
    assert set(found.options) == wanted[spec]
    assert found.tried[0].method == method.fitted(llava.adapter)
    if spec == "vcd(beta=0.2)":
        assert all(c.method.beta == 0.2 for c in found.tried)
    if spec == "vhr(layers='0:2')":
        assert found.options["layers"] == "0:2"


@dataclass(frozen=True)
class Broken(Muddle):
    """Cannot be decoded with at one strength.

    Attributes:
        bad: Which.
    """

    bad: float = option(3.0)

    def prepare(self, adapter, inputs):
        return Session(combine=lambda step: step.main * float("nan")) if self.strength == self.bad else Session()


def test_a_candidate_that_cannot_be_decoded_with_is_told_and_left_out(llava, scenes):
    sheets = halves(replace(scenes, pictures=scenes.pictures[:4]), 1, 4)
    found = tune(llava, Broken(), sheets)
    assert {method.strength for method in found.failed} == {3.0}
    assert {candidate.method.strength for candidate in found.tried} == {0.0, 9.0}
    assert any("failed: " in line[-1] and "strength=3.0" in line[1] for line in tried_lines(found))
    with pytest.raises(GenerationError):
        tune(llava, Broken(bad=9.0), sheets)


@pytest.mark.parametrize("spec", ["greedy", "vcd(alpha=0.5)", "vhr(alpha=2, layers='0:2')+vcd(alpha=1)"])
def test_a_strategy_with_nothing_open_is_refused(llava, sheets, spec):
    with pytest.raises(OptionError, match="tune: strategy must be one with an option left open"):
        tune(llava, strategy(spec), sheets)


def test_a_model_with_tuned_options_is_refused(llava, sheets):
    llava.adapter.tuned = {"vcd": {"alpha": 0.5}}
    with pytest.raises(OptionError, match="loaded with tuned=False"):
        tune(llava, strategy("vcd"), sheets)


def test_too_few_pictures_are_refused(scenes):
    with pytest.raises(DataError, match="3 pictures are too few"):
        halves(replace(scenes, pictures=scenes.pictures[:3]), 0)


def test_pictures_that_cannot_be_asked_about_are_refused(scenes):
    bare = tuple(replace(p, objects=p.objects[: 3 if n == 0 else 1]) for n, p in enumerate(scenes.pictures[:4]))
    with pytest.raises(DataError, match="gives an item for pope"):
        halves(replace(scenes, pictures=bare), 0)


def test_a_log_goes_on_after_its_last_whole_line_and_is_refused_if_damaged_before(tmp_path):
    log = tmp_path / "tuned.json.part"
    log.write_bytes(b'{}\n["a", ["yes"], [[1.0]]]\n["b", [')
    kept, known = TuningLog(log, {}).get_or_ask("a", lambda: pytest.fail("asked again"))
    assert (kept.texts, known) == (("yes",), True)
    assert log.read_text() == '{}\n["a", ["yes"], [[1.0]]]\n'
    for content in (b'{}\n["a", [\n["b", [], []]\n', b"\xff\n", b"{}\n" + b"[" * 100_000 + b"\n"):
        log.write_bytes(content)
        with pytest.raises(DataError, match=r"tuned\.json\.part: is damaged .*; delete it to start the search again"):
            TuningLog(log, {})
        assert log.read_bytes() == content
