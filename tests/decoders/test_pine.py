"""PINE: any order of pictures or texts gives one answer; its formula written out; what shows the order is refused."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from functools import cache
from itertools import groupby, permutations

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import mmhall
from mmhall.adapters._base import Inputs, Request
from mmhall.attention import active
from mmhall.decoders.pine import PlaceSegments, place
from mmhall.errors import CompositionError, OptionError, PromptError
from mmhall.lvlm import LVLM
from mmhall.strategies import Segments, picture_segments, text_segments
from tests.decoders.rows import NEW, family, halved, scored, written
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours, said

pytestmark = QUIET

PICTURES = tuple(request.images[0] for request in REQUESTS[:3])
TEXTS = ("one red cup", "a dog", "two green birds, far off", "no car", "the sea")
QUESTION = "What differs?"
REFUSED = dict.fromkeys(("qwen3_5", "gemma3", "gemma4", "llama4", "mllama", "llava_phi3", "idefics2"), "kind")
REFUSED |= {"aya_vision": "kind", "cohere2_vision": "kind", "blip_2": "it has none"}
CARRYING = tuple(name for name in FAMILIES if name not in {*REFUSED, "instructblip"})  # which reads one picture


def pine(adapter, **options):
    return mmhall.strategy("pine", **options).fitted(adapter)


def of_pictures(order, question=QUESTION):
    return Request(question, tuple(PICTURES[number] for number in order))


def of_texts(order, texts=TEXTS):
    return Request("\n".join([*(texts[number] for number in order), "Which one?"]), PICTURES[:1])


def next_logits(adapter, inputs, ops=()):
    with torch.no_grad(), active(adapter.plan(ops)):
        return adapter.model_for(inputs)(**inputs).logits[:, -1].float()


def drawn_orders(count, seed):
    random_orders = random.Random(seed)
    return [tuple(random_orders.sample(range(count), count)) for _ in range(50)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what"), [("llava", "pictures"), ("qwen2_5_vl", "pictures"), ("llava", "texts")])
def test_fifty_random_orders_give_one_answer(name, what):
    """Of three pictures, or of five texts; plain decoding answers in several ways."""
    adapter, make, number = ours(name), *((of_pictures, 3) if what == "pictures" else (of_texts, 5))
    options = {} if what == "pictures" else {"segments": TEXTS}
    orders = drawn_orders(number, 3)
    assert len(set(orders)) == 6 if number == 3 else len(set(orders)) > 30
    inputs = adapter.inputs([make(order) for order in orders])
    session = pine(adapter, **options).prepare(adapter, inputs)
    logits, plain = next_logits(adapter, inputs, session.ops), next_logits(adapter, inputs)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), rtol=0, atol=1e-4)
    assert float((plain - plain[:1]).abs().max()) > 0.5
    spec = str(mmhall.strategy("pine", **options))
    answers = [tuple(answer) for answer in said(adapter, inputs, spec, max_new_tokens=8)]
    assert len(set(answers)) == 1
    assert len({tuple(answer) for answer in said(adapter, inputs, "greedy", max_new_tokens=8)}) > 1


SEARCH = "opera(num_attn_candidates=3, penalty_weights=20.0, threshold=2, scale_factor=400.0)+pine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "decoding"),
    [("pine", {"num_beams": 3}), ("pine", {"do_sample": True, "seed": 3}), (SEARCH, {"num_beams": 2})],
)
def test_beams_samples_and_searches_do_not_depend_on_the_order_and_a_batch_equals_single_runs(spec, decoding):
    """Also where the prompts of a batch have different numbers of pictures, one of them a single one."""
    adapter, options = ours("llava"), {**decoding, "max_new_tokens": 5}
    alike = {tuple(said(adapter, adapter.inputs([of_pictures(order)]), spec, **options)[0])
             for order in permutations(range(3))}  # fmt: skip
    assert len(alike) == 1
    mixed = [of_pictures((2, 0)), of_pictures((1,), "Please tell me what it is, in detail."), of_pictures((1, 0, 2))]
    together = said(adapter, adapter.inputs(mixed), spec, **options)
    assert together == [said(adapter, adapter.inputs([one]), spec, **options)[0] for one in mixed]


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (at > 3)) for at, one in enumerate(CARRYING)]
)
def test_logits_of_all_orders_in_every_family(name):
    """To 1e-4 of logits up to 5, and as much more as they are larger: random models enlarge rounding."""
    adapter, found, plain = ours(name), [], []
    for order in permutations(range(3)):
        inputs = adapter.inputs([of_pictures(order)])
        found.append(next_logits(adapter, inputs, pine(adapter).prepare(adapter, inputs).ops))
        plain.append(next_logits(adapter, inputs))
    size = max(5.0, float(found[0].abs().max()))
    for logits in found:
        torch.testing.assert_close(logits, found[0], rtol=0, atol=1e-4 * size)
    assert max(float((logits - plain[0]).abs().max()) for logits in plain) > 0.5


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in ("mllama", "blip_2") else pytest.mark.slow) for one in REFUSED]
)
def test_families_that_cannot_carry_it_are_refused_with_the_reason(name):
    with pytest.raises(CompositionError, match=f"cannot carry it: .*{REFUSED[name]}"):
        pine(ours(name))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "paligemma"])
def test_one_segment_is_plain_decoding(name):
    """To the last bit, as nothing is edited; and where the formula is computed all the same, up to rounding."""
    adapter = ours(name)
    inputs = adapter.inputs([REQUESTS[1]])
    assert not pine(adapter).prepare(adapter, inputs).ops
    assert said(adapter, inputs, "pine", max_new_tokens=6) == said(adapter, inputs, "greedy", max_new_tokens=6)
    texts = ("Please describe this image in detail.",)
    assert not pine(adapter, segments=texts).prepare(adapter, inputs).ops
    computed = next_logits(adapter, inputs, [PlaceSegments(picture_segments(adapter, inputs), adapter.rotary)])
    torch.testing.assert_close(computed, next_logits(adapter, inputs), rtol=1e-5, atol=1e-4)


def test_segments_of_a_toy_are_placed_from_the_end():
    """Segments of 2 and 3 positions in [2, 7): importances 0.1 and 0.1667 leave them, these reversed swap them."""
    lengths, ends = torch.tensor([2, 3]), torch.tensor([7])
    for importance, starts in (((0.10, 0.1667), (2, 4)), ((0.1667, 0.10), (5, 2)), ((math.inf, 9.0), (5, 2))):
        assert place(torch.tensor(importance), lengths, ends).tolist() == list(starts)


# The formula, one weight at a time


@cache
def unrotated(name):
    """A copy of a model whose queries and keys are not turned, and where `attend` computes its attention."""
    adapter, _ = family(name)
    model, decoder, layers = copy.deepcopy((adapter.model, adapter.decoder, adapter.layers))
    for index, layer in enumerate(layers):
        for part in layer.modules():
            part.pine = index
    turn = decoder.rotary_emb.forward
    decoder.rotary_emb.forward = lambda *args, **kwargs: tuple(
        torch.full_like(part, value) for part, value in zip(turn(*args, **kwargs), (1.0, 0.0), strict=True)
    )
    decoder.register_forward_pre_hook(lambda _, args, kwargs: READ.update(ids=kwargs["position_ids"]), with_kwargs=True)
    decoder.set_attn_implementation("pine_reference")
    return model


READ: dict[str, object] = {}
SECTIONS = {"llava": [8], "qwen2_5_vl": [2, 3, 3]}  # pairs of dimensions that turn along each axis


def turned(vectors, positions, sections):
    """Queries or keys, (N, 2 P), at positions of one or three axes, (axes, N): pair j turns by p * 10000^(-j / P)."""
    pairs = sum(sections)
    along = positions[[axis for axis, size in enumerate(sections) for _ in range(size)]].T
    angles = along * 10000 ** (-torch.arange(pairs) / pairs)
    a, b = vectors[:, :pairs], vectors[:, pairs:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=1)


def attend(module, query, key, value, attention_mask, scaling, **kwargs):
    """PINE's attention for one prompt with an answer behind it; `READ` holds the columns of each segment."""
    groups, segments, sections = query.shape[1] // key.shape[1], READ["segments"], READ["sections"]
    (key, value), query = (part.repeat_interleave(groups, 1)[0] for part in (key, value)), query[0]
    heads, rows, _ = query.shape
    ids = torch.arange(rows)[None] if READ["ids"] is None else READ["ids"].reshape(-1, rows)
    begin, end = segments[0][0], ids[0, segments[-1][-1] + 1]
    sizes = [ids[0, own[-1] + 1] - ids[0, own[0]] for own in segments]
    output = torch.zeros(1, rows, heads, value.shape[-1])
    for head in range(heads):
        raw = query[head] @ key[head].T * scaling
        for row in range(rows):
            own = next((s for s, columns in enumerate(segments) if row in columns), None)
            others = [s for s in range(len(segments)) if s != own]
            visible, positions = set(range(row + 1)), ids.clone()
            if own is not None:
                visible |= {column for columns in segments for column in columns if column not in segments[own]}
            if row >= begin:
                importance = summed(raw, [row] if own is None else segments[own], segments, others)
                at = end
                for s in ([] if own is None else [own]) + sorted(others, key=lambda s: -importance[s]):
                    at = at - sizes[s]
                    positions[:, segments[s]] += at - ids[0, segments[s][0]]
            visible = sorted(visible)
            asked = turned(query[head, [row]], positions[:, [row]], sections)[0]
            keys = turned(key[head, visible], positions[:, visible], sections)
            output[0, row, head] = (keys @ asked * scaling).softmax(-1) @ value[head, visible]
    return output, None


def summed(raw, rows, segments, others):
    """Importance of each of some segments: over rows, the mean weight of its tokens among theirs."""
    columns, importance = [column for s in others for column in segments[s]], dict.fromkeys(others, 0.0)
    for row in rows:
        weights = dict(zip(columns, raw[row, columns].softmax(-1).tolist(), strict=True))
        for s in others:
            importance[s] += sum(weights[column] for column in segments[s]) / len(segments[s])
    return importance


AttentionInterface.register("pine_reference", attend)
AttentionMaskInterface.register("pine_reference", eager_mask)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_batch_is_the_formula_of_each_prompt(name):
    """Tokens, and scores to 1e-4; prompts of two and three pictures, of which one is padded."""
    adapter, _ = family(name)
    requests = [of_pictures((1, 0), "What?"), of_pictures((2, 0, 1), "So? Tell.")]
    batch = adapter.inputs(requests)
    answers = written(adapter, batch, "pine")
    scores = scored(adapter, batch, pine(adapter).prepare(adapter, batch), answers)
    model, image_token = unrotated(name), adapter.image_token_id
    for index, (request, answer) in enumerate(zip(requests, answers.tolist(), strict=True)):
        inputs = adapter.inputs([request])
        ids = inputs["input_ids"][0].tolist()
        marks = [at for at, token in enumerate(ids) if token == image_token]
        runs = [[at for _, at in own] for _, own in groupby(enumerate(marks), key=lambda pair: pair[1] - pair[0])]
        before = 0 if name == "llava" else 1  # a line break behind each, or marks on both sides
        READ["segments"] = [list(range(run[0] - before, run[-1] + 2)) for run in runs]
        READ["sections"] = SECTIONS[name]
        longer = adapter.append_answer(inputs, torch.tensor([answer[:-1]]))
        with torch.no_grad():
            wanted = model(**longer, use_cache=False).logits[0, -NEW:].float().log_softmax(-1)
        assert wanted.argmax(-1).tolist() == answer
        torch.testing.assert_close(*(part.clamp_min(-1e3) for part in (scores[index], wanted)), rtol=1e-5, atol=1e-4)


# Segments


def tokens_of(adapter, inputs, segments):
    ids = inputs["input_ids"][0]
    return [adapter.tokenizer.decode(ids[segments.index[0] == number]) for number in range(segments.counts[0])]


def test_texts_are_found_with_the_separators_that_belong_to_them():
    adapter = ours("llava")
    inputs = adapter.inputs([Request("Read:\nthe sea\na dog\nno car\nWhich?", PICTURES[:1])])
    segments = text_segments(adapter, inputs, ("no car", "the sea", "a  dog"))
    assert tokens_of(adapter, inputs, segments) == ["the sea\n", "a dog\n", "no car\n"]


def fake(ids: list[int]) -> Inputs:
    return {"input_ids": torch.tensor([ids])}


@pytest.mark.parametrize(
    ("ids", "index"),
    [
        ([9, 1, 2, 2, 9], [-1, 0, 1, 2, -1]),  # nothing between
        ([9, 1, 5, 2, 5, 2, 5, 9], [-1, 0, 0, 1, 1, 2, 2, -1]),  # behind each
        ([9, 5, 1, 5, 2, 5, 2, 9], [-1, 0, 0, 1, 1, 2, 2, -1]),  # before each
        ([6, 1, 7, 6, 2, 7, 6, 2, 7, 9], [0, 0, 0, 1, 1, 1, 2, 2, 2, -1]),  # around each
    ],
)
def test_separators_belong_to_each_segment(ids, index):
    spans = [[range(at, at + 1) for at, token in enumerate(ids) if token in (1, 2)]]
    assert Segments.of(fake(ids), spans, "picture").index[0].tolist() == index


@pytest.mark.parametrize("ids", [[9, 1, 5, 2, 9], [9, 5, 1, 6, 2, 7, 2, 9], [5, 1, 6, 2, 7]])
def test_separators_that_show_the_order_are_refused(ids):
    """One that stands in the middle alone, and numbers such as 5, 6, 7."""
    with pytest.raises(PromptError, match="the text around segments shows their order"):
        Segments.of(fake(ids), [[range(at, at + 1) for at, token in enumerate(ids) if token in (1, 2)]], "picture")


def test_numbered_pictures_are_refused_by_name():
    adapter = ours("llava")
    parts = [part for number, image in enumerate(PICTURES, 1) for part in
             ({"type": "text", "text": f"Picture {number}:"}, {"type": "image", "image": image})]  # fmt: skip
    lvlm = LVLM(adapter.model, adapter.processor, "llava")
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]
    with pytest.raises(PromptError, match=r"shows their order: .*Picture 2:.*Picture 3:"):
        lvlm.generate(None, messages, "pine", max_new_tokens=2)
    lvlm.close()


@pytest.mark.parametrize(
    ("prompt", "texts", "reason"),
    [
        ("a dog\nno car\nWhich?", ("a dog", "the sea"), "'the sea' was found 0 times"),
        ("a dog\nno car\na dog\nWhich?", ("a dog", "no car"), "'a dog' was found 2 times"),
        ("a dog, no car; the sea\nWhich?", ("a dog", "no car", "the sea"), "shows their order"),
    ],
)
def test_texts_that_are_not_there_once_are_refused(prompt, texts, reason):
    adapter = ours("llava")
    with pytest.raises(PromptError, match=reason):
        text_segments(adapter, adapter.inputs([Request(prompt, PICTURES[:1])]), texts)


def test_options_are_checked_and_read_back():
    strategy = mmhall.strategy("pine", segments=TEXTS)
    assert mmhall.strategy(str(strategy)) == strategy
    for wrong in ("texts", ("a", " "), ("a dog", "dog"), (1,)):
        with pytest.raises(OptionError, match="pine: segments must be"):
            mmhall.strategy("pine", segments=wrong)
    with pytest.raises(CompositionError, match="both want the rows of attention"):
        mmhall.strategy("pine+iat")


# The rest of the contract, with several pictures


def test_a_twin_places_by_random_queries_and_does_not_depend_on_the_order_either():
    adapter = ours("llava")
    found = {}
    for twin in (0, 1, 2):
        for order in ((0, 1, 2), (2, 0, 1)):
            inputs = adapter.inputs([of_pictures(order)])
            found[twin, order] = next_logits(adapter, inputs, pine(adapter, twin=twin).prepare(adapter, inputs).ops)
        torch.testing.assert_close(found[twin, (0, 1, 2)], found[twin, (2, 0, 1)], rtol=0, atol=1e-4)
    assert not any(torch.allclose(found[a, (0, 1, 2)], found[b, (0, 1, 2)], atol=1e-2) for a, b in ((0, 1), (1, 2)))


def test_without_a_cache_and_with_a_static_one_it_says_the_same():
    adapter = ours("llava")
    inputs = adapter.inputs([of_pictures((2, 0, 1))])
    wanted = said(adapter, inputs, "pine", max_new_tokens=5)
    for kind in {"cache_implementation": "static"}, {"use_cache": False}:
        own = mmhall.custom_generate("pine", processor=adapter.processor)
        rows = adapter.model.generate(**inputs, max_new_tokens=5, do_sample=False, custom_generate=own, **kind)
        assert rows[0, inputs["input_ids"].shape[1] :].tolist()[: len(wanted[0])] == list(wanted[0]), kind


def test_rows_that_are_padded_beside_a_longer_branch_are_read_alike():
    """The branch is not listened to."""
    adapter = ours("llava")
    inputs = adapter.inputs([of_pictures((2, 0, 1)), of_pictures((1, 0))])
    longer = adapter.inputs([of_pictures((0, 1, 2), "Please tell me what differs, and why."), of_pictures((0, 1, 2))])
    session = pine(adapter).prepare(adapter, inputs)
    answers = written(adapter, inputs, "pine")
    alone = scored(adapter, inputs, session, answers)
    beside = replace(session, ops=pine(adapter).prepare(adapter, inputs).ops, branches=[mmhall.Branch(longer)],
                     combine=lambda step: step.main)  # fmt: skip
    torch.testing.assert_close(scored(adapter, inputs, beside, answers), alone, rtol=1e-5, atol=1e-4)


def test_half_precision():
    adapter = halved()
    batch = adapter.inputs([of_pictures((0, 1, 2)), of_pictures((1, 2), "What?")])
    answers = written(adapter, batch, "greedy")
    scores = scored(adapter, batch, pine(adapter).prepare(adapter, batch), answers)
    assert scores.amax(dim=-1).isfinite().all()
    assert not scores.isnan().any()


def test_findings_name_the_segment_that_each_head_places_nearest():
    adapter = ours("llava")
    lvlm = LVLM(adapter.model, adapter.processor, "llava")
    trace = lvlm.trace(list(PICTURES), QUESTION, "pine", max_new_tokens=3)
    lvlm.close()
    nearest = trace.findings["nearest segment"]
    assert nearest.shape == (len(trace.answer.token_ids), len(adapter.layers), adapter.heads)
    assert set(nearest.flatten().tolist()) <= {1.0, 2.0, 3.0}
    assert len(nearest.unique()) > 1
