"""Base classes of decoding strategies: options as data, and a session for each request.

A strategy is a frozen dataclass; the command line and result files read its fields. Its `prepare` returns a `Session`,
which lists what the strategy reads and edits; an empty one is plain decoding. Neutral options give an empty session, so
that they equal greedy exactly.

Some options have no value that suits every model (which layers to steer, how strongly). They stay open until
`Strategy.fitted` meets the model: it takes the value tuned for this model, else the one published for it, else a
general default relative to the model's depth.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from mmhall.errors import CompositionError, OptionError
from mmhall.options import Configured, rules

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters import Adapter, Inputs, Request
    from mmhall.attention import Exit, Op
    from mmhall.strategies._step import Step

Combine: TypeAlias = "Callable[[Step], Tensor]"
Search: TypeAlias = "Callable[[Any], Tensor]"  # takes a `mmhall.generation.Decoding`
SEARCH = "the search"  # the claim of strategies that decide how to search
TUNED = "tuned for this model"
GENERAL = "not tuned for this model: the general default"


@dataclass(frozen=True)
class Branch:
    """A further input of a session.

    Attributes:
        inputs: A batch of the same size as the main one.
        ops: What to read or edit in its own passes; they never see the main rows.
        lockstep: Read it once, in lock step with the main prompt, and do not decode it: in each layer, ops of the main
            rows find its head outputs in `Call.reference`. Otherwise it is decoded beside the main rows.
    """

    inputs: Inputs
    ops: Sequence[Op] = ()
    lockstep: bool = False


@dataclass(frozen=True)
class Session:
    """What a strategy reads and edits while one request is decoded.

    Attributes:
        ops: What to read or edit in the main rows.
        branches: Further inputs; those that are decoded need `combine`.
        combine: Takes a `Step` and returns next-token scores, (rows, vocabulary), -inf for tokens ruled out.
        exits: Inner layers whose log-probabilities `combine` finds in the step.
        reread: Read the last token of the prompt a second time, after ops have seen the whole prompt.
        search: Replaces greedy decoding, sampling and beams: takes the batch after its prompts were read, and returns
            what `mmhall.generation.run` does.
        rows_a_beam: Most rows that a search of its own decodes for each beam, for the cost in `explain`.
        prepared_passes: Passes that `prepare` has made itself, or an answer asked for first, for the cost in `explain`.
        prompt_lengths: Lengths of the main prompts, (batch,), added to the length that divides a beam's score; None:
            the answer's length alone.
        notes: Texts that were made or chosen for a single request, by name, for display.
    """

    ops: Sequence[Op] = ()
    branches: Sequence[Branch] = ()
    combine: Combine | None = None
    exits: Sequence[Exit] = ()
    reread: bool = False
    search: Search | None = None
    rows_a_beam: int = 1
    prepared_passes: int = 0
    prompt_lengths: Tensor | None = None
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that each part has what it needs.

        Raises:
            CompositionError: Branches or exits have no `combine`, two branches are in lock step, or one is no `Branch`.
        """
        wrong = next((branch for branch in self.branches if not isinstance(branch, Branch)), None)
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
        if self.combine is not None and not _takes_one_argument(self.combine):
            raise CompositionError("a session's `combine` takes one argument, a step with `main` and `branches`")
        if sum(branch.lockstep for branch in self.branches) > 1:
            raise CompositionError("two branches are to be read in lock step with the prompt, and a run has one")

    @property
    def decoded(self) -> list[Branch]:
        """The branches that are decoded beside the main rows."""
        return [branch for branch in self.branches if not branch.lockstep]

    @property
    def reference(self) -> Branch | None:
        """The branch that is read in lock step with the main prompt."""
        return next((branch for branch in self.branches if branch.lockstep), None)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return what was measured and chosen in a single request, by name; see `mmhall.attention.Op.findings`.

        Like an op, `combine` and `search` may be objects with a method `findings`.

        Args:
            depth: Number of decoder layers.
        """
        sources = (getattr(part, "findings", None) for part in (*self.ops, self.combine, self.search))
        return {name: values for source in sources if source is not None for name, values in source(depth).items()}


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


@dataclass(frozen=True)
class Strategy(Configured):
    """A decoding method with its options.

    Attributes:
        beams: Number of beams unless the user sets one.
        searches: Whether its sessions have a search of their own.
        published: Options that its paper gives for single models, by (model_type, decoder layers).
        claims: What only one strategy of a composition can do, such as "the contrast".
        ways_out: How to write the strategy without a claim, by claim.
        controls: Options of its own controls, which run beside it where all strategies are run.
    """

    beams: ClassVar[int] = 1
    searches: ClassVar[bool] = False
    published: ClassVar[Mapping[tuple[str, int], Mapping[str, Any]]] = {}
    claims: ClassVar[frozenset[str]] = frozenset()
    ways_out: ClassVar[Mapping[str, str]] = {}
    controls: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def rewrite(self, request: Request) -> Request:
        """Return the request to ask instead of a request, with the same pictures; by default the same request.

        It is called before `prepare`, which gets the inputs of the rewritten requests. A strategy that rewrites leaves
        a request that it has rewritten as it is.
        """
        return request

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return what to read and edit for this request.

        Args:
            adapter: The model.
            inputs: The batch to be decoded.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to prepare a request")

    def refusal(self, adapter: Adapter) -> str | None:
        """Return why a model does not support this strategy; None: it does."""
        return None

    @property
    def tuned_as(self) -> str:
        """The name under which tuned options are stored."""
        return self.name

    def fitted(self, adapter: Adapter) -> Strategy:
        """Return this strategy with a value for every option that depends on the model.

        Raises:
            CompositionError: The model does not support it.
            OptionError: An option does not fit the model.
        """
        reason = self.refusal(adapter)
        if reason is not None:
            raise CompositionError(f"{self.name}: {adapter.model.config.model_type} cannot carry it: {reason}")
        open_options = {name: value for name, (value, _) in self._open_values(adapter).items()}
        return dataclasses.replace(self, **open_options) if open_options else self

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Return the provenance of each option that was left open."""
        return {name: origin for name, (_, origin) in self._open_values(adapter).items()}

    def _open_values(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Return value and provenance of each option that was left open."""
        family, depth = adapter.model.config.model_type, len(adapter.layers)
        tuned, published = adapter.tuned.get(self.tuned_as, {}), self.published.get((family, depth), {})
        values = {}
        for option, rule in rules(type(self)).items():
            if getattr(self, option) is not None:
                continue
            if option in tuned:
                values[option] = tuned[option], TUNED
            elif option in published:
                values[option] = published[option], f"published for {family} with {depth} layers"
            else:
                values[option] = rule.general, GENERAL
        return values


@dataclass(frozen=True)
class Composed(Strategy):
    """A composition of several strategies: Composed((Mine(), strategy("vcd"))), or by names "vhr+vcd".

    Attributes:
        parts: The strategies, not their names, in the given order.
    """

    parts: tuple[Strategy, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts, and that no two of them make the same claim.

        Raises:
            OptionError: A part is not a strategy.
            CompositionError: Two parts make the same claim.
        """
        for part in self.parts:
            if not isinstance(part, Strategy):
                raise OptionError("strategy", "parts", part, 'strategies such as mmhall.strategy("vcd"), not names')
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
        """The largest number of beams of the parts."""
        return max(part.beams for part in self.parts)

    @property
    def searches(self) -> bool:  # type: ignore[override]
        """Whether a part has a search of its own."""
        return any(part.searches for part in self.parts)

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The claims of all parts."""
        return frozenset().union(*(part.claims for part in self.parts))

    def rewrite(self, request: Request) -> Request:
        """Rewrite a request by each part in turn."""
        for part in self.parts:
            request = part.rewrite(request)
        return request

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Combine the sessions of the parts.

        Raises:
            CompositionError: Two parts set an attribute that a session has once.
        """
        sessions = [part.prepare(adapter, inputs) for part in self.parts]

        def only(what: str, get: Callable[[Session], Any]) -> Any:
            values = [(part.name, get(session)) for part, session in zip(self.parts, sessions, strict=True)]
            present = [(name, value) for name, value in values if value is not None]
            if len(present) > 1:
                names = "+".join(name for name, _ in present)
                raise CompositionError(f"{names}: both set a session's {what}, and a run has one; use one of them")
            return present[0][1] if present else None

        only("branch in lock step", lambda session: session.reference)
        return Session(
            ops=[op for session in sessions for op in session.ops],
            branches=[branch for session in sessions for branch in session.branches],
            combine=only("`combine`", lambda session: session.combine),
            exits=[early for session in sessions for early in session.exits],
            reread=any(session.reread for session in sessions),
            search=only("`search`", lambda session: session.search),
            rows_a_beam=max(session.rows_a_beam for session in sessions),
            prepared_passes=sum(session.prepared_passes for session in sessions),
            prompt_lengths=only("`prompt_lengths`", lambda session: session.prompt_lengths),
            notes={name: text for session in sessions for name, text in session.notes.items()},
        )

    @property
    def tuned_as(self) -> str:
        """The parts' names, sorted: tuned options do not depend on their order."""
        return "+".join(sorted(part.name for part in self.parts))

    def fitted(self, adapter: Adapter) -> Strategy:
        """Fit each part; values tuned for the whole composition win over those tuned for one part."""
        together = self._tuned_together(adapter)
        parts = [dataclasses.replace(part, **together[part.name]) for part in self.parts]
        return Composed(tuple(part.fitted(adapter) for part in parts))

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Return the provenance of open options, by names such as "vhr.layers"."""
        together, origins = self._tuned_together(adapter), {}
        for part in self.parts:
            for option, origin in part.origins(adapter).items():
                joint = option in together[part.name]
                origins[f"{part.name}.{option}"] = f"{TUNED}, as {self.tuned_as}" if joint else origin
        return origins

    def _tuned_together(self, adapter: Adapter) -> dict[str, dict[str, Any]]:
        """Return the values tuned for this composition, for each part's open options."""
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
        """Write the composition as `strategy` reads it."""
        return "+".join(map(str, self.parts))
