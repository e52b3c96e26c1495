"""SIG against its formula written out; what the stand-in is a mean of; trained soft images; and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

import mmhall
from mmhall.adapters import Request
from mmhall.decoders.sig import SIG, STAND_IN, Guide, ReadImage, Replace, read_image_states
from mmhall.errors import CompositionError, DataError, FitError, OptionError
from mmhall.fitting import make_learner
from mmhall.strategies import CONTRAST, Session, Step
from tests.attention.reference import Eager
from tests.decoders.fitted import fitted_artifact, made_artifact
from tests.decoders.rows import NEW, UNSAID, check, check_half, family, halved, scored
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours

pytestmark = QUIET

VARIANTS = {
    "cfg": ("scale=3", {"scale": 3.0}),
    "contrast": ("scale=1.5, beta=0.02", {"scale": 1.5, "beta": 0.02}),
    "interval": ("scale=4, interval=1", {"scale": 4.0, "interval": 1}),
}
FIXED = ("llava", "gemma3", "paligemma", "instructblip")  # families whose pictures take the same number of tokens
FAMILIES = ("llava", "qwen2_5_vl", "llava_next", "gemma3", "paligemma", "instructblip", "qwen3_5", "gemma4")


def with_stand_in(name):
    """A family with a stand-in, with a vector for each position where there is one."""
    adapter, reader = family(name)
    spec = "sig" if name in FIXED else "sig(each=False)"
    adapter.artifacts = {**adapter.artifacts, "sig": fitted_artifact(adapter, spec)}
    return adapter, reader


def with_soft_image(eager: Eager, image, soft):
    """Have a model that reads eagerly find a soft image at some positions, until the hook is removed."""
    layer = next(part for part in eager.model.modules() if getattr(part, "eager", (None, None))[1] == 0)

    def put(module, args, kwargs):
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        states[0, image] = soft
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    return layer.register_forward_pre_hook(put, with_kwargs=True)


def guided(main, free, *, scale, beta=0.0, on=True):
    """The scores of one step, (V,), from logits with the picture and with the soft image."""
    main, free = main.log_softmax(-1), free.log_softmax(-1)
    if not on:
        return main
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, free + scale * (main - free))


@pytest.mark.parametrize(("name", "variant"), in_turn(FAMILIES, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]
    options = dict(options)
    interval = options.pop("interval", NEW)
    soft = with_stand_in(name)[0].artifacts["sig"].tensors["soft"]
    assert len(soft) > 1 or name not in FIXED

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main = reader.logits(inputs, answer[:-1])
        hook = with_soft_image(reader.eager, reader.image, soft)
        try:
            free = reader.logits(inputs, answer[:-1])
        finally:
            hook.remove()
        steps = zip(main, free, strict=True)
        return torch.stack([guided(*pair, on=at <= interval, **options) for at, pair in enumerate(steps)])

    check(name, f"sig({given})", reference)


def test_hand_computed_scores():
    """z = ln(.6, .3, .1), z_u = ln(.3, .6, .1), scale 2: exp s is .36 / .3, .09 / .6, .01 / .1 = 1.2, .15, .1.

    Contrast form, beta 0.4: .1 < .4 x .6 is out. Interval 0: guided at step 0, plain at step 1.
    """
    main, free = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.3, 0.6, 0.1]]).log()

    def scores(written=0, **options):
        return Guide(SIG(**options))(Step(main, (free,), torch.zeros(1, written, dtype=torch.long))).exp()

    torch.testing.assert_close(scores(scale=2.0), torch.tensor([[1.2, 0.15, 0.1]]))
    torch.testing.assert_close(scores(scale=2.0, beta=0.4), torch.tensor([[1.2, 0.15, 0.0]]))
    torch.testing.assert_close(scores(scale=2.0, interval=0), torch.tensor([[1.2, 0.15, 0.1]]))
    for written, guides in ((1, True), (2, False)):
        step = Step(main, (free,), torch.zeros(1, written), levels=(torch.tensor([[7.0]]), torch.tensor([[5.0]])))
        guide = Guide(SIG(scale=2.0, interval=1))
        assert torch.equal(guide(step), main) is not guides
        assert guide.level(step).item() == (9.0 if guides else 7.0)


def test_the_stand_in_is_the_mean_of_the_projected_features():
    adapter, _ = family("llava")
    artifact = fitted_artifact(adapter, "sig")
    with torch.inference_mode():
        batch = adapter.inputs(REQUESTS)
        features = adapter.model.get_image_features(pixel_values=batch["pixel_values"])
        features = torch.stack(list(getattr(features, "pooler_output", features)))
    used = features[[number % len(REQUESTS) for number in range(6)]]  # of the six made pairs
    torch.testing.assert_close(artifact.tensors["soft"], used.mean(dim=0), rtol=1e-5, atol=1e-5)
    single = fitted_artifact(adapter, "sig(each=False)").tensors["soft"]
    torch.testing.assert_close(single, used.mean(dim=(0, 1))[None], rtol=1e-5, atol=1e-5)
    assert artifact.facts["numbers"]["soft image"] == STAND_IN
    assert artifact.facts["numbers"]["pictures"] == 6


def test_where_pictures_take_different_numbers_of_tokens_there_is_no_mean_of_each_position():
    with pytest.raises(FitError, match=r"pictures take \d+ to \d+ image tokens, .* `mmhall fit .sig\(each=False\).`"):
        fitted_artifact(ours("qwen2_5_vl"), "sig")


def test_only_the_picture_is_replaced_and_only_in_the_branch():
    adapter, _ = with_stand_in("llava")
    batch = adapter.inputs(REQUESTS[:2])
    session = mmhall.strategy("sig").fitted(adapter).prepare(adapter, batch)
    (branch,) = session.branches
    assert branch.inputs is batch
    assert not session.ops
    single = adapter.inputs(REQUESTS[1:2])
    image = adapter.image_mask(single["input_ids"])
    soft = adapter.artifacts["sig"].tensors["soft"]
    plain, replaced, text = ReadImage(image), ReadImage(image), ReadImage(~image)
    before = ReadImage(~image)
    for ops in ([plain, before], [Replace(image, soft), replaced, text]):
        mmhall.analysis.read_prompts(adapter, single, ops)
    torch.testing.assert_close(replaced.states.float(), soft)
    assert not torch.equal(plain.states, replaced.states)
    assert torch.equal(text.states, before.states)


def test_with_the_pictures_own_features_nothing_changes(tmp_path):
    """Both rows are then the same, so that scores are the model's own, whatever the scale."""
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[1:2])
    file = tmp_path / "own.safetensors"
    save_file({"soft": read_image_states(adapter, batch).float()}, file)
    answer = torch.tensor([[11, 12, 13, 14]])
    session = mmhall.strategy("sig", soft=str(file), scale=5.0).fitted(adapter).prepare(adapter, batch)
    plain = scored(adapter, batch, Session(), answer)
    got = scored(adapter, batch, session, answer)
    torch.testing.assert_close(got.clamp_min(UNSAID), plain.clamp_min(UNSAID), rtol=1e-4, atol=1e-4)


def test_a_trained_soft_image_needs_no_artifact_and_is_checked_against_the_model(tmp_path):
    adapter, _ = with_stand_in("llava")
    batch, width = adapter.inputs(REQUESTS[:2]), adapter.decoder.config.hidden_size
    file = tmp_path / "soft.safetensors"
    soft = adapter.artifacts["sig"].tensors["soft"].clone()
    save_file({"soft_prompt": soft.half()}, file)
    answers = torch.tensor([[11, 12, 13, 14]] * 2)
    trained = mmhall.strategy("sig", soft=str(file)).fitted(adapter)
    assert trained.artifact is None
    fitted = mmhall.strategy("sig").fitted(adapter)
    got, wanted = (scored(adapter, batch, one.prepare(adapter, batch), answers) for one in (trained, fitted))
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.05)
    for tensors, error, message in (
        ({"a": soft[:, 1:]}, OptionError, rf"soft must be a file whose tensor is \(image tokens, {width}\) for this"),
        ({"a": soft, "b": soft}, DataError, r"soft.safetensors: holds \{'a'.*\}; give a .safetensors file with"),
        ({"a": soft[None]}, DataError, r"soft.safetensors: holds \{'a'.*\}; give"),
        ({"a": soft * math.nan}, DataError, "holds NaN or infinity"),
    ):
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)
        with pytest.raises(error, match=message):
            mmhall.strategy("sig", soft=str(file)).fitted(adapter)
    file.write_text("text")
    with pytest.raises(DataError, match="is no safetensors file"):
        mmhall.strategy("sig", soft=str(file)).fitted(adapter)
    with pytest.raises(DataError, match=r"gone.safetensors: does not exist; give a .safetensors file"):
        mmhall.strategy("sig", soft=str(tmp_path / "gone.safetensors")).fitted(adapter)
    with pytest.raises(OptionError, match="soft must be left out for a fit"):
        make_learner(mmhall.strategy("sig", soft=str(file)))


def test_a_soft_image_of_another_length_is_refused_and_several_pictures_each_get_theirs():
    adapter, _ = with_stand_in("llava")
    soft, kept = adapter.artifacts["sig"].tensors["soft"], adapter.artifacts
    pictures = tuple(request.images[0] for request in REQUESTS[:2])
    several = adapter.inputs([Request("What differs?", pictures), REQUESTS[0]])
    method = mmhall.strategy("sig").fitted(adapter)
    (op,) = method.prepare(adapter, several).branches[0].ops
    assert torch.equal(op._rows, soft.repeat(3, 1))
    adapter.artifacts = {"sig": made_artifact(mmhall.strategy("sig(each=True)"), {"soft": soft.repeat(2, 1)})}
    try:
        method = mmhall.strategy("sig").fitted(adapter)
        with pytest.raises(CompositionError, match=r"has \d+ image tokens, and the picture of prompt 1 takes \d+; fit"):
            method.prepare(adapter, adapter.inputs(REQUESTS[:2]))
    finally:
        adapter.artifacts = kept


def test_scale_1_and_no_picture_ask_for_nothing():
    adapter, _ = with_stand_in("llava")
    for spec, request in (("sig(scale=1, beta=0.1)", REQUESTS[0]), ("sig", Request("What?"))):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == Session()


def test_in_half_precision():
    artifacts = {"sig": fitted_artifact(halved(), "sig")}
    check_half("sig(scale=3)", "sig(scale=1)", artifacts)


def test_models_that_cannot_carry_it_say_why():
    for name, reason in (("qwen3_vl", "features of its pictures also enter later layers"), ("mllama", "cross-att")):
        with pytest.raises(CompositionError, match=f"sig: {name} cannot carry it: .*{reason}"):
            mmhall.strategy("sig").fitted(ours(name))


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("sig").claims == {CONTRAST}
    wrong = (("scale", 0.9), ("beta", 1.1), ("interval", -2), ("soft", "soft.bin"), ("each", 1), ("twin", -1))
    for option, value in wrong:
        with pytest.raises(OptionError, match=rf"^sig: {option} must be .*, got"):
            mmhall.strategy("sig", **{option: value})
