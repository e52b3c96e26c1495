"""Options that name layers, with the same meaning in models of different depth.

"1, 18:32" names layers as Python slices do: the second, and those from the nineteenth to the thirty-second.
"2:-1" leaves out the last one. Percentages are shares of the depth: "50%:" is the later half, "37%:71%" of 32 layers is
12 to 22 (layers that begin in that part of the model), and "35%" the layer at that depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from mmhall.errors import OptionError
from mmhall.options import by_model

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.strategies import Strategy

_END = r"-?\d{1,4}|\d{1,2}(?:\.\d{1,4})?%|100%"
_PART = re.compile(rf"\s*(?:(?P<one>{_END})|(?P<low>{_END})?:(?P<high>{_END})?)\s*")
EXPECTED = 'layers such as "1, 18:32", "2:-1" or "50%:"'


def is_layer_spec(spec: str) -> bool:
    """Whether a text is a valid layer option; a range must not end before it begins."""
    for part in spec.split(","):
        match = _PART.fullmatch(part)
        low, high = match.group("low", "high") if match else (None, None)
        if match is None or (low and high and low[-1] == high[-1] == "%" and _share(low) > _share(high)):
            return False
    return True


def parse_layers(spec: str, kinds: Sequence[str], usable: Collection[str], owner: str, option: str) -> frozenset[int]:
    """Return the layers named by an option.

    Args:
        spec: The value of the option.
        kinds: The kind of each layer of the model.
        usable: Kinds that can be steered; layers of other kinds are left out.
        owner: The strategy's name, for error messages.
        option: The option's name, for error messages.

    Raises:
        OptionError: The model has no such layer, or none that can be steered.
    """
    depth, chosen = len(kinds), set[int]()
    for part in spec.split(","):
        chosen |= _of_part(part, depth, owner, option)
    attending = [layer for layer, kind in enumerate(kinds) if kind in usable]
    left = chosen & set(attending)
    if not left and "%" in spec and attending and chosen:
        left = {min(attending, key=lambda layer: abs(layer - min(chosen)))}
    if not left:
        raise OptionError(owner, option, spec, f"among layers of this model that attend so: {format_layers(attending)}")
    return frozenset(left)


def format_layers(layers: Collection[int]) -> str:
    """Format layers as `parse_layers` reads them: {1, 4, 5, 6} as "1, 4:7"."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}:{run[-1] + 1}" for run in runs)


def _of_part(part: str, depth: int, owner: str, option: str) -> set[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise OptionError(owner, option, part, EXPECTED)
    one, low, high = match.group("one", "low", "high")
    if one is not None:
        at = math.floor(_share(one) * depth) if "%" in one else int(one)
        at = min(at, depth - 1) if "%" in one else at
        if not -depth <= at < depth:
            raise OptionError(owner, option, part.strip(), f"a layer from 0 to {depth - 1} of this model")
        return {at % depth}
    ends = [math.ceil(_share(end) * depth) if "%" in (end or "") else end for end in (low, high)]
    for end in (low, high):
        if end and "%" not in end and not -depth <= int(end) <= depth:
            raise OptionError(owner, option, part.strip(), f"within the {depth} layers of this model")
    start, stop = (None if end is None else int(end) for end in ends)
    layers = set(range(depth)[start:stop])
    if not layers and "%" in part and all(end is None or end[0] == "-" or end[-1] == "%" for end in (low, high)):
        return {min(start or 0, depth - 1)}  # in a shallow model no layer may begin in that part
    return layers


def _share(percent: str) -> Fraction:
    return Fraction(percent.rstrip("%")) / 100


def layers_option(general: str, **rule: Any) -> Any:
    """Declare an option that names layers and depends on the model.

    Args:
        general: Default for models without a tuned or published value. "1, 18:32" names layers as Python slices do,
            0-based; "33%:67%" those that begin in that part of the depth, "35%" the one there.
        **rule: Further attributes of `mmhall.options.Rule`, such as tries.
    """
    return by_model(general, holds=is_layer_spec, expected=EXPECTED, **rule)


def select_layers(
    adapter: Adapter,
    owner: Strategy,
    option: str,
    spec: str,
    kinds: Collection[str] | None = None,
    *,
    whole: bool = False,
) -> frozenset[int]:
    """Return the layers named by a strategy's option, among those that attend to picture and text together.

    Where a share of the depth names no such layer, as in a shallow model, the nearest one is returned.

    Args:
        adapter: The model.
        owner: The strategy, for error messages.
        option: Name of the option, for error messages.
        spec: Value of the option; see `layers_option`.
        kinds: Kinds of layers that can be steered; None: those that hold image columns.
        whole: Leave out layers that get only the newest row of a prompt.

    Raises:
        OptionError: The model has no such layer, or none that can be steered.
    """
    layer_kinds = ["newest" if whole and i in adapter.newest_only else kind for i, kind in enumerate(adapter.kinds)]
    return parse_layers(spec, layer_kinds, adapter.image_kinds if kinds is None else kinds, owner.name, option)


def select_tower_layers(adapter: Adapter, owner: Strategy, option: str, spec: str) -> frozenset[int]:
    """Return the encoder layers of the vision tower named by a strategy's option; arguments as in `select_layers`.

    Raises:
        OptionError: The tower has no such layer.
        ModelError: There is no vision tower with encoder layers.
    """
    depth = len(adapter.anatomy.vision.layers)
    return parse_layers(spec, ("vision",) * depth, {"vision"}, owner.name, option)
