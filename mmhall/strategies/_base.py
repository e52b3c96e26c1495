"""What a decoding strategy is: options as data, and a session per request.

A strategy is a frozen dataclass; the command line and result files read its fields. Its `prepare`
returns a `Session`, which wishes for a few kinds of things and is otherwise plain greedy.
Neutral options give an empty session, so that neutral equals greedy exactly.

Some options have no value that suits every model (which layers to steer, how strongly). They are left
open until a strategy meets its model: `Strategy.fitted` then fills them in, with what was tuned for this
model, else with what its paper published for it, else with a rule of thumb relative to its depth.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from mmhall.errors import CompositionError, OptionError
from mmhall.options import Configured, check_known, make, parse, rules, split
from mmhall.strategies._registry import STRATEGIES

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters import Adapter, Inputs
    from mmhall.attention import Exit, Op
    from mmhall.strategies._step import Step

Combine: TypeAlias = "Callable[[Step], Tensor]"
Search: TypeAlias = "Callable[[Any], Tensor]"  # of a `mmhall.generation.Decoding`
SEARCH = "the search"  # claimed by whoever decides how to search
TUNED = "tuned for this model"
GENERAL = "not tuned for this model: the general default"


@dataclass(frozen=True)
class Branch:
    """A further input of a session.

    Attributes:
        inputs: A batch of the same size as the main one.
        ops: What to read or steer in its own passes; they never see the main rows.
        lockstep: Read it once, in lock step with the main prompt, and do not decode it: in every layer, ops of the main
            rows find its head outputs in `Call.reference`. Otherwise it is decoded beside the main rows.
    """

    inputs: Inputs
    ops: Sequence[Op] = ()
    lockstep: bool = False


@dataclass(frozen=True)
class Session:
    """What one request wants from the decoding loop.

    Attributes:
        ops: What to read or steer in the main rows.
        branches: Further inputs; those that are decoded need `combine`.
        combine: Takes a `Step`; returns next-token scores, (rows, vocabulary), -inf where a token is out.
        exits: Inner layers whose log-probabilities `combine` finds in the step.
        reread: Read the last token of the prompt a second time, once ops have seen the whole prompt.
        search: Takes the place of greedy, sampling and beams: it gets the batch that has been read, and returns what
            `mmhall.generation.run` does.
        rows_a_beam: Rows that a search of its own decodes at most for each beam; what it costs is told by it.
        prompt_lengths: Of the main prompts, (batch,), where a search divides a score by the length of prompt and answer
            together; None: by that of the answer.
    """

    ops: Sequence[Op] = ()
    branches: Sequence[Branch] = ()
    combine: Combine | None = None
    exits: Sequence[Exit] = ()
    reread: bool = False
    search: Search | None = None
    rows_a_beam: int = 1
    prompt_lengths: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse branches nobody would read.

        Raises:
            CompositionError: There are such branches, two that are read in lock step, or inputs that are no `Branch`.
        """
        wrong = next((one for one in self.branches if not isinstance(one, Branch)), None)
        if wrong is not None:
            raise CompositionError(f"a session's branches are mmhall.Branch(inputs), got a {type(wrong).__name__}")
        if self.decoded and self.combine is None:
            raise CompositionError("a session has branches but no `combine` to read them with")
        if self.exits and self.combine is None and self.search is None:
            raise CompositionError("a session has exits but no `combine` to read them with")
        if self.reference is not None and not any(op.compares for op in self.ops):
            raise CompositionError(
                "a branch is to be read in lock step, and no op of the main rows compares with it; set "
                "`compares = True` in the op's class"
            )
        if self.combine is not None and not _takes_one(self.combine):
            raise CompositionError("a session's `combine` takes one argument, a step with `main` and `branches`")
        if sum(one.lockstep for one in self.branches) > 1:
            raise CompositionError("two branches are to be read in lock step with the prompt, and a run has one")

    @property
    def decoded(self) -> list[Branch]:
        """The branches that are decoded beside the main rows."""
        return [one for one in self.branches if not one.lockstep]

    @property
    def reference(self) -> Branch | None:
        """The branch that is read in lock step with the main prompt."""
        return next((one for one in self.branches if one.lockstep), None)

    @property
    def steers(self) -> bool:
        """Whether the main prompts are not read as the plain model reads them, or more is read than they need."""
        return bool(self.ops or self.exits or self.reread or self.reference is not None)


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        return True
    return True


@dataclass(frozen=True)
class Strategy(Configured):
    """A decoding method with its options.

    Attributes:
        beams: Beams where the user names no number.
        searches: Whether its sessions bring a search of their own.
        published: Options its paper gives for single models, by (model_type, decoder layers).
        claims: What it does that only one strategy of a composition can do, such as "the contrast".
        ways_out: How to write it so that it does not claim one of them, by claim.
    """

    beams: ClassVar[int] = 1
    searches: ClassVar[bool] = False
    published: ClassVar[Mapping[tuple[str, int], Mapping[str, Any]]] = {}
    claims: ClassVar[frozenset[str]] = frozenset()
    ways_out: ClassVar[Mapping[str, str]] = {}

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return what this request needs.

        Args:
            adapter: The model.
            inputs: The batch about to be decoded.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to prepare a request")

    def refusal(self, adapter: Adapter) -> str | None:
        """Say why a model cannot carry this strategy; None: it can."""
        return None

    @property
    def tuned_as(self) -> str:
        """The name under which options tuned for it are kept."""
        return self.name

    def fitted(self, adapter: Adapter) -> Strategy:
        """Return this strategy with a value for every option that depends on the model.

        Raises:
            CompositionError: The model cannot carry it.
            OptionError: An option does not fit the model.
        """
        reason = self.refusal(adapter)
        if reason is not None:
            raise CompositionError(f"{self.name}: {adapter.model.config.model_type} cannot carry it: {reason}")
        open_options = {name: value for name, (value, _) in self._filled(adapter).items()}
        return dataclasses.replace(self, **open_options) if open_options else self

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Say where each option that was left open gets its value from."""
        return {name: origin for name, (_, origin) in self._filled(adapter).items()}

    def _filled(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Return value and origin of each option that was left open."""
        family, depth = adapter.model.config.model_type, len(adapter.layers)
        tuned, published = adapter.tuned.get(self.tuned_as, {}), self.published.get((family, depth), {})
        filled = {}
        for option, rule in rules(type(self)).items():
            if getattr(self, option) is not None:
                continue
            if option in tuned:
                filled[option] = tuned[option], TUNED
            elif option in published:
                filled[option] = published[option], f"published for {family} with {depth} layers"
            else:
                filled[option] = rule.general, GENERAL
        return filled


@dataclass(frozen=True)
class Composed(Strategy):
    """Several strategies at once, as in "vhr+vcd".

    Attributes:
        parts: In the order they were given.
    """

    parts: tuple[Strategy, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be done twice.

        Raises:
            CompositionError: Two parts claim the same.
        """
        for index, part in enumerate(self.parts):
            for other in self.parts[:index]:
                for claim in sorted(part.claims & other.claims):
                    ways = "".join(f", or {one.ways_out[claim]}" for one in (other, part) if claim in one.ways_out)
                    raise CompositionError(
                        f"{other.name}+{part.name}: both want {claim}, and a run can have that once; "
                        f"use one of them{ways}"
                    )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The parts' names."""
        return "+".join(part.name for part in self.parts)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """As many as the part that searches wants."""
        return max(part.beams for part in self.parts)

    @property
    def searches(self) -> bool:  # type: ignore[override]
        """Whether a part does."""
        return any(part.searches for part in self.parts)

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """What the parts claim."""
        return frozenset().union(*(part.claims for part in self.parts))

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Put the parts' wishes together.

        Raises:
            CompositionError: Two parts wish for what a run can have once, whatever they claim.
        """
        sessions = [part.prepare(adapter, inputs) for part in self.parts]

        def only(what: str, wish: Callable[[Session], Any]) -> Any:
            found = [(part.name, wish(one)) for part, one in zip(self.parts, sessions, strict=True)]
            wishing = [(name, value) for name, value in found if value is not None]
            if len(wishing) > 1:
                names = "+".join(name for name, _ in wishing)
                raise CompositionError(f"{names}: both set a session's {what}, and a run has one; use one of them")
            return wishing[0][1] if wishing else None

        only("branch in lock step", lambda one: one.reference)
        return Session(
            ops=[op for one in sessions for op in one.ops],
            branches=[branch for one in sessions for branch in one.branches],
            combine=only("`combine`", lambda one: one.combine),
            exits=[wanted for one in sessions for wanted in one.exits],
            reread=any(one.reread for one in sessions),
            search=only("`search`", lambda one: one.search),
            rows_a_beam=max(one.rows_a_beam for one in sessions),
            prompt_lengths=only("`prompt_lengths`", lambda one: one.prompt_lengths),
        )

    @property
    def tuned_as(self) -> str:
        """The parts' names, sorted: tuning does not depend on their order."""
        return "+".join(sorted(part.name for part in self.parts))

    def fitted(self, adapter: Adapter) -> Strategy:
        """Fit each part; what was tuned for all of them together goes before what was tuned for one alone."""
        together = self._tuned_together(adapter)
        filled = [dataclasses.replace(part, **together[part.name]) for part in self.parts]
        return Composed(tuple(part.fitted(adapter) for part in filled))

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Say where open options get their values from, as "vhr.layers"."""
        together, told = self._tuned_together(adapter), {}
        for part in self.parts:
            for option, why in part.origins(adapter).items():
                joint = option in together[part.name]
                told[f"{part.name}.{option}"] = f"{TUNED}, as {self.tuned_as}" if joint else why
        return told

    def _tuned_together(self, adapter: Adapter) -> dict[str, dict[str, Any]]:
        """Return the values tuned for this composition, of each part's options that were left open."""
        tuned = adapter.tuned.get(self.tuned_as, {})
        return {
            part.name: {
                option: tuned[f"{part.name}.{option}"]
                for option, value in part.options().items()
                if value is None and f"{part.name}.{option}" in tuned
            }
            for part in self.parts
        }

    def options(self) -> dict[str, Any]:
        """Return each part's options by the part's name."""
        return {part.name: part.options() for part in self.parts}

    def __str__(self) -> str:
        """Write it as `strategy` reads it."""
        return "+".join(map(str, self.parts))


def strategy(spec: str | Strategy, **options: Any) -> Strategy:
    """Build a strategy by name.

    Args:
        spec: "vcd", "vcd(alpha=0.5, beta=0.2)", several as in "vhr+vcd", or a strategy, returned as it is.
        **options: Its options; they win over those in `spec`. Several strategies take theirs in `spec`.

    Raises:
        UnknownNameError: No such strategy or option.
        OptionError: An option is out of range or of the wrong type.
        CompositionError: These strategies cannot be combined.
    """
    if isinstance(spec, Composed) or (isinstance(spec, str) and len(split(spec)) > 1):
        if options:
            raise OptionError("strategy", "options", options, f"written into the parts of {str(spec)!r}")
        return spec if isinstance(spec, Composed) else Composed(tuple(_single(part, {}) for part in split(spec)))
    return _single(spec, options)


def _single(spec: str | Strategy, options: Mapping[str, Any]) -> Strategy:
    if not isinstance(spec, Strategy | str):
        raise OptionError("strategy", "strategy", spec, 'a name such as "vcd", or a strategy')
    if isinstance(spec, Strategy):
        check_known(type(spec), options)
        return dataclasses.replace(spec, **options) if options else spec
    import mmhall._transformers  # noqa: F401  refuses a version that no strategy can be imported with

    name, written = parse(spec)
    made: Strategy = make(STRATEGIES, name, {**written, **options})
    return made
