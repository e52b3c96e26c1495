"""Train an embedded model: python -m mmhall.benchmarks.scenes.train --work DIR --out DIR --model NAME.

NAME is plain, prior or mechanisms. A stopped run goes on from its last checkpoint. See each stage's module for what it
learns. The model prior starts from the plain one and mechanisms from prior; these are trained first, or taken from a
folder with --start.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.train import decoder, mechanisms, prior, vision
from mmhall.benchmarks.scenes.train.architecture import make_model, make_processor, make_tokenizer
from mmhall.benchmarks.scenes.train.loop import device
from mmhall.benchmarks.scenes.train.pictures import pictures

MODELS = ("plain", "prior", "mechanisms")
PICTURES = {"random": 60_000, "typical": 16_000, "hard": 14_000}
CLAIMS = 0.45  # final rate of claims about absent things; reached after a third of the joint training
STEPS = {"symbols": 1500, "vision": 1600, "projector": 400, "joint": 1600, "prior": 800, "mechanisms": 400}

Trained = tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]


def main() -> None:
    """Run the stages in order."""
    options = _parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = {stage: max(1, round(count * options.scale)) for stage, count in STEPS.items()}
    trained = _load(options.start, options.model) if options.start else _train_plain(options.work, steps, options.until)
    if trained is None:
        return
    if options.model != "plain":
        data = pictures(options.work / "pictures", "hard", PICTURES["hard"])
        if not _is_deep(trained[0]):
            trained = prior.train(*trained, data, options.work, steps["prior"], options.seed)
        if options.model == "mechanisms":
            mechanisms.train(*trained, data, options.work, steps["mechanisms"], options.seed)
    model, tokenizer = trained
    model.half().cpu().save_pretrained(options.out)
    make_processor(tokenizer).save_pretrained(options.out)
    print(f"saved to {options.out}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="pictures and checkpoints (about 5 GB)")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model goes")
    parser.add_argument("--model", choices=MODELS, default="plain", help="which model to train")
    parser.add_argument("--start", type=Path, help="folder of a trained plain model, or prior, to start from")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the stages prior and mechanisms; the plain model has one"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--until", choices=("symbols", "vision", "end"), default="end", help="stop after this stage")
    options = parser.parse_args()
    if options.start and options.model == "plain":
        parser.error("--start is for models that start from another one; add --model prior or mechanisms")
    return options


def _is_deep(model: LlavaForConditionalGeneration) -> bool:
    """Whether a model is prior already."""
    return len(model.model.language_model.layers) >= prior.LAYERS


def _load(folder: Path, wanted: str) -> Trained:
    """Load a trained model to start from, float32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if wanted == "prior" and _is_deep(model):
        raise SystemExit(f"--start {folder}: is as deep as prior already; prior starts from the plain model")
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
