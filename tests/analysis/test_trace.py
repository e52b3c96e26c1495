"""Where a model looked: every family's trace against transformers' own attention maps, and what is drawn of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mmhall
from mmhall.adapters._base import Request
from mmhall.errors import DataError, ImageError, ModelError, OptionError
from mmhall.lvlm import LVLM
from tests.zoo import ZOO, built

LENGTH = 6
QUESTION = "What is on the left, and what else is there?"
WITHOUT_GRID = {"idefics2", "blip_2", "instructblip"}


@pytest.fixture(scope="module")
def picture():
    noise = torch.randint(0, 256, (8, 12, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize((96, 64), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def traced(picture):
    """Trace each family once."""
    held = {}

    def of(name):
        if name not in held:
            held[name] = LVLM(*built(name)).trace(picture, QUESTION, max_new_tokens=LENGTH)
        return held[name]

    return of


def test_the_answer_of_a_trace_is_scored_if_asked_for(picture, traced):
    lvlm, asked = LVLM(*built("llava")), {"max_new_tokens": LENGTH}
    scored = lvlm.trace(picture, QUESTION, uncertainty=True, **asked).answer.uncertainty
    assert scored == lvlm.generate(picture, QUESTION, uncertainty=True, **asked).uncertainty
    assert traced("llava").answer.uncertainty is None


def eager_rows(name, picture):
    """Return, for each layer with attention, the newest row of every step over all prompt positions."""
    model, processor = built(name)
    lvlm = LVLM(model, processor)
    inputs = lvlm.adapter.inputs([Request(QUESTION, (picture,))])
    own = copy.deepcopy(model)
    own.set_attn_implementation("eager")
    told = own.generate(
        **inputs, max_new_tokens=LENGTH, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    prompt, kinds = inputs["input_ids"].shape[1], [kind for kind in lvlm.adapter.kinds if kind != "linear"]
    layers = []
    for index, kind in enumerate(kinds):
        rows = []
        for step, maps in enumerate(told.attentions):
            row = maps[index][0, :, -1]
            if kind != "cross":
                seen = prompt + step
                row = torch.nn.functional.pad(row, (seen - row.shape[-1], 0))[:, :prompt]
            rows.append(row)
        layers.append(torch.stack(rows))
    return kinds, layers, lvlm.adapter.image_mask(inputs["input_ids"])[0]


@pytest.mark.parametrize("name", ZOO)
def test_a_trace_holds_the_eager_maps_image_columns(name, picture, traced):
    trace = traced(name)
    kinds, layers, image = eager_rows(name, picture)
    wanted = [
        rows if kind == "cross" else rows[:, :, image]
        for kind, rows in zip(kinds, layers, strict=True)
        if (kind == "cross") == (name == "mllama")
    ]
    wanted = torch.stack(wanted, dim=1)[: len(trace.answer.token_ids)]
    torch.testing.assert_close(trace.image_attention, wanted, rtol=0, atol=1e-5)
    assert len(trace.image_attention) == len(trace.answer.token_ids) > 0


@pytest.mark.parametrize("name", ZOO)
def test_a_heat_map_keeps_the_attention_that_has_a_place(name, traced):
    trace = traced(name)
    if name in WITHOUT_GRID:
        with pytest.raises(ModelError, match="no place in the picture"):
            trace.heatmap(0)
        return
    placed = trace.grid.view >= 0
    heat = trace.heatmap(1)
    assert heat.shape == trace.grid.finest(0)
    torch.testing.assert_close(heat.sum(), trace.token_attention(1)[placed].sum())


def eager_shifts(name, picture):
    """Return, for each layer, how attention moves to image tokens at the letters of "left", by the formula."""
    model, processor = built(name)
    lvlm = LVLM(model, processor)
    inputs = lvlm.adapter.inputs([Request(QUESTION, (picture,))])
    text = [lvlm.adapter.tokenizer.decode([token]) for token in inputs["input_ids"][0].tolist()]
    first = next(i for i in reversed(range(len(text))) if "".join(text[i : i + 4]) == "left")
    own = copy.deepcopy(model)
    own.set_attn_implementation("eager")
    with torch.no_grad():
        maps = own(**inputs, output_attentions=True).attentions
    image = lvlm.adapter.image_mask(inputs["input_ids"])[0]
    shifts = []
    for index, kind in enumerate(kind for kind in lvlm.adapter.kinds if kind != "linear"):
        if (kind == "cross") == (name == "mllama"):
            probs = maps[index][0] if kind == "cross" else maps[index][0][:, :, image]
            moved = sum((probs[:, i] - probs[:, i - 1]).clamp_min(0) for i in range(first, first + 4)) / 4
            best = sorted(range(len(moved)), key=lambda head: -float(moved[head].sum()))[: len(moved) // 2]
            shifts.append(sum(moved[head] for head in best) / len(best))
    return torch.stack(shifts)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "qwen3_5", "gemma3", "idefics2", "mllama"])
def test_the_gaze_shifts_as_eager_attention_does(name, picture, traced):
    trace, shifts = traced(name), eager_shifts(name, picture)
    torch.testing.assert_close(trace.gaze, shifts, rtol=0, atol=1e-5)
    one = shifts[1]
    clipped = one.clamp(one.mean() - 3 * one.std(), one.mean() + 3 * one.std())
    wanted = (clipped - clipped.min()) / (clipped.max() - clipped.min())
    torch.testing.assert_close(trace.saliency(layers=[trace.layers[1]]), wanted, rtol=0, atol=2e-3)
    most = max(range(len(shifts)), key=lambda layer: float(shifts[layer].sum()))
    torch.testing.assert_close(trace.saliency(), trace.saliency(layers=[trace.layers[most]]))


@pytest.mark.parametrize("name", ["llava_next", "idefics2"])
def test_the_saliency_can_be_drawn(name, traced, picture):
    trace = traced(name)
    drawn = trace.saliency_overlay()
    assert drawn != picture
    assert drawn.width == picture.width


def test_a_question_without_informative_words_has_no_saliency(picture):
    trace = LVLM(*built("llava")).trace(picture, "What is it?", max_new_tokens=2)
    assert trace.saliency().tolist() == [0.0] * trace.gaze.shape[1]


def test_one_view_gives_each_token_its_own_cell(traced):
    trace = traced("qwen2_vl")
    torch.testing.assert_close(trace.heatmap(1).flatten(), trace.token_attention(1))


@pytest.mark.parametrize("name", ZOO)
def test_it_can_be_drawn_with_and_without_a_grid(name, traced, picture):
    trace = traced(name)
    drawn = trace.overlay(1)
    if name in WITHOUT_GRID:
        assert drawn.width == picture.width
        assert drawn.height > picture.height
    else:
        assert drawn.size == picture.size
    assert drawn != picture
    assert trace.contact_sheet().width > 100


def test_the_heat_lies_where_the_attention_is(traced):
    """The warmest cell of the drawing is a hottest one of the map, which the picture below may decide among equals."""
    trace = traced("llava_qwen2")
    heat = trace.heatmap(3)
    drawn = torch.tensor(
        list(trace.overlay(3).convert("RGB").resize((4, 4), Image.Resampling.BOX).get_flattened_data())
    )
    warmth = drawn[:, 0].float().view(4, 4)
    assert heat.flatten()[warmth.argmax()] > 0.8 * heat.max()


@pytest.mark.parametrize("name", ["llava", "internvl", "idefics2", "mllama"])
def test_saved_and_loaded_it_is_the_same(name, traced, tmp_path):
    trace = traced(name)
    trace.save(tmp_path / "trace.safetensors")
    back = mmhall.Trace.load(tmp_path / "trace.safetensors")
    assert torch.equal(back.image_attention, trace.image_attention)
    assert (back.answer, back.words, back.layers, back.heads) == (trace.answer, trace.words, trace.layers, trace.heads)
    assert (back.model, back.prompt) == (trace.model, trace.prompt)
    assert back.contact_sheet() == trace.contact_sheet()


def test_only_what_was_asked_for_is_kept(traced, picture):
    whole = traced("qwen3_vl")
    lvlm = LVLM(*built("qwen3_vl"))
    part = lvlm.trace(picture, QUESTION, layers=[2, 0], heads=[3], max_new_tokens=LENGTH)
    assert part.image_attention.shape == (len(part.answer.token_ids), 2, 1, whole.image_attention.shape[3])
    torch.testing.assert_close(part.image_attention, whole.image_attention[:, [2, 0]][:, :, [3]])
    torch.testing.assert_close(part.token_attention(1, layers=[0]), whole.token_attention(1, layers=[0], heads=[3]))


def test_the_share_of_the_picture_is_what_its_columns_sum_to(traced):
    trace = traced("llava")
    torch.testing.assert_close(trace.image_share, trace.image_attention.sum(-1))
    assert ((trace.image_share > 0) & (trace.image_share < 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("llava", "vdd"),
        ("llava", "vdd(free='none+unk')"),
        ("gemma3", "vdd"),
        ("gemma3", "vcd"),
        ("qwen2_5_vl", "vdd"),
        ("mllama", "vcd"),
        ("mllama", "vdd"),
    ],
)
def test_branches_do_not_shift_what_is_traced(name, strategy, picture):
    """With its branches joined, the main row still reports its own columns: a forced answer gives one trace."""
    lvlm = LVLM(*built(name))
    plain = lvlm.trace(picture, QUESTION, max_new_tokens=LENGTH)
    same = lvlm.trace(picture, QUESTION, mmhall.strategy(strategy, alpha=1e-6, beta=0.0), max_new_tokens=LENGTH)
    assert same.answer.token_ids == plain.answer.token_ids
    torch.testing.assert_close(same.image_attention, plain.image_attention, rtol=0, atol=1e-5)


def test_without_a_picture_there_is_nothing_to_see():
    trace = LVLM(*built("llava")).trace(None, QUESTION, max_new_tokens=3)
    assert trace.image_attention.shape[3] == 0
    with pytest.raises(OptionError, match="picture"):
        trace.heatmap(0)


def test_two_pictures_are_drawn_apart(picture):
    trace = LVLM(*built("qwen2_vl")).trace([picture, picture.rotate(90, expand=True)], QUESTION, max_new_tokens=3)
    shapes = [tuple(trace.heatmap(0, picture=number).shape) for number in range(2)]
    assert shapes == [(4, 6), (6, 4)]
    total = sum(float(trace.heatmap(0, picture=number).sum()) for number in range(2))
    assert total == pytest.approx(float(trace.token_attention(0).sum()), abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": [4]}, r"layers must be among 0-3, got \[4\]"),
        ({"layers": [-1]}, r"layers must be among 0-3, got \[-1\]"),
        ({"layers": []}, "layers must be an index or several"),
        ({"layers": [1.0]}, "layers must be an index or several"),
        ({"heads": [True]}, "heads must be an index or several"),
        ({"heads": [0, 4]}, r"heads must be among 0-3, got \[0, 4\]"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences must be 1"),
    ],
)
def test_what_cannot_be_traced_is_refused(picture, asked, message):
    with pytest.raises(OptionError, match=message):
        LVLM(*built("qwen2_vl")).trace(picture, QUESTION, **asked)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spec"), [("llava", "beam"), ("llava", "opera"), ("gemma3", "beam")])
def test_what_a_search_found_is_traced_as_the_plain_model_reads_it(name, spec, picture):
    """The shares of `score`, which reads a whole answer in one pass."""
    lvlm = LVLM(*built(name))
    trace = lvlm.trace(picture, QUESTION, spec, max_new_tokens=6)
    answer = lvlm.generate(picture, QUESTION, spec, max_new_tokens=6, uncertainty=True)
    assert trace.answer.token_ids == answer.token_ids
    assert trace.image_share.mean(dim=(1, 2)).tolist() == pytest.approx(answer.uncertainty.image_shares, abs=1e-5)


def test_a_search_beside_steering_is_traced_as_steered(picture):
    lvlm, neutral = LVLM(*built("llava")), "opera(penalty_weights=0.0, threshold=1000)"
    steered = lvlm.trace(picture, QUESTION, "pai(gamma=1)", max_new_tokens=6)
    searched = lvlm.trace(picture, QUESTION, f"pai(gamma=1)+{neutral}", max_new_tokens=6, num_beams=1)
    plain = lvlm.trace(picture, QUESTION, "greedy", max_new_tokens=6)
    assert searched.answer.token_ids == steered.answer.token_ids
    assert torch.allclose(searched.image_attention, steered.image_attention, atol=1e-6)
    assert not torch.allclose(plain.image_attention, steered.image_attention, atol=1e-3)


def test_what_a_strategy_found_is_kept(picture, tmp_path):
    lvlm = LVLM(*built("llava"))
    assert lvlm.trace(picture, QUESTION, "greedy", max_new_tokens=2).findings == {}
    heads = lvlm.trace(picture, QUESTION, "vhr(alpha=3, layers='1:')", max_new_tokens=2).findings["head gains"]
    assert heads.shape == (len(lvlm.adapter.layers), lvlm.adapter.heads)
    assert heads[0].isnan().all()
    assert set(heads[1:].flatten().tolist()) == {1.0, 3.0}
    gift = lvlm.trace(picture, QUESTION, "gift(alpha=2, saliency='1')", max_new_tokens=2)
    asked = lvlm.trace(picture, QUESTION, "greedy", max_new_tokens=2).saliency(layers=[1])
    assert torch.allclose(gift.findings["saliency"], asked, atol=1e-6)
    assert gift.overlay_of(gift.findings["saliency"]).size == gift.pictures[0].size
    gift.save(tmp_path / "trace")
    assert torch.equal(mmhall.Trace.load(tmp_path / "trace").findings["saliency"], gift.findings["saliency"])


def test_choices_are_kept_for_each_token_of_the_answer(picture):
    """A search's answer is decoded again for them; a neutral one writes the greedy answer."""
    lvlm, spec = LVLM(*built("llava")), "deco(layers='1:')"
    depth = len(lvlm.adapter.layers)
    greedy = lvlm.trace(picture, QUESTION, spec, max_new_tokens=6)
    chosen = greedy.findings["added layers"]
    assert chosen.shape == (len(greedy.answer.tokens), depth, 1)
    assert (chosen[:, 1:, 0].sum(dim=1) == 1).all()
    searched = lvlm.trace(
        picture, QUESTION, f"{spec}+opera(penalty_weights=0.0, threshold=1000)", max_new_tokens=6, num_beams=1
    )
    assert torch.equal(searched.findings["added layers"].nan_to_num(9), chosen.nan_to_num(9))
    beams = lvlm.trace(picture, QUESTION, "resdec(candidates=9)", max_new_tokens=6, num_beams=3)
    assert beams.findings["earlier steps"].shape == (len(beams.answer.tokens), 1, 1)


def test_layers_that_never_see_the_picture_are_refused(picture):
    with pytest.raises(OptionError, match=r"layers must be among 1, 3, got \[0\]"):
        LVLM(*built("mllama")).trace(picture, QUESTION, layers=[0])
    with pytest.raises(OptionError, match=r"layers must be among 1, 3, got \[2\]"):
        LVLM(*built("qwen3_5")).trace(picture, QUESTION, layers=[2])


def test_tokens_out_of_range_are_refused(traced):
    trace = traced("llava")
    count = len(trace.answer.token_ids)
    torch.testing.assert_close(trace.token_attention(-1), trace.token_attention(count - 1))
    for token in (count, -count - 1):
        with pytest.raises(OptionError, match=f"token must be from -{count} to {count - 1}, got {token}"):
            trace.heatmap(token)
    with pytest.raises(OptionError, match="reduce must be"):
        trace.heatmap(0, reduce="sum")
    with pytest.raises(OptionError, match="layers must be among 0-2"):
        trace.heatmap(0, layers=[9])


@pytest.mark.parametrize("index", [1, [1], (1,), np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([1])])
def test_anything_that_is_an_index_is_one(traced, picture, index):
    trace = traced("llava")
    assert torch.equal(trace.heatmap(index), trace.heatmap(1))
    assert torch.equal(trace.heatmap(0, layers=index), trace.heatmap(0, layers=[1]))


@pytest.mark.parametrize("token", [1.5, "x", None, True, [], [0.5]])
def test_anything_else_is_refused(traced, token):
    with pytest.raises(OptionError, match="token must be an index or several"):
        traced("llava").heatmap(token)


def test_a_picture_that_is_not_there_is_refused(traced):
    for picture in (1, -1, "a"):
        with pytest.raises(OptionError, match="picture must be from 0 to 0"):
            traced("llava").heatmap(0, picture=picture)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "gemma3", "idefics3", "mllama"])
def test_narrow_pictures_keep_their_attention(name):
    for size in (1, 1), (1, 200), (400, 3):
        try:
            trace = LVLM(*built(name)).trace(Image.new("RGB", size, "red"), QUESTION, max_new_tokens=2)
        except ImageError:
            continue
        placed = trace.token_attention(0)[trace.grid.view >= 0].sum()
        torch.testing.assert_close(trace.heatmap(0).sum(), placed, rtol=1e-4, atol=1e-6, msg=str(size))
        assert placed > 0


def test_traces_that_cannot_be_written_or_are_damaged_are_refused(traced, tmp_path):
    trace = traced("llava")
    for path in (tmp_path, tmp_path / "gone" / "trace.safetensors"):
        with pytest.raises(DataError, match="cannot be written"):
            trace.save(path)
    for told in ("{}", "no json"):
        save_file({"x": torch.zeros(1)}, tmp_path / "bad", metadata={"format": "mmhall trace 2", "trace": told})
        with pytest.raises(DataError, match="is a damaged trace"):
            mmhall.Trace.load(tmp_path / "bad")


def test_a_closed_model_is_not_traced(picture):
    lvlm = LVLM(*built("llava"))
    lvlm.close()
    with pytest.raises(ModelError, match="was closed"):
        lvlm.trace(picture, QUESTION)


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a trace"):
        mmhall.Trace.load(tmp_path / "gone.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as a trace"):
        mmhall.Trace.load(tmp_path / "text")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "specs"),
    [
        ("llava", torch.bfloat16, ("greedy", "pai", "vhr")),
        ("qwen2_5_vl", torch.float16, ("vdd", "gift")),
        ("gemma3", torch.bfloat16, ("greedy", "vdd", "pai")),
        ("mllama", torch.float16, ("greedy", "vhr")),
    ],
    ids=str,
)
def test_watching_changes_no_answer_in_half_precision(name, dtype, specs, picture):
    """Rounding differs between a row by hand and SDPA; a watched answer must be the one that nobody watched."""
    model, processor = ZOO[name]()
    lvlm = LVLM(model.to(dtype), processor)
    for spec in specs:
        plain = lvlm.generate(picture, QUESTION, spec, max_new_tokens=20)
        assert lvlm.trace(picture, QUESTION, spec, max_new_tokens=20).answer.token_ids == plain.token_ids, spec


@pytest.mark.slow
def test_watching_changes_no_answer_under_autocast(picture):
    lvlm = LVLM(*built("llava"))
    for spec in ("greedy", "vdd", "pai(alpha=2)", "vhr(alpha=4)", "gift(alpha=6)"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = lvlm.generate(picture, QUESTION, spec, max_new_tokens=16)
            assert lvlm.trace(picture, QUESTION, spec, max_new_tokens=16).answer.token_ids == plain.token_ids, spec
