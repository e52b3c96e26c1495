"""The plug-in for lmms-eval: answers its tasks with the strategies of mmhall; see docs/lmms-eval.md.

lmms-eval finds `manifest` through the entry point "mmhall" of its group "lmms_eval.models". Only `model` imports
lmms-eval itself; mmhall does not depend on it.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the manifest with which lmms-eval finds the class of `--model mmhall`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mmhall", simple_class_path="mmhall.lmms_eval.model.Mmhall")
