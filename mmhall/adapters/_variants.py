"""Variants of inputs: without pictures, with other pixels or pictures, or with an answer appended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from mmhall.adapters import _prompts as prompts
from mmhall.adapters._batch import PER_POSITION, Batch, Inputs, has_picture
from mmhall.adapters._messages import Conversation, Request
from mmhall.adapters._pixels import pixel_rows
from mmhall.adapters._reader import Reader
from mmhall.errors import ImageError, ModelError, OptionError
from mmhall.images import open_image

ChangePicture = Callable[[Image.Image, int, int], Image.Image]
ChangeConversation = Callable[[Conversation], Conversation]


class Variants(Reader):
    """Part of the adapter that makes variants of inputs."""

    def without_image(self, inputs: Inputs, replacement: int | None = None) -> dict[str, Tensor]:
        """Return the same prompts without their pictures, padded on the left again.

        The frame of a picture (start and end marks, tile names, line breaks between tiles) is also removed.

        Args:
            inputs: A batch from `inputs`.
            replacement: Token id that replaces each run of image positions once; None: no replacement.
        """
        ids = inputs["input_ids"]
        image = self.placeholders(ids)
        dropped = prompts.mark_frames(ids, image, self.tokenizer)
        rest = {k: v for k, v in inputs.items() if k in PER_POSITION and k != "cross_attention_mask"}
        if replacement is not None:
            first = image & ~nn.functional.pad(image, (1, 0))[:, :-1]
            rest["input_ids"], dropped = torch.where(first, replacement, ids), dropped & ~first
        kept = inputs["attention_mask"].bool() & ~dropped
        rows = [{key: value[index, keep][None] for key, value in rest.items()} for index, keep in enumerate(kept)]
        return self._batched(rows, inputs)

    def append_answer(self, inputs: Inputs, answer: Tensor) -> dict[str, Tensor]:
        """Return the prompts of a batch with an answer appended, (batch, length) token ids.

        A placeholder in the answer is replaced by padding, as it has no picture.
        """
        answer = answer.masked_fill(self.placeholders(answer), self.pad_token_id)
        longer = dict(inputs)
        for key in PER_POSITION:
            if key in inputs:
                longer[key] = torch.cat([inputs[key], self.answer_values(key, inputs[key], answer)], dim=1)
        return longer

    def answer_values(self, key: str, prompt: Tensor, answer: Tensor) -> Tensor:
        """Return the values of a per-position input at the positions of an answer.

        Args:
            key: Name of the input.
            prompt: Its values at the positions of the prompt, (batch, position, ...).
            answer: Token ids of the answer, (batch, length).
        """
        if key == "input_ids":
            return answer
        if key == "cross_attention_mask":
            return prompt[:, -1:].expand(-1, answer.shape[1], -1, -1)
        return torch.full_like(answer, 1 if key == "attention_mask" else 0)

    def with_pixels(self, inputs: Inputs, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the same prompts with `change` applied to each request's normalised pixels.

        `change` receives the pixels of one request, in the family's shape, and must keep the shape. Inputs from another
        processor are split where each prompt has one row of pixels, or in proportion to its image tokens; if neither is
        possible, `change` receives all pixels at once.
        """
        if isinstance(inputs, Batch):
            singles = [{**single, "pixel_values": change(single["pixel_values"])} for single in inputs.singles]
            return self._batched(singles, inputs)
        pixels = inputs["pixel_values"]
        parts = pixels.split(pixel_rows(len(pixels), self.placeholders(inputs["input_ids"])))
        return {**inputs, "pixel_values": torch.cat([change(part) for part in parts])}

    def with_pictures(self, inputs: Inputs, change: ChangePicture) -> Batch:
        """Return the same prompts with other pictures, such as crops, read by the family's own processor.

        The requests are processed again: a picture of another size may take more or fewer image tokens, and earlier
        changes of the pixels are lost.

        Args:
            inputs: A batch from `inputs`.
            change: Receives a copy of a picture, the 0-based index of its request in the batch, and the index of the
                picture in the request; returns the picture to use instead, of any size.

        Raises:
            ModelError: The inputs have no pictures: they come from another processor, or the pictures were removed.
            ImageError: `change` does not return a picture, or the model cannot read the picture.
        """
        if not isinstance(inputs, Batch):
            raise ModelError(
                "these inputs are tensors from another processor, without pictures to change; make them with "
                "adapter.inputs(requests)"
            )
        if not has_picture(inputs) and any(request.images for request in inputs.requests):
            raise ModelError("the pictures were taken out of these inputs; pass the original inputs")
        requests = []
        for index, request in enumerate(inputs.requests):
            images = [_change_picture(image, index, number, change) for number, image in enumerate(request.images)]
            requests.append(Request(request.prompt, tuple(images)))
        return self.inputs(requests)

    def with_conversations(self, inputs: Inputs, change: ChangeConversation) -> Batch:
        """Return the same pictures with other texts, rendered by the chat template and read by the processor.

        Earlier changes of the pixels are lost.

        Args:
            inputs: A batch from `inputs`.
            change: Receives the conversation of a request; returns one with the same number of pictures.

        Raises:
            ModelError: The inputs come from another processor, so their texts are not known; or the chat template
                cannot render the changed messages.
            PromptError: A changed prompt is unusable, or longer than the model's context.
        """
        if not isinstance(inputs, Batch):
            raise ModelError(
                "these inputs are tensors from another processor, without messages to change; make them with "
                "adapter.inputs(requests)"
            )
        return self.inputs([Request(change(request.conversation), request.images) for request in inputs.requests])

    def picked(self, inputs: Inputs, rows: Sequence[int]) -> Batch:
        """Return a batch of some requests of a batch, with what a strategy has found about them.

        Args:
            inputs: A batch from `inputs`.
            rows: 0-based indices of the requests, at least one; an index may repeat.

        Raises:
            ModelError: The inputs come from another processor, so requests cannot be separated; or from another model's
                adapter.
            OptionError: An index is invalid, or there is none.
        """
        if not isinstance(inputs, Batch):
            raise ModelError(
                "these inputs are tensors from another processor, whose requests cannot be separated; "
                "make them with adapter.inputs(requests)"
            )
        self.check_made_for(inputs)
        known = range(len(inputs.singles))
        if not len(rows) or not all(row in known for row in rows):
            raise OptionError("picked", "rows", rows, f"at least one request, each a number from 0 to {len(known) - 1}")
        singles = [inputs.singles[row] for row in rows]
        batch = Batch(self.stack(singles), singles, [inputs.requests[row] for row in rows], inputs.model)
        batch.found = {
            name: values[list(rows)] if isinstance(values, Tensor) else tuple(values[row] for row in rows)
            for name, values in inputs.found.items()
        }
        return batch

    def check_made_for(self, inputs: Batch) -> None:
        """Check that a batch was made for this model.

        Raises:
            ModelError: Another model's adapter has made it.
        """
        if inputs.model not in ("", self.title):
            raise ModelError(
                f"these inputs were made for {inputs.model}, and {self.title} is asked; make them with the adapter of "
                "the model that is asked: lvlm.adapter.inputs(requests)"
            )

    def constant_pixels(self, inputs: Inputs, value: float) -> dict[str, Tensor]:
        """Return the same prompts with pictures of a single grey: 0.0 black, 0.5 grey, 1.0 white."""
        assert self.processor is not None
        image_processor = self.processor.image_processor  # type: ignore[attr-defined]
        level = torch.full((3,), float(value))
        if getattr(image_processor, "do_normalize", False):
            level = (level - torch.tensor(image_processor.image_mean)) / torch.tensor(image_processor.image_std)
        level[level == 0] = self._nearly_zero
        return self.with_pixels(inputs, lambda pixels: self.fill_pixels(pixels, level.to(pixels)))

    def uniform_pixels(self, inputs: Inputs, value: float) -> dict[str, Tensor]:
        """Return the same prompts with all normalised pixels set to one value; 0.0 is (nearly) the mean colour."""
        return self.with_pixels(inputs, lambda pixels: torch.full_like(pixels, value or self._nearly_zero))

    def image_noise(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise for the pixels of one request, float32 on the CPU, so the same on every device."""
        return torch.randn(pixels.shape, generator=generator)

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Return pixels of the same shape, all of one normalised colour, (3,)."""
        return colour[:, None, None].expand_as(pixels).contiguous()

    def mask_patches(self, pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Replace random patches of the pixels of one request by the mean colour of all.

        Tiles that are padding stay as they are; black bars in a tile are part of it.

        Args:
            pixels: Normalised pixels of one request, in the family's shape.
            share: Share of the patches to replace, in [0, 1]; their number is rounded down.
            generator: Draws the patches, on the CPU.
        """
        index = self.patch_index(pixels)
        count = int(index.max()) + 1
        hidden = torch.zeros(count, dtype=torch.bool)
        hidden[torch.randperm(count, generator=generator)[: int(share * count)]] = True
        filled = self.fill_pixels(pixels, self.mean_colour(pixels).to(pixels))
        return torch.where(hidden[index].to(pixels.device) & ~self.padding_mask(pixels), filled, pixels)

    def patch_index(self, pixels: Tensor) -> Tensor:
        """Return the number of the patch of the vision tower that each pixel belongs to, broadcastable to the pixels.

        Patches have the size in the model's config, or 14 x 14 pixels.
        """
        size = getattr(getattr(self.model.config, "vision_config", None), "patch_size", 14)
        down, across = (size, size) if isinstance(size, int) else size
        *tiles, _, height, width = pixels.shape
        rows, columns = -(-height // down), -(-width // across)
        numbers = torch.arange(torch.Size([*tiles, rows, columns]).numel()).view(*tiles, 1, rows, columns)
        return numbers.repeat_interleave(down, -2).repeat_interleave(across, -1)[..., :height, :width]

    def mean_colour(self, pixels: Tensor) -> Tensor:
        """Return the mean of each channel of the pixels of one request without padding, (3,) float32."""
        shown = pixels[~self.padding_mask(pixels)[..., 0, 0, 0]]
        return shown.float().mean(dim=(0, 2, 3))

    def padding_mask(self, pixels: Tensor) -> Tensor:
        """Mark the padding in the pixels of one request, tiles of zeros; bool, broadcastable to the pixels."""
        return (pixels == 0).flatten(-3).all(dim=-1)[..., None, None, None]

    def _batched(self, singles: Sequence[dict[str, Tensor]], inputs: Inputs) -> dict[str, Tensor]:
        """Stack variants of each request of a batch."""
        stacked = self.stack(singles)
        return Batch(stacked, singles, inputs.requests, inputs.model) if isinstance(inputs, Batch) else stacked

    @property
    def _nearly_zero(self) -> float:
        """A pixel value close to zero: some families treat a picture of zeros as padding."""
        return min(torch.finfo(self.model.dtype).smallest_normal, 1e-7)  # in float16 a subnormal number


def _change_picture(image: Image.Image, request: int, number: int, change: ChangePicture) -> Image.Image:
    """Apply a change to a picture; return the result as RGB."""
    changed = change(image.copy(), request, number)
    if not isinstance(changed, Image.Image):
        raise ImageError(
            f"a change of pictures must return a PIL image, got {type(changed).__name__} for picture {number + 1} of "
            f"request {request + 1}"
        )
    return open_image(changed)
