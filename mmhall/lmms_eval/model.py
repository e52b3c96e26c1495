"""The class that lmms-eval makes for `--model mmhall`. Importing this module imports lmms-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

import mmhall
from mmhall.adapters.base import Request
from mmhall.errors import MmhallError, OptionError, PromptError
from mmhall.lmms_eval.arguments import OWNER, make_arguments, split_arguments, told
from mmhall.lmms_eval.losses import losses
from mmhall.lmms_eval.requests import PLACEHOLDER, batches, pictures_of, settings_of, unread, without_placeholders

Result = TypeVar("Result")

_PLAIN = "greedy"


@dataclass(frozen=True, slots=True)
class _Job:
    """A request whose document has not been opened yet.

    Attributes:
        prompt: The task's text.
        visuals: Makes the pictures from the document.
        document: Its number.
        task: The task's name.
        split: The split of the task's data.
        settings: Generation settings; none where a continuation is scored.
        continuation: What is scored.
    """

    prompt: str
    visuals: Callable[[Any], Any] | None
    document: int
    task: str
    split: str
    settings: Mapping[str, Any]
    continuation: str = ""


class Mmhall(lmms):
    """Answers lmms-eval's requests with a strategy.

    Attributes:
        is_simple: A request is one text and its pictures.
        arguments: What the command line asked for.
        batch_size: Requests answered together.
        device: Where the model is.
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
        self.arguments = asked = make_arguments(given)
        here = PartialState()
        self._rank, self._world_size = here.process_index, here.num_processes
        self._lvlm = mmhall.load(
            asked.pretrained,
            device=_device(asked.device, here),
            dtype=asked.dtype,
            revision=asked.revision,
            tuned=asked.tuned,
        )
        self.device, self.batch_size = self._lvlm.adapter.device, asked.batch_size
        self._seed = torch.initial_seed()  # what lmms-eval's --seed set
        fitted, origins = asked.strategy.fitted(self._lvlm.adapter), asked.strategy.origins(self._lvlm.adapter)
        whence = "".join(f"; {option}: {why}" for option, why in origins.items())
        logger.info(f"mmhall {mmhall.__version__}: {self._lvlm!r}, strategy {told(fitted)}{whence}")

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> Mmhall:
        """Build it from `--model_args`, which go before the flags --batch_size and --device.

        Raises:
            MmhallError: See `__init__`.
        """
        given = split_arguments(arg_string) if isinstance(arg_string, str) else dict(arg_string)
        flags = {name: value for name, value in (additional_config or {}).items() if name in ("batch_size", "device")}
        return cls(**{**flags, **given})

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer each request.

        Raises:
            MmhallError: A request cannot be answered; none gets an empty answer instead, which would be scored.
        """
        _warn_of_ignored(requests)
        times: Counter[int] = Counter()
        jobs = []
        for request in requests:
            prompt, asked, visuals, document, task, split = request.args
            seed = (self._seed + times[id(request)]) % 2**63  # --repeats sends the same request several times
            times[id(request)] += 1
            settings = settings_of(asked, self.arguments.max_new_tokens, seed)
            jobs.append(_Job(without_placeholders(prompt), visuals, document, task, split, settings))
        return self._in_batches(jobs, self._answered, "Answering")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Score each continuation by the plain model; see `losses` for what lmms-eval does with it.

        Raises:
            OptionError: A strategy was asked for: it would do nothing, and its name would stand over the result.
            MmhallError: A request cannot be read.
        """
        if self.arguments.strategy.name != _PLAIN:
            tasks = ", ".join(sorted({request.task_name for request in requests}))
            raise OptionError(
                OWNER,
                "strategy",
                str(self.arguments.strategy),
                f"{_PLAIN} for {tasks}, which ranks given answers: strategies act where an answer is written",
            )
        jobs = []
        for request in requests:
            if len(request.args) != 6:
                raise PromptError(f"{request.task_name}: scores a text without its document, which mmhall does not do")
            prompt, target, visuals, document, task, split = request.args
            text = target if isinstance(target, str) else target(self.task_dict[task][split][document])
            jobs.append(_Job(without_placeholders(prompt), visuals, document, task, split, {}, text))
        return self._in_batches(jobs, self._scored, "Scoring")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse.

        Raises:
            PromptError: Always.
        """
        raise PromptError(f"{requests[0].task_name}: asks in several rounds; mmhall answers single questions")

    def clean(self) -> None:
        """Free the model's memory; lmms-eval calls it once everything is answered."""
        self._lvlm.close()
        del self._lvlm
        super().clean()

    def _answered(self, requests: list[Request], jobs: list[_Job]) -> list[GenerationResult]:
        pairs = [(request.images or None, request.prompt) for request in requests]
        answers = self._lvlm.generate_batch(pairs, self.arguments.strategy, **jobs[0].settings)
        return [
            GenerationResult(
                answer.text,
                TokenCounts(input_tokens=answer.usage.prompt_tokens, output_tokens=answer.usage.new_tokens),
            )
            for answer in answers
        ]

    def _scored(self, requests: list[Request], jobs: list[_Job]) -> list[tuple[float, bool]]:
        return losses(self._lvlm.adapter, requests, [job.continuation for job in jobs])

    def _in_batches(
        self, jobs: list[_Job], work: Callable[[list[Request], list[_Job]], list[Result]], what: str
    ) -> list[Result]:
        """Work through jobs batch by batch; one batch's pictures are open at a time."""
        found: dict[int, Result] = {}
        keys = [repr(job.settings) for job in jobs]
        with tqdm(total=len(jobs), desc=what, disable=self.rank != 0) as bar:
            for positions in batches(keys, self.batch_size):
                opened = {position: self._opened(jobs[position]) for position in positions}
                for group in batches([not opened[position].images for position in positions], self.batch_size):
                    places = [positions[index] for index in group]
                    members = [jobs[place] for place in places]
                    with _naming(members):
                        results = work([opened[place] for place in places], members)
                    found.update(zip(places, results, strict=True))
                bar.update(len(positions))
        return [found[position] for position in range(len(jobs))]

    def _opened(self, job: _Job) -> Request:
        with _naming([job]):
            document = self.task_dict[job.task][job.split][job.document]
            return Request(job.prompt, pictures_of(job.visuals(document) if job.visuals is not None else None))


@contextmanager
def _naming(jobs: Sequence[_Job]) -> Iterator[None]:
    """Say in an error of mmhall's which documents it came from."""
    try:
        yield
    except MmhallError as error:
        numbers = ", ".join(str(job.document) for job in jobs)
        error.args = (f"{jobs[0].task}, document {numbers}: {error}",)
        raise


def _device(asked: str | None, here: PartialState) -> str | None:
    """Give each of several processes its own device.

    Raises:
        OptionError: One of several processes' devices was named for all of them.
    """
    if here.num_processes == 1:
        return asked
    if asked is not None and asked != here.device.type:
        raise OptionError(OWNER, "device", asked, f"left out with {here.num_processes} processes: each has its own")
    return str(here.device)


def _warn_of_ignored(requests: Sequence[Any]) -> None:
    ignored = sorted({(request.args[4], name) for request in requests for name in unread(request.args[1])})
    for task, name in ignored:
        logger.warning(f"{task}: mmhall has no use for its generation setting {name!r} and leaves it out")
    marked = sorted(
        {request.args[4] for request in requests if PLACEHOLDER in request.args[0].strip()[len(PLACEHOLDER) :]}
    )
    for task in marked:
        logger.warning(f"{task}: places pictures within its text; mmhall shows them before it")
