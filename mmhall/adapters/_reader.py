"""Conversion of requests into model inputs: chat format, typed special tokens, padding, image positions."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from torch import BoolTensor, Tensor, nn

from mmhall.adapters import _prompts as prompts
from mmhall.adapters._batch import PER_POSITION, Batch, Inputs
from mmhall.adapters._bound import HookedModel
from mmhall.adapters._messages import Conversation, Request
from mmhall.adapters._processed import looks_up_pictures, process_once
from mmhall.adapters._templates import ChatTemplate
from mmhall.attention import SELF_ATTENTION
from mmhall.errors import ImageError, ModelError, PromptError
from mmhall.words import special_tokens

R = TypeVar("R", bound="Reader")


class Reader(HookedModel):
    """Part of the adapter that converts prompts and pictures into inputs, as in the training of the model.

    Attributes:
        image_kinds: Kinds of layers with image columns.
        most_images: Maximum number of pictures in a prompt; None: no limit.
        default_template: Source and text of the chat template for a processor without one.
    """

    image_kinds: ClassVar[frozenset[str]] = SELF_ATTENTION
    most_images: ClassVar[int | None] = None
    default_template: ClassVar[tuple[str, str] | None] = None

    @property
    def chat(self) -> ChatTemplate | None:
        """Chat template that renders prompts; None where the family has no chat format."""
        family = self.model.config.model_type
        return ChatTemplate(self.processor, family, self.default_template, self.placeholder, self._template_faults)

    @cached_property
    def _template_faults(self) -> dict[Hashable, str | None]:
        return {}

    @property
    def placeholder(self) -> str | None:
        """Text that marks the place of a picture in a prompt for the processor."""
        return getattr(self.processor, "image_token", None)

    @property
    def title(self) -> str:
        """The family of the model, and where it was loaded from."""
        source = self.model.config.name_or_path
        return f"{self.model.config.model_type} ({source})" if source else self.model.config.model_type

    def render(self, request: Request) -> str:
        """Render a request in the model's chat format, with one placeholder for each picture.

        Raises:
            ModelError: There is no chat template, or it cannot render the request.
            PromptError: The family has no chat format, and the request is not one message with its pictures first.
        """
        chat = self.chat
        assert chat is not None
        return chat.write(request.conversation)

    def inputs(self, requests: Sequence[Request]) -> Batch:
        """Convert requests into one left-padded batch on the model's device.

        Special tokens typed in a prompt stay text. A picture that several requests have (the same object) is processed
        once.

        Returns:
            input_ids and attention_mask, (batch, position), other inputs of the family with one value for each
            position, and pixel tensors where requests have pictures.

        Raises:
            PromptError: A prompt is empty, unusable, or longer than the model's context; or only some requests
                have pictures.
            ImageError: The model cannot read a picture, or a prompt has too many.
        """
        if len({not request.images for request in requests}) > 1:
            raise PromptError("a batch mixes prompts with and without a picture; send them in two batches")
        with process_once():
            singles = [self._read_single(request) for request in requests]
        batch = Batch(self.stack(singles), singles, requests, self.title)
        length = batch["input_ids"].shape[1]
        if length >= self.context_length:
            raise PromptError(f"the prompt has {length} tokens, the model's context {self.context_length}; shorten it")
        return batch

    def for_thread(self: R) -> R:
        """Return an adapter of the same model that reads requests while another thread uses this one.

        Its tokenizers are copies: a tokenizer holds the settings of its latest call, such as whether to split special
        tokens, so that two threads would read prompts with each other's.
        """
        reader = copy.copy(self)
        shared = getattr(self.processor, "image_processor", None)
        reader.processor = copy.deepcopy(self.processor, {id(shared): shared})
        reader.tokenizer = getattr(reader.processor, "tokenizer", None)
        return reader

    def read(self, request: Request, text: str) -> dict[str, Tensor]:
        """Run the processor on a request.

        Args:
            request: The request.
            text: Its prompt in the model's chat format.

        Returns:
            input_ids and other inputs, (1, position), and pixels.
        """
        assert self.processor is not None
        images = {"images": [list(request.images)]} if request.images else {}
        processor = looks_up_pictures(self.processor)
        return dict(processor(text=[text], **images, return_tensors="pt", add_special_tokens=self._adds_bos(text)))

    def check_placeholders(self, inputs: Inputs) -> None:
        """Check that a batch has either both pictures and placeholders, or neither.

        Raises:
            PromptError: There are pictures without placeholders, or placeholders without pictures.
        """
        marked = bool(self.placeholders(inputs["input_ids"]).any())
        if marked != ("pixel_values" in inputs):
            has, lacks = ("placeholders", "pictures") if marked else ("pictures", "placeholders for them")
            raise PromptError(f"the prompt has {has} but no {lacks}; give one placeholder for each picture")

    def check_readable(self, inputs: Inputs) -> None:
        """Check that the model can read the pictures; the generic adapter accepts all.

        Raises:
            ImageError: The model cannot read a picture, although the processor can.
        """

    def stack(self, batches: Sequence[Inputs]) -> dict[str, Tensor]:
        """Concatenate several batches, with left-padded prompts and right-padded pictures.

        Returns:
            Rows of all batches; pixels in the same order.
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
        """Mark the placeholder positions of pictures, (batch, position) bool."""
        mask: BoolTensor = input_ids == self.image_token_id  # type: ignore[assignment]
        return mask

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Mark the positions of image tokens, (batch, position) bool."""
        return self.placeholders(input_ids)

    @property
    def image_in_sequence(self) -> bool:
        """Whether image tokens are positions of the sequence, not keys of separate layers."""
        return bool(self.image_kinds & SELF_ATTENTION)

    def after_image(self, inputs: Inputs) -> BoolTensor:
        """Mark the positions after the last picture, (batch, position) bool; none without a picture."""
        image = self.image_mask(inputs["input_ids"])
        after = image.flip(1).cumsum(1).flip(1) == 0
        mask: BoolTensor = after & image.any(dim=1, keepdim=True)  # type: ignore[assignment]
        return mask

    def query_mask(self, inputs: Inputs) -> BoolTensor:
        """Mark the positions of the user's text, (batch, position) bool.

        Where it cannot be distinguished from the template (inputs from another processor): all positions after the
        last picture, except special tokens.
        """
        ids = inputs["input_ids"]
        special = list(special_tokens(self.tokenizer).values()) if self.tokenizer is not None else []
        mask: BoolTensor = self.after_image(inputs) & ~torch.isin(ids, torch.tensor(special, device=ids.device))  # type: ignore[assignment]
        known = zip(inputs.requests, inputs.singles, mask, strict=True) if isinstance(inputs, Batch) else ()
        for request, single, row in known:
            query = self._find_query(request, single["input_ids"][0])
            if query:
                row[:] = False
                row[query] = True
        return mask

    def image_tokens(self, inputs: Inputs) -> int:
        """Count the image tokens of a single request: the image columns in layers of `image_kinds`."""
        return int(self.image_mask(inputs["input_ids"]).sum())

    def _read_single(self, request: Request) -> dict[str, Tensor]:
        assert self.processor is not None
        conversation = request.conversation
        if not any(map(str.strip, conversation.texts)):
            raise PromptError("the prompt is empty; write a question or an instruction")
        if self.most_images is not None and len(request.images) > self.most_images:
            raise ImageError(
                f"{self.model.config.model_type} reads at most {self.most_images} picture a prompt, "
                f"got {len(request.images)}"
            )
        marked = prompts.MarkedTexts.of(conversation.texts, self.tokenizer)
        text = self.render(Request(conversation.with_texts(marked.texts), request.images))
        try:
            read = self.read(request, text)
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in request.images)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if not request.images:
                raise PromptError(f"the processor cannot read the prompt: {reason}") from error
            raise ImageError(f"the processor cannot read the picture ({sizes} pixels): {reason}") from error
        read = marked.restore(read, PER_POSITION, self.tokenizer)
        if request.images:
            self._check_pictures_arrive(read)
            self.check_readable(read)
        return {
            key: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in read.items()
            if (key in self._accepted if request.images else key in PER_POSITION)
        }

    def _check_pictures_arrive(self, read: Inputs) -> None:
        """Check that the pictures of a request reach the model, so that it does not answer without them."""
        family, lost = self.model.config.model_type, [key for key in read if key not in self._accepted]
        if "pixel_values" not in read or "pixel_values" in lost:
            reason = "its forward takes no pixel_values" if "pixel_values" in lost else "its processor reads none"
            raise ModelError(f"{family}: pictures do not reach the model: {reason}; load it with mmhall.load")
        self.check_placeholders(read)

    def _find_query(self, request: Request, ids: Tensor) -> list[int]:
        """Find the positions of the user's last message in the tokens of a prompt, (position,)."""
        conversation = request.conversation
        texts, last = list(conversation.texts), len(conversation.turns[-1].texts)

        def variant(at: int, word: str) -> list[int]:
            return self._render_tokens(conversation.with_texts([*texts[:at], word, *texts[at + 1 :]]), request)

        non_empty = [at for at in range(len(texts) - last, len(texts)) if texts[at].strip()]
        variants = [[variant(at, word) for word in ("x", "1")] for at in non_empty]
        return prompts.find_texts(self._render_tokens(conversation, request), variants, ids.tolist())

    def _render_tokens(self, conversation: Conversation, request: Request) -> list[int]:
        """Return the tokens of a rendered conversation, with one placeholder for each of a request's pictures."""
        marked = prompts.MarkedTexts.of(conversation.texts, self.tokenizer)
        text = self.render(Request(conversation.with_texts(marked.texts), request.images))
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        read = marked.restore({"input_ids": ids}, PER_POSITION, self.tokenizer)
        return list(read["input_ids"][0].tolist())

    def _adds_bos(self, text: str) -> bool:
        """Whether the tokenizer should add its special tokens; some templates already contain them."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))
