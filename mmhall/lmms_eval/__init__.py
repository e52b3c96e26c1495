"""The plug-in for lmms-eval: its tasks, answered with our strategies; see docs/lmms-eval.md.

lmms-eval finds `manifest` through the entry point "mmhall" of its group "lmms_eval.models". Only `model` imports
lmms-eval itself; mmhall does not depend on it.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Tell lmms-eval which class answers to `--model mmhall`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mmhall", simple_class_path="mmhall.lmms_eval.model.Mmhall")
