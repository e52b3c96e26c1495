"""What captions attend to in their prompts: by hand, and equal to plain eager attention."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mmhall.adapters import Request
from mmhall.analysis import ModalityDominance, read_answer, read_prompts
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.columns import (
    PromptAttention,
    PromptColumns,
    SinkStates,
    Written,
    column_figures,
    marked_figure,
    prompt_columns,
)
from mmhall.benchmarks.diagnosis.dominance import dominance_figures
from mmhall.benchmarks.diagnosis.figures import UnmeasuredError
from mmhall.benchmarks.diagnosis.lift import Changed, Lift, changed_captions, lift_figure
from mmhall.benchmarks.diagnosis.negative import YesNoProbe, negative_score
from mmhall.benchmarks.diagnosis.retrieval import Hits, TopColumns, needle_prompts, read_needles, retrieval_figure
from mmhall.errors import ModelError
from mmhall.lvlm import LVLM
from mmhall.results.statistics import Resampler
from tests.attention.reference import Eager, reweighed
from tests.zoo import built

PROMPT = "Please describe this image in detail."
QUESTION = "Is there a cup in the image? Please answer yes or no."


class Call:
    """Layer 2 of a model that reads a prompt of 6 positions and an answer of 2 at once."""

    offset, start, count, device = 0, 0, 8, torch.device("cpu")

    def __init__(self, layer=2):
        self.layer = layer


class Visit:
    start, kind = 0, "full"

    def __init__(self, states, layer=2):
        self.states, self.layer = states, layer


def bare(kind, image, attended, lengths):
    """Make a probe without a model."""
    probe = object.__new__(kind)
    probe._image, probe._attended, probe._width = image, attended, max(lengths)
    probe._first = (attended & ~image).int().argmax(dim=1)
    rows = torch.arange(probe._width) < torch.tensor(lengths)[:, None]
    probe._rows, probe._states = rows / rows.sum(dim=1, keepdim=True), None
    probe._dimensions, probe._tau, probe._added = [1], 1.5, {}
    probe.prompts = [PromptAttention([str(n) for n in range(6)], int(row.sum())) for row in image]
    return probe


def test_columns_made_by_hand():
    """Padding at 0, first text at 1, picture at 2 and 3. Two rows, two heads; column 4 gets (0.3 + 0.1) / 2 = 0.2.

    In the second dimension the state at 2 is all there is, sqrt 2 in root mean squares, above 1.4: `var` marks it.
    """
    image = torch.tensor([[0, 0, 1, 1, 0, 0]]).bool()
    probe = bare(PromptColumns, image, torch.tensor([[0, 1, 1, 1, 1, 1]]).bool(), [2])
    probe._tau = 1.4
    states = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    probe.see_states(Visit(states))
    probs = torch.zeros(1, 2, 2, 8)
    probs[0, :, :, 1:5] = torch.tensor([[0.5, 0.1, 0.05, 0.3], [0.3, 0.1, 0.05, 0.1]])
    probs[0, 1, :, 2] = 0.0
    assert probe.rows(Call()).tolist() == [5, 6]
    probe.see(Call(), probe.rows(Call()), probs)
    (found,) = probe.prompts
    assert found.image[2].tolist() == pytest.approx([0.15, 0.05])
    assert found.first[2] == pytest.approx(0.4)
    assert found.marked[2] == 1
    assert found.sinks[2] == {4: pytest.approx(0.2)}


def test_a_sink_is_written_by_the_mlp_of_an_earlier_layer():
    """Column 4 is a sink in layers 2 and 3. MLPs add (3, 4) to it in layer 0, norm 5, over 1 in the median.

    The first position's stream is (1, 0) there, cosine 0.6. Layer 1 adds less, and layers 2 and 3, where the column
    already is a sink, more. Column 5 is a sink from layer 0 on; no MLP comes before it.
    """
    image, attended = torch.zeros(1, 6, dtype=torch.bool), torch.tensor([[0, 1, 1, 1, 1, 1]]).bool()
    probe = bare(SinkStates, image, attended, [2])
    streams = {0: [1.0, 0.0], 1: [0.0, 1.0], 2: [1.0, 0.0], 3: [1.0, 0.0]}
    for layer, added in enumerate(([3.0, 4.0], [0.0, 4.0], [50.0, 0.0], [90.0, 0.0])):
        states = torch.zeros(1, 8, 2)
        states[0, 1] = torch.tensor(streams[layer])
        probe.see_states(Visit(states, layer))
        probs = torch.zeros(1, 2, 2, 8)
        probs[..., 5] = 0.3
        probs[..., 4] = 0.2 * (layer >= 2)
        probe.see(Call(layer), torch.tensor([5, 6]), probs)
        outputs = torch.ones(1, 8, 2) / 2**0.5
        outputs[0, 4] = torch.tensor(added)
        assert probe.edit_states(Visit(states, layer), outputs) is outputs
    (prompt,) = probe.prompts
    assert [list(prompt.sinks[layer]) for layer in range(4)] == [[5], [5], [4, 5], [4, 5]]
    assert list(prompt.written) == [4]
    written = prompt.written[4]
    assert (written.layer, written.cosine, written.norm) == (0, pytest.approx(0.6), pytest.approx(5.0))


def test_figures_of_columns():
    prompts = [
        PromptAttention(["'a'", "'b'", "image token 0"], 1, {3: torch.tensor([0.1, 0.3])}, {3: 0.4},
                        {3: {1: 0.2, 2: 0.1}}, {1: Written(2, 0.6, 5.0)}, {3: 2}),
        PromptAttention(["'a'", "'b'", "image token 0"], 1, {3: torch.tensor([0.1, 0.1])}, {3: 0.2},
                        {3: {}}, {}, {3: 0}),
    ]  # fmt: skip
    draws = Resampler(["1", "2"])
    picture, first, others = column_figures(prompts, draws)
    assert picture.shown[0] == pytest.approx(15)
    assert picture.heads[3] == pytest.approx((0.1, 0.2))
    assert "1 of 2 heads give it 20%" in picture.note
    assert first.shown[0] == pytest.approx(30)
    assert others.estimate.value == 1
    written, start = others.note.split("; image")
    assert written == (
        "'b' (50% of prompts, layers 3 to 3, at most 20% in layer 3; 100% after the MLP of layer 2 added most, with "
        "cosine 0.60 to the first position's stream and 5.0 times the usual norm)"
    )
    assert start.endswith("at most 10% in layer 3; 100% from layer 3 on, with no MLP before it)")
    assert marked_figure(prompts, draws).estimate.value == 1
    with pytest.raises(UnmeasuredError, match="layers of their own"):
        marked_figure([PromptAttention(["'a'"], 0, marked={3: 0})], draws)


@pytest.mark.parametrize("name", ["embedded", "qwen2_5_vl"])
def test_probes_read_what_eager_attention_computes(name, pictures, request):
    """Two prompts with answers of 6 and 4 tokens in one padded batch: shares, sinks and the columns with most."""
    lvlm = request.getfixturevalue("embedded") if name == "embedded" else LVLM(*built(name))
    adapter, eager, lengths = lvlm.adapter, Eager(lvlm.adapter), [6, 4]
    inputs = adapter.inputs([Request(PROMPT, (pictures[0],)), Request(QUESTION, (pictures[1],))])
    image, attended = adapter.image_mask(inputs["input_ids"]), inputs["attention_mask"].bool()
    whole, prompt = adapter.append_answer(inputs, torch.arange(5, 11).repeat(2, 1)), image.shape[1]
    columns = prompt_columns(adapter, inputs["input_ids"], attended, lengths)
    assert isinstance(columns, SinkStates)
    right = [{1: image[0].cpu() & (torch.arange(prompt) % 2 == 0)}, {}]
    top = TopColumns(6, right, image)
    with torch.inference_mode():
        read_answer(adapter, whole, 6, [columns, top])
    eager.logits(whole)
    for layer, (weights,) in enumerate(eager.maps):
        for row, length in enumerate(lengths):
            read, own = columns.prompts[row], weights[row, :, prompt - 1 : prompt - 1 + length, :prompt].mean(dim=1)
            torch.testing.assert_close(read.image[layer], own[:, image[row]].sum(dim=1), rtol=1e-3, atol=1e-5)
            first = int((attended[row] & ~image[row]).int().argmax())
            assert read.first[layer] == pytest.approx(float(own.mean(dim=0)[first]), rel=1e-3, abs=1e-6)
            wanted = [c for c in (own.mean(dim=0) >= 0.1).nonzero()[:, 0].tolist() if c != first]
            assert list(read.sinks[layer]) == wanted
            new = set(wanted) - {column for at in range(layer) for column in read.sinks[at]}
            assert all((column in read.written) == (layer > 0) for column in new)
            assert all(read.written[column].layer < layer for column in new if layer)
        chosen = weights[0, :, prompt, :prompt].masked_fill(~image[0], -1).argmax(dim=1)
        assert top.hits[layer][0].tolist() == right[0][1][chosen].double().tolist()
    assert top.hits[0][1].sum() == 0


def test_yes_and_no_by_hand():
    """(0.02, 0.08): 0.1 log 4. Even attention: 0. Two rows add up; a head without attention to either has 0."""
    yes, no = torch.tensor([[0.02], [0.05], [0.0]]), torch.tensor([[0.08], [0.05], [0.0]])
    assert negative_score(yes, no).tolist() == pytest.approx([0.1386, 0, 0], abs=1e-4)
    assert float(negative_score(torch.full((2,), 0.02), torch.full((2,), 0.08))) == pytest.approx(0.2773, abs=1e-4)


def test_heads_that_lean_are_read_behind_the_instruction(embedded, pictures):
    adapter, eager = embedded.adapter, Eager(embedded.adapter)
    inputs = adapter.inputs([Request(QUESTION, (pictures[0],)), Request(f"Is it so? {QUESTION}", (pictures[1],))])
    ids = inputs["input_ids"]
    yes, no = (ids == adapter.tokenizer.convert_tokens_to_ids(f"▁{word}") for word in ("yes", "no"))
    assert yes.sum() == no.sum() == 2
    probe = YesNoProbe(yes, no)
    with torch.inference_mode():
        read_answer(adapter, inputs, 0, [probe])
    eager.logits(inputs)
    for layer, (weights,) in enumerate(eager.maps):
        for row in range(2):
            rows = weights[row, :, int(no[row].nonzero()) + 1 :].double()
            wanted = negative_score(rows[..., yes[row]][..., 0], rows[..., no[row]][..., 0])
            torch.testing.assert_close(probe.scores[layer][row], wanted, rtol=1e-3, atol=1e-6)


def test_half_of_a_needle():
    """A head that finds 2 of 4 tokens scores 0.5, one that finds none 0; chance is 4 tokens times 1/16 of them."""
    found = [Hits("a", 4, {1: torch.tensor([2.0, 0.0]).double()}, 4 / 16)]
    figure = retrieval_figure("copy_head", "words that the best head copies", "words (%)", found, "needle tokens")
    assert figure.shown[0] == pytest.approx(50)
    assert figure.heads == {1: (0.5, 0.0)}
    assert figure.note == "best: layer 1, head 0, of 2 heads; 1 reach 10%. Chance 6.2%; 4 needle tokens"
    with pytest.raises(UnmeasuredError, match="no needle tokens"):
        retrieval_figure("copy_head", "", "", [], "needle tokens")


@pytest.mark.slow
def test_needles_stand_once_in_their_texts(embedded):
    words = ["dog", "cat", "cup", "bus", "car", "bear", "boat", "bird", "kite"]
    made = needle_prompts(words, 3)
    assert len(made) == 45
    assert {prompt.cluster for prompt in made} == {str(number) for number in range(15)}
    for cluster in range(15):  # a needle stands in other depths of other lengths
        own = [prompt for prompt in made if prompt.cluster == str(cluster)]
        assert len({prompt.needle for prompt in own}) == 1
        assert len({prompt.id.split("/")[2] for prompt in own}) == len(own) == 3
    places = Counter(prompt.id.partition("/")[2] for prompt in made)
    assert set(places.values()) == {3}  # of five depths in each of three lengths
    assert len(places) == 15
    assert made == needle_prompts(words, 3) != needle_prompts(words, 4)
    for prompt in made:
        assert prompt.text.count(" ".join(prompt.needle)) == 1
        assert all(prompt.text.count(word) == 1 for word in prompt.needle)
    with pytest.raises(UnmeasuredError, match="8 categories of one word, and the data has 3"):
        needle_prompts(words[:3], 0)
    asker = type("Asker", (), {"lvlm": embedded, "batch_size": 16})
    found = read_needles(asker, [*words, "potted plant", "xyzzy"], 0)
    assert {one.count for one in found} == {4}
    assert Counter(one.cluster for one in found) == {str(number): 3 for number in range(15)}
    assert all(0 < one.expected < 0.3 for one in found)
    assert set(found[0].by_layer) == set(range(6))


def test_a_lift_doubles_the_weights_of_the_last_rows(embedded, pictures):
    adapter, eager = embedded.adapter, Eager(embedded.adapter)
    inputs = adapter.inputs([Request(PROMPT, (pictures[0],)), Request(QUESTION, (pictures[1],))])
    image = adapter.image_mask(inputs["input_ids"])
    weights = torch.ones(6, 2, 8, image.shape[1]) + image[None, :, None]
    edit = reweighed(weights)

    def last(layer, probs):
        return torch.cat([probs[:, :, :-1], edit(layer, probs)[:, :, -1:]], dim=2)

    with torch.inference_mode():
        got = read_prompts(adapter, inputs, [Lift(image, 1)])
    torch.testing.assert_close(got, eager.logits(inputs, probs=last)[:, -1].float(), rtol=1e-3, atol=1e-3)


def test_what_more_attention_changes():
    asker = type("Asker", (), {"lvlm": LVLM(*built("llava")), "batch_size": 2})
    items = [Item(str(n), str(n), "", ()) for n in range(4)]
    figure = lift_figure("captions", asker, lambda: [Changed(item, item.id == "2") for item in items])
    assert (figure.key, figure.shown[0]) == ("lifted_captions", 25)
    with pytest.raises(UnmeasuredError, match="no answer says anything"):
        lift_figure("answers", asker, list)
    asker.lvlm = LVLM(*built("mllama"))
    with pytest.raises(UnmeasuredError, match="layers of their own"):
        lift_figure("answers", asker, list)
    assert changed_captions(asker, []) == []


def test_dominance_by_hand():
    """Text 0.6 over 3 tokens, picture 0.2 over 2: MDI 2 in both layers; without the first, 0.2 over 2: MDI 1."""
    whole = ModalityDominance(torch.full((4, 2), 0.6), torch.full((4, 2), 0.4), torch.full((4, 2), 0.2), 3, 2, (0, 1))
    dark = ModalityDominance(whole.text, whole.first, torch.zeros(4, 2), 3, 2, (0, 1))
    figures = {figure.key: figure for figure in dominance_figures([whole, dark], Resampler(["1", "2"]))}
    assert len(figures) == 7
    assert figures["mdi_late"].estimate.value == pytest.approx(2)  # the second one has no attention to divide by
    assert figures["mdi_late"].note == "without the first text position 1.00"
    assert figures["mdi_middle"].estimate.value == pytest.approx(2)
    assert figures["mdi_middle_bare"].estimate.value == pytest.approx(1)
    assert figures["aei_text_middle"].layers[1].value == pytest.approx(((0.75 / 0.6) + (1 / 0.6)) / 2)
    with pytest.raises(UnmeasuredError, match="layers of their own"):
        list(dominance_figures([], Resampler(["1"])))


def test_mlps_of_linear_layers_are_read(pictures):
    """Layers 0 and 2 have no attention, but MLPs: what these add to a column counts, and marks nothing."""
    adapter = LVLM(*built("qwen3_5")).adapter
    inputs = adapter.inputs([Request(PROMPT, (pictures[0],))])
    columns = prompt_columns(adapter, inputs["input_ids"], inputs["attention_mask"].bool(), [3])
    with torch.inference_mode():
        read_answer(adapter, adapter.append_answer(inputs, torch.arange(5, 8)[None]), 3, [columns])
    assert set(columns._added) == {0, 1, 2, 3}
    (prompt,) = columns.prompts
    assert set(prompt.marked) == set(prompt.first) == {1, 3}


def test_a_model_without_an_mlp_to_hook_is_read_without(embedded, monkeypatch):
    plan = type(embedded.adapter).plan

    def refuse(self, ops, *rest):
        if any(isinstance(op, SinkStates) for op in ops):
            raise ModelError("no MLP was found")
        return plan(self, ops, *rest)

    monkeypatch.setattr(type(embedded.adapter), "plan", refuse)
    ids = torch.ones(1, 4, dtype=torch.long)
    assert type(prompt_columns(embedded.adapter, ids, ids.bool(), [1])) is PromptColumns
