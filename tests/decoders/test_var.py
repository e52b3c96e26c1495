"""VAR against its formula written out, in every family; sinks that are found; what its weights keep and change."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.errors import OptionError
from mmhall.options import rules
from mmhall.strategies import massive_dimensions
from tests.attention.reference import See, planned
from tests.decoders.rows import IN_SEQUENCE, SINKS, check, family, massive, var
from tests.generation.reference import FAMILIES, QUIET, in_turn
from tests.zoo import ZOO

pytestmark = QUIET

VARIANTS = {
    "paper": ("layers=':'", {}),
    "release": ("layers='1:', keep=0.6", {"layers": {1, 2, 3}, "keep": 0.6}),
    "last row": ("layers=':', rows='last', keep=0.0", {"rows": "last", "keep": 0.0}),
}


@pytest.mark.parametrize(("name", "variant"), in_turn(IN_SEQUENCE, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """Gemma 4's last layers see nothing of a prompt but its newest row, so no sinks of the picture."""
    given, changed = VARIANTS[variant]
    options = {"layers": {0, 1, 2, 3}, **changed}
    if name == "gemma4":
        options["layers"] = options["layers"] & {0, 1}
    reader = family(name)[1]
    reader.chosen.clear()
    reader.passed.clear()

    def reference(adapter, reader, request, answer):
        def edit(reader, layer, probs):
            return var(reader, layer, probs, **options)

        return reader.logits(adapter.inputs([request]), answer[:-1], probs=edit).log_softmax(-1)

    check(name, f"var({SINKS}, {given})", reference)
    assert reader.chosen
    assert reader.passed


PROMPTS = ("Is there a dog in the image?", "Please describe this image in detail. What is on the left?")
LAYER = 1


@pytest.fixture
def inputs(llava, pictures):
    return llava.adapter.inputs([Request(p, (image,)) for p, image in zip(PROMPTS, pictures, strict=False)])


@pytest.fixture
def places(llava, inputs):
    """Image positions, rows behind them, and how massive each position is where `LAYER` begins, (B, T) each."""
    with torch.no_grad():
        states = llava.model(**inputs, output_hidden_states=True).hidden_states[LAYER]
    image = inputs["input_ids"] == llava.adapter.image_token_id
    behind = torch.stack([torch.arange(image.shape[1]) > row.nonzero().max() for row in image])
    return image, behind, torch.stack([massive(row, (3, 7)) for row in states])


def ops(llava, inputs, **options):
    given = {"sink_dims": (3, 7), "tau": 1.3, "mass": 0.3, "rho": 0.4, "layers": str(LAYER), **options}
    return mmhall.strategy("var", **given).fitted(llava.adapter).prepare(llava.adapter, inputs).ops


def weights(llava, inputs, *ops):
    """The layer's weights in every row, (B, H, T, T)."""
    see = See(list(range(inputs["input_ids"].shape[1])))
    see.layers = frozenset({LAYER})
    planned(llava, inputs, *ops, see)
    return see.seen[0][1]


@pytest.mark.parametrize("keep", [0.4, 0.0])
def test_sinks_give_to_the_other_image_columns_in_proportion(llava, inputs, places, keep):
    image, behind, size = places
    before = weights(llava, inputs)
    picture = (before * image[:, None, None]).sum(-1).masked_select(behind[:, None])
    after = weights(llava, inputs, *ops(llava, inputs, keep=keep, mass=float(picture.median()) - 1e-3))
    torch.testing.assert_close(after.sum(-1), torch.ones(after.shape[:3]))
    changed = (after - before).abs().amax(-1) > 1e-6
    assert not changed.masked_select(~behind[:, None]).any()
    chosen = changed.masked_select(behind[:, None])
    assert 0.05 < chosen.float().mean() < 0.95
    in_text = 0
    for prompt, head, row in changed.nonzero().tolist():
        old, new = before[prompt, head, row], after[prompt, head, row]
        sinks = (size[prompt] >= 1.3) & (inputs["attention_mask"][prompt] == 1) & (old > 0)
        rest, others = image[prompt] & ~sinks, ~image[prompt] & ~sinks
        assert (sinks & image[prompt]).any()
        in_text += int((sinks & ~image[prompt]).sum())
        torch.testing.assert_close(new[sinks], keep * old[sinks])
        ratio = new[rest] / old[rest]
        assert ratio.min() > 1
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0)
        assert torch.equal(new[others], old[others])
    assert in_text


def test_a_head_is_chosen_for_its_picture_and_for_what_is_no_sink(llava, inputs, places):
    image, behind, size = places
    before = weights(llava, inputs)
    rest = image & (size < 1.3)
    picture, others = (before * image[:, None, None]).sum(-1), (before * rest[:, None, None]).sum(-1)
    shares = [part.masked_select(behind[:, None]) for part in (picture, others / picture)]
    typical, most = ([float(part.quantile(q)) + 1e-4 for part in shares] for q in (0.4, 0.7))
    for mass, rho in ((most[0], 0.0), (0.0, most[1]), typical):
        wanted = (picture >= mass) & (others / picture >= rho) & behind[:, None]
        assert wanted.any()
        assert (~wanted & behind[:, None]).any()
        changed = (weights(llava, inputs, *ops(llava, inputs, mass=mass, rho=rho)) - before).abs().amax(-1) > 1e-6
        assert torch.equal(changed, wanted)


class Bias(Op):
    layers = frozenset({LAYER})

    def __init__(self, columns):
        self._columns = columns

    def bias(self, call):
        return self._columns.log()


def test_it_equals_a_log_bias(llava, inputs, places):
    """Sinks times keep, the rest of the picture times 1 + (1 - keep) A_sinks / A_rest, softmax as ever."""
    image, behind, size = places
    before, keep = weights(llava, inputs), 0.4
    sinks = (size >= 1.3) & inputs["attention_mask"].bool()
    rest = image & ~sinks
    freed, others = ((before * part[:, None, None]).sum(-1, keepdim=True) for part in (sinks, rest))
    picture = (before * image[:, None, None]).sum(-1, keepdim=True)
    chosen = (picture >= 0.3) & (others / picture >= 0.4) & behind[:, None, :, None]
    gain = torch.where(
        sinks[:, None, None], keep, torch.where(rest[:, None, None], 1 + (1 - keep) * freed / others, 1.0)
    )
    wanted = planned(llava, inputs, Bias(torch.where(chosen, gain, 1.0)))
    got, plain = planned(llava, inputs, *ops(llava, inputs, keep=keep)), planned(llava, inputs)
    assert (got[:, -1] - plain[:, -1]).abs().max() > 1e-2
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=1e-4)


def test_rows_last_edits_that_row_only(llava, inputs):
    before = weights(llava, inputs)
    last, every = (weights(llava, inputs, *ops(llava, inputs, mass=0, rho=0, rows=rows)) for rows in ("last", "all"))
    assert torch.equal(last[:, :, :-1], before[:, :, :-1])
    torch.testing.assert_close(last[:, :, -1], every[:, :, -1])
    assert not torch.equal(last[:, :, -1], before[:, :, -1])


def test_keeping_everything_asks_for_nothing(llava, inputs):
    assert list(ops(llava, inputs, keep=1)) == []


def test_without_a_sink_in_the_picture_nothing_moves(llava, inputs, places):
    """Some text is massive in a dimension; no image token is, or all of them are."""
    image, _, _ = places
    with torch.no_grad():
        states = llava.model(**inputs, output_hidden_states=True).hidden_states[LAYER]
    size = torch.stack([torch.stack([massive(row, (d,)) for row in states]) for d in range(states.shape[-1])])
    real = inputs["attention_mask"].bool()
    text, pictured = size[:, real & ~image].amax(1), size[:, image].amax(1)
    dim = int((text - pictured).argmax())
    tau = float(text[dim] + pictured[dim]) / 2
    assert text[dim] > tau > pictured[dim]
    plain = planned(llava, inputs)
    for options in ({"sink_dims": (dim,), "tau": tau}, {"tau": 100.0}, {"tau": 1e-6}):
        asked = ops(llava, inputs, mass=0, rho=0, **options)
        assert asked
        torch.testing.assert_close(planned(llava, inputs, *asked), plain, rtol=0, atol=1e-5)
    assert (planned(llava, inputs, *ops(llava, inputs, mass=0, rho=0)) - plain).abs().max() > 1e-2


def test_the_papers_reading_is_the_default_and_the_releases_an_option():
    assert rules(type(mmhall.strategy("var")))["keep"].general == 0.4
    assert mmhall.strategy("var(keep=0.6)").keep == 0.6


def with_massive_first_token(name):
    model, processor = ZOO[name]()
    first = model.get_decoder().config.bos_token_id
    with torch.no_grad():
        model.get_input_embeddings().weight[first, [5, 40]] += torch.tensor([3e3, -4e3])
    return adapter_for(model, processor)


@pytest.mark.parametrize("name", FAMILIES)
def test_massive_dimensions_are_found(name):
    """Of 64 dimensions two huge ones are 5.7 root mean squares each, if they are equal."""
    adapter = with_massive_first_token(name)
    assert massive_dimensions(adapter, 4.0) == (5, 40)
    assert massive_dimensions(adapter, 20.0) == ()


def test_the_model_is_looked_at_once_and_fitted_with_what_is_found(pictures):
    adapter = with_massive_first_token("llava")
    inputs, passes = adapter.inputs([Request("What?", (pictures[0],))]), []
    adapter.layers[0].register_forward_hook(lambda *_: passes.append(1))
    specs = ("var(tau=4)", "var(tau=20)", "var", "var(tau=4)")
    found = [mmhall.strategy(spec).fitted(adapter).sink_dims for spec in specs]
    assert found == [(5, 40), (), (5, 40), (5, 40)]
    assert mmhall.strategy("var(sink_dims=(1,))").fitted(adapter).sink_dims == (1,)
    assert len(passes) == 1
    session = mmhall.strategy("var(tau=20)").fitted(adapter).prepare(adapter, inputs)
    assert not session.ops


def test_the_threshold_scales_with_the_hidden_size_unless_it_is_given():
    """20 at 4096 is 20 * sqrt(64 / 4096) = 2.5 at 64, where two equal dimensions reach sqrt(32) = 5.7 at most."""
    adapter = with_massive_first_token("llava")
    assert adapter.decoder.config.hidden_size == 64
    scaled, given = (mmhall.strategy(spec).fitted(adapter) for spec in ("var", "var(tau=20)"))
    assert scaled.tau == 2.5
    assert given.tau == 20
    origins, given_origins = (mmhall.strategy(spec).origins(adapter) for spec in ("var", "var(tau=20)"))
    assert origins["tau"].startswith("the published 20 at a hidden size of 4096, scaled")
    assert origins["sink_dims"] == "found in this model"
    assert "tau" not in given_origins
    assert given_origins["sink_dims"].startswith("none found")


@pytest.mark.parametrize(
    ("dims", "reason"), [((3, 48), "below the model's hidden size, 48"), ((99,), "below the model")]
)
def test_dimensions_a_model_lacks_are_refused(llava, pictures, dims, reason):
    with pytest.raises(OptionError, match=f"^var: sink_dims must be {reason}"):
        llava.generate(pictures[0], "What?", mmhall.strategy("var", sink_dims=dims), max_new_tokens=1)


@pytest.mark.parametrize("dims", [(-1,), (0.5,), ("3",), (True,), [-3], 3])
def test_dimensions_are_whole_numbers_from_0(dims):
    with pytest.raises(OptionError, match=r"^var: sink_dims must be (a tuple of dimensions >= 0|of type tuple)"):
        mmhall.strategy("var", sink_dims=dims)


def test_sinks_survive_the_text_form():
    made = mmhall.strategy("var(sink_dims=(1415, 2533), keep=0.6)")
    assert mmhall.strategy(str(made)) == made
