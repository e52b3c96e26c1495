"""A tiny random CLIP, saved as open_clip saves one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CLIP = Path(__file__).parents[1] / "build" / "tests" / "clip-1"
"""Where the tests' CLIP lies: known before it is there, and to all processes that run tests alike."""

CONTEXT = 20


def make_clip(folder: Path, *, seed: int = 0, text: dict[str, Any] | None = None, tokenizer: Any = None) -> Path:
    """Make a model whose agreement differs from text to text.

    Args:
        folder: To make.
        seed: Of the weights.
        text: More of the text tower's configuration.
        tokenizer: A transformers tokenizer; None: CLIP's own, which ships with open_clip.
    """
    import open_clip

    folder.mkdir(parents=True)
    words = {"vocab_size": 49408}
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        words = {"vocab_size": len(tokenizer), "hf_tokenizer_name": "tiny", "no_causal_mask": True, "pool_type": "last"}
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": CONTEXT, "width": 8, "heads": 2, "layers": 2, **words, **(text or {})},
    }
    shown = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    told = {"model_cfg": config, "preprocess_cfg": shown}
    (folder / "open_clip_config.json").write_text(json.dumps(told), encoding="utf-8")
    torch.manual_seed(seed)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
        model.token_embedding.weight.mul_(20)
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def ensure_clip() -> Path:
    """Return `CLIP`, made if it is not there; see `ensure_made`."""
    return ensure_made(CLIP, make_clip)


def ensure_made(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder, made if it is not there; several processes may want it at once."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        make(made / "new")
        try:
            os.rename(made / "new", folder)  # noqa: PTH104
        except OSError:
            if not folder.is_dir():
                raise
        shutil.rmtree(made)
    return folder
