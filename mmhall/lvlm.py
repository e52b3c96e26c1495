"""LVLM: a loaded vision-language model that answers with a strategy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.adapters import adapter_for, check_text
from mmhall.analysis import (
    Explanation,
    HeadDivergence,
    ModalityDominance,
    Trace,
    check_indices,
    explain_strategy,
    head_divergence,
    measure_dominance,
    score,
    shrink_picture,
    trace_request,
)
from mmhall.answers import Answer, Choice, DecodedTokens, Uncertainty, Usage
from mmhall.closed import Calibration, make_choosing
from mmhall.errors import ModelError, OptionError, PromptError
from mmhall.generation import (
    CallerContext,
    Images,
    Prompt,
    Recipe,
    StepScores,
    Stream,
    Turns,
    check_seeds,
    make_request,
    make_requests,
    make_settings,
    run,
)
from mmhall.models import chat_template, digest
from mmhall.strategies import Strategy, strategy as make_strategy
from mmhall.text import without_home
from mmhall.words import text_tokens, words_of

if TYPE_CHECKING:
    from transformers.generation import BaseStreamer


class LVLM:
    """A vision-language model. Make one with `mmhall.load`.

    Attributes:
        model: The transformers model.
        processor: Its processor.
        name: What it was loaded from.
        revision: Commit of the weights on the hub, if known.
        loading: The options of `mmhall.load` that were given, by name; JSON can write it.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str = "model") -> None:
        """Drive a loaded model.

        Args:
            model: The model; of one wrapped by peft, torch.compile or the like, the model inside is driven, trained
                adapters in it included.
            processor: Its processor.
            name: What it was loaded from.

        Raises:
            ModelError: mmhall cannot drive this kind of model.
        """
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ModelError(
                f"{name}: its processor, a {type(processor).__name__}, does not read both text and pictures"
            )
        self.adapter = adapter_for(model, processor)
        self.model, self.processor, self.name = self.adapter.model.eval(), processor, name
        self.revision: str | None = getattr(self.model.config, "_commit_hash", None)
        self.loading: Mapping[str, Any] = {}

    def identity(self) -> dict[str, str | None]:
        """Say which model this is: name, revision, dtype, device, and a digest of its weights; see `weights.digest`."""
        return {**self._named(), **digest(self.model)}

    @property
    def chat_template(self) -> str:
        """Which chat template writes prompts; an answer's settings tell it where it is not the processor's."""
        return chat_template(self.adapter)

    def _named(self) -> dict[str, str | None]:
        return {
            "model": without_home(self.name),
            "revision": self.revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.adapter.device.type,
        }

    def generate(
        self,
        image: Images,
        prompt: Prompt,
        strategy: str | Strategy = "greedy",
        *,
        uncertainty: bool = False,
        scores: bool = False,
        **settings: Any,
    ) -> Answer:
        """Answer a prompt about a picture.

        Args:
            image: Path or picture, or several; None for a question without. The model sees them before a prompt that is
                text, and where messages have parts of type image that bring no picture.
            prompt: The user's text, or messages as chat templates take them: mappings with "role" (system, user or
                assistant) and "content", a text or a list of parts such as {"type": "text", "text": "First:"} and
                {"type": "image"}, which may bring its picture as "image" or "path". The last is the user's.
            strategy: Name such as "vcd(alpha=0.5)", or a strategy.
            uncertainty: Also read the answer once more with and once without the picture; see `Uncertainty`.
            scores: Keep the scores that tokens were chosen from (`Answer.scores`); not with beams or a search.
            **settings: See `mmhall.generation.Settings`.

        Raises:
            MmhallError: The picture, the prompt, the strategy or a setting is unusable.
        """
        one = [(image, prompt)]
        return self.generate_batch(one, strategy, uncertainty=uncertainty, scores=scores, **settings)[0]

    def generate_batch(
        self,
        requests: Sequence[tuple[Images, Prompt]],
        strategy: str | Strategy = "greedy",
        *,
        uncertainty: bool = False,
        scores: bool = False,
        shared_prefix: bool = True,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Answer]:
        """Answer several prompts in one batch; each gets what it would get alone.

        Prompts about one picture (the same path or object) that begin alike are read that far together, once, unless
        the strategy has something to do with how prompts are read.

        Args:
            requests: Pairs of picture and prompt.
            strategy: As in `generate`.
            uncertainty: As in `generate`.
            scores: As in `generate`.
            shared_prefix: Whether to; answers are the same, up to the rounding of the dtype.
            seeds: Of each request's draws, as the setting `seed`; None: all start from that.
            **settings: As in `generate`.

        Raises:
            MmhallError: As in `generate`; also when pictures and prompts without pictures are mixed.
        """
        recipe = self._recipe(strategy, settings)
        sequences = recipe.settings.num_return_sequences
        if (uncertainty or scores) and sequences > 1:
            wanted = "1 with uncertainty=True" if uncertainty else "1 with scores=True"
            raise OptionError("generate", "num_return_sequences", sequences, wanted)
        opened = make_requests(requests)
        drawn = None if seeds is None else check_seeds(seeds, len(opened))
        if not opened:
            return []
        keep = StepScores("scores", scores=[]) if scores else None
        with _measured(self.adapter.device) as measured:
            inputs = self.adapter.inputs(opened)
            rows = run(recipe.job(self.adapter, inputs, drawn, share=shared_prefix, keep=keep))
        answers = self._answers(inputs, rows, recipe, measured)
        if keep is not None:
            told = [keep.scores_of(row, len(answer.token_ids)) for row, answer in enumerate(answers)]
            answers = [replace(answer, scores=part) for answer, part in zip(answers, told, strict=True)]
        return self._sure(inputs, answers) if uncertainty else answers

    def explain(
        self, strategy: str | Strategy, image: Images = None, prompt: Prompt | None = None, **settings: Any
    ) -> Explanation:
        """Say what a strategy reads and writes where, its branches, and what a token costs, before anything runs.

        Arguments and errors as in `generate`; without a prompt a short question is asked, of a grey picture if none is
        given.
        """
        return explain_strategy(self.adapter, self._recipe(strategy, settings), image, prompt)

    def score(self, image: Images, prompt: Prompt, answer: str) -> Uncertainty:
        """Say how sure the plain model is of each token of a given answer, and what the picture has to do with it.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            answer: Any text.

        Raises:
            MmhallError: As in `generate`.
        """
        inputs = self.adapter.inputs([make_request(image, prompt)])
        return score(self.adapter, inputs, [self._tokens(answer)])[0]

    def choose(
        self,
        image: Images,
        question: Prompt,
        choices: Sequence[str] = ("yes", "no"),
        *,
        calibrate: str | Calibration | None = None,
        **options: Any,
    ) -> Choice:
        """Choose among given answers by what the plain model finds most probable, without writing one.

        Choices that are single tokens are scored by their next-token probability, summed over all spellings that the
        tokenizer has: "Yes", " yes", ... ("labels"). Otherwise each is a text, scored by the probability of all its
        tokens, summed over a small and a capital first letter, with and without a space before it ("strings"). A
        longer text is less probable; calibration makes up for it. What follows a text does not count, except that
        all must end where they end if one of them begins another, which could otherwise never win.

        Args:
            image: As in `generate`.
            question: As `prompt` in `generate`.
            choices: At least two distinct texts.
            calibrate: Take out the prior that the model shows when it is shown nothing: picture-free inputs, such as
                "none" or "none+unk" (see `mmhall.strategies.picture_free_inputs`), or a prior fitted over a data set.
                Without a picture there is nothing to take out.
            **options: mode, "diagonal" (divide by the prior) or "identity" (subtract it); smoothing, added to each
                probability of the prior, 1e-4; scoring, "auto", "labels", "strings" or "compat" (as the authors of
                the method do: the likeliest spelling among the 10 likeliest tokens, or 100 if the choices are not
                yes and no; uncalibrated where none is there, or, of the 100, where the prior lacks one);
                temperature, which divides log-probabilities, 1, with "compat" 0.2 as in the authors' scripts; seed
                and draw ("picture" or "seed"), of picture-free inputs that are noise.

        Raises:
            MmhallError: The picture, the question, a choice or an option is unusable.
        """
        return self.choose_batch([(image, question)], choices, calibrate=calibrate, **options)[0]

    def choose_batch(
        self,
        requests: Sequence[tuple[Images, Prompt]],
        choices: Sequence[str] = ("yes", "no"),
        *,
        calibrate: str | Calibration | None = None,
        **options: Any,
    ) -> list[Choice]:
        """Choose for several questions in one batch; each gets what it would get alone.

        Args:
            requests: Pairs of picture and question.
            choices: As in `choose`, the same for all questions.
            calibrate: As in `choose`.
            **options: As in `choose`.

        Raises:
            MmhallError: As in `choose`; also when questions with and without pictures are mixed.
        """
        choosing = make_choosing(choices, calibrate, options)
        for choice in choosing.choices:
            check_text("a choice", choice)
        opened = make_requests(requests)
        if not opened:
            return []
        with _measured(self.adapter.device) as measured:
            inputs = self.adapter.inputs(opened)
            found = choosing.choose(self.adapter, inputs)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = measured.seconds / len(lengths)
        return [found.of(row, Usage(seconds, length, 0, measured.peak)) for row, length in enumerate(lengths)]

    def trace(
        self,
        image: Images,
        prompt: Prompt,
        strategy: str | Strategy = "greedy",
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        **settings: Any,
    ) -> Trace:
        """Answer a prompt and tell where the model looked for each token.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            strategy: As in `generate`; the trace shows attention as the strategy left it. What a search found is read
                again for it, token by token.
            layers: 0-based decoder layers to look at; None: all that attend to image tokens.
            heads: 0-based heads to look at; None: all.
            **settings: As in `generate`; one sequence.

        Raises:
            OptionError: A layer or head does not exist or attends to no image token; several sequences.
            MmhallError: As in `generate`.
        """
        recipe = self._recipe(strategy, settings)
        sequences = recipe.settings.num_return_sequences
        if sequences > 1:
            raise OptionError("trace", "num_return_sequences", sequences, "1: a trace follows one sequence")
        looking = [layer for layer, kind in enumerate(self.adapter.kinds) if kind in self.adapter.image_kinds]
        layers, heads = (
            check_indices("layers", layers, looking),
            check_indices("heads", heads, range(self.adapter.heads)),
        )
        with _measured(self.adapter.device) as measured:
            inputs = self.adapter.inputs([request := make_request(image, prompt)])
            seen = trace_request(recipe.job(self.adapter, inputs), recipe.strategy, layers, heads)
        measured.seconds -= seen.again
        answer = self._answers(inputs, seen.rows, recipe, measured)[0]
        said = len(answer.token_ids)
        return Trace(
            answer=answer,
            prompt=str(request.conversation),
            image_attention=seen.attention[:said] if request.images else torch.zeros(said, len(layers), len(heads), 0),
            gaze=seen.shifts,
            layers=layers,
            heads=heads,
            grid=self.adapter.places(request, inputs),
            words=words_of(self.adapter.tokenizer, answer.token_ids),
            pictures=tuple(map(shrink_picture, request.images)),
            model=self._named(),
            findings=seen.findings,
        )

    def head_divergence(self, image: Images, prompt: Prompt, answer: str) -> HeadDivergence:
        """Measure how much each head's output depends on the picture while an answer is predicted, token by token.

        Args:
            image: As in `generate`; at least one picture.
            prompt: As in `generate`.
            answer: What was said, by this model or anyone.

        Raises:
            PromptError: There is no picture or no answer, or they are too long together.
        """
        request, tokens = make_request(image, prompt), self._tokens(answer)
        if not request.images or not tokens:
            raise PromptError("head divergence compares an answer with and without a picture: give both")
        return head_divergence(self.adapter, self.adapter.inputs([request]), tokens)

    def balance(self, image: Images, prompt: Prompt, answer: str) -> ModalityDominance:
        """Measure how an answer's attention is shared between words and picture, layer by layer: MDI and AEI.

        Args:
            image: As in `generate`; at least one picture.
            prompt: As in `generate`.
            answer: What was said, by this model or anyone.

        Raises:
            ModelError: The model attends to pictures in layers of their own (Mllama).
            PromptError: There is no picture or no answer, or they are too long together.
        """
        return measure_dominance(
            self.adapter, self.adapter.inputs([make_request(image, prompt)]), [self._tokens(answer)]
        )[0]

    def stream(
        self,
        image: Images,
        prompt: Prompt,
        strategy: str | Strategy = "greedy",
        *,
        uncertainty: bool = False,
        **settings: Any,
    ) -> Stream:
        """Write an answer step by step, for whoever iterates over it; leaving the iterator stops the computation.

        It computes in a thread of its own, with the autocast and on the CUDA stream that are current here.

        A strategy that searches by itself (OPERA, CGD) gives what no later step can take back, and the rest at the
        end; an answer found by beams comes whole.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            strategy: As in `generate`.
            uncertainty: As in `generate`, read once the answer has ended.
            **settings: As in `generate`; one answer.

        Raises:
            MmhallError: As in `generate`.
        """
        recipe = self._recipe(strategy, settings)
        sequences = recipe.settings.num_return_sequences
        if sequences > 1:
            raise PromptError(
                f"{sequences} answers cannot be streamed together; use generate or num_return_sequences=1"
            )
        with _measured(self.adapter.device) as measured:
            inputs = self.adapter.inputs([make_request(image, prompt)])

        def write(streamer: BaseStreamer, turns: Turns) -> Answer:
            rows = run(recipe.job(self.adapter, inputs, streamer=streamer, pause=turns.pause))
            told = _Measured(measured.seconds + turns.seconds)
            answer = self._answers(inputs, rows, recipe, told)[0]
            if turns.left:
                return replace(answer, stopped_by="stopped")
            return self._sure(inputs, [answer])[0] if uncertainty else answer

        write = CallerContext(self.adapter.device).wrap(write)
        return Stream(write, self.adapter.tokenizer, recipe.config.stop_strings or (), measured.seconds)

    def close(self) -> None:
        """Give the model its own attention back; the LVLM can no longer steer or trace it."""
        self.adapter.close()

    def __enter__(self) -> LVLM:
        """Use it in a `with` block to have it closed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __repr__(self) -> str:
        """Say what it was loaded from, its family, size and place."""
        place = f"{str(self.model.dtype).removeprefix('torch.')}, {self.adapter.device}"
        return f"LVLM({self.name!r}, {self.model.config.model_type}, {self.size / 1e6:,.1f} M parameters, {place})"

    def _tokens(self, answer: str) -> list[int]:
        """Tokenise an answer; special tokens typed in it stay text."""
        check_text("an answer", answer)
        return text_tokens(self.adapter.tokenizer, answer)

    def _sure(self, inputs: dict[str, Tensor], answers: Sequence[Answer]) -> list[Answer]:
        """Add to each answer how sure the plain model is of it."""
        scores = score(self.adapter, inputs, [answer.token_ids for answer in answers])
        return [replace(answer, uncertainty=scored) for answer, scored in zip(answers, scores, strict=True)]

    def _recipe(self, strategy: str | Strategy, settings: Mapping[str, Any]) -> Recipe:
        return Recipe.fit(self.adapter, make_strategy(strategy), make_settings(dict(settings)))

    def _answers(self, inputs: dict[str, Tensor], rows: Tensor, recipe: Recipe, measured: _Measured) -> list[Answer]:
        tokenizer, config = self.adapter.tokenizer, recipe.config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        each = len(rows) // len(inputs["attention_mask"])
        chat = self.adapter.chat
        stand_in = {} if chat is None or chat.own else {"chat_template": self.chat_template}
        answers = []
        for number, mask in enumerate(inputs["attention_mask"]):
            said = [
                DecodedTokens.from_row(row, tokenizer, ends, config.stop_strings or ())
                for row in rows[number * each : (number + 1) * each].tolist()
            ]
            first, *others = (
                Answer(
                    text=one.text,
                    tokens=tuple(tokenizer.decode([token]) for token in one.token_ids),
                    token_ids=one.token_ids,
                    stopped_by=one.stopped_by,
                    strategy=str(recipe.strategy),
                    origins=dict(recipe.origins),
                    settings={**recipe.settings.record(config), **stand_in},
                    usage=Usage(
                        seconds=measured.seconds / len(rows),
                        prompt_tokens=int(mask.sum()),
                        new_tokens=len(one.token_ids) + (one.stopped_by == "eos"),
                        peak_bytes=measured.peak,
                    ),
                )
                for one in said
            )
            answers.append(replace(first, others=tuple(others)))
        return answers


@dataclass(slots=True)
class _Measured:
    seconds: float = 0.0
    peak: int | None = None


@contextmanager
def _measured(device: torch.device) -> Iterator[_Measured]:
    """Measure wall time and, on a GPU, peak memory."""
    measured, on_gpu = _Measured(), device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    yield measured
    if on_gpu:
        torch.cuda.synchronize(device)
        measured.peak = torch.cuda.max_memory_allocated(device)
    measured.seconds = time.perf_counter() - began
