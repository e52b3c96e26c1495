"""Prepare a batch with transformers' `generate`, and take over before it decodes.

Position ids, masks, type ids, the cache and the encoded picture differ between model families; `generate` prepares all
of them and passes them to a `custom_generate` callable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from mmhall._transformers import caches, processors
from mmhall._transformers.calls import capture_generate, first_inputs, is_about_pictures
from mmhall._transformers.settings import ResolvedSettings
from mmhall.attention import Block, Exit, Exits, Frame, Memory, Plan
from mmhall.errors import PromptError
from mmhall.generation._shared_prefix import SharedPrefix


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """A batch ready to decode, as `generate` prepared it.

    Attributes:
        model: The model that decodes; of a BLIP, its inner language model.
        input_ids: (batch, position).
        kwargs: The other arguments of the model's forward.
        cache: The KV cache, still empty.
        processors: Edit next-token scores: penalties, and the cut-offs of sampling.
        criteria: Mark the rows that have ended.
        config: The completed generation settings.
        copies: Rows of each prompt that the processors were made for.
        shared: The shared prefixes, to be read once; None: each prompt is read by itself.
    """

    model: PreTrainedModel
    input_ids: Tensor
    kwargs: dict[str, Any]
    cache: Cache
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig
    shared: SharedPrefix | None = None
    copies: int = 1

    @property
    def length(self) -> int:
        """Number of positions of the prompts, padding included."""
        return int(self.input_ids.shape[1])

    @property
    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        ends = self.config.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    @property
    def pad(self) -> int | None:
        """Id that pads rows which have ended."""
        pad = self.config.pad_token_id
        return pad if pad is not None else next(iter(self.ends), None)

    def read(self, exits: Exits | None = None) -> tuple[Tensor, dict[Exit, Tensor]]:
        """Run the model over the prompts, and read exits in all rows.

        Returns:
            Logits, and those of each exit, as in `forward`.

        Raises:
            PromptError: There are more or fewer pictures than placeholders.
        """
        inputs = first_inputs(self.model, self.input_ids, self.kwargs, self.cache)
        try:
            rows = slice(0, len(self.input_ids))
            logits, early = forward(self.model, inputs, [] if exits is None else [(exits, rows)], 1, prompt=True)
            return logits, early[0] if early else {}
        except ValueError as error:
            if not is_about_pictures(error):
                raise
            raise PromptError(f"pictures and their placeholders in the prompt do not match: {error}") from error

    @property
    def by_row(self) -> bool:
        """Whether the processors can be applied to some of the rows."""
        return processors.can_select(self.processors)

    def processed(self, ids: Tensor, scores: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Apply the processors to next-token scores; the rows of a prompt follow each other.

        Some processors hold one value for each row they were made for, so each call gets that many rows.

        Args:
            ids: Tokens so far, (rows, positions).
            scores: (rows, vocabulary).
            prompts: 0-based prompt of each row, (rows,), where rows have left; None: as many rows of each prompt. Needs
                `by_row`.
        """
        if prompts is not None:
            chosen: Tensor = processors.select(self.processors, prompts)(ids, scores)  # type: ignore[arg-type]
            return chosen
        each = len(ids) // (len(self.input_ids) * self.copies)
        edited = torch.empty_like(scores)
        for row in range(each):
            edited[row::each] = self.processors(ids[row::each], scores[row::each])
        return edited

    def processed_alone(self, prompt: int, ids: Tensor, scores: Tensor) -> Tensor:
        """Apply the processors to next-token scores of rows that all belong to one prompt, by its 0-based index."""
        prompts, rows = len(self.input_ids), len(ids)
        if self.by_row:
            return self.processed(ids, scores, torch.full((rows,), prompt, device=ids.device))
        return self.processed(ids.repeat(prompts, 1), scores.repeat(prompts, 1))[prompt * rows : (prompt + 1) * rows]


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A prepared batch with the plan and memory of the passes that read it.

    Attributes:
        prepared: The batch.
        plan: What ops read and edit; None: nothing.
        memory: What ops have stored about its rows, which may include the encoded pictures.
        number: 0: the main batch, or the one in lock step with it; else the branch, from 1.
        owners: As in `Frame`.
        padding: Positions that it has more than the prompts for which ops were made, at the left; negative: fewer.
    """

    prepared: PreparedBatch
    plan: Plan | None = None
    memory: Memory = field(default_factory=Memory)
    number: int = 0
    owners: Tensor | None = None
    padding: int = 0

    @property
    def frame(self) -> Frame:
        """The frame of the passes that read the prompts."""
        block = Block(self.plan, self.prepared.length - self.padding, self.padding, self.number)
        return Frame((block,), owners=self.owners, memory=self.memory)


def prepare(model: PreTrainedModel, inputs: Mapping[str, Tensor], config: ResolvedSettings) -> PreparedBatch:
    """Prepare a batch as `generate` would.

    Args:
        model: The whole vision-language model.
        inputs: The processor's output.
        config: One beam and one sequence a row; the caller repeats rows.
    """
    prepared = PreparedBatch(*capture_generate(model, inputs, config))
    caches.give_room(prepared.cache)
    return prepared


def forward(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    exits: Sequence[tuple[Exits, slice]],
    count: int,
    *,
    prompt: bool = False,
) -> tuple[Tensor, list[dict[Exit, Tensor]]]:
    """Run a model once, and read exits.

    Args:
        model: The model that decodes.
        inputs: Its inputs.
        exits: The exits to read, each with its rows.
        count: Number of newest tokens of each row at which exits are read.
        prompt: Whether the pass reads a whole prompt.

    Returns:
        Logits, (batch, tokens, V), and those of each exit for each of `exits`, (rows, tokens, V) float32.
    """
    if not exits:
        return model(**inputs, return_dict=True).logits, []
    (first, rows), *others = exits
    with first.read(rows, count, prompt=prompt, others=others) as read:
        return read.split(model(**inputs, return_dict=True).logits)
