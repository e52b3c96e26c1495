"""Evaluation of the embedded model for its model card: python -m mmhall.benchmarks.scenes.quality --out DIR.

Greedy answers on scenes of a seed outside training. Beside POPE and CHAIR it measures
why the model hallucinates: it compares absent *partners* of the picture's objects with other absent
categories, in captions and in yes/no questions, and replaces pictures by a blank one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import mmhall
from mmhall.benchmarks.base import series
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet, read_coco
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.pope import SUFFIX, Pope, parse_strict, question_about
from mmhall.benchmarks.report.sections import p_value
from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
from mmhall.benchmarks.scenes.world import NAMES, PARTNERS
from mmhall.images import ImageLike
from mmhall.lvlm import LVLM
from mmhall.results.statistics import Array, Resampler

BATCH = 32
GREY = (128, 128, 128)


def main() -> None:
    """Print every figure with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the scenes")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--conflict", type=float, default=1.0)
    options = parser.parse_args()
    list(write_scenes(options.out, options.scenes, options.seed, options.conflict))
    pictures = read_coco(options.out / ANNOTATIONS, options.out)
    lvlm = mmhall.load(options.model)
    captions = _benchmark(lvlm, Chair(), pictures)
    _benchmark(lvlm, Pope(), pictures)
    _causes_in_captions(pictures, captions)
    _causes_in_answers(lvlm, pictures)
    _compare_with_grey(lvlm, pictures, captions)


def answer(lvlm: LVLM, requests: Sequence[tuple[ImageLike | None, str]], max_new_tokens: int) -> list[str]:
    """Answer greedily, in batches."""
    texts: list[str] = []
    for start in range(0, len(requests), BATCH):
        batch = lvlm.generate_batch(requests[start : start + BATCH], max_new_tokens=max_new_tokens)
        texts += [a.text for a in batch]
    return texts


def _benchmark(lvlm: LVLM, benchmark: PictureBenchmark, pictures: PictureSet) -> list[str]:
    items = benchmark.items(pictures, seed=0)
    paths: dict[str | None, Path] = {p.id: p.path for p in pictures.pictures}
    texts = answer(lvlm, [(paths[i.picture], i.prompt) for i in items], benchmark.max_new_tokens)
    for group in benchmark.groups:
        chosen = [(item, text) for item, text in zip(items, texts, strict=True) if group in item.groups]
        counts = [benchmark.count(item, text) for item, text in chosen]
        resampler = Resampler([item.cluster for item, _ in chosen])
        for metric in benchmark.metrics:
            over, under = series(counts, metric.over), series(counts, metric.under)
            _print_estimate(
                f"{benchmark.name} {group} {metric.name}", resampler, over, under, 100 if metric.percent else 1
            )
    return texts


def _causes_in_captions(pictures: PictureSet, captions: Sequence[str]) -> None:
    """Compare the rate at which captions name absent partners with that of other absent categories."""
    rows = []
    for picture, caption in zip(pictures.pictures, captions, strict=True):
        named, partners = {m.name for m in mentions(caption)}, _absent_partners(picture.objects)
        others = set(NAMES) - partners - set(picture.objects)
        rows.append((len(named & partners), len(partners), len(named & others), len(others)))
    _compare("absent categories named in captions", rows, [p.id for p in pictures.pictures])


def _causes_in_answers(lvlm: LVLM, pictures: PictureSet) -> None:
    """Compare false yes answers for one absent partner and one other absent category in each picture."""
    rng, requests = random.Random(0), list[tuple[ImageLike | None, str]]()
    for picture in pictures.pictures:
        partners = _absent_partners(picture.objects)
        others = set(NAMES) - partners - set(picture.objects)
        requests += [(picture.path, question_about(rng.choice(sorted(kind))) + SUFFIX) for kind in (partners, others)]
    is_yes = [int(parse_strict(text) == "yes") for text in answer(lvlm, requests, 4)]
    rows = [(is_yes[i], 1, is_yes[i + 1], 1) for i in range(0, len(is_yes), 2)]
    _compare("false yes answers", rows, [p.id for p in pictures.pictures])


def _compare_with_grey(lvlm: LVLM, pictures: PictureSet, captions: Sequence[str]) -> None:
    """Ask for present objects with the picture and with a grey one; compare captions."""
    grey = Image.new("RGB", (224, 224), GREY)
    questions = [(p, question_about(name) + SUFFIX) for p in pictures.pictures for name in p.objects]
    resampler = Resampler([p.id for p, _ in questions])
    for what, requests in (
        ("the picture", [(p.path, q) for p, q in questions]),
        ("a grey picture", [(grey, q) for _, q in questions]),
    ):
        yes = np.array([parse_strict(text) == "yes" for text in answer(lvlm, requests, 4)], np.float64)
        _print_estimate(f"yes to present objects with {what}", resampler, yes, np.ones(len(yes)))
    blind = answer(lvlm, [(grey, Chair().items(pictures, 0)[0].prompt)], Chair.max_new_tokens)[0]
    print(f"captions that differ from the grey picture's: {sum(c != blind for c in captions)} of {len(captions)}")
    print(f"the grey picture's caption: {blind}")


def _absent_partners(objects: Sequence[str]) -> set[str]:
    return {partner for name in objects for partner in PARTNERS[name]} - set(objects)


def _compare(label: str, rows: Sequence[tuple[int, int, int, int]], clusters: Sequence[str]) -> None:
    partners, of_partners, others, of_others = np.array(rows, np.float64).T
    resampler = Resampler(clusters)
    _print_estimate(f"{label}: partners", resampler, partners, of_partners)
    _print_estimate(f"{label}: others", resampler, others, of_others)
    difference = resampler.difference(partners, of_partners, others, of_others)
    if difference is not None:
        value, low, high = (100 * v for v in (difference.value, difference.low, difference.high))
        print(f"{label}: difference {value:+.1f} [{low:+.1f}, {high:+.1f}] {p_value(difference.p)}")


def _print_estimate(label: str, resampler: Resampler, over: Array, under: Array, scale: float = 100) -> None:
    e = resampler.estimate(over, under)
    if e.value is None or e.low is None or e.high is None:
        print(f"{label}: n/a")
    else:
        value, low, high = (scale * v for v in (e.value, e.low, e.high))
        print(f"{label}: {value:.1f} [{low:.1f}, {high:.1f}] ({e.over:g}/{e.under:g})", flush=True)


if __name__ == "__main__":
    main()
