"""Tokens dropped from a layer on, against the same columns masked in all rows of these layers."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Adapter
from mmhall.attention import Columns, Drop, Op, active
from mmhall.attention._layout import cut_mask
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Session
from tests.attention.reference import Eager
from tests.generation.reference import QUIET, REQUESTS
from tests.jobs import decode, opened
from tests.zoo import ZOO, built

pytestmark = QUIET

BATCH = REQUESTS[:3]
SHARES = torch.tensor([[0.9], [0.6], [0.3]])  # of the image tokens, of each prompt
LOWEST = torch.finfo(torch.float32).min
REFUSED = {
    "qwen3_5": (2, "layer 2 is of kind 'linear'"),
    "gemma4": (0, "layer 2 reads the keys of an earlier layer"),
    "mllama": (2, "layer 3 is of kind 'cross'"),
    "llama4": (2, "layer 2 is of kind 'chunked'"),
}
FIRST = {"qwen3_5": 3}  # the layer from which tokens are dropped, where it is not the last but one
CARRIED = [name for name in ZOO if name not in REFUSED or name in FIRST]
VARIED = ("llava", "qwen2_5_vl", "gemma3", "llava_phi3", "blip_2")  # full, M-RoPE, both kinds, sliding, an inner model


class Mask(Op):
    """Masks columns in all rows of some layers."""

    def __init__(self, layers: range, dropped: Tensor):
        self.layers, self._columns = frozenset(layers), Columns(torch.where(dropped, LOWEST, 0.0))

    def bias(self, call):
        return self._columns(call)


class See(Op):
    """Keeps the newest rows of attention, at the last columns."""

    def __init__(self, layers):
        self.layers, self.seen = frozenset(layers), []

    def rows(self, call):
        return call.newest

    def see(self, call, rows, probs):
        self.seen.append((call.layer, call.offset + probs.shape[-1], probs[..., -5:].clone()))


class Least(See):
    """Chooses the image tokens that the last row of the prompt attends to least, as FastV does."""

    def __init__(self, layer: int, image: Tensor, share: float):
        super().__init__({layer})
        self._image, self._share, self.asked = image, share, 0

    def see(self, call, rows, probs):
        if call.prefill:
            self._mass = probs.mean(dim=(1, 2))

    def chosen(self) -> Tensor:
        self.asked += 1
        mass = self._mass.masked_fill(~self._image, torch.inf)
        count = (self._image.sum(dim=1, keepdim=True) * self._share).long()
        return mass.argsort(dim=1).argsort(dim=1) < count


class Lift(Op):
    """Lifts the image columns, and the heads, of the rows behind the picture and of the answer; keeps the weights."""

    writes = True

    def __init__(self, image: Tensor):
        self._columns, self._first, self.seen = Columns(image.float()), int(image.long().argmax()) + 1, []

    def rows(self, call):
        return call.rows_at(torch.arange(self._first, call.start + call.count))

    def edit_scores(self, call, rows, scores):
        return scores + 0.4 * scores.abs() * self._columns(call)

    def see(self, call, rows, probs):
        if call.prefill:
            rows = call.newest
            probs = probs[:, :, -1:]
        width = probs.shape[-1] + call.offset
        self.seen.append((call.layer, rows.tolist(), torch.nn.functional.pad(probs, (width - probs.shape[-1], 0))))

    def edit_output(self, call, output):
        return output * 1.2


class Scale(Op):
    """Scales what leaves a layer, and the row at a position of the prompt once more."""

    sites = frozenset({"out"})

    def __init__(self, layer: int, position: int):
        self.layers, self._position = frozenset({layer}), torch.tensor([position])

    def edit_states(self, visit, states):
        scaled = states * 1.5
        return scaled.index_fill(1, visit.rows_at(self._position), 0.25)


@cache
def bound(name: str) -> Adapter:
    with torch.inference_mode(False):  # of the test that asks first
        return adapter_for(*built(name))


def layer_of(name: str) -> int:
    return FIRST.get(name, len(bound(name).layers) - 2)


def some(adapter: Adapter, inputs, *, seed: int = 1) -> Tensor:
    """Choose different image tokens, and differently many, of each prompt."""
    image = adapter.image_mask(inputs["input_ids"])
    drawn = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed))
    dropped = image & (drawn < SHARES[: len(image)])
    assert dropped.any(dim=1).all()
    return dropped


def ways(name: str, inputs, layer: int | None = None, **more) -> tuple[Drop, Mask]:
    """The same tokens dropped and masked."""
    adapter, layer = bound(name), layer_of(name) if layer is None else layer
    dropped = some(adapter, inputs, **more)
    return Drop(layer, dropped), Mask(range(layer, len(adapter.layers)), dropped)


def settings(adapter, **given):
    config = Settings(**{"max_new_tokens": 6, **given}).resolved(adapter.generator)
    config.min_new_tokens = config.max_new_tokens
    return config


def tokens(count: int, step: int) -> Tensor:
    return (torch.arange(count) * 7 + step * 5) % 50 + 90


def stepped(adapter, inputs, session: Session, steps: int = 4):
    """Logits of all blocks after the prompt and after each of some given tokens; and the rows."""
    with torch.inference_mode():
        _, rows = opened(adapter, inputs, session, settings(adapter))
        logits = [torch.stack(rows.logits)]
        for step in range(steps):
            rows.step(tokens(rows.size, step))
            logits.append(torch.stack(rows.logits))
    return torch.stack(logits), rows


def held(rows) -> list[int | None]:
    """Columns of each layer."""
    ((state, _),) = rows.parts
    return [getattr(layer, "keys", None) is not None and layer.keys.shape[2] for layer in state.cache.layers]


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def contrasted(inputs, ops=()) -> Session:
    """A contrast with a branch."""
    return Session(branches=[Branch(inputs, ops)], combine=lambda step: 2 * step.main - step.branches[0])


@pytest.mark.parametrize("name", CARRIED)
def test_dropped_tokens_are_as_good_as_masked_and_their_columns_are_gone(name):
    """In a left-padded batch with other tokens, and more or fewer, dropped of each prompt."""
    adapter, layer = bound(name), layer_of(name)
    inputs = adapter.inputs(BATCH)
    assert not inputs["attention_mask"].all()
    drop, mask = ways(name, inputs)
    got, rows = stepped(adapter, inputs, Session([drop]))
    wanted, whole = stepped(adapter, inputs, Session([mask]))
    close(got, wanted)
    plain, _ = stepped(adapter, inputs, Session())
    assert (wanted - plain).abs().max() > 0.01
    dropped = some(adapter, inputs)
    length = inputs["input_ids"].shape[1] + 4
    short = length - int(dropped.sum(dim=1).min())
    assert short < length
    assert held(rows)[layer:] == [short] * (len(adapter.layers) - layer)
    assert held(rows)[:layer] == held(whole)[:layer]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mistral3", "paligemma", "blip_2"])
def test_dropped_tokens_are_masked_columns_of_eager_attention(name):
    adapter = bound(name)
    inputs, layer = adapter.inputs(BATCH), layer_of(name)
    drop, _ = ways(name, inputs)
    columns = some(adapter, inputs)

    def masked(at, scores):
        gone = torch.nn.functional.pad(columns, (0, scores.shape[-1] - columns.shape[1]))
        return scores.masked_fill(gone[:, None, None], LOWEST) if at >= layer else scores

    config = settings(adapter)
    assert torch.equal(
        decode(adapter, inputs, Session([drop]), config), Eager(adapter).generate(inputs, config, scores=masked)
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tokens_can_be_dropped_from_any_layer(layer):
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, mask = ways("llava", inputs, layer)
    got, rows = stepped(adapter, inputs, Session([drop]))
    close(got, stepped(adapter, inputs, Session([mask]))[0])
    counts = held(rows)
    assert len({*counts[:layer]}) <= 1
    assert len({*counts[layer:]}) == 1
    assert counts[layer] < inputs["input_ids"].shape[1]


@pytest.mark.parametrize("name", VARIED)
def test_a_prompt_in_a_batch_is_read_as_alone(name):
    adapter = bound(name)
    inputs = adapter.inputs(BATCH)
    dropped = some(adapter, inputs)
    together, _ = stepped(adapter, inputs, Session([Drop(layer_of(name), dropped)]), 0)
    for row, request in enumerate(BATCH):
        single = adapter.inputs([request])
        own = dropped[row : row + 1, -single["input_ids"].shape[1] :]
        alone, rows = stepped(adapter, single, Session([Drop(layer_of(name), own)]), 0)
        close(together[:, :, row], alone[:, :, 0])
        assert held(rows)[-1] == own.shape[1] - int(own.sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize(
    "given", [{}, {"do_sample": True, "num_return_sequences": 2}, {"num_beams": 3}], ids=["greedy", "draws", "beams"]
)
def test_answers_are_those_with_the_columns_masked(name, given):
    adapter = bound(name)
    inputs, config = adapter.inputs(BATCH), settings(adapter, max_new_tokens=8, **given)
    said = [decode(adapter, inputs, Session([op]), config, [3, 4, 5]) for op in ways(name, inputs)]
    assert torch.equal(*said)
    assert not torch.equal(said[0], decode(adapter, inputs, Session(), config, [3, 4, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("beams", [1, 3])
def test_beside_a_picture_free_branch(name, beams):
    """Its prompt is shorter: all layers are padded to one length each, and stepped together."""
    adapter = bound(name)
    inputs, config = adapter.inputs(BATCH), settings(adapter, num_beams=beams)
    vdd = mmhall.strategy("vdd").fitted(adapter).prepare(adapter, inputs)
    sessions = [Session([op], vdd.branches, vdd.combine) for op in ways(name, inputs)]
    got, rows = stepped(adapter, inputs, sessions[0])
    assert len(rows.parts) == 1
    close(got, stepped(adapter, inputs, sessions[1])[0])
    assert torch.equal(*(decode(adapter, inputs, session, config) for session in sessions))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
def test_a_branch_may_drop_what_the_main_rows_keep(name):
    """As in SID; an op on attention of the main rows finds its columns where they are."""
    adapter = bound(name)
    inputs = adapter.inputs(BATCH)
    results = []
    for op in (*ways(name, inputs), None):
        see, session = See(range(len(adapter.layers))), contrasted(inputs, [op] if op else [])
        logits, rows = stepped(adapter, inputs, Session([see], session.branches, session.combine))
        assert len(rows.parts) == 1
        results.append((logits, see.seen, decode(adapter, inputs, session, settings(adapter, num_beams=2))))
    dropping, masking, plain = results
    close(dropping[0], masking[0])
    close(dropping[0][:, 0], plain[0][:, 0])
    assert (dropping[0][:, 1] - plain[0][:, 1]).abs().max() > 0.01
    assert torch.equal(dropping[2], masking[2])
    for got, wanted in zip(dropping[1], masking[1], strict=True):
        assert got[:2] == wanted[:2]
        close(got[2], wanted[2])


@pytest.mark.slow
def test_main_rows_and_a_branch_may_drop_other_tokens_from_other_layers():
    adapter = bound("qwen2_vl")
    inputs = adapter.inputs(BATCH)
    free = adapter.without_image(inputs)
    pairs = zip(ways("qwen2_vl", inputs, 1), ways("qwen2_vl", inputs, 3, seed=7), strict=True)
    sessions = []
    for main, branch in pairs:
        branches = [Branch(inputs, [branch]), Branch(free)]
        sessions.append(Session([main], branches, lambda step: 3 * step.main - sum(step.branches)))
    got, rows = stepped(adapter, inputs, sessions[0])
    close(got, stepped(adapter, inputs, sessions[1])[0])
    assert len(rows.parts) == 1
    config = settings(adapter, num_beams=2)
    assert torch.equal(*(decode(adapter, inputs, session, config) for session in sessions))


@pytest.mark.parametrize("name", ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIED[1:])])
def test_ops_find_rows_and_columns_at_their_positions_where_tokens_are_missing(name):
    """In prompts of other lengths beside a shorter branch, and in an answer whose rows change places."""
    adapter = bound(name)
    inputs = adapter.inputs(BATCH)
    image, vdd = (
        adapter.image_mask(inputs["input_ids"]),
        mmhall.strategy("vdd").fitted(adapter).prepare(adapter, inputs),
    )
    found = []
    for op in ways(name, inputs):
        lift = Lift(image)
        logits, rows = stepped(adapter, inputs, Session([op, lift], vdd.branches, vdd.combine), 2)
        rows.select(torch.tensor([2, 0, 0]))
        rows.step(tokens(3, 1))
        found.append(([logits, torch.stack(rows.logits)], lift.seen))
    for got, wanted in zip(*(logits for logits, _ in found), strict=True):
        close(got.log_softmax(-1), wanted.log_softmax(-1))
    last = len(adapter.layers) - 1
    for (layer, rows, got), (_, _, wanted) in zip(*(seen for _, seen in found), strict=True):
        close(got, wanted)
        if layer == last and rows == [inputs["input_ids"].shape[1] - 1] and adapter.kinds[last] == "full":
            assert (got[0, :, 0, : got.shape[-1]] == 0).any()
    plain, _ = stepped(adapter, inputs, Session([ways(name, inputs)[0]], vdd.branches, vdd.combine), 2)
    assert (found[0][0][0] - plain).abs().max() > 0.01


@pytest.mark.parametrize("first", [0, 1])
def test_layers_are_as_long_as_the_branch_that_keeps_most(first):
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, mask = ways("llava", inputs, first)
    branch = contrasted(inputs)
    sessions = [Session([op], branch.branches, branch.combine) for op in (drop, mask)]
    got, rows = stepped(adapter, inputs, sessions[0])
    close(got, stepped(adapter, inputs, sessions[1])[0])
    assert held(rows) == [inputs["input_ids"].shape[1] + 4] * 3
    assert rows.parts[0][0].cache.get_seq_length() == inputs["input_ids"].shape[1] + 4


def test_a_prompt_that_keeps_all_leaves_the_others_their_masks():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    dropped = some(adapter, inputs)
    dropped[1] = False
    got, _ = stepped(adapter, inputs, Session([Drop(1, dropped)]))
    close(got, stepped(adapter, inputs, Session([Mask(range(1, 3), dropped)]))[0])


def test_padding_may_be_dropped_as_well():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    image, padding = adapter.image_mask(inputs["input_ids"]), inputs["attention_mask"] == 0
    got, rows = stepped(adapter, inputs, Session([Drop(1, image | padding)]))
    close(got, stepped(adapter, inputs, Session([Mask(range(1, 3), image)]))[0])
    assert held(rows)[1:] == [int((~image & ~padding).sum(dim=1).max()) + 4] * 2


def test_all_layers_of_all_branches_are_short_where_all_drop():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH[:1])
    dropped = some(adapter, inputs)
    session = Session([Drop(1, dropped)], [Branch(inputs, [Drop(2, dropped)])], lambda step: step.main)
    _, rows = stepped(adapter, inputs, session, 1)
    length, gone = inputs["input_ids"].shape[1] + 1, int(dropped.sum())
    assert held(rows) == [length, length, length - gone]


@pytest.mark.parametrize("name", VARIED)
def test_tokens_are_chosen_by_an_earlier_layer_while_the_prompt_is_read(name):
    adapter, layer = bound(name), layer_of(name)
    inputs = adapter.inputs(BATCH)
    image = adapter.image_mask(inputs["input_ids"])
    least = Least(layer - 1, image, 0.5)
    if adapter.kinds[layer - 1] == "sliding":
        least.layers = frozenset({layer - 1})
    drop = Drop(layer, least.chosen)
    got, rows = stepped(adapter, inputs, Session([least, drop]))
    assert least.asked == 1
    dropped = least.chosen()
    assert torch.equal(dropped.sum(dim=1), image.sum(dim=1) // 2)
    assert not (dropped & ~image).any()
    close(got, stepped(adapter, inputs, Session([Mask(range(layer, len(adapter.layers)), dropped)]))[0])
    assert held(rows)[-1] < inputs["input_ids"].shape[1] + 4


def test_dropping_nothing_is_greedy_to_the_last_bit_and_asks_for_nothing():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    nothing = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    plain, whole = stepped(adapter, inputs, Session())
    plan = adapter.plan([Drop(1, nothing)])
    assert plan.drop is None
    assert plan.modules == {}
    for dropped in (nothing, lambda: nothing):
        got, rows = stepped(adapter, inputs, Session([Drop(1, dropped)]))
        assert torch.equal(got, plain)
        assert held(rows) == held(whole)
        assert {type(layer) for layer in rows.parts[0][0].cache.layers} == {
            type(layer) for layer in whole.parts[0][0].cache.layers
        }


@torch.inference_mode()
def test_a_layer_reads_only_the_rows_that_are_kept():
    """The states of a dropped token stay what they were; those who look on at layers see all rows."""
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    dropped, sizes, left = some(adapter, inputs), [], {}
    hooks = [
        layer.mlp.register_forward_hook(lambda _, args, out: sizes.append(out.shape[1])) for layer in adapter.layers
    ]
    hooks += [
        layer.register_forward_hook(lambda _, args, out, at=at: left.setdefault(at, out))
        for at, layer in enumerate(adapter.layers)
    ]
    try:
        with active(adapter.plan([Drop(1, dropped)])):
            states = adapter.model(**inputs, output_hidden_states=True).hidden_states
    finally:
        for hook in hooks:
            hook.remove()
    length, short = dropped.shape[1], dropped.shape[1] - int(dropped.sum(dim=1).min())
    assert sizes == [length, short, short]
    assert torch.equal(left[2][dropped], left[0][dropped])
    assert (left[2] != left[0])[inputs["attention_mask"].bool() & ~dropped].any(dim=-1).all()
    assert torch.equal(states[2], left[1])


@pytest.mark.parametrize("kind", [None, torch.bool, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [False, True])
def test_masks_are_cut_element_by_element(kind, rows):
    """Also where a mask begins later than the sequence, and where some columns are hidden."""
    random = torch.Generator().manual_seed(0)
    batch, end, width, queries = 2, 9, 9 if kind is None else 7, 9 if rows else 1
    at = torch.tensor([[4, 1, 3, 5, 8], [0, 2, 6, 7, 8]]) - end
    seen = torch.tensor([[False, True, True, True, True], [True] * 5])
    before = torch.arange(end)[:, None] >= torch.arange(end) if rows else torch.ones(1, end, dtype=torch.bool)
    mask = (torch.rand(batch, 1, queries, width, generator=random) < 0.7) & before[:, end - width :]
    lowest = 0 if kind in (None, torch.bool) else torch.finfo(kind).min
    given = mask if lowest == 0 else torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, lowest)
    left = at + end if rows else torch.zeros(batch, 1, dtype=torch.long)
    got = cut_mask(None if kind is None else given, at, seen, left if rows else None)
    whole = before.expand(batch, 1, -1, -1) if kind is None else mask
    for row in range(batch):
        for i, query in enumerate(left[row].tolist()):
            for j, column in enumerate((at[row] + width).tolist()):
                if kind is None and rows and not seen[row, i]:
                    continue  # a row that nobody reads
                wanted = column >= 0 and bool(seen[row, j]) and bool(whole[row, 0, query, column])
                value = got[row, 0, i, j]
                assert bool(value) == wanted if lowest == 0 else float(value) == (0 if wanted else lowest)
