"""The parts of a model: each site is proven by the sum that the layer computes, each tower by when it runs."""

from __future__ import annotations

import copy
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mmhall.adapters._anatomy import SITES, Anatomy, Stack, site
from mmhall.adapters._base import Request
from mmhall.errors import ModelError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUESTION = "What is it that we see on the left?"


def first(output):
    """The states in what a module returns."""
    return output[0] if isinstance(output, tuple) else output


def argument(args, kwargs, name, position=0):
    return kwargs[name] if name in kwargs else args[position]


@contextmanager
def watched(modules, note):
    """Call note(key, module, args, kwargs, output) after each pass of each module."""
    with ExitStack() as hooks:
        for key, module in modules.items():
            hook = module.register_forward_hook(
                lambda m, args, kwargs, output, key=key: note(key, m, args, kwargs, output), with_kwargs=True
            )
            hooks.callback(hook.remove)
        yield


def run(adapter, inputs):
    with torch.no_grad():
        return adapter.model(**inputs)


def passes(adapter, stack, inputs):
    """Run the model; return what each layer was given, and what stood at its sites, in the order of the layers."""
    seen = defaultdict(list)

    def note(key, module, args, kwargs, output):
        seen[key].append(first(output).clone())
        if key[1] == "out":
            seen[key[0], "given"].append((args, kwargs))

    sites = {(index, name): stack.site(index, name) for index in range(len(stack.layers)) for name in SITES}
    with watched(sites, note):
        run(adapter, inputs)
    assert all(len(values) == 1 for values in seen.values())
    assert len(seen) == 4 * len(stack.layers)
    return [{name: seen[index, name][0] for name in (*SITES, "given")} for index in range(len(stack.layers))]


def states_of(given):
    args, kwargs = given
    return next(
        (kwargs[name] for name in ("hidden_states", "hidden_state") if name in kwargs), args[0] if args else None
    )


def summed(layer, h, attn, mlp, given):
    """What a decoder layer returns, from what stands at its sites."""
    kind = type(layer).__name__
    if kind == "Gemma3DecoderLayer":
        return h + layer.post_attention_layernorm(attn) + layer.post_feedforward_layernorm(mlp)
    if kind == "Glm4vTextDecoderLayer":
        return h + layer.post_self_attn_layernorm(attn) + layer.post_mlp_layernorm(mlp)
    if kind == "Gemma4TextDecoderLayer":
        u = h + layer.post_attention_layernorm(attn) + layer.post_feedforward_layernorm(mlp)
        own = layer.act_fn(layer.per_layer_input_gate(u)) * argument(*given, "per_layer_input", 1)
        return (u + layer.post_per_layer_input_norm(layer.per_layer_projection(own))) * layer.layer_scalar
    if kind == "MllamaCrossAttentionDecoderLayer":
        sees = given[1]["full_text_row_masked_out_mask"][:, 0]
        return h + layer.cross_attn_attn_gate.tanh() * attn + layer.cross_attn_mlp_gate.tanh() * sees * mlp
    return h + attn + mlp


def summed_in_the_tower(layer, h, attn, mlp, given):
    """What a layer of a vision tower returns, from what stands at its sites."""
    kind = type(layer).__name__
    if kind == "Gemma4VisionEncoderLayer":
        return h + layer.post_attention_layernorm(attn) + layer.post_feedforward_layernorm(mlp)
    if kind == "InternVLVisionLayer":
        return h + layer.lambda_1 * attn + layer.lambda_2 * mlp
    if kind == "MllamaVisionEncoderLayer" and layer.is_gated:
        return h + layer.gate_attn.tanh() * attn + layer.gate_ffn.tanh() * mlp
    return h + attn + mlp


def check_sums(stack, read, equation):
    for layer, at in zip(stack.layers, read, strict=True):
        h = states_of(at["given"])
        assert at["attn"].shape == h.shape
        with torch.no_grad():
            got = equation(layer, h, at["attn"], at["mlp"].view_as(h), at["given"])
        torch.testing.assert_close(got, at["out"], atol=1e-5, rtol=1e-5)
        for name in ("attn", "mlp"):
            assert at[name].abs().max() > 1e-3


@pytest.fixture
def inputs(adapter, wide, tall):
    return adapter.inputs([Request("Why?", (wide,)), Request(QUESTION, (tall,))])


def test_the_updates_at_the_sites_make_up_what_a_decoder_layer_returns(adapter, inputs):
    decoder = adapter.anatomy.decoder
    assert decoder.module is adapter.decoder
    assert list(decoder.layers) == adapter.layers
    check_sums(decoder, passes(adapter, decoder, inputs), summed)


def test_what_a_decoder_layer_returns_is_given_to_the_next(name, adapter, inputs):
    """Qwen3-VL adds deep features of the vision tower in between, at image positions alone."""
    read = passes(adapter, adapter.anatomy.decoder, inputs)
    image = adapter.image_mask(inputs["input_ids"])
    for index, (at, behind) in enumerate(pairwise(read)):
        changed = (at["out"] != states_of(behind["given"])).any(dim=2)
        if name == "qwen3_vl" and index < 2:
            assert torch.equal(changed, image)
        else:
            assert not changed.any()


def test_the_head_reads_the_last_layer_through_the_final_norm(name, adapter, inputs):
    last = []
    layer = adapter.anatomy.decoder.site(len(adapter.layers) - 1, "out")
    with watched({0: layer}, lambda key, module, args, kwargs, output: last.append(first(output))):
        logits = run(adapter, inputs).logits
    with torch.no_grad():
        read = adapter.model.get_output_embeddings()(adapter.anatomy.final_norm(last[0]))
        bare = adapter.model.get_output_embeddings()(last[0])
    cap = getattr(adapter.decoder.config, "final_logit_softcapping", None)
    read = read if cap is None else cap * torch.tanh(read / cap)
    torch.testing.assert_close(read, logits, atol=1e-4, rtol=1e-5)
    assert (bare - logits).abs().max() > 0.01


@pytest.mark.slow
def test_the_sites_of_the_tower_make_up_what_its_layers_return(adapter, inputs):
    vision = adapter.anatomy.vision
    check_sums(vision, passes(adapter, vision, inputs), summed_in_the_tower)


def test_the_tower_runs_once_a_pass_its_layers_in_order_and_on_pictures_alone(adapter, inputs):
    vision, ran = adapter.anatomy.vision, []
    modules = {"tower": vision.module, **dict(enumerate(vision.layers)), "projector": adapter.anatomy.projector}
    with watched(modules, lambda key, *_: ran.append(key)):
        run(adapter, inputs)
        layers = list(range(len(vision.layers)))
        assert [key for key in ran if key in layers] == layers
        assert ran.count("tower") == ran.count("projector") == 1
        assert ran.index(layers[-1]) < ran.index("projector")
        ran.clear()
        bare = adapter.without_image(inputs)
        with torch.no_grad():
            adapter.model_for(bare)(**bare)
        assert not ran
    inside = set(vision.module.modules())
    assert inside >= set(vision.layers)
    assert not inside & set(adapter.decoder.modules())


def test_the_tower_has_as_many_layers_as_its_configuration_says(adapter):
    config = adapter.model.config.vision_config
    count = config.depth if hasattr(config, "depth") else config.num_hidden_layers
    assert len(adapter.anatomy.vision.layers) == count + getattr(config, "num_global_layers", 0)


WIDTHS = {"vipllava": 3, "mllama": 2, "internvl": 4, "glm4v": 2}
"""How often as wide as the tower the features are: layers or patches are joined, or merged by a convolution."""


def test_the_projector_takes_features_as_wide_as_the_tower(name, adapter, inputs):
    taken, out = [], passes(adapter, adapter.anatomy.vision, inputs)[-1]["out"]

    def note(key, module, args, kwargs, output):
        taken.append(argument(args, kwargs, adapter.anatomy.features_argument))

    with watched({0: adapter.anatomy.projector}, note):
        run(adapter, inputs)
    assert taken[0].shape[-1] == out.shape[-1] * WIDTHS.get(name, 1)


def test_other_features_in_the_projector_change_what_the_decoder_reads_of_the_picture(adapter, inputs):
    """Features that are all alike leave nothing of the two pictures; Qwen3-VL's deep features pass elsewhere."""
    name = adapter.anatomy.features_argument

    def flattened(module, args, kwargs):
        features = torch.ones_like(argument(args, kwargs, name))
        return (args, {**kwargs, name: features}) if name in kwargs else ((features, *args[1:]), kwargs)

    plain = run(adapter, inputs).logits
    hook = adapter.anatomy.projector.register_forward_pre_hook(flattened, with_kwargs=True)
    with ExitStack() as hooks:
        hooks.callback(hook.remove)
        assert (run(adapter, inputs).logits - plain).abs().max() > 0.01


def counted(calls):
    def attend(module, query, key, value, attention_mask, **kwargs):
        calls.append(module)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    return attend


IN_PARTS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
"""Their towers call the interface once for each picture or window, not once for all."""


def test_every_tower_attends_through_the_attention_interface(name, adapter, inputs):
    vision, calls = adapter.anatomy.vision, []
    AttentionInterface.register("counted", counted(calls))
    AttentionMaskInterface.register("counted", sdpa_mask)
    plain, own = run(adapter, inputs).logits, vision.module.config._attn_implementation
    vision.module.set_attn_implementation("counted")
    try:
        torch.testing.assert_close(run(adapter, inputs).logits, plain, atol=1e-4, rtol=1e-4)
    finally:
        vision.module.set_attn_implementation(own)
    owners = {module: index for index, layer in enumerate(vision.layers) for module in layer.modules()}
    assert [owners[module] for module in dict.fromkeys(calls)] == list(range(len(vision.layers)))
    assert (len(calls) > len(vision.layers)) == (name in IN_PARTS)


class Layer(nn.Module):
    """A layer with parts of these names."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Identity())


def test_a_layer_without_a_site_is_refused_by_name():
    stack = Stack("odd", nn.Identity(), (Layer("mlp"), Layer("self_attn", "mlp", "experts")))
    with pytest.raises(ModelError, match="odd: no single module is the site 'attn' of a Layer: it has none of"):
        stack.site(0, "attn")
    with pytest.raises(ModelError, match="the site 'mlp' of a Layer: its mlp and experts share what is added there"):
        stack.site(1, "mlp")
    assert stack.site(1, "attn") is stack.layers[1].self_attn
    assert stack.site(1, "out") is stack.layers[1]
    with pytest.raises(UnknownNameError, match="unknown site 'atn'; did you mean 'attn'"):
        site(stack.layers[1], "atn", "odd")


@pytest.mark.parametrize("name", ["gemma4"])
def test_experts_beside_an_mlp_are_refused_as_its_site(adapter):
    """The larger Gemma 4 adds up the two before their common norm."""
    config = copy.deepcopy(adapter.decoder.config)
    for option, value in {"num_experts": 2, "top_k_experts": 1, "moe_intermediate_size": 8}.items():
        setattr(config, option, value)
    config.enable_moe_block = True
    layer = type(adapter.layers[0])(config, 0)
    assert site(layer, "attn", "gemma4") is layer.self_attn
    with pytest.raises(ModelError, match="site 'mlp' of a Gemma4TextDecoderLayer: its mlp and experts share"):
        site(layer, "mlp", "gemma4")


@pytest.mark.parametrize("name", ["llava"])
def test_parts_that_a_model_lacks_are_refused_when_asked_for(adapter):
    """A language model alone has no tower and no projector; without its norm, none is found."""
    bare = Anatomy(adapter.decoder)
    assert list(bare.decoder.layers) == adapter.layers
    for part, message in (("vision", "llama: no vision tower was found"), ("projector", "llama: no module was found")):
        with pytest.raises(ModelError, match=message):
            getattr(bare, part)
    norm = adapter.decoder.norm
    del adapter.decoder.norm
    try:
        with pytest.raises(ModelError, match="llama: no norm was found between the last decoder layer and the head"):
            _ = bare.final_norm
    finally:
        adapter.decoder.norm = norm


@pytest.mark.parametrize("name", ["blip_2"])
def test_a_decoder_without_a_norm_at_its_end_has_the_identity_there(adapter):
    decoder, states = adapter.decoder, torch.randn(1, 2, 64)
    norm, decoder.final_layer_norm = decoder.final_layer_norm, None
    try:
        assert Anatomy(adapter.model).final_norm(states) is states
        decoder.project_out = nn.Linear(64, 8)
        assert torch.equal(Anatomy(adapter.model).final_norm(states), decoder.project_out(states))
        decoder.final_layer_norm = norm
        assert torch.equal(Anatomy(adapter.model).final_norm(states), decoder.project_out(norm(states)))
    finally:
        decoder.final_layer_norm, decoder.project_out = norm, None
