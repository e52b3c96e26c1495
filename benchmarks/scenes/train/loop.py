"""One training loop for every stage: schedule, optimisers, checkpoints that resume, a log line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn


def device() -> torch.device:
    """Return the GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run(
    name: str,
    modules: nn.ModuleDict,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    folder: Path,
    steps: int,
    rate: float,
    slow: Iterable[nn.Parameter] = (),
    checkpoint_every: int = 150,
) -> None:
    """Train `modules` in place; a second call continues from the last checkpoint.

    Matrices inside the transformer blocks are trained by Muon, everything else by AdamW; both follow
    a short warm-up and a cosine down to a twentieth of the rate. Muon needs torch 2.9 or newer.

    Args:
        name: Names the checkpoint and the log lines.
        modules: What is trained; parameters that need no gradient are left alone.
        loss_of: Step number to (loss, figures to log).
        folder: Where the checkpoint goes.
        steps: How many optimiser steps.
        rate: Peak learning rate.
        slow: Parameters that get a tenth of the rate.
        checkpoint_every: Steps between checkpoints.
    """
    path = folder / f"{name}.pt"
    optimisers = _optimisers(modules, rate, slow)
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=device())
        modules.load_state_dict(saved["modules"])
        start = saved["step"]
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            if start < steps:
                optimiser.load_state_dict(state)
    began, figures = time.monotonic(), dict[str, list[float]]()
    for step in range(start, steps):
        scale = min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        loss, extra = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in modules.parameters() if p.grad is not None], 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for key, value in {"loss": float(loss.detach()), **extra}.items():
            figures.setdefault(key, []).append(value)
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - start)
            means = "  ".join(f"{key} {sum(v) / len(v):.3f}" for key, v in figures.items())
            print(
                f"{name} {step + 1}/{steps}  {means}  {pace:.2f} s/step, {pace * (steps - step - 1) / 60:.0f} min left",
                flush=True,
            )
            figures.clear()
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            torch.save(
                {"modules": modules.state_dict(), "step": step + 1, "optimisers": [o.state_dict() for o in optimisers]},
                path.with_suffix(".tmp"),
            )
            path.with_suffix(".tmp").rename(path)


def _optimisers(modules: nn.ModuleDict, rate: float, slow: Iterable[nn.Parameter]) -> list[torch.optim.Optimizer]:
    slow_ids = {id(p) for p in slow}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 2 and "layers." in name
            groups.setdefault((matrix, id(parameter) in slow_ids), []).append(parameter)

    def settings(matrix: bool) -> list[dict[str, object]]:
        return [
            {"params": parameters, "lr": (peak := rate * (0.1 if is_slow else 1.0)), "peak": peak}
            for (is_matrix, is_slow), parameters in groups.items()
            if is_matrix == matrix
        ]

    chosen: list[torch.optim.Optimizer] = []
    if settings(True):
        chosen.append(torch.optim.Muon(settings(True), weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
    if settings(False):
        chosen.append(torch.optim.AdamW(settings(False), betas=(0.9, 0.98), weight_decay=0.01))
    return chosen
