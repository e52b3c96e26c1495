"""Train an embedded model: python -m mmhall.benchmarks.scenes.train --work DIR --out DIR --model plain|prior.

A stopped run goes on from its last checkpoint. See each stage's module for what it learns. The model prior starts from
the plain one, which is trained first, or taken from a folder with --start.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.train import decoder, prior, vision
from mmhall.benchmarks.scenes.train.architecture import make_model, make_processor, make_tokenizer
from mmhall.benchmarks.scenes.train.loop import device
from mmhall.benchmarks.scenes.train.pictures import pictures

MODELS = ("plain", "prior")
PICTURES = {"random": 60_000, "typical": 16_000, "hard": 14_000}
CLAIMS = 0.45  # final rate of claims about absent things; reached after a third of the joint training
STEPS = {"symbols": 1500, "vision": 1600, "projector": 400, "joint": 1600, "prior": 800}

Trained = tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]


def main() -> None:
    """Run the stages in order."""
    options = _parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = {stage: max(1, round(count * options.scale)) for stage, count in STEPS.items()}
    trained = _load(options.start) if options.start else _train_plain(options.work, steps, options.until)
    if trained is None:
        return
    if options.model == "prior":
        data = pictures(options.work / "pictures", "hard", PICTURES["hard"])
        trained = prior.train(*trained, data, options.work, steps["prior"], options.seed)
    model, tokenizer = trained
    model.half().cpu().save_pretrained(options.out)
    make_processor(tokenizer).save_pretrained(options.out)
    print(f"saved to {options.out}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="pictures and checkpoints (about 5 GB)")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model goes")
    parser.add_argument("--model", choices=MODELS, default="plain", help="which model to train")
    parser.add_argument("--start", type=Path, help="folder of a plain model to start prior from")
    parser.add_argument("--seed", type=int, default=0, help="seed of the stage prior; the plain model has one seed")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--until", choices=("symbols", "vision", "end"), default="end", help="stop after this stage")
    options = parser.parse_args()
    if options.start and options.model == "plain":
        parser.error("--start gives the plain model, which has nothing to start from; add --model prior")
    return options


def _load(folder: Path) -> Trained:
    """Load a plain model to start from, float32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _train_plain(work: Path, steps: dict[str, int], until: str) -> Trained | None:
    """Run the stages of the plain model; None when it stops after one of them."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).to(device())
    head = vision.new_head()
    decoder.train_on_symbols(model, tokenizer, work, steps["symbols"])
    if until == "symbols":
        return None
    data = pictures(work / "pictures", "random", PICTURES["random"])
    vision.train(model, head, data, work, steps["vision"])
    if until == "vision":
        return None
    data = pictures(work / "pictures", "typical", PICTURES["typical"])
    decoder.fit_projector(model, head, tokenizer, data, work, steps["projector"])
    decoder.train_jointly(model, tokenizer, data, work, steps["joint"], decoder.claiming_talk(CLAIMS))
    return model, tokenizer


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
