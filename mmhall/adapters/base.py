"""What a strategy may ask of a model, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import BoolTensor, Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.attention import Op, Plan, open_door
from mmhall.errors import PromptError

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to answer.

    Attributes:
        prompt: The user's text.
        image: RGB picture, or None for a question without one.
    """

    prompt: str
    image: Image.Image | None


class Adapter:
    """Drives one loaded model: prompts in, spans and variants of inputs out.

    The generic part works from the model's config and processor; a family's subclass overrides what
    truly differs.

    Attributes:
        model: The loaded model.
        processor: Its processor, padding on the left.
        decoder: The language model inside it.
        layers: The decoder's layers.
        image_token_id: Id that marks image positions in `input_ids`.
    """

    pixel_keys: tuple[str, ...] = ("pixel_values", "image_sizes")

    @property
    def chat_template(self) -> str | None:
        """The chat template to write prompts with; None: the processor's own."""
        return None

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Bind the decoder's attention to mmhall's door; plain SDPA as long as no plan is active."""
        self.model, self.processor = model, processor
        self.tokenizer: Any = processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.decoder: PreTrainedModel = model.get_decoder()
        self.layers: Sequence[nn.Module] = list(self.decoder.layers)
        self.image_token_id: int = model.config.image_token_id
        open_door(self.decoder, self.layers)

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        device: torch.device = self.model.device
        return device

    @property
    def context_length(self) -> int:
        """Longest sequence the decoder can hold, in positions."""
        return int(self.decoder.config.max_position_embeddings)

    def plan(self, ops: Sequence[Op]) -> Plan | None:
        """Sort ops into the decoder's layers; no ops: no plan."""
        return Plan(ops, len(self.layers)) if ops else None

    def render(self, request: Request) -> str:
        """Write a request in the model's chat format, with one placeholder for its picture.

        Raises:
            PromptError: The prompt is empty or holds the model's image placeholder.
        """
        if not request.prompt.strip():
            raise PromptError("the prompt is empty; write a question or an instruction")
        placeholder = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if placeholder in request.prompt:
            raise PromptError(f"the prompt contains {placeholder!r}, which marks pictures for this model; remove it")
        content = [{"type": "text", "text": request.prompt}]
        if request.image is not None:
            content.insert(0, {"type": "image"})
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, chat_template=self.chat_template
        )
        return text

    def inputs(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Turn requests into one left-padded batch on the model's device.

        Returns:
            input_ids and attention_mask (batch, position), and pixel tensors when a request has a picture.

        Raises:
            PromptError: A prompt is empty, unusable, or longer than the model's context.
        """
        texts = [self.render(request) for request in requests]
        images = [request.image for request in requests if request.image is not None]
        bos = self.tokenizer.bos_token
        batch = self.processor(
            text=texts,
            images=images or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (bos and texts[0].startswith(bos)),  # some templates write it themselves
        )
        length = batch["input_ids"].shape[1]
        if length >= self.context_length:
            raise PromptError(f"the prompt has {length} tokens, the model's context {self.context_length}; shorten it")
        moved = batch.to(self.device)
        return {
            key: value.to(self.model.dtype) if value.is_floating_point() else value
            for key, value in moved.items()
            if key != "token_type_ids"
        }

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Mark image positions, (batch, position) bool."""
        mask: BoolTensor = input_ids == self.image_token_id  # type: ignore[assignment]
        return mask

    def without_image(self, inputs: Inputs, replacement: int | None = None) -> dict[str, Tensor]:
        """Return the same prompts with the image positions taken out, left-padded anew.

        Args:
            inputs: A batch as `inputs` makes it.
            replacement: Token id to stand once for each run of image positions; None: nothing does.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        image = self.image_mask(ids)
        kept = mask & ~image
        if replacement is not None:
            first = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
            ids, kept = torch.where(first, replacement, ids), kept | first
        rows = [row[keep] for row, keep in zip(ids, kept, strict=True)]
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        padded = [torch.nn.functional.pad(row, (length - len(row), 0), value=pad) for row in rows]
        masks = [torch.arange(length, device=ids.device) >= length - len(row) for row in rows]
        rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask", *self.pixel_keys)}
        return {
            **rest,
            "input_ids": torch.stack(padded),
            "attention_mask": torch.stack(masks).to(inputs["attention_mask"].dtype),
        }

    def stack(self, batches: Sequence[Inputs]) -> dict[str, Tensor]:
        """Put several batches under each other, left-padding their prompts to one length.

        Returns:
            Rows of all batches; their pixels in the same order.
        """
        length = max(batch["input_ids"].shape[1] for batch in batches)
        fill = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0}
        rows: dict[str, list[Tensor]] = {}
        for batch in batches:
            for key, value in batch.items():
                gap = length - value.shape[1] if key in fill else 0
                rows.setdefault(key, []).append(
                    torch.nn.functional.pad(value, (gap, 0), value=fill[key]) if gap else value
                )
        return {key: torch.cat(values) for key, values in rows.items()}

    def with_pixels(self, inputs: Inputs, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the same prompts with `change` applied to each picture's normalised pixels."""
        return {**inputs, "pixel_values": torch.stack([change(picture) for picture in inputs["pixel_values"]])}
