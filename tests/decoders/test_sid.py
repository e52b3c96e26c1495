"""SID against its formula written out, in every family with image tokens; what its branch hides; what is neutral."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.decoders.sid import SID, LeastAttended, as_in_first_row, mask_most_attended
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.options import rules
from mmhall.strategies._contrast import CONTRAST
from mmhall.strategies._docs import card
from mmhall.strategies._layers import parse_layers
from tests.decoders.reference import searched
from tests.decoders.rows import IN_SEQUENCE, NEW, UNSAID, check, family, scored
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import opened, run

pytestmark = QUIET


def introspective(main, other, *, alpha, beta):
    main, other = main.log_softmax(-1), other.log_softmax(-1)
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, (1 + alpha) * main - alpha * other)


class Pruned:
    """Edits of an eager pass: behind a layer, each row sees the image columns that its own row attended to least."""

    def __init__(self, reader, layer, keep):
        self.reader, self.layer, self.keep = reader, layer, keep
        self.shares = torch.empty(0)

    def row(self, row):
        """The row whose attention decides what a row sees: of the prompt always the last."""
        return max(row, self.reader.length - 1)

    def probs(self, reader, layer, probs):
        if layer == self.layer:
            self.shares = probs[0].mean(dim=0)
        return probs

    def scores(self, reader, layer, scores):
        if layer <= self.layer:
            return scores
        edited, image = scores.clone(), reader.image
        for row in range(scores.shape[2]):
            shares = self.shares[self.row(row)].tolist()
            ranked = sorted(image, key=lambda column: shares[column])
            edited[:, :, row, ranked[round(self.keep * len(image)) :]] -= 1e9
        return edited


def pruning(layer, *, keep, alpha, beta):
    """Return what gives the scores of every step of a given answer, (NEW, V)."""

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main = reader.logits(inputs, answer[:-1])
        pruned = Pruned(reader, layer, keep)
        other = reader.logits(inputs, answer[:-1], probs=pruned.probs, scores=pruned.scores)
        pairs = zip(main, other, strict=True)
        return torch.stack([introspective(*logits, alpha=alpha, beta=beta) for logits in pairs])

    return reference


@pytest.mark.parametrize("name", IN_SEQUENCE)
def test_a_batch_is_the_formula_of_each_prompt(name):
    """The layer is the first that attends to text and picture, so that all others behind it are pruned."""
    first = next(layer for layer, kind in enumerate(ours(name).kinds) if kind != "linear")
    reference = pruning(first, keep=0.25, alpha=3.0, beta=0.05)
    check(name, f"sid(alpha=3, beta=0.05, keep=0.25, layer='{first}')", reference)


def test_a_later_layer_ranks_as_well():
    reference = pruning(1, keep=0.5, alpha=6.0, beta=0.02)
    check("qwen2_5_vl", "sid(alpha=6, beta=0.02, keep=0.5, layer='1')", reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_beams_are_those_of_a_naive_search_over_the_formula(name):
    adapter, reader = family(name)
    reference, found = pruning(0, keep=0.25, alpha=3.0, beta=0.3), []
    for request in REQUESTS[:2]:
        found.append(searched(lambda answer, one=request: reference(adapter, reader, one, [*answer, 0])[-1], 3)[0])
    config = Settings(max_new_tokens=4, num_beams=3).resolved(adapter.generator)
    method = mmhall.strategy("sid(alpha=3, beta=0.3, keep=0.25, layer='0')")
    assert list(map(tuple, run(adapter, adapter.inputs(REQUESTS[:2]), method, config).tolist())) == found


class Watch(Op):
    """Notes the newest row's weights by layer, (B, H, K) of each pass."""

    def __init__(self):
        self.seen = defaultdict(list)

    def rows(self, call):
        return call.newest

    def see(self, call, rows, probs):
        self.seen[call.layer].append(probs[:, :, -1])


def test_the_branch_sees_the_least_attended_image_tokens_newly_chosen_at_each_step():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    session = mmhall.strategy("sid(keep=0.25, layer='0')").fitted(adapter).prepare(adapter, batch)
    (branch,) = session.branches
    main, other = Watch(), Watch()
    watched = mmhall.Session(branches=[mmhall.Branch(branch.inputs, [*branch.ops, other])], combine=session.combine)
    config = Settings(max_new_tokens=3).resolved(adapter.generator)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, watched, config, watch=[main])
        for _ in range(2):
            rows.step(rows.scores().argmax(dim=-1))
    image = adapter.image_mask(batch["input_ids"])
    chosen = []
    for step in range(3):
        ranking = other.seen[0][step].mean(dim=1)
        torch.testing.assert_close(ranking, main.seen[0][step].mean(dim=1))  # up to there both are the same
        for row, own in enumerate(image):
            columns = own.nonzero()[:, 0]
            least = columns[ranking[row, columns].argsort()[: round(0.25 * len(columns))]].sort().values
            for layer in (1, 2):
                weights = other.seen[layer][step][row]
                assert torch.equal(columns[(weights[:, columns] > 0).any(dim=0)], least)
                assert (main.seen[layer][step][row][:, columns] > 0).all()
            chosen.append((row, tuple(least.tolist())))
    assert len(set(chosen)) > 2, "the choice never changes"


def test_what_is_hidden():
    attended = torch.tensor([[[0.4, 0.1, 0.3, 0.1, 0.1]], [[0.1, 0.2, 0.3, 0.4, 0.0]]])
    image = torch.tensor([[[False, True, True, True, True]], [[True, True, True, False, False]]])
    wanted = [[[False, False, True, False, True]], [[False, True, True, False, False]]]
    assert mask_most_attended(attended, image, torch.tensor([2, 1])[:, None, None]).tolist() == wanted
    everything = torch.tensor([0, 9])[:, None, None]
    assert mask_most_attended(attended, image, everything).tolist() == [image[0].tolist(), [[False] * 5]]


def test_the_published_number_of_tokens_is_kept_of_576_and_the_layer_is_as_the_card_says():
    default = rules(SID)["layer"].general
    for depth, layer in ((6, 0), (24, 0), (25, 1), (28, 1), (32, 1), (40, 1), (49, 1), (64, 2), (80, 3)):
        assert parse_layers(default, ["full"] * depth, {"full"}, "sid", "layer") == {layer}
    assert SID.published["llava", 32]["layer"] == "1"
    assert "the second of 25 to 49 layers, the first of fewer" in " ".join(card("sid").sections["Defaults"].split())
    for keep, count in ((0.1736, 100), (0.0868, 50)):
        assert LeastAttended(1, 32, torch.ones(1, 576, dtype=torch.bool), keep)._count.tolist() == [count]


@pytest.mark.parametrize("spec", ["sid(alpha=0, beta=0)", "sid(keep=1, beta=0)"])
def test_neutral_options_ask_for_nothing(spec):
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
    assert not session.branches
    assert session.combine is None


@pytest.mark.parametrize("spec", ["sid(alpha=0)", "sid(keep=1)"])
def test_with_nothing_to_subtract_there_is_no_branch(spec):
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
    assert not session.branches
    assert session.combine.alpha == 0


def test_without_a_picture_nothing_is_asked():
    adapter = ours("llava")
    session = mmhall.strategy("sid").fitted(adapter).prepare(adapter, adapter.inputs([Request("What?")]))
    assert not session.branches
    assert session.combine is None


def test_what_it_claims():
    assert mmhall.strategy("sid").claims == {CONTRAST}
    mmhall.strategy("sid+vhr")
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("sid+vcd")


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_tokens_tried_side_by_side_rank_for_themselves(name):
    """As a search does: each of them is predicted from as where it is the only one."""
    adapter, _ = family(name)
    batch = adapter.inputs(REQUESTS[:2])
    session = mmhall.strategy("sid(keep=0.25, layer='0')").fitted(adapter).prepare(adapter, batch)
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, dataclasses.replace(session, search=lambda decoding: None), config)
        rows.step(rows.scores().argmax(dim=-1))
        tokens, alone = rows.scores().topk(3).indices, []
        for tried in tokens.T:
            one = rows.taken(torch.arange(2))
            one.step(tried)
            alone.append(one.logits[1])
        rows.split(tokens)
        torch.testing.assert_close(rows.logits[1], torch.stack(alone, dim=1), rtol=1e-5, atol=1e-4)


def test_pictures_that_are_no_tokens_are_refused():
    with pytest.raises(CompositionError, match=r"^sid: mllama cannot carry it: .*cross-attention.*no image tokens"):
        mmhall.strategy("sid").fitted(ours("mllama"))


def test_several_layers_are_refused():
    adapter = ours("llava")
    method = mmhall.strategy("sid(layer='0:2')").fitted(adapter)
    with pytest.raises(OptionError, match=r"^sid: layer must be one layer of this model, got '0:2'"):
        method.prepare(adapter, adapter.inputs(REQUESTS[:2]))


def test_a_layer_with_none_behind_it_is_refused(monkeypatch):
    """It would change nothing, at the price of a branch; nor would one with linear layers alone behind it."""
    adapter = ours("llava")
    batch, last = adapter.inputs(REQUESTS[:2]), mmhall.strategy("sid(layer='-1')").fitted(adapter)
    with pytest.raises(OptionError, match=r"^sid: layer must be one with layers behind it .*, got '-1'"):
        last.prepare(adapter, batch)
    assert mmhall.strategy("sid(layer='-1', alpha=0)").fitted(adapter).prepare(adapter, batch).combine is not None
    assert mmhall.strategy("sid(layer='-2')").fitted(adapter).prepare(adapter, batch).branches
    monkeypatch.setattr(adapter, "kinds", [*adapter.kinds[:-1], "linear"])
    with pytest.raises(OptionError, match="layers behind it"):
        mmhall.strategy("sid(layer='-2')").fitted(adapter).prepare(adapter, batch)


@pytest.mark.parametrize(("option", "value"), [("alpha", -0.1), ("beta", 1.1), ("keep", 1.1), ("keep", -0.1)])
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^sid: {option} must be a number (>= 0|in \[0, 1\]), got"):
        mmhall.strategy("sid", **{option: value})


def as_released(adapter, reader, requests, *, layer, keep, alpha):
    """A batch by the released greedy code: tokens, and scores of each step, (N, V).

    The first request's attention ranks the image tokens of all; the best token is taken before any cut-off.
    """
    inputs, answers, steps = [adapter.inputs([request]) for request in requests], [[] for _ in requests], []
    for _ in range(NEW):
        rows, hidden = [], {}
        for number, (one, answer) in enumerate(zip(inputs, answers, strict=True)):
            main = reader.logits(one, answer)[-1].log_softmax(-1)
            pruned = Released(reader, layer, keep, hidden)
            other = reader.logits(one, answer, probs=pruned.probs if number == 0 else keeps, scores=pruned.scores)[-1]
            rows.append((1 + alpha) * main - alpha * other.log_softmax(-1))
        for row, answer in zip(rows, answers, strict=True):
            answer.append(int(row.argmax()))
        steps.append(torch.stack(rows))
    return answers, torch.stack(steps, dim=1)


def keeps(reader, layer, probs):
    return probs


class Released(Pruned):
    """Hides the image tokens that the first request has hidden, counted from the first image token on.

    Attributes:
        hidden: The hidden ones by row behind the prompt's last but one; the first request fills it.
    """

    def __init__(self, reader, layer, keep, hidden):
        super().__init__(reader, layer, keep)
        self.hidden = hidden

    def scores(self, reader, layer, scores):
        if layer <= self.layer:
            return scores
        edited, image = scores.clone(), reader.image
        for row in range(scores.shape[2]):
            newest = self.row(row) - reader.length
            if newest not in self.hidden:
                shares = self.shares[self.row(row)].tolist()
                ranked = sorted(range(len(image)), key=lambda place: shares[image[place]])
                self.hidden[newest] = ranked[round(self.keep * len(image)) :]
            edited[:, :, row, [image[place] for place in self.hidden[newest]]] -= 1e9
        return edited


@pytest.mark.parametrize("name", ["llava", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_compat_is_the_released_greedy_code_on_a_batch(name):
    """Without compat, rows rank for themselves, and implausible tokens cannot win."""
    adapter, reader = family(name)
    batch = adapter.inputs(REQUESTS[:2])
    answers, scores = as_released(adapter, reader, REQUESTS[:2], layer=0, keep=0.25, alpha=6.0)
    config = Settings(max_new_tokens=NEW).resolved(adapter.generator)
    methods = [mmhall.strategy("sid", alpha=6.0, keep=0.25, layer="0", beta=0.5, compat=c) for c in (True, False)]
    found = [run(adapter, batch, method, config) for method in methods]
    assert found[0].tolist() == answers
    assert found[1].tolist() != answers
    got = scored(adapter, batch, methods[0].fitted(adapter).prepare(adapter, batch), found[0])
    torch.testing.assert_close(got.clamp_min(UNSAID), scores.clamp_min(UNSAID), rtol=1e-5, atol=5e-4)


def test_compat_needs_as_many_image_tokens_in_each_prompt():
    attended = torch.tensor([[[0.4, 0.1, 0.3, 0.2]], [[0.1, 0.2, 0.3, 0.4]]])
    image = torch.tensor([[[False, True, True, False]], [[False, False, True, True]]])
    wanted = [[[0.0, 0.1, 0.3, 0.0]], [[0.0, 0.0, 0.1, 0.3]]]
    torch.testing.assert_close(as_in_first_row(attended, image), torch.tensor(wanted))
    adapter, _ = family("qwen2_5_vl")
    method = mmhall.strategy("sid(compat=True, layer='0')").fitted(adapter)
    with pytest.raises(
        OptionError, match=r"^sid: compat must be False where .* different numbers of image tokens, got"
    ):
        method.prepare(adapter, adapter.inputs(REQUESTS[:2]))
