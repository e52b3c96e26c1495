"""Drawn scenes: pictures of COCO-named objects with known truth, made from a seed."""

from mmhall.benchmarks.scenes.dataset import Scene, make_scene, write_scenes

__all__ = ["Scene", "make_scene", "write_scenes"]
