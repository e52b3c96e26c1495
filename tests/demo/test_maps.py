"""Maps of what a strategy found, and how they are described to readers who do not see them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from mmhall.demo.maps import draw_findings


def test_each_kind_of_finding_is_drawn_and_described(embedded, pictures):
    """Deco reads the inputs of two layers here, and resdec has one value for each token; both are by token."""
    for spec, name in (("deco(layers='2:4')", "added layers"), ("resdec", "earlier steps")):
        trace = embedded.trace(pictures[0], "Is there a dog?", spec, max_new_tokens=3)
        (shown,) = draw_findings(trace)
        assert shown["title"].lower() == name
        assert shown["image"].startswith("data:image/")
        values = trace.findings[name].flatten(1)
        for token, row in zip(trace.answer.tokens, values, strict=True):
            value = row[0] if len(row) == 1 else row.nan_to_num(-math.inf).argmax()
            assert f"{token.strip()}: {int(value)}" in shown["alt"]
    heads = torch.full((4, 2), math.nan)
    heads[1:3] = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
    gains = draw_findings(replace(trace, findings={"head gains": heads, "smoothing": heads[:, :1]}))
    assert [one["alt"] for one in gains] == [
        "head gains by layer and head, in layers 1 to 2: 2 heads at 3",
        "smoothing by layer: 1: 1, 2: 3",
    ]
    assert draw_findings(replace(trace, findings={"earlier steps": torch.empty(0, 1, 1)})) == []
