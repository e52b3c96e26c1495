from __future__ import annotations

import pytest

from tests.decoders.rows import IN_SEQUENCE, check, vaf
from tests.generation.reference import QUIET

pytestmark = QUIET

EVERY = {0, 1, 2, 3}
VARIANTS = {
    "authors": ("layers='1:', alpha=0.15, beta=0.05", {"layers": EVERY - {0}, "alpha": 0.15, "beta": 0.05}),
    "strong": ("layers=':', alpha=1.5, beta=1", {"layers": EVERY, "alpha": 1.5, "beta": 1.0}),
    "visual": ("layers=':', heads='visual', alpha=0.6", {"layers": EVERY, "alpha": 0.6, "heads": "visual"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", IN_SEQUENCE)
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        def edit(reader, layer, scores):
            return vaf(reader, layer, scores, **options)

        return reader.logits(adapter.inputs([request]), answer[:-1], scores=edit).log_softmax(-1)

    check(name, f"vaf({given})", reference)
