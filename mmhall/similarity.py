"""Semantic similarity of two texts, by a sentence encoder or cross-encoder of transformers, or by their content words.

A cross-encoder reads both texts at once: a classifier with one output, whose sigmoid is the similarity (as of the
models "cross-encoder/stsb-..."). An encoder reads each alone: the cosine between the means of its last states over the
tokens, at least 0. Weights are read from safetensors files only, and no code of a model's folder is run. Only hub ids
reach the network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from mmhall.errors import GenerationError, MmhallError, ModelError
from mmhall.models import UNLOADABLE, find_model_path, hint_for, reason_of
from mmhall.words import content_words

JACCARD = "jaccard"
SIMILARITY_NAMES = (
    'the folder or hub id of a sentence encoder or cross-encoder of transformers, such as "cross-encoder/'
    'stsb-roberta-large" or "sentence-transformers/all-MiniLM-L6-v2", or "jaccard" for the overlap of content words'
)
"""The allowed names of a similarity, in words."""

_AT_ONCE = 64  # texts or pairs a pass
_UNUSED = ("pooler.",)  # weights that a mean of states does not need


def is_similarity_name(name: str) -> bool:
    """Whether a text can name a similarity: "jaccard", or a name with a slash or backslash."""
    return name == JACCARD or "/" in name or "\\" in name


class Similarity(Protocol):
    """Compares the meaning of texts."""

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the similarity of each pair of texts, in [0, 1]; 1: they mean the same."""
        ...


def load_similarity(name: str, device: str | torch.device = "cpu") -> Similarity:
    """Load a similarity; models, in float32, that were loaded before are cached.

    Args:
        name: One of `SIMILARITY_NAMES`; only a hub id reaches the network.
        device: Device of the model.

    Raises:
        ModelError: There is none of that name, or it cannot be loaded.
    """
    if not is_similarity_name(name):
        raise ModelError(f"{name!r} names no similarity of texts; give {SIMILARITY_NAMES}")
    if name == JACCARD:
        return Jaccard()
    with _LOADING:
        return _load_model(name, str(device))


@dataclass(frozen=True, slots=True)
class Jaccard:
    """The overlap of two texts' content words: those of both over those of either; 1 where neither has any."""

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the similarity of each pair of texts.

        "a red dog" and "the dog runs" have dog in common, of red, dog and runs: 1/3.
        """
        return [_overlap(content_words(one), content_words(other)) for one, other in pairs]


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A model with its tokenizer, safe for several threads.

    Attributes:
        name: The name it was loaded by.
        model: The model.
        tokenizer: Its tokenizer.
        lock: Held while the tokenizer is used: a fast tokenizer cannot be set up by two threads at once.
    """

    name: str
    model: Any
    tokenizer: Any
    lock: threading.Lock

    def outputs(self, *texts: Sequence[str]) -> Iterator[tuple[Any, Tensor]]:
        """Yield the model's outputs for texts or pairs of texts, and the attention mask, batch by batch.

        Raises:
            GenerationError: A text is longer than the model's context, or the model fails.
        """
        for start in range(0, len(texts[0]), _AT_ONCE):
            part = [list(side[start : start + _AT_ONCE]) for side in texts]
            with self.lock:
                inputs = self.tokenizer(*part, padding=True, padding_side="right", return_tensors="pt")
            length, context = inputs["input_ids"].shape[1], self._context()
            if length > context:
                raise GenerationError(
                    f"{self.name}: reads at most {context} tokens, and texts to compare have {length}; name a model "
                    "with a longer context, or limit the length of answers"
                )
            try:
                with torch.no_grad():
                    yield self.model(**inputs.to(self.model.device)), inputs["attention_mask"]
            except UNLOADABLE as error:
                raise GenerationError(f"{self.name}: fails on texts to compare: {reason_of(error)}") from error

    def _context(self) -> int:
        positions = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return min(int(positions), int(self.tokenizer.model_max_length))


@dataclass(frozen=True, slots=True, eq=False)
class CrossEncoder(_Model):
    """A classifier of pairs of texts with one output."""

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the sigmoid of the model's output for each pair of texts.

        Raises:
            GenerationError: As `outputs`.
        """
        ones, others = [one for one, _ in pairs], [other for _, other in pairs]
        return [float(value) for out, _ in self.outputs(ones, others) for value in out.logits[:, 0].float().sigmoid()]


@dataclass(frozen=True, slots=True, eq=False)
class Encoder(_Model):
    """A model that embeds texts."""

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the cosine between the embeddings of each pair of texts, at least 0.

        Raises:
            GenerationError: As `outputs`.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: at for at, text in enumerate(texts)}
        if not texts:
            return []
        means = torch.cat([_mean(out.last_hidden_state, mask) for out, mask in self.outputs(texts)])
        unit = torch.nn.functional.normalize(means, dim=-1)
        return [float((unit[place[one]] @ unit[place[other]]).clamp(0, 1)) for one, other in pairs]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of states over tokens, (texts, size) float32 on the CPU; a text without tokens has 0."""
    weights = mask[:, :, None].to(states.device, torch.float32)
    return ((states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)).cpu()


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    either = one | other
    return len(one & other) / len(either) if either else 1.0


_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _load_model(name: str, device: str) -> CrossEncoder | Encoder:
    """Load a cross-encoder if its configuration names a classifier, else an encoder."""
    import transformers

    source = str(find_model_path(name))
    try:
        with torch.inference_mode(False):  # inference tensors could not be used outside
            config = transformers.AutoConfig.from_pretrained(source)
            crossed = any("SequenceClassification" in kind for kind in config.architectures or ())
            if crossed and config.num_labels != 1:
                raise ModelError(
                    f"{name}: a classifier of {config.num_labels} classes, which gives no similarity; give "
                    f"{SIMILARITY_NAMES}"
                )
            kind = transformers.AutoModelForSequenceClassification if crossed else transformers.AutoModel
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            model, report = kind.from_pretrained(
                source, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except MmhallError:
        raise
    except UNLOADABLE as error:
        raise ModelError(f"cannot load the similarity {name!r}: {reason_of(error)}{hint_for(source)}") from error
    missing = sorted(key for key in report["missing_keys"] if crossed or not key.startswith(_UNUSED))
    if missing:
        raise ModelError(
            f"cannot load the similarity {name!r}: {len(missing)} weights are missing, such as {missing[0]}; get an "
            "intact copy of the model"
        )
    return (CrossEncoder if crossed else Encoder)(name, model.eval().to(device), tokenizer, threading.Lock())
