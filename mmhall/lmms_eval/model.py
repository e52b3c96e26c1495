"""The model class of `--model mmhall` in lmms-eval. Importing this module imports lmms-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image
from tqdm import tqdm

import mmhall
from mmhall.adapters import Conversation, Request
from mmhall.errors import MmhallError, OptionError, PromptError
from mmhall.lmms_eval.arguments import OWNER, format_strategy, make_arguments, split_arguments
from mmhall.lmms_eval.requests import (
    batches,
    has_inner_marks,
    ignored_settings,
    pictures_of,
    place_pictures,
    settings_of,
    without_placeholders,
)


@dataclass(frozen=True, slots=True)
class _Job:
    """A request before its document is opened.

    Attributes:
        prompt: Text of the task, with its picture placeholders.
        visuals: Returns the pictures of the document.
        document: Number of the document.
        task: Name of the task.
        split: Split of the task's data.
        settings: Generation settings.
    """

    prompt: str
    visuals: Callable[[Any], Any] | None
    document: int
    task: str
    split: str
    settings: Mapping[str, Any]


class Mmhall(lmms):
    """Answers lmms-eval's requests with a strategy.

    Attributes:
        is_simple: A request is one text, with or without picture placeholders, and its pictures.
        arguments: Arguments of the command line.
        batch_size: Requests decoded together.
        device: Device of the model.
    """

    is_simple = True

    def __init__(self, **given: Any) -> None:
        """Load the model.

        Args:
            **given: See `make_arguments`.

        Raises:
            MmhallError: An argument is unknown or out of range, the model cannot be loaded, or cannot carry the
                strategy.
        """
        super().__init__()
        self.arguments = arguments = make_arguments(given)
        here = PartialState()
        self._rank, self._world_size = here.process_index, here.num_processes
        self._lvlm = mmhall.load(
            arguments.pretrained,
            **{**arguments.arguments(), "device": _device(arguments.device, here)},
            tuned=arguments.tuned,
        )
        self.device, self.batch_size = self._lvlm.adapter.device, arguments.batch_size
        self._warned: set[str] = set()  # tasks whose pictures are not at their placeholders
        self._seed = torch.initial_seed()  # set by lmms-eval's --seed
        fitted, origins = arguments.strategy.fitted(self._lvlm.adapter), arguments.strategy.origins(self._lvlm.adapter)
        whence = "".join(f"; {option}: {why}" for option, why in origins.items())
        logger.info(f"mmhall {mmhall.__version__}: {self._lvlm!r}, strategy {format_strategy(fitted)}{whence}")

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> Mmhall:
        """Build the model from `--model_args`, which override the flags --batch_size and --device.

        Raises:
            MmhallError: See `__init__`.
        """
        arguments = split_arguments(arg_string) if isinstance(arg_string, str) else dict(arg_string)
        flags = {name: value for name, value in (additional_config or {}).items() if name in ("batch_size", "device")}
        return cls(**{**flags, **arguments})

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer each request.

        Raises:
            MmhallError: A request cannot be answered; an empty answer would be scored.
        """
        _warn_of_ignored(requests)
        times: Counter[int] = Counter()
        jobs = []
        for request in requests:
            prompt, task_settings, visuals, document, task, split = request.args
            seed = (self._seed + times[id(request)]) % 2**63  # --repeats sends the same request several times
            times[id(request)] += 1
            settings = settings_of(task_settings, self.arguments.max_new_tokens, seed)
            jobs.append(_Job(prompt, visuals, document, task, split, settings))
        results: dict[int, GenerationResult] = {}
        with tqdm(total=len(jobs), desc="Answering", disable=self.rank != 0) as bar:
            for positions in batches([repr(job.settings) for job in jobs], self.batch_size):
                results.update(zip(positions, self._answer([jobs[position] for position in positions]), strict=True))
                bar.update(len(positions))
        return [results[position] for position in range(len(jobs))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse likelihood requests: strategies act during generation, and lmms-eval 0.7.3 turns scores into text.

        Raises:
            PromptError: Always.
        """
        raise PromptError(
            f"{requests[0].task_name}: ranks given answers, but strategies act during generation; leave the task out, "
            "or use `mmhall choose`"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse requests of several rounds.

        Raises:
            PromptError: Always.
        """
        raise PromptError(f"{requests[0].task_name}: asks in several rounds; mmhall answers single questions")

    def clean(self) -> None:
        """Free the memory of the model; lmms-eval calls this after the last request."""
        self._lvlm.close()
        del self._lvlm
        super().clean()

    def _answer(self, jobs: list[_Job]) -> list[GenerationResult]:
        """Answer requests of equal settings; requests with and without pictures in separate batches."""
        pictures = [self._pictures(job) for job in jobs]
        results: dict[int, GenerationResult] = {}
        for group in batches([not own for own in pictures], len(jobs)):
            pairs = [(pictures[index] or None, self._prompt(jobs[index], pictures[index])) for index in group]
            with _name_documents([jobs[index] for index in group]):
                answers = self._lvlm.generate_batch(pairs, self.arguments.strategy, **jobs[0].settings)
            for index, answer in zip(group, answers, strict=True):
                tokens = TokenCounts(answer.usage.prompt_tokens, answer.usage.new_tokens)
                results[index] = GenerationResult(answer.text, tokens)
        return [results[index] for index in range(len(jobs))]

    def _prompt(self, job: _Job, pictures: tuple[Image.Image, ...]) -> str | Conversation:
        """Put the pictures at the placeholders of the text, or before the text with a warning if that is impossible."""
        if not has_inner_marks(job.prompt):
            return without_placeholders(job.prompt)
        conversation = place_pictures(job.prompt)
        reason = f"document {job.document}: marks {conversation.pictures}, pictures {len(pictures)}"
        if conversation.pictures == len(pictures):
            try:
                self._lvlm.adapter.render(Request(conversation, pictures))
                return conversation
            except MmhallError as error:
                reason = str(error)
        if job.task not in self._warned:
            self._warned.add(job.task)
            logger.warning(f"{job.task}: places pictures within its text; mmhall shows them before it: {reason}")
        return without_placeholders(job.prompt)

    def _pictures(self, job: _Job) -> tuple[Image.Image, ...]:
        with _name_documents([job]):
            document = self.task_dict[job.task][job.split][job.document]
            return pictures_of(job.visuals(document) if job.visuals is not None else None)


@contextmanager
def _name_documents(jobs: Sequence[_Job]) -> Iterator[None]:
    """Add the numbers of the documents to errors of mmhall."""
    try:
        yield
    except MmhallError as error:
        numbers = ", ".join(str(job.document) for job in jobs)
        error.args = (f"{jobs[0].task}, document {numbers}: {error}",)
        raise


def _device(requested: str | None, here: PartialState) -> str | None:
    """Return the device of this process; each of several processes has its own.

    Raises:
        OptionError: One device is given for several processes.
    """
    if here.num_processes == 1:
        return requested
    if requested is not None and requested != here.device.type:
        raise OptionError(OWNER, "device", requested, f"left out with {here.num_processes} processes: each has its own")
    return str(here.device)


def _warn_of_ignored(requests: Sequence[Any]) -> None:
    ignored = sorted({(request.args[4], name) for request in requests for name in ignored_settings(request.args[1])})
    for task, name in ignored:
        logger.warning(f"{task}: mmhall has no use for its generation setting {name!r} and leaves it out")
