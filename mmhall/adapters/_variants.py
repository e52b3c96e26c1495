"""Variants of inputs: without their pictures, with other pixels or pictures, with an answer written after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from mmhall.adapters import _prompts as prompts
from mmhall.adapters._batch import PER_POSITION, Batch, Inputs, has_picture
from mmhall.adapters._messages import Request
from mmhall.adapters._pixels import pixel_rows
from mmhall.adapters._reader import Reader
from mmhall.errors import ImageError, ModelError, OptionError
from mmhall.images import open_image

ChangePicture = Callable[[Image.Image, int, int], Image.Image]


class Variants(Reader):
    """Makes other inputs of inputs that were read."""

    def without_image(self, inputs: Inputs, replacement: int | None = None) -> dict[str, Tensor]:
        """Return the same prompts with their pictures taken out, left-padded anew.

        What frames a picture (start and end marks, tile names, line breaks between tiles) goes with it.

        Args:
            inputs: A batch as `inputs` makes it.
            replacement: Token id to stand once for each run of image positions; None: nothing does.
        """
        ids = inputs["input_ids"]
        image = self.placeholders(ids)
        dropped = prompts.framed(ids, image, self.tokenizer)
        rest = {k: v for k, v in inputs.items() if k in PER_POSITION and k != "cross_attention_mask"}
        if replacement is not None:
            first = image & ~nn.functional.pad(image, (1, 0))[:, :-1]
            rest["input_ids"], dropped = torch.where(first, replacement, ids), dropped & ~first
        kept = inputs["attention_mask"].bool() & ~dropped
        rows = [{key: value[index, keep][None] for key, value in rest.items()} for index, keep in enumerate(kept)]
        return self._batched(rows, inputs)

    def append_answer(self, inputs: Inputs, answer: Tensor) -> dict[str, Tensor]:
        """Return the prompts of a batch with an answer written after them, (batch, length) token ids.

        A placeholder that the model wrote itself is read as padding: it holds no picture.
        """
        answer = answer.masked_fill(self.placeholders(answer), self.pad_token_id)
        extended = dict(inputs)
        for key in PER_POSITION:
            if key in inputs:
                extended[key] = torch.cat([inputs[key], self.continued(key, inputs[key], answer)], dim=1)
        return extended

    def continued(self, key: str, held: Tensor, answer: Tensor) -> Tensor:
        """Return what a per-position input says about the positions of an answer."""
        if key == "input_ids":
            return answer
        if key == "cross_attention_mask":
            return held[:, -1:].expand(-1, answer.shape[1], -1, -1)
        return torch.full_like(answer, 1 if key == "attention_mask" else 0)

    def with_pixels(self, inputs: Inputs, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the same prompts with `change` applied to each request's normalised pixels.

        `change` gets the pixels of one request, in whatever shape the family holds them, and keeps the shape. Inputs
        that some other processor made are split in proportion to each prompt's image tokens, or where each has one
        row of pixels; where neither can be, `change` gets them all at once.
        """
        if isinstance(inputs, Batch):
            singles = [{**one, "pixel_values": change(one["pixel_values"])} for one in inputs.singles]
            return self._batched(singles, inputs)
        pixels = inputs["pixel_values"]
        parts = pixels.split(pixel_rows(len(pixels), self.placeholders(inputs["input_ids"])))
        return {**inputs, "pixel_values": torch.cat([change(part) for part in parts])}

    def with_pictures(self, inputs: Inputs, change: ChangePicture) -> Batch:
        """Return the same prompts with other pictures, such as crops, read by the family's own processor.

        All is read anew: a picture of another size may take more or fewer image tokens, and what was done to the
        pixels of these inputs before is gone.

        Args:
            inputs: A batch as `inputs` makes it.
            change: Gets a copy of a picture, the 0-based number of its request in the batch and its own in the
                request; returns the picture to read instead, of any size.

        Raises:
            ModelError: The inputs hold no pictures: some other processor made them, or they were taken out.
            ImageError: `change` returns something else than a picture, or the model cannot read one.
        """
        if not isinstance(inputs, Batch):
            raise ModelError(
                "these inputs hold tensors alone, as some other processor makes them, and no pictures to change; make "
                "them with adapter.inputs(requests)"
            )
        if not has_picture(inputs) and any(request.images for request in inputs.requests):
            raise ModelError("the pictures were taken out of these inputs; give the inputs they were made of")
        requests = []
        for index, request in enumerate(inputs.requests):
            images = [_changed(image, index, number, change) for number, image in enumerate(request.images)]
            requests.append(Request(request.prompt, tuple(images)))
        return self.inputs(requests)

    def select(self, inputs: Inputs, rows: Sequence[int]) -> Batch:
        """Return the batch of some requests of another one.

        Args:
            inputs: A batch as `inputs` makes it.
            rows: Which requests, 0-based; at least one, and one may be there several times.

        Raises:
            ModelError: The inputs do not tell its requests apart: some other processor made them.
            OptionError: There is no such request, or none is picked.
        """
        if not isinstance(inputs, Batch):
            raise ModelError(
                "these inputs hold tensors alone, as some other processor makes them, which cannot be taken apart; "
                "make them with adapter.inputs(requests)"
            )
        known = range(len(inputs.singles))
        if not len(rows) or not all(row in known for row in rows):
            raise OptionError("select", "rows", rows, f"at least one request, each a number from 0 to {len(known) - 1}")
        singles = [inputs.singles[row] for row in rows]
        return Batch(self.stack(singles), singles, [inputs.requests[row] for row in rows])

    def constant_pixels(self, inputs: Inputs, value: float) -> dict[str, Tensor]:
        """Return the same prompts with every picture of one grey: 0.0 black, 0.5 grey, 1.0 white."""
        assert self.processor is not None
        reader = self.processor.image_processor  # type: ignore[attr-defined]
        level = torch.full((3,), float(value))
        if getattr(reader, "do_normalize", False):
            level = (level - torch.tensor(reader.image_mean)) / torch.tensor(reader.image_std)
        level[level == 0] = self._nearly_zero
        return self.with_pixels(inputs, lambda pixels: self.fill_pixels(pixels, level.to(pixels)))

    def uniform_pixels(self, inputs: Inputs, value: float) -> dict[str, Tensor]:
        """Return the same prompts with every normalised pixel of one value; 0.0 is the mean colour, or nearly."""
        return self.with_pixels(inputs, lambda pixels: torch.full_like(pixels, value or self._nearly_zero))

    def image_noise(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise for one request's pixels, float32 on the CPU: the same on every device."""
        return torch.randn(pixels.shape, generator=generator)

    def fill_pixels(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Return pixels of the same shape, every one of a normalised colour, (3,)."""
        return colour[:, None, None].expand_as(pixels).contiguous()

    def _batched(self, singles: Sequence[dict[str, Tensor]], inputs: Inputs) -> dict[str, Tensor]:
        """Stack variants of each request of a batch."""
        stacked = self.stack(singles)
        return Batch(stacked, singles, inputs.requests) if isinstance(inputs, Batch) else stacked

    @property
    def _nearly_zero(self) -> float:
        """A pixel as good as zero: some families take a picture of zeros for padding."""
        return min(torch.finfo(self.model.dtype).smallest_normal, 1e-7)  # float16 can hold that, if not normalised


def _changed(image: Image.Image, request: int, number: int, change: ChangePicture) -> Image.Image:
    """Return what a change makes of a picture, as RGB."""
    changed = change(image.copy(), request, number)
    if not isinstance(changed, Image.Image):
        raise ImageError(
            f"a change of pictures must return a PIL image, got {type(changed).__name__} for picture {number + 1} of "
            f"request {request + 1}"
        )
    return open_image(changed)
