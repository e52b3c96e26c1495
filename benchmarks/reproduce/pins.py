"""Pinned revisions of weights and data on the Hugging Face hub.

A revision is a commit that several public repositories name for their own experiments. Where none is known, the table
says None: the first run then asks the hub for its current commit, writes it to the run folder, and later runs stay
with it.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True, slots=True)
class Pin:
    """What is known of a repository on the hub.

    Attributes:
        revision: Commit, 40 hex digits; None: not known.
        size: Bytes to download; None: not known.
        gated: Whether the hub asks a user to accept a licence first.
    """

    revision: str | None
    size: int | None = None
    gated: bool = False


MODELS = {
    "llava-hf/llava-1.5-7b-hf": Pin("b234b804b114d9e37bb655e11cbbb5f5e971b7a9", int(14.1 * GB)),
    "llava-hf/llava-v1.6-vicuna-7b-hf": Pin("c916e6cdcd760b4cecd1dd4907f84ac649f93b23", int(14.1 * GB)),
    "Qwen/Qwen2.5-VL-7B-Instruct": Pin("cc594898137f460bfe9f0759e9844b3ce807cfb5", int(16.6 * GB)),
    "OpenGVLab/InternVL3-8B-hf": Pin("259a3b64a14623c0ec91a045cb43f7c5af5fa6af", int(15.9 * GB)),
    "google/gemma-3-12b-it": Pin("96b6f1eccf38110c56df3a15bffe176da04bfd80", int(24.4 * GB), gated=True),
}
DATASETS = {
    "lmms-lab-encoder/POPE": Pin("4db1276663dfa5eb8ad16a52d24c31a09e470896", 255 * 10**6),
    "tsunghanwu/mscoco_chair": Pin(None),
}
