"""VAR against its formula written out, in every family; sinks that are found; what its weights keep and change."""

from __future__ import annotations

import pytest

from tests.decoders.rows import IN_SEQUENCE, SINKS, check, family, var
from tests.generation.reference import QUIET, REQUESTS

pytestmark = QUIET

VARIANTS = {
    "paper": ("layers=':'", {}),
    "release": ("layers='1:', keep=0.6", {"layers": {1, 2, 3}, "keep": 0.6}),
    "last row": ("layers=':', rows='last', keep=0.0", {"rows": "last", "keep": 0.0}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", IN_SEQUENCE)
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """Gemma 4's last layers see nothing of a prompt but its newest row, so no sinks of the picture."""
    given, changed = VARIANTS[variant]
    options = {"layers": {0, 1, 2, 3}, **changed}
    if name == "gemma4":
        options["layers"] = options["layers"] & {0, 1}
    reader = family(name)[1]
    reader.chosen.clear()
    reader.passed.clear()

    def reference(adapter, reader, index, answer):
        def edit(reader, layer, probs):
            return var(reader, layer, probs, **options)

        return reader.logits(adapter.inputs([REQUESTS[index]]), answer[:-1], probs=edit).log_softmax(-1)

    check(name, f"var({SINKS}, {given})", reference)
    assert reader.chosen
    assert reader.passed
