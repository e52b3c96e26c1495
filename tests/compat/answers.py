"""What the embedded model says, by every strategy and in every way of asking: `python -m tests.compat.answers FILE`."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mmhall
from mmhall.adapters._base import Request
from mmhall.benchmarks.scenes.dataset import write_scenes
from mmhall.decoders import STRATEGIES
from mmhall.errors import MmhallError
from mmhall.images import open_image
from tests.clip import ensure_clip
from tests.decoders.fitted import with_artifacts

PROMPTS = ("Please describe this image in detail.", "Is there a dog in the image?")
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 3, "temperature": 0.9, "top_p": 0.95},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "uncertainty": {"uncertainty": True},
}
MOST = 32  # new tokens

Said = dict[str, Any]


def ways_of(spec: str) -> dict[str, dict[str, Any]]:
    """Return the ways in which a strategy can be asked: one that searches draws no tokens."""
    method = mmhall.strategy(spec)
    searches = method.searches or method.beams > 1
    return {way: asked for way, asked in WAYS.items() if not searches or way != "sampled"}


def answers(lvlm: mmhall.LVLM, spec: str, picture: Path) -> dict[str, Said]:
    """Ask about one picture in all ways."""
    said: dict[str, Said] = {}
    for way, asked in ways_of(spec).items():
        found = lvlm.generate_batch([(picture, prompt) for prompt in PROMPTS], spec, max_new_tokens=MOST, **asked)
        said[way] = {
            "tokens": [one.token_ids for answer in found for one in (answer, *answer.others)],
            "figures": [value for answer in found if answer.uncertainty for value in answer.uncertainty.logprobs],
        }
    trace = lvlm.trace(picture, PROMPTS[0], spec, max_new_tokens=MOST)
    shares = [*trace.image_share.mean(dim=(1, 2)).tolist(), *trace.saliency().tolist()]
    said["trace"] = {"tokens": trace.answer.token_ids, "figures": shares}
    said["custom_generate"] = {"tokens": called(lvlm, spec, picture), "figures": []}
    return said


def called(lvlm: mmhall.LVLM, spec: str, picture: Path) -> list[Any]:
    """Return the tokens that `generate` finds with a strategy, or why it cannot."""
    inputs = lvlm.adapter.inputs([Request(PROMPTS[0], (open_image(picture),))])
    custom = mmhall.custom_generate(spec, processor=lvlm.processor)
    try:
        rows = lvlm.model.generate(**inputs, max_new_tokens=MOST, custom_generate=custom)
    except MmhallError as refused:
        return [str(refused)]
    tokens: list[int] = rows[0, inputs["input_ids"].shape[1] :].tolist()
    return tokens


def main(path: Path) -> None:
    """Write all answers to a file."""
    warnings.simplefilter("error")  # whatever transformers deprecates must not reach a user
    lvlm = mmhall.load("embedded", device="cpu")
    with_artifacts(lvlm.adapter)
    with tempfile.TemporaryDirectory() as folder:
        for _ in write_scenes(Path(folder), 1, 7, 0.5):
            pass
        (picture,) = Path(folder).glob("*.png")
        specs = {name: name for name in STRATEGIES.names()} | {
            "cgd": f"cgd(clip={str(ensure_clip())!r})",
            "halc": f"halc(clip={str(ensure_clip())!r}, detector='truth:{folder}/annotations.json')",
        }
        told = {name: answers(lvlm, spec, picture) for name, spec in specs.items()}
    path.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
