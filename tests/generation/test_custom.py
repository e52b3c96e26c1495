"""Strategies in `model.generate(custom_generate=...)`, for people who keep their own processor."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from transformers import DynamicCache, StaticCache, StoppingCriteriaList, StopStringCriteria, TextStreamer

import mmhall
from mmhall._transformers.calls import CACHE
from mmhall.adapters._base import Request
from mmhall.errors import CompositionError, GenerationError, ModelError, OptionError, PromptError, UnknownNameError
from mmhall.lvlm import LVLM
from tests.generation.reference import FAMILIES, in_turn
from tests.zoo import ZOO, built

LENGTH = 6
QUESTIONS = ("Is there a dog?", "What is on the left, and what else is there?")
BLIPS = ("blip_2", "instructblip")
NAMES = tuple(name for name in FAMILIES if name not in BLIPS)


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8) for _ in QUESTIONS]
    return [Image.fromarray(part.numpy()).resize(size) for part, size in zip(noise, ((96, 64), (40, 72)), strict=True)]


def inputs_of(lvlm, pictures):
    return lvlm.adapter.inputs([Request(q, (p,)) for q, p in zip(QUESTIONS, pictures, strict=True)])


@pytest.mark.parametrize(
    ("name", "way"), in_turn(NAMES, (("greedy", 1), ("vdd", 3), ("vdd(free='unk')", 1), ("greedy", 3)))
)
def test_it_says_what_the_lvlm_says(name, way, pictures):
    model, processor = built(name)
    lvlm, (spec, beams) = LVLM(model, processor), way
    inputs = inputs_of(lvlm, pictures)
    prompt = inputs["input_ids"].shape[1]
    loop = mmhall.custom_generate(spec, num_beams=beams, processor=processor)
    rows = model.generate(**inputs, custom_generate=loop, max_new_tokens=LENGTH, do_sample=False)
    assert torch.equal(rows[:, :prompt], inputs["input_ids"])
    wanted = lvlm.generate_batch(
        list(zip(pictures, QUESTIONS, strict=True)), spec, max_new_tokens=LENGTH, num_beams=beams
    )
    for row, answer in zip(rows[:, prompt:].tolist(), wanted, strict=True):
        assert tuple(row[: len(answer.token_ids)]) == answer.token_ids


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "mllama"])
def test_noise_is_drawn_for_a_prompt_as_the_lvlm_draws_it(name, pictures):
    model, processor = built(name)
    lvlm = LVLM(model, processor)
    inputs = dict(lvlm.adapter.inputs([Request(QUESTIONS[0], (pictures[0],))]))
    rows = model.generate(**inputs, custom_generate=mmhall.custom_generate("vcd"), max_new_tokens=LENGTH)
    wanted = lvlm.generate(pictures[0], QUESTIONS[0], "vcd", max_new_tokens=LENGTH).token_ids
    assert tuple(rows[0, inputs["input_ids"].shape[1] :].tolist()[: len(wanted)]) == wanted


def test_a_model_nobody_loaded_gets_its_own_attention_back(pictures):
    model = copy.deepcopy(built("llava")[0])
    decoder = model.get_decoder()
    decoder.set_attn_implementation("eager")
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    model.generate(**inputs, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)
    assert decoder.config._attn_implementation == "eager"
    model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        model.generate(**inputs, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)
    assert decoder.config._attn_implementation == "eager"


def left(model, processor, *but):
    """All that a call could leave on a model and its processor: attributes (`but` some), hooks, settings."""
    skipped = {"_parameters", "_buffers", "_modules", "config", "generation_config", *but}
    parts = {
        name: {key: str(value) for key, value in vars(part).items() if key not in skipped}
        for name, part in model.named_modules()
    }
    configs = {id(part.config): part.config.to_dict() for part in model.modules() if hasattr(part, "config")}
    tokenizer = {key: str(value) for key, value in vars(processor.tokenizer).items()}
    side = processor.tokenizer.padding_side
    return parts, configs, model.generation_config.to_dict(), tokenizer, side


@pytest.mark.parametrize(("name", "spec"), in_turn(NAMES, ("vdd", "opera(threshold=1)", "vhr", "gift")))
def test_nothing_is_left_behind(name, spec, pictures):
    """Besides what `generate` itself leaves on a model: M-RoPE's note of the request."""
    model, processor = ZOO[name]()
    processor.tokenizer.padding_side = "right"
    inputs = inputs_of(LVLM(*built(name)), pictures)
    model.generate(**inputs, max_new_tokens=2)
    before, unnoted = left(model, processor), left(model, processor, "rope_deltas")
    try:
        model.generate(**inputs, custom_generate=mmhall.custom_generate(spec, processor=processor), max_new_tokens=2)
    except CompositionError:  # the family cannot carry the strategy; `generate` had prepared without the picture
        assert left(model, processor, "rope_deltas") == unnoted
        return
    assert left(model, processor) == before
    model.get_output_embeddings().register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    before = left(model, processor)
    with pytest.raises(RuntimeError, match="on purpose"):
        model.generate(**inputs, custom_generate=mmhall.custom_generate(spec, processor=processor), max_new_tokens=2)
    assert left(model, processor) == before


@pytest.mark.parametrize(
    ("name", "asked"),
    in_turn(("llava", "qwen2_5_vl", "gemma3", "mllama"), ({"use_cache": False}, {"cache_implementation": "static"})),
)
def test_a_cache_that_was_asked_for_changes_no_answer(name, asked, pictures):
    model, processor = built(name)
    inputs = inputs_of(LVLM(*built(name)), pictures)
    loop = mmhall.custom_generate("vdd", processor=processor)
    wanted = model.generate(**inputs, max_new_tokens=LENGTH, custom_generate=loop)
    assert torch.equal(model.generate(**inputs, max_new_tokens=LENGTH, custom_generate=loop, **asked), wanted)


@pytest.mark.parametrize("kind", ["empty", "filled", "static"])
def test_a_cache_object_is_refused(pictures, kind):
    """mmhall reads the whole prompt into one of its own: what the caller wants of it would not be done."""
    model, _ = built("llava")
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    config = model.config.get_text_config()
    cache = StaticCache(config, 64) if kind == "static" else DynamicCache(config=config)
    if kind == "filled":
        with torch.no_grad():
            model(**{key: v[:, :-1] if v.ndim == 2 else v for key, v in inputs.items()}, **{CACHE: cache})
    with pytest.raises(OptionError, match=f"generate: {CACHE} must be left out"):
        model.generate(**inputs, **{CACHE: cache}, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)


def test_a_checkpoints_sampling_values_raise_no_warning(pictures, caplog):
    model, _ = ZOO["llava"]()
    model.generation_config.temperature, model.generation_config.top_p = 0.6, 0.9
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=LENGTH)
    caplog.clear()
    loop = mmhall.custom_generate("greedy")
    assert torch.equal(model.generate(**inputs, do_sample=False, max_new_tokens=LENGTH, custom_generate=loop), plain)
    assert not [record.getMessage() for record in caplog.records]


def test_stop_strings_are_given_as_criteria(pictures):
    """transformers hands no tokenizer to a callable: the criteria are the way that the docstring names."""
    model, processor = built("llava")
    inputs = LVLM(model, processor).adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    plain = model.generate(**inputs, max_new_tokens=LENGTH)
    stops = [processor.tokenizer.decode(plain[0, -3:-2])]
    stopped = model.generate(**inputs, max_new_tokens=LENGTH, stop_strings=stops, tokenizer=processor.tokenizer)
    assert stopped.shape[1] < plain.shape[1]
    asked = {"max_new_tokens": LENGTH, "custom_generate": mmhall.custom_generate("greedy")}
    criteria = StoppingCriteriaList([StopStringCriteria(processor.tokenizer, stops)])
    assert torch.equal(model.generate(**inputs, **asked, stopping_criteria=criteria), stopped)
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        model.generate(**inputs, **asked, stop_strings=stops, tokenizer=processor.tokenizer)


def test_mllama_refuses_a_placeholder_too_many(pictures):
    """transformers itself would answer."""
    model, processor = built("mllama")
    inputs = LVLM(model, processor).adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    typed = inputs["input_ids"].clone()
    typed[0, -1] = model.config.image_token_id
    loop = mmhall.custom_generate("vdd")
    with pytest.raises(PromptError, match=r"do not match: \[2\] placeholders, \[1\] pictures"):
        model.generate(**{**inputs, "input_ids": typed}, custom_generate=loop, max_new_tokens=2)


def test_sampling_follows_the_global_seed_and_rows_differ(pictures):
    model, _ = built("qwen2_vl")
    inputs = LVLM(*built("qwen2_vl")).adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    loop = mmhall.custom_generate("vdd", beta=0.0)

    def drawn(seed):
        torch.manual_seed(seed)
        asked = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": LENGTH}
        return model.generate(**inputs, **asked, custom_generate=loop).tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({tuple(row) for row in drawn(1)}) == 3


def test_generates_own_settings_hold(pictures):
    """A repetition penalty and suppressed tokens reach the scores, as without a strategy."""
    model, _ = built("gemma3")
    inputs = inputs_of(LVLM(*built("gemma3")), pictures)
    asked = {"max_new_tokens": LENGTH, "do_sample": False, "repetition_penalty": 1.4, "suppress_tokens": [40, 90]}
    plain = model.generate(**inputs, **asked)
    same = model.generate(**inputs, **asked, custom_generate=mmhall.custom_generate("vcd", alpha=0.0, beta=0.0))
    assert torch.equal(same, plain)
    told = model.generate(
        **inputs, **asked, return_dict_in_generate=True, custom_generate=mmhall.custom_generate("greedy")
    )
    assert torch.equal(told.sequences, plain)


def test_a_streamer_gets_every_token(pictures, capsys):
    model, processor = built("llava")
    inputs = LVLM(model, processor).adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    streamer = TextStreamer(processor.tokenizer)
    rows = model.generate(
        **inputs, max_new_tokens=LENGTH, custom_generate=mmhall.custom_generate("vdd", streamer=streamer)
    )
    new = rows[0, inputs["input_ids"].shape[1] :]
    assert capsys.readouterr().out == processor.tokenizer.decode(new) + "\n"


@pytest.mark.parametrize("name", BLIPS)
def test_embeddings_instead_of_a_prompt_are_refused(name, pictures):
    model, _ = built(name)
    inputs = inputs_of(LVLM(*built(name)), pictures)
    with pytest.raises(ModelError, match="hands over embeddings"):
        model.generate(**inputs, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)


def test_beams_belong_to_the_callable(pictures):
    model, _ = built("llava")
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    with pytest.raises(OptionError, match=r"num_beams must be 1; give num_beams to mmhall\.custom_generate, got 3"):
        model.generate(**inputs, num_beams=3, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)
    for beams in (0, 1.5, True):
        with pytest.raises(OptionError, match="num_beams must be an integer >= 1"):
            mmhall.custom_generate("vdd", num_beams=beams)


def test_pictures_and_placeholders_must_go_together(pictures):
    model, _ = built("llava")
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    loop = mmhall.custom_generate("vdd")
    text_only = {key: value for key, value in inputs.items() if key != "pixel_values"}
    with pytest.raises(PromptError, match="has placeholders but no pictures"):
        model.generate(**text_only, custom_generate=loop, max_new_tokens=2)
    unmarked = {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] == 4, 50)}
    with pytest.raises(PromptError, match="has pictures but no placeholders"):
        model.generate(**unmarked, custom_generate=loop, max_new_tokens=2)
    with pytest.raises(PromptError, match="do not match"):
        model.generate(**{**inputs, "pixel_values": inputs["pixel_values"][:1]}, custom_generate=loop, max_new_tokens=2)


def test_scores_that_are_no_numbers_name_strategy_prompt_and_step(pictures):
    model, processor = ZOO["llava"]()
    inputs = inputs_of(LVLM(model, processor), pictures)
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(GenerationError, match=r"^vdd: prompt 1 of 2, step 0: the next-token scores hold NaN"):
        model.generate(**inputs, custom_generate=mmhall.custom_generate("vdd"), max_new_tokens=2)


def test_unknown_strategies_and_options_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'vcd'"):
        mmhall.custom_generate("vccd")
    with pytest.raises(UnknownNameError, match="option of vcd 'alfa'"):
        mmhall.custom_generate("vcd", alfa=1.0)


TOLD = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "max_new_tokens": LENGTH}


@pytest.mark.parametrize(
    ("name", "drawing"),
    in_turn(
        ("llava", "qwen2_5_vl", "mllama"),
        ({}, {"do_sample": True, "num_return_sequences": 2, "top_k": 7, "temperature": 0.8}),
    ),
)
def test_scores_and_logits_are_those_of_generate(name, drawing, pictures):
    """The plain strategy's: of each step, for each row. Draws differ, so that they can be compared at the first."""
    model, _ = built(name)
    inputs = inputs_of(LVLM(*built(name)), pictures)
    asked = {**TOLD, **drawing, "repetition_penalty": 1.3}
    wanted = model.generate(**inputs, **asked)
    told = model.generate(**inputs, **asked, custom_generate=mmhall.custom_generate("greedy"))
    steps = 1 if drawing else len(wanted.scores)
    assert len(told.scores) == len(told.logits) == told.sequences.shape[1] - inputs["input_ids"].shape[1]
    for got, theirs in ((told.scores, wanted.scores), (told.logits, wanted.logits)):
        for one, other in zip(got[:steps], theirs[:steps], strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    if not drawing:
        assert torch.equal(told.sequences, wanted.sequences)
        return
    new = told.sequences[:, inputs["input_ids"].shape[1] :]
    for step, scores in enumerate(told.scores):
        alive = ~(new[:, :step] == model.generation_config.eos_token_id).any(dim=1)
        assert (scores.gather(1, new[:, step : step + 1])[alive, 0] > -torch.inf).all()
        assert ((scores > -torch.inf).sum(dim=1) <= 7).all()


def test_only_what_is_asked_for_is_returned(pictures):
    model, _ = built("llava")
    inputs, loop = inputs_of(LVLM(*built("llava")), pictures), mmhall.custom_generate("greedy")
    for option in ("output_scores", "output_logits"):
        told = model.generate(**inputs, **{**TOLD, option: False}, custom_generate=loop)
        assert (told.scores is None, told.logits is None) == (option == "output_scores", option == "output_logits")
    plain = model.generate(**inputs, **{**TOLD, "output_scores": False, "output_logits": False}, custom_generate=loop)
    assert (plain.scores, plain.logits) == (None, None)


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_a_contrasts_scores_are_its_formula(name, pictures):
    """(1 + alpha) logits - alpha logits without the picture, kept where p >= beta max p: read anew, step by step."""
    model, processor = built(name)
    adapter = LVLM(model, processor).adapter
    inputs = adapter.inputs([Request(QUESTIONS[0], (pictures[0],))])
    told = model.generate(**inputs, **TOLD, custom_generate=mmhall.custom_generate("vdd", processor=processor))
    start = inputs["input_ids"].shape[1]
    for step, (scores, logits) in enumerate(zip(told.scores, told.logits, strict=True)):
        answer = told.sequences[:, start : start + step]
        read = []
        for batch in (inputs, adapter.without_image(inputs)):
            with torch.no_grad():
                longer = adapter.append_answer(batch, answer) if step else batch
                read.append(adapter.model_for(longer)(**longer, use_cache=False).logits[:, -1].float())
        torch.testing.assert_close(logits, read[0], rtol=0, atol=5e-4)
        seen, blind = read
        out = seen < seen.amax(dim=-1, keepdim=True) + torch.tensor(0.1).log()
        wanted = (2 * seen - blind).masked_fill(out, -torch.inf)
        torch.testing.assert_close(scores, wanted, rtol=0, atol=5e-4)


@pytest.mark.parametrize("strategy", ["beam", "opera", "vdd"])
@pytest.mark.parametrize("option", ["output_scores", "output_logits"])
def test_searches_refuse_to_be_asked_for_scores(strategy, option, pictures):
    model, _ = built("llava")
    inputs = inputs_of(LVLM(*built("llava")), pictures)
    loop = mmhall.custom_generate(strategy, num_beams=3)
    asked = {"max_new_tokens": 2, "return_dict_in_generate": True, option: True}
    with pytest.raises(OptionError, match=f"generate: {option} must be left out with beams or a search"):
        model.generate(**inputs, **asked, custom_generate=loop)


@pytest.mark.parametrize("option", ["output_attentions", "output_hidden_states"])
def test_what_no_strategy_has_is_refused(option, pictures):
    model, _ = built("llava")
    inputs, loop = inputs_of(LVLM(*built("llava")), pictures), mmhall.custom_generate("greedy")
    with pytest.raises(OptionError, match=f"generate: {option} must be left out; mmhall returns sequences, scores and"):
        model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, **{option: True}, custom_generate=loop)
