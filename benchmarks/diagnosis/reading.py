"""Reads captions again with teacher forcing: the model's certainty, and the attention that mechanisms need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from mmhall.analysis import AnswerScores, score_answers
from mmhall.answers import Answer
from mmhall.attention import Op
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.captions import Caption
from mmhall.benchmarks.diagnosis.figures import Figure, UnmeasuredError
from mmhall.benchmarks.diagnosis.heads import head_figure
from mmhall.benchmarks.diagnosis.sinks import SHARE, PictureSinks, SinkProbe, sink_figures
from mmhall.benchmarks.diagnosis.stops import Hidden, read_stops, stops_figure
from mmhall.benchmarks.diagnosis.stripes import Stripe, StripeProbe, stripe_figure
from mmhall.results.statistics import Resampler

Measure = Callable[[], Figure | Iterable[Figure]]


class Reading:
    """Reads the captions of a model batch by batch, and keeps what the figures of mechanisms need."""

    def __init__(self, asker: Asker) -> None:
        """Start with no captions."""
        self._asker = asker
        self._items: list[Item] = []
        self._scores: list[AnswerScores] = []
        self._sinks: list[PictureSinks] = []
        self._sums: dict[int, Tensor] = {}
        self._stripes: list[Stripe | None] = []
        self._words: list[str] = []
        self._stops: list[Hidden] = []
        self._fewest_tokens: int | None = None

    def read(self, batch: Sequence[tuple[Item, Answer]]) -> list[Caption]:
        """Read a batch of captions; return them with the plain model's scores of those that say something."""
        said = [(item, answer) for item, answer in batch if answer.token_ids]
        scores = self._read([item for item, _ in said], [answer for _, answer in said]) if said else {}
        return [Caption(item, answer, scores.get(item.id)) for item, answer in batch]

    def mechanisms(self) -> Iterator[tuple[str, Measure]]:
        """Yield the mechanisms, each as its title and a function that measures it."""
        draws = Resampler([item.cluster for item in self._items]) if self._items else None

        def needs(measure: Callable[[Resampler], Figure | Iterable[Figure]]) -> Measure:
            def run() -> Figure | Iterable[Figure]:
                if draws is None:
                    raise UnmeasuredError("no caption says anything")
                return measure(draws)

            return run

        yield "visual sinks", needs(self._sink_figures)
        yield "stripes", needs(lambda draws: stripe_figure(self._stripes, self._words, draws))
        yield "full stops", needs(lambda draws: stops_figure(self._stops, draws))
        yield "heads", needs(lambda draws: head_figure([s.divergence for s in self._scores if s.divergence], draws))

    def _read(self, items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, AnswerScores]:
        adapter, inputs = self._asker.lvlm.adapter, self._asker.inputs(items)
        ids = [answer.token_ids for answer in answers]
        lengths, image = [len(tokens) for tokens in ids], adapter.image_mask(inputs["input_ids"])
        fewest = int(image.sum(dim=1).min())
        self._fewest_tokens = fewest if self._fewest_tokens is None else min(fewest, self._fewest_tokens)
        stripes, probes = StripeProbe(adapter, image.shape[1], lengths), list[Op]()
        sinks = SinkProbe(image, lengths) if fewest * SHARE >= 1 else None
        probes = [stripes, *([sinks] if sinks else [])]
        scores = score_answers(adapter, inputs, ids, heads=True, watch=probes)
        self._stops += read_stops(adapter, inputs, answers, [item.id for item in items])
        self._items += items
        self._scores += scores
        if sinks is not None:
            self._sinks += sinks.pictures
            for layer, summed in sinks.sums.items():
                self._sums[layer] = self._sums.get(layer, 0) + summed
        for number, answer in enumerate(answers):
            stripe = stripes.stripes.get(number)
            self._stripes.append(stripe)
            self._words.append("" if stripe is None else answer.tokens[stripe.token].strip())
        return {item.id: scored for item, scored in zip(items, scores, strict=True)}

    def _sink_figures(self, draws: Resampler) -> Iterator[Figure]:
        if not self._asker.lvlm.adapter.image_in_sequence:
            raise UnmeasuredError("the model attends to the picture in layers of their own, not in the sequence")
        if len(self._sinks) < len(self._items):
            least = int(1 / SHARE)
            raise UnmeasuredError(f"a picture has {self._fewest_tokens} image tokens; 5 % of them need {least} or more")
        yield from sink_figures(self._sinks, self._sums, draws)
