"""AllPath against its formula written out; where its heads come from; its scores against heads taken apart by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.analysis import head_logit_gains, word_attention
from mmhall.attention import Op, active
from mmhall.decoders.allpath import AllPath
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.options import rules
from mmhall.strategies import Pair, Strategy, differing_words, top_heads
from tests.decoders.fitted import SEED, fitted_artifact, made_artifact, made_pairs
from tests.decoders.rows import IN_SEQUENCE, check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET


def scaled(output, gains):
    """Outputs of the heads of one row, (H, D), each times its gain."""
    return torch.stack([gain * head for gain, head in zip(gains, output, strict=True)])


def formula(gains, rows):
    """Scale heads by layer, {layer: gain of each head}."""

    def edit(reader, layer, output):
        edited = output.clone()
        for row in range(0 if rows == "all" else reader.length - 1, output.shape[1]) if layer in gains else ():
            edited[0, row] = scaled(output[0, row], gains[layer])
        return edited

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], output=edit).log_softmax(-1)

    return reference


@pytest.mark.parametrize(
    ("name", "rows"), in_turn([name for name in REPRESENTATIVES if name in IN_SEQUENCE], ("all", "answer"))
)
def test_a_batch_is_the_formula_of_each_prompt(name, rows):
    adapter = ours(name)
    layers = [layer for layer, kind in enumerate(adapter.kinds) if kind in adapter.image_kinds]
    good, bad = (", ".join(f"{layer}.{head}" for layer in layers) for head in (0, 1))
    plain = [1.0] * (adapter.heads - 2)
    spec = f"allpath(gain=2.5, bad_gain=0.1, good='{good}', bad='{bad}', rows='{rows}')"
    check(name, spec, formula({layer: [2.5, 0.1, *plain] for layer in layers}, rows))


def test_the_scaling_of_a_toy():
    output = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    assert_close(scaled(output, [2.0, 0.0]).sum(0), torch.tensor([2.0, 4.0]))


def gain_by_hand(head, states, written):
    """By how much the head's log-probabilities rise where something is written, (V,)."""
    return head(states + written).log_softmax(-1) - head(states).log_softmax(-1)


def test_the_text_score_of_a_toy():
    head = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    got = gain_by_hand(head.matmul, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert_close(got, torch.tensor([-1.5456, 0.4544, 0.4544]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_what_heads_add_to_the_logits(name):
    """Against the columns of the output projection that belong to the head, a complete eager pass, and no bias."""
    adapter, reader = family(name)
    ids = adapter.tokenizer("There is a dog", add_special_tokens=False)["input_ids"]
    outputs = {}

    def note(reader, layer, output):
        outputs[layer] = output[0, -1]
        return output

    reader.logits(adapter.inputs(REQUESTS[:1]), ids[:-1], output=note)
    lm_head, stack = reader.eager.model.get_output_embeddings(), Anatomy(reader.eager.model).decoder
    with torch.inference_mode():
        got = head_logit_gains(adapter, adapter.inputs(REQUESTS[:1]), ids)
        for layer in range(len(adapter.layers)):
            project = stack.site(layer, "attn").o_proj.weight
            width = project.shape[1] // adapter.heads
            for head in range(adapter.heads):
                written = project[:, head * width : (head + 1) * width] @ outputs[layer][head]
                gains = gain_by_hand(lm_head, reader.states[layer][-1], written)
                assert float(got[layer, head]) == pytest.approx(float(gains[ids[-1]]), abs=1e-4)
    assert float(got.abs().min()) > 1e-5


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen3_5"])
def test_attention_of_words_to_columns(name):
    adapter, reader = family(name)
    text = "There is a dog beside a computer keyboard."
    pair = Pair("0", None, "", text, text.replace("dog", "toothbrush").replace("computer keyboard", "cat"))
    words, _ = differing_words(pair, adapter.tokenizer)
    assert [word.text for word in words.words] == ["dog", "computer", "keyboard"]
    inputs = adapter.inputs(REQUESTS[:1])
    length = inputs["input_ids"].shape[1]
    columns = torch.arange(length + len(words.ids)) % 3 == 0
    with torch.inference_mode():
        got = word_attention(adapter, inputs, words, columns)
    reader.logits(inputs, list(words.ids))
    for layer, kind in enumerate(adapter.kinds):
        for number, word in enumerate(words.words):
            if kind == "linear":
                assert not got[number, layer].any()
                continue
            row = reader.eager.maps[layer][0][0, :, length + word.tokens[-1]]
            assert_close(got[number, layer], (row * columns).sum(-1), rtol=0, atol=1e-5)


def test_a_fit_scores_true_words_less_hallucinated_ones():
    adapter = ours("llava")
    tensors = fitted_artifact(adapter, "allpath").tensors
    text, image = [], []
    for pair in made_pairs(alike=True):
        inputs = adapter.inputs([Request(pair.prompt, (pair.picture,))])
        mask = adapter.image_mask(inputs["input_ids"])[0]
        for sign, words in zip((1, -1), differing_words(pair, adapter.tokenizer), strict=True):
            (word,) = words.words
            columns = torch.cat([mask, mask.new_zeros(len(words.ids))])
            with torch.inference_mode():
                image.append(sign * word_attention(adapter, inputs, words, columns)[0])
                text.append(sign * head_logit_gains(adapter, inputs, words.ids[: word.tokens[0] + 1]))
    assert_close(tensors["text"], torch.stack(text).mean(0) * 2)
    assert_close(tensors["image"], torch.stack(image).mean(0) * 2)


def test_a_fit_tests_the_paths_that_are_used():
    adapter, tested = ours("llava"), {}
    for share in (0, 0.049):
        method = Strategy.fitted(mmhall.strategy(f"allpath(image_share={share})"), adapter)
        with torch.inference_mode():
            tested[share] = set(method.fit(adapter, made_pairs(alike=True), SEED).numbers)
    assert tested == {0: {"text"}, 0.049: {"text", "image"}}
    pairs = made_pairs(4, alike=True)
    turned = [type(p)(p.id, p.picture, p.prompt, p.hallucinated, p.faithful) for p in pairs[:2]]
    with pytest.raises(FitError, match="what heads add to the logits does not tell"), torch.inference_mode():
        method.fit(adapter, [*pairs[2:], *turned], 0)


def test_shares_are_the_authors_numbers_of_heads():
    """Of 32 layers with 32 heads: 40 and 50 for captions, 20 and 10 for short answers."""
    options, every = rules(AllPath), torch.ones(32, 32, dtype=torch.bool)
    for option, wanted in (("text_share", (20, 40)), ("image_share", (10, 50))):
        rule = options[option]
        assert tuple(int(top_heads(torch.rand(32, 32), share, every).sum()) for share in rule.tries) == wanted
        assert rule.general == rule.tries[-1]


@pytest.fixture
def ranked():
    """A model with an artifact: the best text heads are 0.0 and 1.0, the worst 2.3 and 2.0; image heads 2.0 and 1.1."""
    adapter = ours("llava")
    text, image = torch.zeros(2, len(adapter.layers), adapter.heads)
    text[0, 0], text[1, 0], text[2, 3], text[2, 0] = 2.0, 1.0, -3.0, -2.0
    image[2, 0], image[1, 1] = 2.0, 1.0
    method = Strategy.fitted(mmhall.strategy("allpath"), adapter)
    before, adapter.artifacts = (
        adapter.artifacts,
        {"allpath": made_artifact(method, {"text": text, "image": image})},
    )
    yield adapter
    adapter.artifacts = before


def gains(adapter, spec):
    ops = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
    if not ops:
        return {}
    (found,) = ops[0].findings(len(adapter.layers)).values()
    return {(layer, head): float(found[layer, head]) for layer, head in (found.nan_to_num(1) != 1).nonzero().tolist()}


def test_good_and_bad_heads_come_from_a_fit_or_a_list(ranked):
    share = 2 / (len(ranked.layers) * ranked.heads)
    one = {(0, 0): 2.0, (2, 0): 2.0, (2, 3): 0.0}
    assert gains(ranked, "allpath(text_share=0.01, image_share=0.01)") == one
    two = {(0, 0): 2.0, (1, 0): 2.0, (2, 0): 2.0, (1, 1): 2.0, (2, 3): 0.0}  # 2.0 is bad, too: good wins
    assert gains(ranked, f"allpath(text_share={share}, image_share={share})") == two
    mixed = mmhall.strategy("allpath(good='0.1', text_share=0.01)")
    assert mixed.fitted(ranked).options()["bad"] == "fitted"
    assert gains(ranked, str(mixed)) == {(0, 1): 2.0, (2, 3): 0.0}
    listed = "allpath(good='0.1, 1.2', bad='1.2, 1.3', gain=3, bad_gain=0.5)"
    assert gains(ranked, listed) == {(0, 1): 3.0, (1, 2): 3.0, (1, 3): 0.5}
    assert mmhall.strategy(listed).fitted(ranked).artifact is None


def test_the_twin_takes_as_many_other_heads_of_each_layer(ranked):
    listed = "allpath(good='0.1, 1.2', bad='1.3, 1.0', gain=3, bad_gain=0.5, twin={})"
    twins = [gains(ranked, listed.format(twin)) for twin in range(1, 9)]
    for twin in twins:
        assert sorted((layer, gain) for (layer, _), gain in twin.items()) == [(0, 3.0), (1, 0.5), (1, 0.5), (1, 3.0)]
        assert twin.get((0, 1)) is None
        assert twin.get((1, 2)) != 3.0
    assert len({tuple(sorted(twin)) for twin in twins}) > 1


class Note(Op):
    """Notes head outputs of layer 1, as the ops before it have left them."""

    layers = frozenset({1})

    def edit_output(self, call, output):
        self.output = output
        return output


@pytest.mark.parametrize("rows", ["all", "answer"])
def test_other_heads_and_positions_are_untouched(rows):
    adapter, _ = family("llava")
    batch, before, after = adapter.inputs(REQUESTS[:2]), Note(), Note()
    spec = f"allpath(good='1.0', bad='1.3', gain=2, rows='{rows}')"
    ops = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
    with torch.no_grad(), active(adapter.plan([before, *ops, after])):
        adapter.model(**batch)
    old, new = before.output, after.output
    assert torch.equal(old[:, :, 1:3], new[:, :, 1:3])
    first = 0 if rows == "all" else old.shape[1] - 1
    assert torch.equal(old[:, :first], new[:, :first])
    assert torch.equal(new[:, first:, 0], 2 * old[:, first:, 0])
    assert not new[:, first:, 3].any()


def test_in_half_precision():
    check_half("allpath(good='0.0', bad='1.1')", "allpath(good='0.0', bad='', gain=1)")


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (
        ("allpath(gain=1, bad_gain=1, good='1.0', bad='1.1')", REQUESTS[0]),
        ("allpath(good='', bad='')", REQUESTS[0]),
        ("allpath(gain=1, good='1.0', bad='', twin=1)", REQUESTS[0]),
        ("allpath(good='1.0', bad='')", Request("?")),
    ):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == mmhall.Session()


def test_what_it_cannot_be_used_with_is_refused():
    with pytest.raises(CompositionError, match="both want the gains of heads"):
        mmhall.strategy("allpath(good='1.0', bad='')+vhr")
    with pytest.raises(CompositionError, match=r"mllama cannot carry it: .*cross-attention"):
        mmhall.strategy("allpath(good='1.0', bad='')").fitted(ours("mllama"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("gain", -1),
        ("bad_gain", -1),
        ("good", "1"),
        ("bad", "1.2.3"),
        ("text_share", 2),
        ("rows", "last"),
        ("twin", -1),
    ],
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(OptionError, match=rf"^allpath: {option} must be .*, got"):
        mmhall.strategy("allpath", **{option: value})
