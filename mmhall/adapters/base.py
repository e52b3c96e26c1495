"""What a strategy may ask of a model, whatever its family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import BoolTensor, Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.adapters import prompts
from mmhall.adapters.anatomy import find_decoder, find_image_token, kinds_of
from mmhall.adapters.grid import Boxes, Grid, Told, block_side, nowhere, raster, read_places, tell_places
from mmhall.adapters.messages import Conversation, Request
from mmhall.adapters.pixels import pixel_rows
from mmhall.adapters.templates import ChatTemplate
from mmhall.artifacts import Artifact
from mmhall.attention import SELF_ATTENTION, Call, Op, Plan, active, close_door, open_door
from mmhall.errors import ImageError, ModelError, PromptError
from mmhall.words import special_tokens

Inputs = Mapping[str, Tensor]

PER_POSITION = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


def has_picture(inputs: Inputs) -> bool:
    """Whether a batch has pictures; its prompts all have some or none has."""
    return "pixel_values" in inputs


class Batch(dict[str, Tensor]):
    """Inputs of several requests, and of each by itself.

    Attributes:
        singles: The inputs of each request, not padded to those of others.
        requests: What was asked.
    """

    def __init__(self, stacked: Inputs, singles: Sequence[Inputs], requests: Sequence[Request]) -> None:
        """Hold what `Adapter.stack` made of singles beside them."""
        super().__init__(stacked)
        self.singles, self.requests = list(singles), list(requests)


class Adapter:
    """Drives one loaded model: prompts in, spans and variants of inputs out.

    The generic part works from the model's config and processor; a family's subclass overrides what
    truly differs.

    Attributes:
        model: The loaded model.
        processor: Its processor; None where only tensors are at hand.
        decoder: The language model inside it.
        layers: The decoder's layers.
        kinds: What each layer attends to: "full", "sliding", "chunked", "cross" (the picture), or "linear" (nothing).
        heads: Query heads of a layer.
        tuned: Options found best for this very model, by strategy; empty unless `mmhall tune` was run for it.
        artifacts: What strategies have learnt about this very model, by strategy; empty unless `mmhall fit` was run.
        image_token_id: Id that marks image positions in `input_ids`.
    """

    image_kinds: ClassVar[frozenset[str]] = SELF_ATTENTION  # where image columns are
    grid: ClassVar[str] = "none, unless each token is a patch of the vision tower"
    limits: ClassVar[str] = ""
    most_images: ClassVar[int | None] = None
    request_notes: ClassVar[tuple[str, ...]] = ()  # attributes in which the model notes something of the last request
    default_template: ClassVar[tuple[str, str] | None] = None  # whose it is, and its text, for a processor without one
    causal: ClassVar[bool] = False  # whether no row of a prompt's text sees what follows it; a family says so itself

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin | None = None) -> None:
        """Bind the decoder's attention to mmhall's door; plain SDPA as long as no plan is active.

        Raises:
            ModelError: The model lacks what mmhall needs, or attends in a way mmhall would get wrong.
        """
        self.model, self.processor = model, processor
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        self.decoder, self.layers = find_decoder(model)
        config = self.decoder.config
        self.kinds = kinds_of(config, len(self.layers))
        self.heads: int = config.num_attention_heads
        self.tuned: Mapping[str, Mapping[str, Any]] = {}
        self.artifacts: Mapping[str, Artifact] = {}
        self.image_token_id: int = find_image_token(model)
        self._accepted = {name for name in inspect.signature(model.forward).parameters if name != "labels"}
        open_door(self.decoder, self.layers, model.get_output_embeddings())
        self._open = True

    def close(self) -> None:
        """Give the model its own attention back, unless someone else still needs mmhall's."""
        if self._open:
            self._open = False
            close_door(self.decoder, self.model.get_output_embeddings())

    def prove(self) -> None:
        """Check that every attention layer of an untested family really goes through the door.

        Raises:
            ModelError: Some layer attends by itself, so that plans would be ignored without a word.
        """
        seen: list[int] = []

        class Count(Op):
            def edit_output(self, call: Call, output: Tensor) -> Tensor:
                seen.append(call.layer)
                return output

        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with torch.inference_mode(), active(self.plan([Count()])):
            self.decoder(input_ids=ids, use_cache=False)
        wanted = [layer for layer, kind in enumerate(self.kinds) if kind in Count.kinds]
        if seen != wanted:
            raise ModelError(
                f"{self.model.config.model_type}: layers {sorted(set(wanted) ^ set(seen))} do not attend through "
                "transformers' attention interface exactly once; mmhall cannot read or steer them"
            )

    @property
    def chat(self) -> ChatTemplate | None:
        """The chat template that prompts are written with; None: the family has no chat format."""
        return ChatTemplate(self.processor, self.model.config.model_type, self.default_template, self.placeholder)

    @property
    def placeholder(self) -> str | None:
        """What a prompt says where a picture belongs, as the processor reads it."""
        return getattr(self.processor, "image_token", None)

    @property
    def device(self) -> torch.device:
        """Where inputs belong; of a model whose first weights lie on disk, where accelerate computes."""
        device: torch.device = self.model.device
        if device.type != "meta":
            return device
        places = getattr(self.model, "hf_device_map", {}).values()
        return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))

    @property
    def context_length(self) -> int:
        """Longest sequence the decoder can hold, in positions."""
        return int(self.decoder.config.max_position_embeddings)

    @property
    def newest_only(self) -> frozenset[int]:
        """Layers that are given the newest row of a prompt only, as they reuse the keys of earlier ones."""
        return frozenset()

    @property
    def forgets(self) -> bool:
        """Whether the last token of a prompt can be dropped, and nothing of it is left behind."""
        return self.causal and "linear" not in self.kinds

    @property
    def divisible(self) -> bool:
        """Whether a prompt's beginning, the picture in it, can be read by itself, and what follows later."""
        return self.causal

    @property
    def pad_token_id(self) -> int:
        """Id that fills rows; never read."""
        given = self.tokenizer if self.tokenizer is not None else self.generator.generation_config
        return int(given.pad_token_id or 0)

    @cached_property
    def spellings(self) -> dict[str, list[int]]:
        """Ids of the tokens that say each text by themselves; in lower case, without white space around it."""
        ids = range(min(len(self.tokenizer), self.decoder.config.vocab_size))
        spelled: dict[str, list[int]] = {}
        for index, text in enumerate(self.tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)):
            spelled.setdefault(text.strip().lower(), []).append(index)
        return spelled

    def plan(self, ops: Sequence[Op]) -> Plan | None:
        """Sort ops into the decoder's layers; no ops: no plan.

        Raises:
            ModelError: The adapter was closed: ops would be ignored without a word.
        """
        if ops and not self._open:
            raise ModelError("the model was closed and has its own attention back; load it again to read or steer it")
        return Plan(ops, self.kinds) if ops else None

    @property
    def generator(self) -> PreTrainedModel:
        """The model whose loop decodes, and whose own generation settings hold."""
        return self.model

    def entry(self, inputs: Inputs) -> PreTrainedModel:
        """Return the module whose `generate` reads these inputs."""
        return self.model

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

    def image_mask(self, input_ids: Tensor) -> BoolTensor:
        """Mark the positions that hold a picture, (batch, position) bool."""
        return self.placeholders(input_ids)

    def placeholders(self, input_ids: Tensor) -> BoolTensor:
        """Mark the positions the family reserves for pictures, (batch, position) bool."""
        mask: BoolTensor = input_ids == self.image_token_id  # type: ignore[assignment]
        return mask

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

    def extended(self, inputs: Inputs, answer: Tensor) -> dict[str, Tensor]:
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

    def _batched(self, singles: Sequence[dict[str, Tensor]], inputs: Inputs) -> dict[str, Tensor]:
        """Stack variants of each request of a batch."""
        stacked = self.stack(singles)
        return Batch(stacked, singles, inputs.requests) if isinstance(inputs, Batch) else stacked

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

    def places(self, request: Request, inputs: Inputs) -> Grid:
        """Tell where each image token of a request looks.

        Args:
            request: What was asked.
            inputs: What `inputs([request])` returned.
        """
        count, pictures = self.image_tokens(inputs), len(request.images)
        if count == 0:
            return nowhere(0, 0)
        boxes = self.boxes(request, inputs, count)
        return nowhere(count, pictures) if boxes is None else Grid.of(boxes, pictures)

    def told(self, request: Request) -> Told:
        """Tell which point of which picture each pixel shows that the model gets."""
        read = [self.inputs([Request(request.prompt, images)]) for images in tell_places(request.images)]
        black, white, told = (inputs["pixel_values"].flatten(0, -4) for inputs in read)
        return read_places(black, white, told, len(request.images))

    def boxes(self, request: Request, inputs: Inputs, count: int) -> Boxes | None:
        """Give each of `count` image tokens its box; None: the tokens have no places."""
        told = self.told(request)
        side = block_side(told, count)
        patch = getattr(getattr(self.model.config, "vision_config", None), "patch_size", None)
        return raster(told, side) if side is not None and side == patch else None

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
        text = self.render(Request(asked.saying(marked.texts), request.images))
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
            [self._rendered(asked.saying([*texts[:at], word, *texts[at + 1 :]]), request) for word in ("x", "1")]
            for at in worded
        ]
        return prompts.parts_asked(self._rendered(asked, request), others, ids.tolist())

    def _rendered(self, conversation: Conversation, request: Request) -> list[int]:
        """Return the tokens of a conversation about a request's pictures, one placeholder a picture."""
        marked = prompts.Marked.of(conversation.texts, self.tokenizer)
        text = self.render(Request(conversation.saying(marked.texts), request.images))
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        read = marked.spelled_out({"input_ids": ids}, PER_POSITION, self.tokenizer)
        return list(read["input_ids"][0].tolist())

    @property
    def _nearly_zero(self) -> float:
        """A pixel as good as zero: some families take a picture of zeros for padding."""
        return min(torch.finfo(self.model.dtype).smallest_normal, 1e-7)  # float16 can hold that, if not normalised

    def _adds_bos(self, text: str) -> bool:
        """Whether the tokenizer should add its special tokens; some templates write them themselves."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))
