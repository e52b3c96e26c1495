from __future__ import annotations

import pytest
import torch

from tests.decoders.rows import IN_SEQUENCE, check, guided, pai
from tests.generation.reference import QUIET, REQUESTS

pytestmark = QUIET

EVERY = {0, 1, 2, 3}
VARIANTS = {
    "attention": ("alpha=0.5, gamma=1, layers=':'", {"alpha": 0.5, "layers": EVERY}, (1.0, 0.1)),
    "both": ("alpha=1.5, gamma=1.1, layers='1:'", {"alpha": 1.5, "layers": EVERY - {0}}, (1.1, 0.1)),
    "guidance": ("alpha=0, gamma=2.0, beta=0.02", {"layers": ()}, (2.0, 0.02)),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", IN_SEQUENCE)
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options, guidance = VARIANTS[variant]

    def reference(adapter, reader, index, answer):
        def edit(reader, layer, scores):
            return pai(reader, layer, scores, **options)

        request = REQUESTS[index]
        main = reader.logits(adapter.inputs([request]), answer[:-1], scores=edit)
        bare = adapter.without_image(adapter.inputs([request]))
        longer = adapter.extended(bare, torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.entry(longer)(**longer, use_cache=False).logits[0, -len(answer) :]
        return torch.stack([guided(*logits, *guidance) for logits in zip(main, other, strict=True)])

    check(name, f"pai({given})", reference)
