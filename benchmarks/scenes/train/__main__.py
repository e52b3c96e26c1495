"""Train the embedded model: python -m mmhall.benchmarks.scenes.train --work DIR --out DIR.

A stopped run goes on from its last checkpoint. See each stage's module for what it learns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mmhall.benchmarks.scenes.train import decoder, vision
from mmhall.benchmarks.scenes.train.architecture import make_model, make_processor, make_tokenizer
from mmhall.benchmarks.scenes.train.loop import device
from mmhall.benchmarks.scenes.train.pictures import pictures

PICTURES = {"random": 60_000, "typical": 16_000}
CLAIMS = 0.45  # final rate of claims about absent things; reached after a third of the joint training
STEPS = {"symbols": 1500, "vision": 1600, "projector": 400, "joint": 1600}


def main() -> None:
    """Run the stages in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="pictures and checkpoints (about 4 GB)")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model goes")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--until", choices=(*STEPS, "end"), default="end", help="stop after this stage")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = {stage: max(1, round(count * options.scale)) for stage, count in STEPS.items()}

    tokenizer = make_tokenizer()
    model = make_model(tokenizer).to(device())
    head = vision.new_head()
    decoder.train_on_symbols(model, tokenizer, options.work, steps["symbols"])
    if options.until == "symbols":
        return
    data = pictures(options.work / "pictures", "random", PICTURES["random"])
    vision.train(model, head, data, options.work, steps["vision"])
    if options.until == "vision":
        return
    data = pictures(options.work / "pictures", "typical", PICTURES["typical"])
    decoder.fit_projector(model, head, tokenizer, data, options.work, steps["projector"])
    decoder.train_jointly(model, tokenizer, data, options.work, steps["joint"], lambda done: min(CLAIMS, 1.5 * done))
    model.half().cpu().save_pretrained(options.out)
    make_processor(tokenizer).save_pretrained(options.out)
    print(f"saved to {options.out}")


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
