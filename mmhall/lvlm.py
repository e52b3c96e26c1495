"""The loaded vision-language model, `LVLM`: it answers prompts about pictures with a strategy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, ProcessorMixin

from mmhall.adapters import Batch, Inputs, adapter_for
from mmhall.analysis import AnalysisMethods, score
from mmhall.answers import Answer
from mmhall.attention import count_passes
from mmhall.closed import ChoiceMethods
from mmhall.errors import MmhallError, ModelError, OptionError, PromptError
from mmhall.generation import (
    Budget,
    CallerContext,
    Images,
    Measurement,
    Prompt,
    Recipe,
    Samples,
    StepScores,
    Stream,
    Turns,
    build_answers,
    build_early_answer,
    check_seeds,
    make_recipe,
    make_request,
    make_requests,
    measure,
    queue,
    refill,
    run,
)
from mmhall.models import chat_template, digest
from mmhall.progress import progress as show_progress
from mmhall.strategies import Strategy
from mmhall.text import shorten, without_home

if TYPE_CHECKING:
    from transformers.generation import BaseStreamer


class LVLM(AnalysisMethods, ChoiceMethods):
    """A loaded vision-language model. Make one with `mmhall.load`.

    Attributes:
        model: The transformers model.
        processor: Its processor.
        name: The folder or hub id it was loaded from.
        revision: Commit of the weights on the hub, if known.
        loading: The options of `mmhall.load` that were given, by name; JSON can write it.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str = "model") -> None:
        """Attach mmhall to a loaded model.

        Args:
            model: The model. Of one wrapped by peft, torch.compile or the like the inner model is used, with trained
                adapters in it.
            processor: Its processor.
            name: The folder or hub id it was loaded from.

        Raises:
            ModelError: mmhall does not support this kind of model.
        """
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ModelError(
                f"{name}: its processor, a {type(processor).__name__}, does not read both text and pictures"
            )
        self.adapter = adapter_for(model, processor)
        self.model, self.processor, self.name = self.adapter.model.eval(), processor, name
        self.revision: str | None = getattr(self.model.config, "_commit_hash", None)
        self.loading: Mapping[str, Any] = {}
        self._samples: dict[Hashable, Samples] = {}

    def identity(self) -> dict[str, str | None]:
        """Return name, revision, dtype, device and a digest of the weights; see `weights.digest`."""
        return {**self._facts(), **digest(self.model)}

    @property
    def chat_template(self) -> str:
        """The chat template that writes prompts; answers record it where it is not the processor's."""
        return chat_template(self.adapter)

    def _facts(self) -> dict[str, str | None]:
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
            image: Path or picture, or several; None for a prompt without. A text prompt follows its pictures; in
                messages, pictures fill the parts of type image that bring none.
            prompt: The user's text, or messages as chat templates take them: mappings with "role" (system, user or
                assistant) and "content", a text or a list of parts such as {"type": "text", "text": "First:"} and
                {"type": "image"}, which may bring its picture as "image" or "path". The last is the user's.
            strategy: Name such as "vcd(alpha=0.5)", or a strategy.
            uncertainty: Also score the answer with and without the picture; see `Uncertainty`.
            scores: Keep the scores that tokens were chosen from (`Answer.scores`); not with beams or a search.
            **settings: See `mmhall.generation.Settings`.

        Raises:
            MmhallError: The picture, the prompt, the strategy or a setting is unusable.
        """
        request = [(image, prompt)]
        return self.generate_batch(request, strategy, uncertainty=uncertainty, scores=scores, **settings)[0]

    def generate_batch(
        self,
        requests: Sequence[tuple[Images, Prompt]] | Batch,
        strategy: str | Strategy = "greedy",
        *,
        uncertainty: bool = False,
        scores: bool | int = False,
        shared_prefix: bool = True,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
        callback: Callable[[int, Answer], None] | None = None,
        **settings: Any,
    ) -> list[Answer]:
        """Answer several prompts in one batch; each answer is the same as alone.

        The shared prefix of prompts about one picture (the same path or object) is read once, unless the strategy reads
        or edits its rows; see `Explanation.own_picture`.

        Args:
            requests: Pairs of picture and prompt; or a batch made of them by `adapter.inputs`, so that the pictures are
                processed once for several strategies.
            strategy: As in `generate`.
            uncertainty: As in `generate`.
            scores: As in `generate`; an integer keeps those of so many first tokens.
            shared_prefix: Whether to read shared prefixes once, and to use kept features of pictures; answers are the
                same up to rounding.
            seeds: Seed of each request's draws; None: the setting `seed` for all.
            progress: Whether to show on stderr how many answers are complete.
            callback: Called with the 0-based number of a request and its answer, as soon as that is complete: while
                others are still being decoded, its cost the batch's until then. Of beams, a search, several sequences,
                and with uncertainty or scores all answers are complete at the end. What it raises ends the call.
            **settings: As in `generate`.

        Raises:
            MmhallError: As in `generate`; also when prompts with and without pictures are mixed.
        """
        recipe = make_recipe(self.adapter, strategy, settings)
        sequences = recipe.settings.num_return_sequences
        _check_one_answer(sequences, uncertainty=uncertainty, scores=bool(scores))
        prepared = requests.requests if isinstance(requests, Batch) else make_requests(requests)
        checked_seeds = None if seeds is None else check_seeds(seeds, len(prepared))
        if not prepared:
            return []
        keep = StepScores("scores", scores=[], steps=None if scores is True else scores) if scores else None
        told = set[int]()
        with show_progress("answers", len(prepared), shown=progress) as advance:

            def tell(number: int, answer: Answer) -> None:
                told.add(number)
                advance(1)
                if callback is not None:
                    callback(number, answer)

            def tell_early(row: int, tokens: list[int]) -> None:
                until_now = measured.until_now()
                tell(row, build_early_answer(self.adapter, job.inputs, row, tokens, recipe, until_now))

            whole = uncertainty or keep is not None or sequences > 1 or not (progress or callback)
            with measure(self.adapter.device) as measured, count_passes(measured.counted):
                if isinstance(requests, Batch):  # another object, as a strategy may store in it what it has found
                    inputs = self.adapter.picked(requests, range(len(prepared)))
                else:
                    inputs = self.adapter.inputs(prepared)
                options: dict[str, Any] = {"share": shared_prefix, "keep": keep, "ended": None if whole else tell_early}
                job = recipe.job(self.adapter, inputs, checked_seeds, **options)
                tokens = run(job)
            answers = build_answers(self.adapter, job.inputs, tokens, recipe, measured)
            if keep is not None:
                answers = [replace(one, scores=keep.scores_of(i, len(one.token_ids))) for i, one in enumerate(answers)]
            answers = self._with_uncertainty(job.inputs, answers) if uncertainty else answers
            for number, answer in enumerate(answers):
                if number not in told:
                    tell(number, answer)
        return answers

    def generate_many(
        self,
        requests: Iterable[tuple[Images, Prompt]] | Batch,
        strategy: str | Strategy = "greedy",
        *,
        batch_size: int = 16,
        max_tokens: int | None = None,
        memory: int | str | None = None,
        scores: bool | int = False,
        shared_prefix: bool = True,
        seeds: Iterable[int] | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, Answer | MmhallError]]:
        """Answer any number of prompts, as many at a time as a budget allows; each answer is the same as alone.

        Waiting prompts are read as soon as answers have ended, so that no row waits for the longest one. Requests are
        taken from the iterable as they are needed, and `batch_size` ahead; successive ones about one picture are read
        together. With `max_tokens` or `memory`, the first prompt of each kind is read alone, to know what others take.

        Args:
            requests: Pairs of picture and prompt, with and without pictures; or a batch made by `adapter.inputs`.
            strategy: As in `generate`. With a search or beams, one batch is answered after the other.
            batch_size: Most answers that are decoded at a time, >= 1.
            max_tokens: Most positions in caches at a time: those of prompt and `max_new_tokens`, padding included,
                times the rows of branches, beams and sequences. A prompt that takes more is decoded alone. None: any.
            memory: Most bytes of tensors beside the model, on all devices together, as predicted before prompts are
                read; also "500M" or "6G", in powers of 1024. A prompt that takes more alone is an error. None: any.
            scores: As in `generate_batch`.
            shared_prefix: As in `generate_batch`.
            seeds: Seed of each request's draws; None: the setting `seed` for all.
            **settings: As in `generate`.

        Yields:
            The 0-based number of a request, and its answer, or the error for which it has none: no pair, a picture or
            prompt that cannot be read, scores without a token to choose, too little memory for it alone. In the order
            in which they end.

        Raises:
            ModelError: The batch was made for another model.
            OptionError: The budget or a seed is out of range, or there are fewer seeds than requests.
            MmhallError: The strategy or a setting is unusable.
        """
        recipe = make_recipe(self.adapter, strategy, settings)
        _check_one_answer(recipe.settings.num_return_sequences, scores=bool(scores))
        if isinstance(requests, Batch):
            self.adapter.check_made_for(requests)
        budget = Budget.of("generate_many", batch_size, max_tokens, memory)
        samples = self._samples.setdefault(self._sample_key(recipe, scores), {})
        waiting = queue(requests, seeds, batch_size)
        answered = refill(self.adapter, recipe, waiting, budget, samples=samples, scores=scores, share=shared_prefix)
        return (pair for done in answered for pair in done.pairs())

    def stream(
        self,
        image: Images,
        prompt: Prompt,
        strategy: str | Strategy = "greedy",
        *,
        uncertainty: bool = False,
        **settings: Any,
    ) -> Stream:
        """Answer a prompt step by step, while the result is iterated; leaving the iterator stops the computation.

        The model runs in a thread of its own, with the current autocast and CUDA stream. A strategy with a search of
        its own (OPERA, CGD) yields the tokens that no later step can take back, and the rest at the end; an answer
        found by beams comes whole.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            strategy: As in `generate`.
            uncertainty: As in `generate`, after the answer has ended.
            **settings: As in `generate`; one answer.

        Raises:
            MmhallError: As in `generate`.
        """
        recipe = make_recipe(self.adapter, strategy, settings)
        sequences = recipe.settings.num_return_sequences
        if sequences > 1:
            raise PromptError(
                f"{sequences} answers cannot be streamed together; use generate or num_return_sequences=1"
            )
        with measure(self.adapter.device) as measured:
            inputs = self.adapter.inputs([make_request(image, prompt)])

        def write(streamer: BaseStreamer, turns: Turns) -> Answer:
            with count_passes(measured.counted):
                job = recipe.job(self.adapter, inputs, streamer=streamer, pause=turns.pause)
                tokens = run(job)
            cost = Measurement(measured.seconds + turns.seconds, counted=measured.counted)
            answer = build_answers(self.adapter, job.inputs, tokens, recipe, cost)[0]
            if turns.left:
                return replace(answer, stopped_by="stopped")
            return self._with_uncertainty(job.inputs, [answer])[0] if uncertainty else answer

        write = CallerContext(self.adapter.device).wrap(write)
        return Stream(write, self.adapter.tokenizer, recipe.config.stop_strings or (), measured.seconds)

    def close(self) -> None:
        """Restore the model's own attention function; afterwards the LVLM can no longer steer or trace it."""
        self.adapter.close()

    def __enter__(self) -> LVLM:
        """Return the model; the `with` block closes it at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the model."""
        self.close()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __repr__(self) -> str:
        """Return its name, model family, size, dtype and device, on one line."""
        place = f"{str(self.model.dtype).removeprefix('torch.')}, {self.adapter.device}"
        name, size = shorten(str(self.name), 40), f"{self.size / 1e6:,.1f} M parameters"
        return f"LVLM({name!r}, {self.model.config.model_type}, {size}, {place})"

    def _sample_key(self, recipe: Recipe, scores: bool | int) -> Hashable:
        """Return all on which the memory of an answer depends, but for the prompt."""
        steps, placed = "all" if scores is True else int(scores), (self.model.dtype, self.adapter.device)
        return type(recipe.strategy), str(recipe.strategy), replace(recipe.settings, seed=0), steps, placed

    def _with_uncertainty(self, inputs: Inputs, answers: Sequence[Answer]) -> list[Answer]:
        """Return answers with the plain model's scores of them."""
        scores = score(self.adapter, inputs, [answer.token_ids for answer in answers])
        return [replace(answer, uncertainty=scored) for answer, scored in zip(answers, scores, strict=True)]


def _check_one_answer(sequences: int, *, uncertainty: bool = False, scores: bool = False) -> None:
    """Check that a request has one answer, where more is told about it.

    Raises:
        OptionError: It has several.
    """
    if (uncertainty or scores) and sequences > 1:
        expected = "1 with uncertainty=True" if uncertainty else "1 with scores=True"
        raise OptionError("generate", "num_return_sequences", sequences, expected)
