"""Heads that retrieve: words from the prompt (arXiv:2404.15574), and named objects from the picture (ours).

Words      A needle of a few words stands among others, and the model is asked to repeat it. A head scores 1/n for each
           of the needle's n tokens at which the column it attends to most, in the row that predicts the token, holds
           this token in the needle. Mean over needles, each in texts of several lengths, in one depth each; all that a
           needle is read in is resampled together. The paper counts tokens that
           the model generates; here the needle is the answer by teacher forcing, so that a model that does not follow
           the instruction can be read, too. Our own prompts, of the categories of the data; much shorter than the
           paper's 1 000 to 50 000 tokens.
Objects    For mentions of present objects in captions, in the row that predicts the word's first token: whether the
           image token that a head attends to most lies in one of the object's boxes, with at least half of its patch.
Figures    The score of the best head, which is chosen anew in every bootstrap draw; with many heads the best one of
           chance is above the mean of chance. The paper calls heads with 10 % or more retrieval heads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Request
from mmhall.analysis import mark_words, read_answer
from mmhall.attention import Call, Op
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.captions import Caption
from mmhall.benchmarks.diagnosis.figures import ATTENTION, Figure, UnmeasuredError
from mmhall.benchmarks.diagnosis.gaze import largest
from mmhall.benchmarks.diagnosis.places import Places, coverage
from mmhall.benchmarks.evidence.mentions import tokens_of
from mmhall.errors import MmhallError
from mmhall.results.statistics import Resampler

LENGTHS, DEPTHS, NEEDLES, NEEDLE = (16, 32, 64), (0.0, 0.25, 0.5, 0.75, 1.0), 15, 4
"""Words around the needle; where it stands, as a fraction of them, in turn; number of needles; words of a needle."""
RETRIEVES = 0.1
COVERED = 0.5  # of a patch


@dataclass(frozen=True, slots=True)
class NeedlePrompt:
    """A text with a needle.

    Attributes:
        id: Needle, length and depth.
        cluster: Needle, the same at every length.
        text: The prompt.
        needle: Its words, in order.
    """

    id: str
    cluster: str
    text: str
    needle: tuple[str, ...]


@dataclass(eq=False)
class Hits:
    """How often heads look at what they should.

    Attributes:
        cluster: Picture, or needle; what is read in one is resampled together.
        count: Number of rows.
        by_layer: Number of hits of each head, by layer, (H,) float64.
        expected: Hits of a head that looks anywhere with equal probability.
    """

    cluster: str
    count: int
    by_layer: dict[int, Tensor] = field(default_factory=dict)
    expected: float = 0.0


def needle_prompts(words: Sequence[str], seed: int) -> list[NeedlePrompt]:
    """Make the prompts of needles; words of a needle occur nowhere else in the text.

    Args:
        words: Words to draw from.
        seed: Seed of the draws.

    Raises:
        UnmeasuredError: There are too few words.
    """
    if len(words) < 2 * NEEDLE:
        raise UnmeasuredError(f"needles need {2 * NEEDLE} categories of one word, and the data has {len(words)}")
    made = []
    for number in range(NEEDLES):
        rng = random.Random(f"needle/{seed}/{number}")
        needle = tuple(rng.sample(list(words), NEEDLE))
        rest = [word for word in words if word not in needle]
        for turn, length in enumerate(LENGTHS):
            around = [rng.choice(rest) for _ in range(length)]
            depth = DEPTHS[(number + turn) % len(DEPTHS)]
            at = round(depth * length)
            listed = ", ".join([*around[:at], " ".join(needle), *around[at:]])
            text = f"{listed}. Repeat the words that stand together without a comma."
            made.append(NeedlePrompt(f"{number}/{length}/{depth}", str(number), text, needle))
    return made


class TopColumns(Op):
    """Records whether heads attend most to a right column.

    Attributes:
        hits: By layer, number of hits of each head for each prompt, (B, H).
    """

    def __init__(self, width: int, right: Sequence[Mapping[int, Tensor]], among: Tensor | None = None) -> None:
        """Choose rows and columns.

        Args:
            width: Number of tokens of the longest answer.
            right: For each prompt, 0-based token of the answer to the columns that count as right, (T,) bool.
            among: Columns to choose from, (B, T) bool; None: all.
        """
        self._width, self._right, self._among = width, right, among
        self.hits: dict[int, Tensor] = {}

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows that predict the answers; none in a layer that gets only the newest row."""
        last = call.count - 1
        if last < self._width:
            return None
        return torch.arange(last - self._width, last, device=call.device)  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Count the hits of a layer; not of one that has dropped columns."""
        if call.offset > 0:
            return
        weights = probs[..., -call.offset :]
        counts = torch.zeros(weights.shape[:2], dtype=torch.float64)
        for number, marks in enumerate(self._right):
            for token, columns in marks.items():
                row = weights[number, :, token]
                if self._among is not None:
                    row = row[:, : self._among.shape[1]].masked_fill(~self._among[number].to(row.device), -1.0)
                top = row.argmax(dim=-1).cpu()
                inside = torch.nn.functional.pad(columns, (0, weights.shape[-1] - len(columns)))
                counts[number] += inside[top].double()
        self.hits[call.layer] = counts


def read_needles(asker: Asker, words: Sequence[str], seed: int) -> list[Hits]:
    """Read needle prompts, with the needle as answer.

    Args:
        asker: The model.
        words: Words to draw from.
        seed: Seed of the draws.

    Raises:
        UnmeasuredError: The prompts cannot be made, or do not fit into the model's context.
    """
    adapter, found = asker.lvlm.adapter, list[Hits]()
    if adapter.tokenizer is None:
        raise UnmeasuredError("the model has no tokenizer")
    known = [word for word in words if _is_known(adapter, word)]
    prompts = needle_prompts(known, seed)
    for start in range(0, len(prompts), asker.batch_size):
        found += _read_batch(adapter, prompts[start : start + asker.batch_size])
    if not found:
        raise UnmeasuredError("the needle's words were not found in the prompt's tokens, or the context is too short")
    return found


def retrieval_figure(key: str, title: str, short: str, found: Sequence[Hits], what: str) -> Figure:
    """Return the score of the best head.

    Args:
        key: Key of the figure.
        title: Title of the figure.
        short: Heading of its column in the table of layers.
        found: Hits of each picture or needle.
        what: What is retrieved, in words.

    Raises:
        UnmeasuredError: Nothing was read, or no layer sees the whole prompt.
    """
    layers = sorted(set.intersection(*(set(one.by_layer) for one in found))) if found else []
    if not layers:
        raise UnmeasuredError(f"there are no {what}, or no layer attends to all of the prompt")
    draws, counts = Resampler([one.cluster for one in found]), np.array([one.count for one in found], np.float64)
    sums = {layer: torch.stack([one.by_layer[layer] for one in found]).numpy() for layer in layers}
    grid = {layer: tuple((values.sum(axis=0) / counts.sum()).tolist()) for layer, values in sums.items()}
    _, layer, head = max((v, layer, head) for layer, row in grid.items() for head, v in enumerate(row))
    flat = [values[:, h] for values in sums.values() for h in range(values.shape[1])]
    chance = sum(one.expected for one in found) / counts.sum()
    able = sum(v >= RETRIEVES for row in grid.values() for v in row)
    return Figure(
        key,
        ATTENTION,
        title,
        draws.estimate_of(largest, [*flat, counts]),
        layers={at: draws.estimate_of(largest, [*values.T, counts]) for at, values in sums.items()},
        note=f"best: layer {layer}, head {head}, of {len(flat)} heads; {able} reach {RETRIEVES:.0%}. "
        f"Chance {chance:.1%}; {int(counts.sum())} {what}",
        short=short,
        heads=grid,
        by_head=title.replace("the best", "each"),
    )


def mark_objects(caption: Caption, places: Places, asker: Asker, image: Tensor) -> dict[int, Tensor]:
    """Return the columns that show the object of each true mention, by the token at which its word begins, (T,) bool.

    Args:
        caption: The caption.
        places: Places of image tokens.
        asker: The model and its pictures.
        image: Image positions of the prompt, (T,) bool.

    Raises:
        UnmeasuredError: The model's image tokens have no places.
    """
    boxes = asker.pictures[str(caption.item.picture)].boxes
    true = [mention for mention in caption.mentions if boxes.get(mention.name) and not caption.is_absent(mention)]
    marks: dict[int, Tensor] = {}
    for mention, tokens in zip(true, tokens_of(asker.lvlm.adapter.tokenizer, caption.answer, true), strict=True):
        columns = torch.zeros(len(image), dtype=torch.bool)
        columns[image.cpu()] = coverage(places.of(caption.item), boxes[mention.name]) >= COVERED
        if columns.any():
            marks[tokens[0]] = columns
    return marks


def _is_known(adapter: Adapter, word: str) -> bool:
    """Whether a word is one word of letters whose tokens write it again."""
    ids = adapter.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return word.isalpha() and adapter.tokenizer.decode(ids).strip() == word


def _read_batch(adapter: Adapter, prompts: Sequence[NeedlePrompt]) -> list[Hits]:
    try:
        inputs = adapter.inputs([Request(prompt.text, ()) for prompt in prompts])
    except MmhallError as error:
        raise UnmeasuredError(f"the model cannot be asked without a picture ({error})") from error
    query, ids = adapter.query_mask(inputs), inputs["input_ids"]
    marked = [mark_words(adapter, inputs, query, prompt.needle)[row] for row, prompt in enumerate(prompts)]
    places = [mark.nonzero()[:, 0] for mark in marked]
    width = max(map(len, places))
    if not all(map(len, places)) or ids.shape[1] + width > adapter.context_length:
        return []
    answers = torch.zeros(len(prompts), width, dtype=torch.long, device=ids.device)
    for row, columns in enumerate(places):
        answers[row, : len(columns)] = ids[row, columns]
    right = [
        {token: mark.cpu() & (ids[row] == answers[row, token]).cpu() for token in range(len(columns))}
        for row, (mark, columns) in enumerate(zip(marked, places, strict=True))
    ]
    probe = TopColumns(width, right)
    with torch.inference_mode():
        read_answer(adapter, adapter.append_answer(inputs, answers), width, [probe])
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    return [
        Hits(
            prompt.cluster,
            len(columns),
            {layer: hits[row] for layer, hits in probe.hits.items()},
            sum(float(mark.sum()) for mark in right[row].values()) / lengths[row],
        )
        for row, (prompt, columns) in enumerate(zip(prompts, places, strict=True))
    ]
