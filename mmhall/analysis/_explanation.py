"""Explain a strategy before anything runs: what it reads and writes where, its branches, and what a token costs.

All is derived from the session that the strategy prepares for a request, and from the ops in it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import FEATURES, Exit, Op, concerns, overrides
from mmhall.generation import Images, Job, Prompt, Recipe, make_request
from mmhall.options import rules
from mmhall.strategies import Composed, Session, Strategy, format_layers

QUESTION = "What is in the image?"
_WIDTH, _HEAD = 100, 10
_SIDE = 336  # pixels of the grey picture where the model takes pictures of any size
_DOES = {
    "bias": "adds to attention scores",
    "edit_scores": "edits attention scores",
    "edit_probs": "edits attention weights",
    "see": "reads attention weights",
    "edit_output": "edits head outputs",
    "keep": "replaces keys and values in the cache",
    "see_states": "reads the states that enter the layer",
}


@dataclass(frozen=True, slots=True)
class OptionValue:
    """An option of a strategy.

    Attributes:
        name: Its name; with several strategies such as "vhr.alpha".
        value: Its value on this model.
        origin: Where the value comes from.
    """

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class OpNote:
    """What an op does.

    Attributes:
        says: What it says of itself, in one sentence; "" where it says nothing.
        does: What it reads and writes, such as "edits attention weights".
        layers: 0-based decoder layers it concerns.
        kinds: Kinds of these layers, such as "full" or "cross".
        vision_layers: 0-based encoder layers of the vision tower it concerns.
    """

    says: str
    does: tuple[str, ...]
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    vision_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BranchNote:
    """A further input.

    Attributes:
        tokens: Of its prompt.
        image_tokens: Those of pictures, among or beside these as in the main prompt.
        lockstep: Whether it is read once, in lock step with the prompt, and not decoded.
        ops: What is read and written in its passes.
    """

    tokens: int
    image_tokens: int
    lockstep: bool
    ops: tuple[OpNote, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Forward passes of the decoder, for one prompt.

    Attributes:
        prompt_passes: That read the prompt and its branches, one row each.
        token_passes: For each further token.
        token_rows: Rows of these passes together.
        exact: Whether a token costs just that; a search of a strategy's own takes so many rows at most, and may take
            further passes.
    """

    prompt_passes: int
    token_passes: int
    token_rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a strategy does to one request on one model; `str` writes it in lines of at most 100 columns.

    Attributes:
        strategy: As it is written: the options that differ from their defaults, and those that depend on the model with
            its values.
        model: The model's family and depth.
        tokens: Of the prompt.
        image_tokens: Those of pictures; `image_in_sequence` says where.
        image_in_sequence: Whether they are among the tokens of the prompt; otherwise they are beside them, and layers
            of their own attend to them (cross-attention).
        options: Each option's value, and where it comes from.
        ops: What is read and written in the main rows.
        branches: Further inputs.
        exits: Inner layers whose predictions are read.
        scores: What the strategy makes the scores of a token from; "": they are the model's own.
        reread: What of the prompt is read twice: "nothing", "its last token" or "all of it".
        chooses: How tokens are chosen.
        cost: Passes and rows.
    """

    strategy: str
    model: str
    tokens: int
    image_tokens: int
    image_in_sequence: bool
    options: tuple[OptionValue, ...]
    ops: tuple[OpNote, ...]
    branches: tuple[BranchNote, ...]
    exits: tuple[str, ...]
    scores: str
    reread: str
    chooses: str
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, which JSON can write."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Write it for a reader."""
        return "\n".join(_lines(self))


def explain_strategy(adapter: Adapter, recipe: Recipe, image: Images, prompt: Prompt | None) -> Explanation:
    """Explain a strategy.

    Args:
        adapter: The model.
        recipe: The strategy and settings, fitted to it.
        image: Pictures; where there is no prompt either, a grey one stands for them.
        prompt: What is asked; None: a short question.

    Raises:
        MmhallError: The picture or the prompt is unusable, or the strategy refuses them.
    """
    image = _grey(adapter) if image is None and prompt is None else image
    inputs = adapter.inputs([make_request(image, QUESTION if prompt is None else prompt)])
    job = recipe.job(adapter, inputs)
    session = job.session
    return Explanation(
        strategy=str(recipe.strategy),
        model=f"{adapter.model.config.model_type} with {len(adapter.layers)} layers",
        tokens=_tokens(inputs),
        image_tokens=adapter.image_tokens(inputs),
        image_in_sequence=adapter.image_in_sequence,
        options=tuple(_options(recipe)),
        ops=_notes(adapter, session.ops, inputs),
        branches=tuple(
            BranchNote(
                _tokens(one.inputs),
                adapter.image_tokens(one.inputs),
                one.lockstep,
                _notes(adapter, one.ops, one.inputs),
            )
            for one in session.branches
        ),
        exits=tuple(map(_of_exit, session.exits)),
        scores=_scores(session),
        reread="nothing" if not session.reread else "its last token" if adapter.forgets else "all of it",
        chooses=_chooses(recipe, session),
        cost=_cost(job),
    )


def _grey(adapter: Adapter) -> Image.Image:
    """Return a grey picture of the size that the model's processor makes of pictures, if there is one such size."""
    reader = adapter.processor.image_processor  # type: ignore[union-attr]
    wanted = getattr(reader, "crop_size", None) or getattr(reader, "size", None) or {}
    sides = dict(wanted) if hasattr(wanted, "keys") else {}
    size = (sides.get("width") or _SIDE, sides.get("height") or _SIDE)
    return Image.new("RGB", (int(size[0]), int(size[1])), (128, 128, 128))


def _tokens(inputs: Inputs) -> int:
    return int(inputs["attention_mask"].sum())


def _options(recipe: Recipe) -> Iterator[OptionValue]:
    """Say each option's value and where it comes from."""
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
    """Say what ops do, once the model has been asked whether it has what they want."""
    plan, notes = adapter.plan(ops, inputs), []
    vision = () if plan is None or plan.tower is None else plan.tower.plan.kinds
    for op in ops:
        layers = _reached(op, adapter.kinds)
        kinds = dict.fromkeys(adapter.kinds[layer] for layer in layers)
        notes.append(OpNote(_says(op), tuple(_does(op)), layers, tuple(kinds), _reached(op, vision)))
    return tuple(notes)


def _reached(op: Op, kinds: Sequence[str]) -> tuple[int, ...]:
    """Return the layers of some kinds in which an op does something; linear ones hold states and no attention."""
    states = bool(op.sites - {FEATURES}) or overrides(op, "see_states")
    attends = any(overrides(op, method) for method in _DOES if method != "see_states")
    own = (layer for layer in range(len(kinds)) if concerns(op, kinds, layer))
    return tuple(layer for layer in own if states or (attends and kinds[layer] != "linear"))


def _says(op: Op) -> str:
    """Return the first sentence of the docstring of an op's class."""
    told = inspect.getdoc(type(op)) or ""
    if told == inspect.getdoc(Op):
        return ""
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(told.split("\n\n")[0].split()))[0]


def _does(op: Op) -> Iterator[str]:
    """Say what an op reads and writes, by the methods it has."""
    yield from (told for method, told in _DOES.items() if overrides(op, method))
    if op.sites - {FEATURES}:
        yield f"edits states at {', '.join(sorted(op.sites - {FEATURES}))}"
    if FEATURES in op.sites:
        yield "edits the features that the vision tower hands to the projector"
    if op.compares:
        yield "compares head outputs with those of the branch in lock step"
    if op.remembers:
        yield "remembers what it found from token to token"


def _of_exit(early: Exit) -> str:
    """Say where the predictions of an inner layer are read; layer -1 is what enters the first one."""
    where = "the embeddings" if early.layer == -1 else f"layer {early.layer}"
    at = "every token" if early.positions is None else f"{early.positions.shape[1]} positions of the prompt"
    return f"{where}, {'with' if early.norm else 'without'} the final norm, at {at}"


def _scores(session: Session) -> str:
    """Say what scores are made from."""
    if session.combine is None:
        return ""
    parts = ["the main rows"]
    parts += [_counted(len(session.decoded), "branch", "branches")] if session.decoded else []
    parts += [_counted(len(session.exits), "inner layer", "inner layers")] if session.exits else []
    return ", ".join(parts)


def _chooses(recipe: Recipe, session: Session) -> str:
    """Say how tokens are chosen, and whether the setting names other beams than the strategy does."""
    config, own = recipe.config, recipe.strategy.beams
    wins = "" if own in (1, config.num_beams) else f"; the setting num_beams wins over the strategy's own {own}"
    beams = f"with {_counted(config.num_beams, 'beam', 'beams')}{wins}"
    if session.search is not None:
        return f"by a search of the strategy's own, {beams}"
    if config.num_beams > 1:
        return f"by beam search, {beams}"
    return "drawn at random" if config.do_sample else f"the best one each time{wins}"


def _cost(job: Job) -> Cost:
    """Count passes and rows as `mmhall.generation` makes them."""
    session, config = job.session, job.config
    plan = job.adapter.plan(session.ops, job.inputs)
    compared = session.reference is not None and plan is not None and bool(plan.compared)
    prompts = 1 + session.reread + compared + len(session.decoded)
    copies = 1 + len(session.decoded)
    apart = "cross" in job.adapter.kinds and not _alike(job, session)
    answers = config.num_beams if config.num_beams > 1 else config.num_return_sequences or 1
    rows = answers * copies * session.rows_a_beam
    return Cost(prompts, copies if apart else 1, rows, exact=session.search is None)


def _alike(job: Job, session: Session) -> bool:
    """Whether all inputs that are decoded have pictures, or none: only then can layers across be joined."""
    return all(has_picture(one.inputs) == has_picture(job.inputs) for one in session.decoded)


def _lines(told: Explanation) -> Iterator[str]:
    yield from _line("Strategy", told.strategy)
    yield from _line("Model", told.model)
    again = "" if told.reread == "nothing" else f"; {told.reread} is read twice"
    yield from _line("Prompt", f"{_length(told, told)}{again}")
    for number, one in enumerate(told.options):
        yield from _line("" if number else "Options", f"{one.name}={one.value!r}: {one.origin}")
    for number, op in enumerate(told.ops):
        yield from _line("" if number else "Steers", _of_op(op))
    for number, branch in enumerate(told.branches):
        how = "read in lock step with the prompt, not decoded" if branch.lockstep else "decoded beside the main rows"
        yield from _line("" if number else "Branches", f"{_length(branch, told)}; {how}")
        for op in branch.ops:
            yield from _line("", f"in it: {_of_op(op)}")
    for number, early in enumerate(told.exits):
        yield from _line("" if number else "Exits", early)
    if told.scores:
        yield from _line("Scores", f"made from {told.scores}")
    if not (told.ops or told.branches or told.exits or told.scores):
        yield from _line("Steers", "nothing: the plain model is decoded")
    yield from _line("Tokens", told.chooses)
    cost = told.cost
    most = "" if cost.exact else " at most, and more passes where the search wants them"
    yield from _line("Cost", f"the prompt: {_counted(cost.prompt_passes, 'pass', 'passes')} of one row")
    passes, rows = _counted(cost.token_passes, "pass", "passes"), _counted(cost.token_rows, "row", "rows")
    yield from _line("", f"each further token: {passes} of {rows}{' together' if cost.token_passes > 1 else ''}{most}")


def _of_op(op: OpNote) -> str:
    where = [f"{_layers(op.layers)} ({', '.join(op.kinds)})"] if op.layers else []
    where += [f"{_layers(op.vision_layers)} of the vision tower"] if op.vision_layers else []
    return f"{'; '.join([*op.does, *(f'in {one}' for one in where)])}. {op.says}".strip()


def _layers(layers: Sequence[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {format_layers(layers)}"


def _length(prompt: Explanation | BranchNote, told: Explanation) -> str:
    count = prompt.image_tokens
    pictures = f"{count} of them the picture's" if told.image_in_sequence else f"beside them {count} of the picture's"
    return f"{_counted(prompt.tokens, 'token', 'tokens')}, {pictures}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _line(head: str, text: str) -> list[str]:
    indent = " " * _HEAD
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{head:<{_HEAD}}", subsequent_indent=f"{indent}  ")
