"""Reads captions again with teacher forcing: the model's certainty, and the attention that mechanisms need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from mmhall.analysis import AnswerScores, score_answers
from mmhall.answers import Answer
from mmhall.attention import Op
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.captions import Caption
from mmhall.benchmarks.diagnosis.columns import PromptAttention, column_figures, marked_figure, prompt_columns
from mmhall.benchmarks.diagnosis.dominance import dominance_figures
from mmhall.benchmarks.diagnosis.figures import Figure, UnmeasuredError
from mmhall.benchmarks.diagnosis.heads import head_figure
from mmhall.benchmarks.diagnosis.places import Places
from mmhall.benchmarks.diagnosis.retrieval import Hits, TopColumns, mark_objects, retrieval_figure
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
        self._prompts: list[PromptAttention] = []
        self._hits: list[Hits] = []
        self._places, self._why_no_places = Places(asker), ""

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
        yield "sinks that var finds", needs(lambda draws: marked_figure(self._prompts, draws))
        yield "stripes", needs(lambda draws: stripe_figure(self._stripes, self._words, draws))
        yield "full stops", needs(lambda draws: stops_figure(self._stops, draws))
        yield "heads", needs(lambda draws: head_figure([s.divergence for s in self._scores if s.divergence], draws))
        yield "attention to the prompt", needs(lambda draws: column_figures(self._prompts, draws))
        yield (
            "MDI and AEI",
            needs(
                lambda draws: dominance_figures([s.dominance for s in self._scores if s.dominance is not None], draws)
            ),
        )
        yield "heads that find objects", needs(lambda draws: self._object_figure())

    def _read(self, items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, AnswerScores]:
        adapter, inputs = self._asker.lvlm.adapter, self._asker.inputs(items)
        ids = [answer.token_ids for answer in answers]
        lengths, image = [len(tokens) for tokens in ids], adapter.image_mask(inputs["input_ids"])
        fewest = int(image.sum(dim=1).min())
        self._fewest_tokens = fewest if self._fewest_tokens is None else min(fewest, self._fewest_tokens)
        stripes = StripeProbe(adapter, image.shape[1], lengths)
        sinks = SinkProbe(image, lengths) if fewest * SHARE >= 1 else None
        columns = prompt_columns(adapter, inputs["input_ids"], inputs["attention_mask"].bool(), lengths)
        marks = [
            self._marks(Caption(*pair), row) for pair, row in zip(zip(items, answers, strict=True), image, strict=True)
        ]
        objects = TopColumns(max(lengths), marks, image) if any(marks) else None
        probes: list[Op] = [stripes, columns, *(probe for probe in (sinks, objects) if probe is not None)]
        scores = score_answers(adapter, inputs, ids, heads=True, watch=probes)
        self._prompts += columns.prompts
        for number, marked in enumerate(marks):
            if objects is not None and marked:
                self._hits.append(_hits(items[number], marked, objects, number, int(image[number].sum())))
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

    def _marks(self, caption: Caption, image: Tensor) -> dict[int, Tensor]:
        """Return the columns that show the objects that a caption names; none where they are not known."""
        if not image.any():
            return {}
        try:
            return mark_objects(caption, self._places, self._asker, image)
        except UnmeasuredError as error:
            self._why_no_places = str(error)
            return {}

    def _object_figure(self) -> Figure:
        if self._why_no_places:
            raise UnmeasuredError(self._why_no_places)
        title, what = "objects that the best head finds", "mentions of objects with boxes"
        return retrieval_figure("object_head", title, "objects (%)", self._hits, what)

    def _sink_figures(self, draws: Resampler) -> Iterator[Figure]:
        if not self._asker.lvlm.adapter.image_in_sequence:
            raise UnmeasuredError("the model attends to the picture in layers of their own, not in the sequence")
        if len(self._sinks) < len(self._items):
            least = int(1 / SHARE)
            raise UnmeasuredError(f"a picture has {self._fewest_tokens} image tokens; 5 % of them need {least} or more")
        yield from sink_figures(self._sinks, self._sums, draws)


def _hits(item: Item, marks: Mapping[int, Tensor], probe: TopColumns, number: int, tokens: int) -> Hits:
    """Return the hits of one caption."""
    by_layer = {layer: hits[number] for layer, hits in probe.hits.items()}
    return Hits(item.cluster, len(marks), by_layer, sum(float(mark.sum()) for mark in marks.values()) / tokens)
