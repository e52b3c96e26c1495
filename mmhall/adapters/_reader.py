"""Requests become inputs: the chat format, typed special tokens, padding, and where the pictures stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import BoolTensor, Tensor, nn

from mmhall.adapters import _prompts as prompts
from mmhall.adapters._batch import PER_POSITION, Batch, Inputs
from mmhall.adapters._bound import BoundModel
from mmhall.adapters._messages import Conversation, Request
from mmhall.adapters._templates import ChatTemplate
from mmhall.attention import SELF_ATTENTION
from mmhall.errors import ImageError, ModelError, PromptError
from mmhall.words import special_tokens


class Reader(BoundModel):
    """Reads prompts and pictures as the model was trained to."""

    image_kinds: ClassVar[frozenset[str]] = SELF_ATTENTION  # where image columns are
    most_images: ClassVar[int | None] = None
    default_template: ClassVar[tuple[str, str] | None] = None  # whose it is, and its text, for a processor without one

    @property
    def chat(self) -> ChatTemplate | None:
        """The chat template that prompts are written with; None: the family has no chat format."""
        return ChatTemplate(self.processor, self.model.config.model_type, self.default_template, self.placeholder)

    @property
    def placeholder(self) -> str | None:
        """What a prompt says where a picture belongs, as the processor reads it."""
        return getattr(self.processor, "image_token", None)

    def render(self, request: Request) -> str:
        """Write a request in the model's chat format, with one placeholder for each picture.

        Raises:
            ModelError: There is no chat template, or it cannot write this.
            PromptError: The family has no chat format, and this is not one message with pictures first.
        """
        chat = self.chat
        assert chat is not None
        return chat.write(request.conversation)

    def inputs(self, requests: Sequence[Request]) -> Batch:
        """Turn requests into one left-padded batch on the model's device.

        Special tokens typed in a prompt stay text.

        Returns:
            input_ids and attention_mask (batch, position), what else the family's forward takes per position, and
            pixel tensors when requests have pictures.

        Raises:
            PromptError: A prompt is empty, unusable, or longer than the model's context; or only some requests
                have pictures.
            ImageError: The model cannot read a picture, or not so many.
        """
        if len({not request.images for request in requests}) > 1:
            raise PromptError("a batch mixes prompts with and without a picture; send them in two batches")
        singles = [self._single(request) for request in requests]
        batch = Batch(self.stack(singles), singles, requests)
        length = batch["input_ids"].shape[1]
        if length >= self.context_length:
            raise PromptError(f"the prompt has {length} tokens, the model's context {self.context_length}; shorten it")
        return batch

    def read(self, request: Request, text: str) -> dict[str, Tensor]:
        """Let the processor read a request.

        Args:
            request: As it was asked.
            text: The same in the model's format.

        Returns:
            input_ids and the like, (1, position), and pixels.
        """
        assert self.processor is not None
        images = {"images": [list(request.images)]} if request.images else {}
        return dict(self.processor(text=[text], **images, return_tensors="pt", add_special_tokens=self._adds_bos(text)))

    def check_placeholders(self, inputs: Inputs) -> None:
        """Refuse a batch whose pictures and placeholders do not go together.

        Raises:
            PromptError: There are pictures without placeholders, or placeholders without pictures.
        """
        marked = bool(self.placeholders(inputs["input_ids"]).any())
        if marked != ("pixel_values" in inputs):
            has, lacks = ("placeholders", "pictures") if marked else ("pictures", "placeholders for them")
            raise PromptError(f"the prompt has {has} but no {lacks}; give as many of one as of the other")

    def check_readable(self, inputs: Inputs) -> None:
        """Refuse pictures that the processor reads but the model does not.

        Raises:
            ImageError: There is such a picture.
        """

    def stack(self, batches: Sequence[Inputs]) -> dict[str, Tensor]:
        """Put several batches under each other, left-padding their prompts and right-padding what pictures they have.

        Returns:
            Rows of all batches; their pixels in the same order.
        """
        stacked = {}
        for key in batches[0]:
            parts = [batch[key] for batch in batches]
            sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
            padded = []
            for part in parts:
                gaps: list[int] = []
                for axis, size in reversed(list(enumerate(sizes, start=1))):
                    gap = size - part.shape[axis]
                    gaps += (gap, 0) if axis == 1 and key in PER_POSITION else (0, gap)
                padded.append(nn.functional.pad(part, gaps, value=self.pad_token_id if key == "input_ids" else 0))
            stacked[key] = torch.cat(padded)
        return stacked

    def placeholders(self, input_ids: Tensor) -> BoolTensor:
        """Mark the positions the family reserves for pictures, (batch, position) bool."""
        mask: BoolTensor = input_ids == self.image_token_id  # type: ignore[assignment]
        return mask

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Mark the positions that hold a picture, (batch, position) bool."""
        return self.placeholders(input_ids)

    @property
    def image_in_sequence(self) -> bool:
        """Whether pictures are positions of the sequence, rather than keys of layers of their own."""
        return bool(self.image_kinds & SELF_ATTENTION)

    def after_image(self, inputs: Inputs) -> BoolTensor:
        """Mark the positions behind the last picture, (batch, position) bool; nothing where there is none."""
        image = self.image_mask(inputs["input_ids"])
        behind = image.flip(1).cumsum(1).flip(1) == 0
        mask: BoolTensor = behind & image.any(dim=1, keepdim=True)  # type: ignore[assignment]
        return mask

    def query_mask(self, inputs: Inputs) -> BoolTensor:
        """Mark the positions of the user's own words, (batch, position) bool.

        Where they cannot be told from the template's (inputs of some other processor), all that follows the last
        picture counts, special tokens aside.
        """
        ids = inputs["input_ids"]
        special = list(special_tokens(self.tokenizer).values()) if self.tokenizer is not None else []
        mask: BoolTensor = self.after_image(inputs) & ~torch.isin(ids, torch.tensor(special, device=ids.device))  # type: ignore[assignment]
        asked = zip(inputs.requests, inputs.singles, mask, strict=True) if isinstance(inputs, Batch) else ()
        for request, single, row in asked:
            query = self._query(request, single["input_ids"][0])
            if query:
                row[:] = False
                row[query] = True
        return mask

    def image_tokens(self, inputs: Inputs) -> int:
        """Count the image tokens of a single request: its image columns in the layers of `image_kinds`."""
        return int(self.image_mask(inputs["input_ids"]).sum())

    def _single(self, request: Request) -> dict[str, Tensor]:
        assert self.processor is not None
        asked = request.conversation
        if not any(map(str.strip, asked.texts)):
            raise PromptError("the prompt is empty; write a question or an instruction")
        if self.most_images is not None and len(request.images) > self.most_images:
            raise ImageError(
                f"{self.model.config.model_type} reads at most {self.most_images} picture a prompt, "
                f"got {len(request.images)}"
            )
        marked = prompts.Marked.of(asked.texts, self.tokenizer)
        text = self.render(Request(asked.with_texts(marked.texts), request.images))
        try:
            read = self.read(request, text)
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in request.images)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if not request.images:
                raise PromptError(f"the processor cannot read the prompt: {reason}") from error
            raise ImageError(f"the processor cannot read the picture ({sizes} pixels): {reason}") from error
        read = marked.spelled_out(read, PER_POSITION, self.tokenizer)
        if request.images:
            self._check_reaching(read)
            self.check_readable(read)
        return {
            key: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in read.items()
            if (key in self._accepted if request.images else key in PER_POSITION)
        }

    def _check_reaching(self, read: Inputs) -> None:
        """Refuse a request whose pictures would not reach the model, so that it would answer without them."""
        family, lost = self.model.config.model_type, [key for key in read if key not in self._accepted]
        if "pixel_values" not in read or "pixel_values" in lost:
            reason = "its forward takes no pixel_values" if "pixel_values" in lost else "its processor reads none"
            raise ModelError(f"{family}: pictures do not reach the model: {reason}; load it with mmhall.load")
        self.check_placeholders(read)

    def _query(self, request: Request, ids: Tensor) -> list[int]:
        """Find the words of the user's last message among the tokens of a prompt, (position,)."""
        asked = request.conversation
        texts, last = list(asked.texts), len(asked.turns[-1].texts)
        worded = [at for at in range(len(texts) - last, len(texts)) if texts[at].strip()]
        others = [
            [self._rendered(asked.with_texts([*texts[:at], word, *texts[at + 1 :]]), request) for word in ("x", "1")]
            for at in worded
        ]
        return prompts.parts_asked(self._rendered(asked, request), others, ids.tolist())

    def _rendered(self, conversation: Conversation, request: Request) -> list[int]:
        """Return the tokens of a conversation about a request's pictures, one placeholder a picture."""
        marked = prompts.Marked.of(conversation.texts, self.tokenizer)
        text = self.render(Request(conversation.with_texts(marked.texts), request.images))
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        read = marked.spelled_out({"input_ids": ids}, PER_POSITION, self.tokenizer)
        return list(read["input_ids"][0].tolist())

    def _adds_bos(self, text: str) -> bool:
        """Whether the tokenizer should add its special tokens; some templates write them themselves."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))
