"""Explain a strategy before anything runs, from its session for a request and the ops in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence

from PIL import Image

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis._explanation import BranchNote, Cost, Explanation, OpNote, OptionValue, counted
from mmhall.attention import FEATURES, Drop, Exit, Op, acts_in_layer, overrides
from mmhall.generation import Images, Job, Prompt, Recipe, make_request, why_not_shared
from mmhall.options import rules
from mmhall.strategies import Composed, Session, Strategy

QUESTION = "What is in the image?"
_SIDE = 336  # pixels, the size of the grey picture for models without a fixed size
_DOES = {
    "remask": "changes which columns rows see",
    "bias": "adds to attention scores",
    "edit_scores": "edits attention scores",
    "edit_probs": "edits attention weights",
    "see": "reads attention weights",
    "edit_output": "edits head outputs",
    "keep": "replaces keys and values in the cache",
    "see_states": "reads the states that enter the layer",
}


def explain_strategy(adapter: Adapter, recipe: Recipe, image: Images, prompt: Prompt | None) -> Explanation:
    """Explain the effect and the cost of a strategy on one request.

    Args:
        adapter: The model.
        recipe: The strategy and settings, fitted to it.
        image: Pictures; None without a prompt: a grey one.
        prompt: The prompt; None: a short question.

    Raises:
        MmhallError: The picture or the prompt is unusable, or the strategy refuses them.
    """
    image = _grey_picture(adapter) if image is None and prompt is None else image
    job = recipe.job(adapter, adapter.inputs([make_request(image, QUESTION if prompt is None else prompt)]))
    inputs, session = job.inputs, job.session
    return Explanation(
        strategy=str(recipe.strategy),
        model=f"{adapter.model.config.model_type} with {len(adapter.layers)} layers",
        tokens=_count_tokens(inputs),
        image_tokens=adapter.image_tokens(inputs),
        image_in_sequence=adapter.image_in_sequence,
        options=tuple(_options(recipe)),
        ops=_notes(adapter, session.ops, inputs),
        branches=tuple(
            BranchNote(
                _count_tokens(branch.inputs),
                adapter.image_tokens(branch.inputs),
                branch.lockstep,
                _notes(adapter, branch.ops, branch.inputs),
            )
            for branch in session.branches
        ),
        exits=tuple(map(_describe_exit, session.exits)),
        scores=_scores(session),
        reread="nothing" if not session.reread else "its last token" if adapter.can_drop_last_token else "all of it",
        own_picture=why_not_shared(adapter, inputs, session),
        chooses=_chooses(recipe, session),
        cost=_cost(job),
    )


def _grey_picture(adapter: Adapter) -> Image.Image:
    """Return a grey picture, of the size to which the model's processor resizes pictures if it is fixed."""
    reader = adapter.processor.image_processor  # type: ignore[union-attr]
    fixed = getattr(reader, "crop_size", None) or getattr(reader, "size", None) or {}
    sides = dict(fixed) if hasattr(fixed, "keys") else {}
    size = (sides.get("width") or _SIDE, sides.get("height") or _SIDE)
    return Image.new("RGB", (int(size[0]), int(size[1])), (128, 128, 128))


def _count_tokens(inputs: Inputs) -> int:
    return int(inputs["attention_mask"].sum())


def _options(recipe: Recipe) -> Iterator[OptionValue]:
    """Yield value and provenance of each option."""
    several = isinstance(recipe.strategy, Composed)
    parts: Sequence[Strategy] = recipe.strategy.parts if isinstance(recipe.strategy, Composed) else [recipe.strategy]
    for part in parts:
        declared = rules(type(part))
        for option, value in part.options().items():
            name = f"{part.name}.{option}" if several else option
            rule = declared.get(option)
            default = rule is not None and not rule.by_model and value == rule.general
            yield OptionValue(name, value, recipe.origins.get(name, "the default" if default else "given"))


def _notes(adapter: Adapter, ops: Sequence[Op], inputs: Inputs) -> tuple[OpNote, ...]:
    """Describe ops; the plan raises an error if the model lacks what they need."""
    plan, notes = adapter.plan(ops, inputs), []
    vision = () if plan is None or plan.tower is None else plan.tower.plan.kinds
    for op in ops:
        layers = _acting_layers(op, adapter.kinds)
        if isinstance(op, Drop):
            layers = tuple(layer for layer in range(len(adapter.kinds)) if op.acts(layer))
        kinds = dict.fromkeys(adapter.kinds[layer] for layer in layers)
        notes.append(OpNote(_says(op), tuple(_does(op)), layers, tuple(kinds), _acting_layers(op, vision)))
    return tuple(notes)


def _acting_layers(op: Op, kinds: Sequence[str]) -> tuple[int, ...]:
    """Return the layers in which an op acts; linear layers have states but no attention."""
    states = bool(op.sites - {FEATURES}) or overrides(op, "see_states")
    attends = any(overrides(op, method) for method in _DOES if method != "see_states")
    concerned = (layer for layer in range(len(kinds)) if acts_in_layer(op, kinds, layer))
    return tuple(layer for layer in concerned if states or (attends and kinds[layer] != "linear"))


def _says(op: Op) -> str:
    """Return the first sentence of the docstring of an op's class."""
    text = inspect.getdoc(type(op)) or ""
    if text == inspect.getdoc(Op):
        return ""
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(text.split("\n\n")[0].split()))[0]


def _does(op: Op) -> Iterator[str]:
    """Describe what an op reads and edits, from the methods it overrides."""
    yield from (action for method, action in _DOES.items() if overrides(op, method))
    if isinstance(op, Drop):
        yield "drops tokens of the prompt"
    if op.sites - {FEATURES}:
        yield f"edits states at {', '.join(sorted(op.sites - {FEATURES}))}"
    if FEATURES in op.sites:
        yield "edits the features that the vision tower hands to the projector"
    if op.compares:
        yield "compares head outputs with those of the branch in lock step"
    if op.remembers:
        yield "remembers what it found from token to token"


def _describe_exit(early: Exit) -> str:
    """Describe an exit; layer -1 is the input of the first layer."""
    where = "the embeddings" if early.layer == -1 else f"layer {early.layer}"
    at = "every token" if early.positions is None else f"{early.positions.shape[1]} positions of the prompt"
    return f"{where}, {'with' if early.norm else 'without'} the final norm, at {at}"


def _scores(session: Session) -> str:
    """Describe what scores are made from."""
    if session.combine is None:
        return ""
    parts = ["the main rows"]
    parts += [counted(len(session.decoded), "branch", "branches")] if session.decoded else []
    parts += [counted(len(session.exits), "inner layer", "inner layers")] if session.exits else []
    return ", ".join(parts)


def _chooses(recipe: Recipe, session: Session) -> str:
    """Describe how tokens are chosen, and whether the setting num_beams overrides the strategy's."""
    config, own = recipe.config, recipe.strategy.beams
    wins = "" if own in (1, config.num_beams) else f"; the setting num_beams wins over the strategy's own {own}"
    beams = f"with {counted(config.num_beams, 'beam', 'beams')}{wins}"
    if session.search is not None:
        return f"by a search of the strategy's own, {beams}"
    if config.num_beams > 1:
        return f"by beam search, {beams}"
    return "drawn at random" if config.do_sample else f"the best one each time{wins}"


def _cost(job: Job) -> Cost:
    """Count passes and rows of `mmhall.generation`."""
    session = job.session
    plan = job.adapter.plan(session.ops, job.inputs)
    compared = session.reference is not None and plan is not None and bool(plan.compared)
    prompts = session.prepared_passes + 1 + session.reread + compared + len(session.decoded)
    copies = 1 + len(session.decoded)
    separate = "cross" in job.adapter.kinds and not _same_kind(job, session)
    return Cost(prompts, copies if separate else 1, job.rows_a_prompt, exact=session.search is None)


def _same_kind(job: Job, session: Session) -> bool:
    """Whether all decoded inputs have pictures or none has: only then can cross-attention caches be joined."""
    return all(has_picture(branch.inputs) == has_picture(job.inputs) for branch in session.decoded)
