"""Searches of a batch share their passes, and find what each prompt finds alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from mmhall.attention import SELF_ATTENTION, Op, PassCount, count_passes
from mmhall.decoders.opera import Retrospection
from mmhall.errors import CompositionError
from mmhall.generation import Ask, Decoding, Feed, Keep, PromptSearch, Split, run_searches
from mmhall.generation._scheduling import Scheduler
from mmhall.generation._settings import Settings
from mmhall.strategies import Composed, Session, Strategy, strategy
from tests.clip import CLIP
from tests.decoders.test_cgd import dotted
from tests.decoders.test_halc import LETTERS, spec_of, wordy
from tests.generation.reference import QUIET, REQUESTS, cut, in_turn, ours
from tests.jobs import decode, run

pytestmark = [QUIET, pytest.mark.usefixtures("clip", "detector")]

GOES_BACK = "opera(threshold=1, scale_factor=20, num_attn_candidates=3)"
LENGTH = 24
LONG = (pytest.mark.slow, pytest.mark.long)
WILD = f"cgd(clip={str(CLIP)!r}, temperature=1.5, alpha=0.05)"


@dataclass(frozen=True)
class Stripes(Strategy):
    """Lets candidate tokens look at one token of the answer, in each prompt another one: OPERA goes back to it."""

    name: ClassVar[str] = "stripes"

    def prepare(self, adapter, inputs):
        layer = max(index for index, kind in enumerate(adapter.kinds) if kind in SELF_ATTENTION)
        where = [10 + REQUESTS.index(request) for request in inputs.requests]
        return Session(ops=[Stripe(layer, inputs["input_ids"].shape[1] + torch.tensor(where))])


class Stripe(Op):
    def __init__(self, layer, where):
        self.layers, self._where = frozenset({layer}), where

    def bias(self, call):
        columns = torch.arange(call.key.shape[2]) + call.offset
        here = call.each(self._where)[:, None] == columns
        return (30.0 * here * call.where.frame.candidates)[:, None, None]


def counted(adapter, requests, method, **settings):
    """Answers to requests in one batch, without what follows their end, and the passes over answers."""
    count = PassCount()
    config = Settings(**settings).resolved(adapter.generator, method.beams)
    with count_passes(count):
        rows = run(adapter, adapter.inputs(requests), method, config).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows], count.passes


def check(adapter, method, requests=REQUESTS, **settings):
    """Check that a batch finds what its prompts find alone, and return its passes over those of all prompts."""
    together, passes = counted(adapter, requests, method, **settings)
    alone = [counted(adapter, [request], method, **settings) for request in requests]
    assert together == [answer for answers, _ in alone for answer in answers]
    return passes / sum(number for _, number in alone)


@pytest.fixture
def gone_back(monkeypatch):
    """Rollbacks, as pairs of prompt and step, and the prompts of each pass that follows one."""
    backs, passes = [], []
    roll_back, feed = Retrospection._roll_back, Scheduler._pass

    def recorded(self, kept):
        backs.append((self.prompt, kept))
        return roll_back(self, kept)

    def passed(self, batches, requests):
        passes.append((len(backs), len(requests)))
        return feed(self, batches, requests)

    monkeypatch.setattr(Retrospection, "_roll_back", recorded)
    monkeypatch.setattr(Scheduler, "_pass", passed)
    return backs, passes


@pytest.mark.parametrize(
    ("name", "others"),
    in_turn(
        ("llava", "qwen2_5_vl", "gemma3", "mllama", "gemma4"),
        ("", "compat_fp16=True", "vcd(beta=0)", "vhr(alpha=4)", "resdec(beta=0)"),
    ),
)
def test_opera_goes_back_in_some_prompts_while_others_go_on(name, others, gone_back, monkeypatch):
    """Each prompt goes back to a step of its own; answers end at steps of their own; then rows are one batch again."""
    backs, passes = gone_back
    monkeypatch.setattr(ours(name).generator.generation_config, "min_new_tokens", 17)
    compat = others.startswith("compat")
    opera = strategy(f"opera(threshold=1, num_attn_candidates=2, penalty_weights=0.0{f', {others}' if compat else ''})")
    parts = (Stripes(), opera) if compat or not others else (Stripes(), strategy(others), opera)
    share = check(ours(name), Composed(parts), num_beams=3, max_new_tokens=22, num_return_sequences=2)
    alone = [(prompt, kept) for prompt, kept in backs[len(backs) // 2 :]]  # those of the batch of one prompt each
    assert {kept for _, kept in backs} >= {11, 12, 13, 14}
    assert len(alone) == len(backs) // 2
    assert any(done and prompts == len(REQUESTS) for done, prompts in passes), "nobody has caught up with the others"
    assert share < 0.7


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_candidates_of_all_prompts_are_written_and_confirmed_together(name, monkeypatch):
    """Each pass is all prompts', and so is each pass over questions, of which there are at most eight for each."""
    opened, read = [], Decoding.open

    def counted_open(self, inputs, *given):
        opened.append(len(inputs["input_ids"]))
        return read(self, inputs, *given)

    monkeypatch.setattr(Decoding, "open", counted_open)
    method = strategy(f"self-verify(samples=3, objects={LETTERS})")
    share = check(dotted(name), method, max_new_tokens=12, num_return_sequences=2)
    assert share < 0.5
    together = opened[: -(-sum(opened) // 2 // (8 * len(REQUESTS)))]
    assert sum(together) == sum(opened) / 2
    assert max(together) > max(opened[len(together) :])


@pytest.mark.parametrize(
    ("name", "spec"), in_turn(("llava", "qwen2_5_vl", "gemma3", "mllama"), (WILD, f"vdd(alpha=0.5)+{WILD}"))
)
def test_sentences_of_all_prompts_are_drawn_together(name, spec):
    """Texts have lengths of their own: without ops they share passes, each padded on the left."""
    share = check(dotted(name), strategy(spec), max_new_tokens=LENGTH, num_return_sequences=2)
    apart = name == "mllama" and "vdd" in spec  # caches with and without a picture cannot be joined
    assert share < (1 if apart else 0.6)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("vhr(alpha=4)", marks=pytest.mark.slow),
        "acg",
        "only",
        *(pytest.param(other, marks=LONG) for other in ("memvr(gate=0.1)", "kvsmooth", "resdec(beta=0)")),
    ],
)
def test_what_acts_in_a_pass_sees_rows_of_one_length(other):
    """Some of these keep what they see from one layer to the next: rows of two lengths would be two calls."""
    check(dotted("llava"), strategy(f"{other}+{WILD}"), max_new_tokens=LENGTH)


@pytest.mark.parametrize("base", [pytest.param("plain", marks=pytest.mark.slow), "dola"])
def test_prompts_are_decoded_to_their_nouns_together(base):
    """DoLa reads exits in the rows of each length."""
    method = strategy(spec_of(f"contrast=0.4, words={LETTERS[:20]}, num_beams=2", base))
    assert check(wordy("llava"), method, max_new_tokens=LENGTH) < 0.75


class Own(PromptSearch):
    """A user's search: prompts are numbered, and each has a length of its own."""

    def __init__(self, decoding, prompt, number):
        super().__init__(decoding, prompt)
        self.number, self.length = number, 4 + 2 * number


class Ahead(Own):
    """Even numbers take the better of two tokens by the best token after it; odd ones are greedy."""

    def run(self):
        rows, said = (yield self.resume([()])), []
        while len(said) < self.length:
            scores = rows.scores().log_softmax(dim=-1)
            if self.number % 2:
                said.append(int(scores.argmax()))
                yield Feed(rows, torch.tensor(said[-1:]))
                continue
            best = scores.topk(2)
            yield Split(rows, best.indices)
            after = rows.logits[0].log_softmax(dim=-1).amax(dim=-1)
            chosen = (best.values + after).argmax(dim=-1)
            said.append(int(best.indices[0, chosen[0]]))
            yield Keep(rows, torch.tensor([0]), chosen)
        return [torch.tensor(said)]


class Later(Own):
    """Goes on with a text of as many tokens as its number: three steps, and two between which it may choose."""

    def run(self):
        rows = yield self.resume([range(60, 60 + self.number)])
        said = []
        for _ in range(3):
            said.append(int(rows.scores().argmax()))
            yield Feed(rows, torch.tensor(said[-1:]))
        for _ in range(2):
            best = rows.scores().topk(2).indices
            yield Split(rows, best)
            said.append(int(best[0, 1]))
            yield Keep(rows, torch.tensor([0]), torch.tensor([1]))
        return [torch.tensor([*said, int(rows.scores().argmax())])]


class Catching(Own):
    """The first reads a token in a step, the others with their text; then all choose, and step once more."""

    def run(self):
        first = self.decoding.rows.scores()[self.prompt].argmax()[None]
        rows = yield self.resume([first.tolist() if self.number else ()])
        if not self.number:
            yield Feed(rows, first)
        best = rows.scores().topk(2).indices
        yield Split(rows, best)
        yield Keep(rows, torch.tensor([0]), torch.tensor([1]))
        last = rows.scores().argmax(dim=-1)
        yield Feed(rows, last)
        return [torch.cat([first, best[0, 1:], last, rows.scores().argmax(dim=-1)])]


class Early(Own):
    """Makes its passes itself."""

    def run(self):
        rows, said = self.decoding.rows.taken(torch.tensor([self.prompt])), []
        while len(said) < self.length:
            said.append(int(rows.scores().argmax()))
            rows.step(torch.tensor(said[-1:]))
        return [torch.tensor(said)]


class Forgetful(Own):
    """Uses rows after it has asked for others."""

    def run(self):
        rows = yield self.resume([()])
        yield Feed(rows, rows.scores().argmax(dim=-1))
        yield self.resume([(1,)])
        rows.scores()
        return []


class Pairs(Own):
    """Asks for two texts side by side, and once for the length of both."""

    def run(self):
        lengths = yield [self.half(length) for length in (2, self.length)]
        (count,) = yield Ask(joined, sum(lengths))
        return [torch.tensor([sum(lengths), count])]

    def half(self, length):
        rows = yield self.resume([()])
        for _ in range(length):
            yield Feed(rows, rows.scores().argmax(dim=-1))
        return length


def joined(arguments):
    return [(len(arguments),)] * len(arguments)


def found(kind, spec, numbers):
    """Tokens that searches of a kind find for some requests, and the passes over answers."""
    adapter, count = ours("llava"), PassCount()
    inputs = adapter.inputs([REQUESTS[number] for number in numbers])
    with torch.inference_mode():
        session = strategy(spec).fitted(adapter).prepare(adapter, inputs)

    def search(decoding):
        return run_searches(decoding, [kind(decoding, *pair) for pair in enumerate(numbers)])

    config = Settings(max_new_tokens=30).resolved(adapter.generator)
    with count_passes(count):
        rows = decode(adapter, inputs, replace(session, search=search), config)
    return rows, count.passes


@pytest.mark.parametrize("spec", ["greedy", "vhr(alpha=4)", "vcd"])
def test_searches_that_ask_for_different_passes_find_what_they_find_alone(spec):
    """Without ops the odd ones step in one pass though the even ones are at other lengths by then."""
    together, _ = found(Ahead, spec, range(4))
    for number, row in enumerate(together):
        alone, _ = found(Ahead, spec, [number])
        assert row[: 4 + 2 * number].tolist() == alone[0].tolist()
    assert together[1, :6].tolist() == found(Early, spec, [1])[0][0].tolist()


@pytest.mark.parametrize("spec", ["greedy", "vhr(alpha=4)", "vcd"])
def test_texts_of_different_lengths_step_in_one_pass_without_ops(spec):
    """Three passes read the texts anew, one of which is empty; three steps; choices at lengths of 3 to 7 tokens."""
    together, passes = found(Later, spec, range(4))
    assert passes == 3 + 3 + 5 or "vhr" in spec
    for number, row in enumerate(together):
        assert row.tolist() == found(Later, spec, [number])[0][0].tolist()


def test_a_batch_that_has_stepped_by_itself_is_merged():
    together, _ = found(Catching, "greedy", range(3))
    for number, row in enumerate(together):
        assert row.tolist() == found(Catching, "greedy", [number])[0][0].tolist()


def test_side_by_side_generators_and_calls_are_shared():
    """Of four searches with two texts each: as many passes as the longest text has tokens, and one call."""
    rows, passes = found(Pairs, "greedy", range(4))
    assert rows.tolist() == [[2 + 4 + 2 * number, 4] for number in range(4)]
    assert passes == 10


def test_rows_that_were_given_up_are_not_used():
    with pytest.raises(CompositionError, match=r"uses rows after it asked for something else.* `resume`"):
        found(Forgetful, "greedy", range(2))
