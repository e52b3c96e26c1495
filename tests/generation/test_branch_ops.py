"""Branches with ops of their own, against a model that reads every sequence anew, eagerly, with the same edit.

The branch reads what the main rows read, but from layer 2 on some columns of the prompt are hidden from every row but
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from mmhall._transformers import caches
from mmhall.adapters._anatomy import Anatomy
from mmhall.attention import SELF_ATTENTION, Op
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Composed, Session, Strategy, strategy
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, built, cut, ends, ours, searched
from tests.jobs import decode, run

pytestmark = QUIET

NEW = 4
SHORT = 4
ALPHA = 2.5


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let the naive searches end as soon."""
    monkeypatch.setattr("tests.generation.reference.LENGTH", SHORT)


def hidden(inputs, residue=1):
    """Every third position of each prompt, padding and the last two left out, (B, T) bool."""
    real = inputs["attention_mask"].bool()
    marked = real & (real.cumsum(dim=1) % 3 == residue) & (real.cumsum(dim=1) > 1)
    marked[:, -2:] = False
    return marked


class Hide(Op):
    """Hides columns of the prompts, (prompts, T) bool, from every row but their own."""

    kinds = SELF_ATTENTION

    def __init__(self, columns, layers):
        self._hidden, self.layers, self.sizes = columns, frozenset(layers), set()

    def bias(self, call):
        self.sizes.add(len(call.query))
        own, length = call.each(self._hidden), self._hidden.shape[1]
        columns = torch.arange(call.key.shape[2]) + call.offset
        inside = (columns >= 0) & (columns < length)
        hides = own[:, columns.clamp(0, length - 1)] & inside
        rows = torch.arange(call.count) + call.start
        hides = hides[:, None, None] & (rows[:, None] != columns)
        return torch.zeros(hides.shape).masked_fill(hides, -torch.inf)


class Blinkered:
    """A model that reads single sequences eagerly and with no cache, with columns hidden in some layers."""

    def __init__(self, name):
        self.model, _ = built(name)
        stack = Anatomy(self.model).decoder
        stack.module.set_attn_implementation("blinkered")
        stack.module.config.output_hidden_states = True  # else Gemma 4 leaves out rows of a prompt
        for index, layer in enumerate(stack.layers):
            for part in layer.modules():
                part.blinkered = self, index
        self.columns, self.layers = None, ()

    def read(self, inputs, columns=None, layers=()):
        """Next-token log-probabilities, (V,)."""
        self.columns, self.layers = columns, layers
        model = self.model if "pixel_values" in inputs else getattr(self.model, "language_model", self.model)
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits[0, -1].float().log_softmax(dim=-1)


def _attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    reader, layer = module.blinkered
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling + attention_mask
    if layer in reader.layers:
        hides = torch.zeros(scores.shape[-2:], dtype=torch.bool)
        hides[:, reader.columns] = True
        scores = scores.masked_fill(hides & ~torch.eye(len(hides), dtype=torch.bool), -torch.inf)
    return (scores.softmax(-1) @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None


AttentionInterface.register("blinkered", _attend)
AttentionMaskInterface.register("blinkered", eager_mask)


@cache
def blinkered(name):
    return Blinkered(name)


def layers_of(adapter, first=2):
    return [layer for layer in range(first, len(adapter.layers)) if adapter.kinds[layer] in SELF_ATTENTION]


def combine(step):
    """Contrast the main rows with their branches, one after the other."""
    return (1 + ALPHA) * step.main - ALPHA * step.branches[0] - 0.3 * sum(step.branches[1:])


def contrast(adapter, inputs, first=2):
    """A session whose branch sees less from a layer on, of the prompts as they are; and its op."""
    op = Hide(hidden(inputs), layers_of(adapter, first))
    return Session(branches=[Branch(inputs, [op])], combine=combine), op


class Reads:
    """What the contrast says after an answer to a single prompt, everything read anew, (V,)."""

    def __init__(self, name, inputs, branches):
        self._name, self._inputs, self._branches = name, inputs, branches

    def __call__(self, answer, _=None):
        written, reader = torch.tensor([list(answer)], dtype=torch.long), blinkered(self._name)
        adapter = ours(self._name)
        main = reader.read(adapter.append_answer(self._inputs, written))
        parts = [
            reader.read(adapter.append_answer(inputs, written), columns.nonzero()[:, 0], layers)
            for inputs, columns, layers in self._branches
        ]
        return ((1 + ALPHA) * main - ALPHA * parts[0] - 0.3 * sum(parts[1:])).log_softmax(dim=-1)


def reads_of(name, inputs, first=2):
    return Reads(name, inputs, [(inputs, hidden(inputs)[0], layers_of(ours(name), first))])


def drawing(seed):
    """Draw as `torch.multinomial` does with a generator of its own."""
    random = torch.Generator().manual_seed(seed)
    return lambda scores: torch.multinomial(scores.softmax(dim=-1), 1, generator=random)


def naively(name, reads, choose=torch.argmax):
    """Decode one token at a time, reading everything anew."""
    answer = []
    while len(answer) < SHORT and not (answer and answer[-1] in ends(name)):
        answer.append(int(choose(reads(answer))))
    return tuple(answer)


def said(name, inputs, session, seeds=(), new=SHORT, **settings):
    adapter = ours(name)
    config = Settings(max_new_tokens=new, **settings).resolved(adapter.generator)
    config.early_stopping = "never"  # of beams: the naive search goes to the last step
    rows = decode(adapter, inputs, session, config, seeds)
    return [cut(row, ends(name)) for row in rows.tolist()]


def scored(adapter, inputs, *parallel):
    """What is said, (B, steps), and log-probabilities of main rows and branches, (1 + branches, steps, B, V)."""
    parts = []

    def keep(step):
        parts.append(torch.stack([step.main, *step.branches]))
        return step.main

    config = Settings(max_new_tokens=NEW).resolved(adapter.generator)
    config.min_new_tokens = NEW
    said = decode(adapter, inputs, Session(branches=parallel, combine=keep), config)
    return said, torch.stack(parts, dim=1).clamp_min(-1e3)


@pytest.mark.parametrize("name", ["llava", "gemma3", "mllama"])
def test_a_branch_that_sees_less_is_an_eager_one(name):
    """Greedy and drawn; the prompts of a batch, padded on the left, are what each is alone."""
    adapter, greedy, drawn = ours(name), [], []
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        (session, op), reads = contrast(adapter, inputs), reads_of(name, inputs)
        wanted = naively(name, reads)
        assert said(name, inputs, session) == [wanted]
        drawn.append(naively(name, reads, drawing(7)))
        assert said(name, inputs, session, [7], do_sample=True, top_k=0) == drawn[-1:]
        greedy.append(wanted)
        assert op.sizes == {1}
    both = adapter.inputs(REQUESTS[:2])
    assert said(name, both, contrast(adapter, both)[0]) == greedy
    assert said(name, both, contrast(adapter, both)[0], [7, 7], do_sample=True, top_k=0) == drawn


@pytest.mark.parametrize("name", ["llava", "gemma4", "mllama"])
def test_beams_with_a_branch_that_sees_less_are_the_naive_search(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:1])
    wanted = searched(adapter, inputs, Session(), 3, edit=reads_of(name, inputs))[:2]
    session, _ = contrast(adapter, inputs)
    assert said(name, inputs, session, new=SHORT, num_beams=3, num_return_sequences=2) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_the_main_rows_see_all_and_the_branch_what_it_is_left(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    op = Hide(hidden(inputs), layers_of(adapter))
    said, steered = scored(adapter, inputs, Branch(inputs, [op]))
    _, plain = scored(adapter, inputs, Branch(inputs))
    torch.testing.assert_close(steered[0], plain[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(plain[1], plain[0], rtol=1e-5, atol=1e-4)
    assert ((steered[1].exp() - plain[1].exp()).abs().amax(dim=(1, 2)) > 1e-3).all()
    assert op.sizes == {2}
    for index, request in enumerate(REQUESTS[:2]):
        single = adapter.inputs([request])
        columns = hidden(single)[0].nonzero()[:, 0]
        for step in range(NEW):
            longer = adapter.append_answer(single, said[index : index + 1, :step])
            wanted = blinkered(name).read(longer, columns, op.layers).clamp_min(-1e3)
            size = float(wanted.masked_fill(wanted <= -1e3, 0).abs().max())
            torch.testing.assert_close(steered[1, step, index], wanted, rtol=1e-5, atol=1e-5 * max(5.0, size / 20))


@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_branches_are_what_they_are_apart(name, monkeypatch):
    """In one pass a step or in three; Mllama's branch without a picture steps apart by itself."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    blind = adapter.without_image(inputs)
    passes = []
    hook = adapter.decoder.register_forward_hook(lambda _, args, output: passes.append(1))

    def read():
        passes.clear()
        ops = [Hide(hidden(inputs), layers_of(adapter)), Hide(hidden(blind), layers_of(adapter, 1))]
        return scored(adapter, inputs, Branch(inputs, ops[:1]), Branch(blind, ops[1:]))[1], len(passes)

    together, few = read()
    monkeypatch.setattr(caches, "can_join", lambda caches: False)
    apart, many = read()
    hook.remove()
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=2e-4)
    assert many == 3 * NEW
    assert few == (3 * NEW if name == "mllama" else 3 + NEW - 1)


@pytest.mark.parametrize("name", ["llava", "gemma3", "mllama"])
def test_each_branch_follows_its_own_ops(name):
    """Two branches hide different columns from different layers on; one of them reads no picture."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[1:2])
    blind = adapter.without_image(inputs)
    asked = [(inputs, hidden(inputs, 2), layers_of(adapter, 1)), (blind, hidden(blind), layers_of(adapter))]
    session = Session(
        branches=[Branch(part, [Hide(columns, layers)]) for part, columns, layers in asked], combine=combine
    )
    reads = Reads(name, inputs, [(part, columns[0], layers) for part, columns, layers in asked])
    assert said(name, inputs, session) == [naively(name, reads)]
    swapped = Reads(name, inputs, [(*asked[0][:1], hidden(inputs)[0], asked[0][2]), (blind, asked[1][1][0], [])])
    assert naively(name, swapped) != naively(name, reads), "the columns make no difference"


@dataclass(frozen=True)
class Blinkers(Strategy):
    """Contrasts with a branch that sees less."""

    name = "blinkers"

    def prepare(self, adapter, inputs):
        return contrast(adapter, inputs)[0]


@pytest.mark.parametrize("name", ["mllama", "gemma3"])
def test_candidates_are_tried_in_a_branch_that_sees_less(name):
    """OPERA with a neutral penalty and the whole vocabulary as candidates is the naive beam search of the contrast."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:1])
    vocabulary = adapter.decoder.config.vocab_size
    neutral = strategy("opera", penalty_weights=0.0, num_attn_candidates=vocabulary, threshold=1)
    config = Settings(max_new_tokens=SHORT, num_beams=3, num_return_sequences=2).resolved(adapter.generator)
    config.early_stopping = "never"
    found = run(adapter, inputs, Composed((neutral, Blinkers())), config)
    wanted = searched(adapter, inputs, Session(), 3, edit=reads_of(name, inputs))[:2]
    assert [cut(row, ends(name)) for row in found.tolist()] == wanted
