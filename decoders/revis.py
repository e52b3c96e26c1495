"""Sparse steering by visual information (REVIS).

Paper     arXiv:2602.11824, ICML 2026; antgroup/Revis.
Idea      States that hold what the picture shows point along one direction, once the part that language alone explains
          is taken out; at one late layer, push back those that point away from it.
Formula   states at the last token, of one layer: G with picture and faithful text, G0 the same without picture, X0 the
          hallucinated text without picture, R0 a refusal without picture
          p = first principal component of X0 - R0; d = (G - G0) - <G - G0, p> p for each pair
          v = N(mean d) mean |d|, N(x) = x / |x|; h the output of the layer
          risk = -cos(h, v); where risk > threshold: h' = h + alpha v
Defaults  alpha 2.5, as the released code's command line. Layer and threshold are chosen by the fit: on yes/no questions
          about pictures that the direction was not measured on, the last layer, down to the tenth of 32, in which
          false "yes" answers have the larger mean risk than correct answers; there the 85th percentile of the correct
          answers' risks.
Cost      1 row per token, no further pass. The fit reads each pair three times, and two questions each of some pairs.
Compared  v: released code, component=True, the first principal component of d, which says how pictures vary, with the
          sign that the library gives; ours, the mean of d; component=True with the sign of the mean.
          last layer: released code, fitted on states after the final norm, written before it; ours, before it.
          without picture: released code, the placeholder stays in some models' prompts; ours, it is removed.
          refusal: released code, one of five at random; ours, the mean of five.
          questions: released code, POPE's training questions, generated answers; ours, made from the words in which the
          texts of a pair differ, the larger probability of "yes" and "no" as first token.
          baseline: greedy, without a plausibility cut-off.
Differs   Layer and threshold may be given; the artifact holds direction and threshold of every layer, so that a layer
          given alone has its own threshold. It is that of risk itself (released code: of gamma times the risk, gamma
          1). scale="states" measures alpha in the mean length of the layer's states, to compare layers and models.
          alpha below 0 pushes them further away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import EVERY, Op, Visit
from mmhall.errors import FitError
from mmhall.fitting import read_states
from mmhall.generation import make_request
from mmhall.options import by_model, option
from mmhall.strategies import (
    FIRST_ROW,
    Fit,
    LearnedStrategy,
    Pair,
    ReadOutputs,
    Session,
    YesNoTokens,
    edit_rows,
    layers_option,
    principal_component,
    project_out,
    random_like,
    rows_option,
    select_layers,
    shuffled_range,
    sign_aligned_component,
    twin_option,
    yes_no_tokens,
)
from mmhall.strategies.artifacts import Artifact

LAYER_OUTPUT = "the output of a layer"  # the claim of strategies that edit it
REFUSALS = (
    "I cannot see any picture, so I cannot describe it.",
    "There is no image here that I could describe.",
    "Sorry, without a picture I cannot answer this.",
    "No image was given, so I cannot say what it shows.",
    "I am unable to describe an image that I was not shown.",
)
_CHOOSING = 3  # one in so many pairs chooses layer and threshold
_ROUNDING = 1e-5  # samples whose spread is below this share of their length do not vary
_LONGEST = 4  # words of a phrase that a question asks about


@dataclass(frozen=True)
class REVIS(LearnedStrategy):
    """Push states that point away from visual information back towards it, at one layer.

    Attributes:
        alpha: Strength of the push; 0: none; below 0: further away.
        threshold: Risk from which states are pushed, in [-1, 1]; 1: none are.
        scale: Unit of alpha: the length of the "direction", or the mean length of the layer's "states".
        component: Whether the direction is the first principal component instead of the mean.
        percentile: Percentile of the correct answers' risks that the fit takes as the threshold, in [0, 100].
        rows: Positions that are edited: "all", or "answer": the last of the prompt and every later one.
        layer: The layer that is edited; for a fit, the layers that it may choose from.
        twin: 0: the strategy; a larger number: the seed of a random twin (a random direction of the same length).
    """

    name: ClassVar[str] = "revis"
    claims: ClassVar[frozenset[str]] = frozenset({LAYER_OUTPUT})
    adjustable: ClassVar[frozenset[str]] = frozenset({"alpha", "threshold", "layer"})

    alpha: float = by_model(2.5, tries=(0.5, 1.0, 1.6, 2.5))
    threshold: float = by_model(0.2, low=-1, high=1)
    scale: str = option("direction", choices=("direction", "states"))
    component: bool = by_model(False)
    percentile: float = by_model(85.0, low=0, high=100)
    rows: str = rows_option()
    layer: str = layers_option("31%:")
    twin: int = twin_option()

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Measure the direction of every layer, then choose layer and threshold.

        Raises:
            FitError: There is no direction, or no layer in which false answers have the larger risk.
        """
        candidates, tokens = select_layers(adapter, self, "layer", self.layer, EVERY), yes_no_tokens(adapter)
        asked = list(pairs[::_CHOOSING]) if len(pairs) > 1 else list(pairs)
        measured = [pair for number, pair in enumerate(pairs) if number % _CHOOSING] or list(pairs)
        visual, lengths = _visual_states(adapter, measured)
        found = shuffled_range(visual, seed)
        found.check("all layers")
        direction, cosines = find_directions(visual, component=bool(self.component))
        answers = [answer for pair in asked for answer in _answers(adapter, pair, direction, tokens)]
        layer, thresholds, risks = choose_layer(answers, sorted(candidates), float(self.percentile or 0))
        threshold = float(thresholds[layer])
        numbers: dict[str, Any] = {
            "all layers": found.record(),
            "chosen": {"layer": layer, "threshold": threshold, **risks},
            "lengths of directions": direction.norm(dim=-1).tolist(),
            "lengths of states": lengths.tolist(),
            **({"cosines with the mean": cosines} if cosines else {}),
        }
        chosen = {"layer": str(layer), "threshold": threshold}
        return Fit({"direction": direction, "lengths": lengths, "thresholds": thresholds}, numbers, chosen)

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy, whose threshold a fit is to find.

        Raises:
            OptionError: A threshold is given.
        """
        self.check("threshold", self.threshold is None, "left out: the fit chooses it, see percentile")
        return self

    def _chosen(self, artifact: Artifact, adapter: Adapter) -> dict[str, Any]:
        """Return what the fit has chosen; in another layer than its own, the threshold that it measured there."""
        chosen = super()._chosen(artifact, adapter)
        if "threshold" in chosen and "layer" not in chosen:
            spec = self.layer or adapter.tuned[self.tuned_as]["layer"]
            layers = select_layers(adapter, self, "layer", spec, EVERY)
            chosen["threshold"] = float(artifact.tensors["thresholds"][min(layers)])
        return chosen

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Push risky states at the layer; without a picture return an empty session."""
        tensors = self.learned(adapter).tensors
        if not has_picture(inputs) or self.alpha == 0 or self.threshold >= 1:
            return Session()
        layers = select_layers(adapter, self, "layer", self.layer, EVERY)
        self.check("layer", len(layers) == 1, "one layer of this model")
        (layer,) = layers
        direction = tensors["direction"][layer]
        if self.twin:
            direction = random_like(direction, self.twin, f"layer {layer}")
        if self.scale == "states":
            direction = normalize(direction, dim=-1) * tensors["lengths"][layer]
        return Session(ops=[PushRisky(layer, direction.to(adapter.device), self.alpha, self.threshold, self.rows)])


class PushRisky(Op):
    """Pushes the states at the output of a layer that point away from a direction."""

    sites, kinds = frozenset({"out"}), EVERY

    def __init__(self, layer: int, direction: Tensor, alpha: float, threshold: float, rows: str = "all") -> None:
        """Set the direction, (D,) float32, and the options; see `REVIS`."""
        self.layers, self._layer = frozenset({layer}), layer
        self._direction, self._alpha, self._threshold, self._rows = direction, alpha, threshold, rows
        self.first_row = FIRST_ROW[rows]
        self._pushed, self._seen = torch.zeros((), dtype=torch.long), 0

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Push the rows of the layer whose risk exceeds the threshold."""
        direction = self._direction.to(states.device)

        def push(rows: Tensor) -> Tensor:
            risky = measure_risk(rows, direction) > self._threshold
            self._pushed = self._pushed.to(rows.device) + risky.sum()
            self._seen += risky.numel()
            return torch.where(risky[..., None], rows + self._alpha * direction, rows)

        return edit_rows(visit, states, self._rows, push)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the share of positions that were pushed."""
        shares = torch.full((depth, 1), torch.nan)
        shares[self._layer] = float(self._pushed) / max(self._seen, 1)
        return {"share of pushed positions": shares}


def measure_risk(states: Tensor, direction: Tensor) -> Tensor:
    """Return the risk of states, -cos(h, v), (..., D) to (...)."""
    return -cosine_similarity(states, direction, dim=-1)


def find_directions(visual: Tensor, *, component: bool) -> tuple[Tensor, list[float]]:
    """Return the direction of each layer, with the mean length of the samples.

    Args:
        visual: What the picture adds, without the language prior, (pairs, layers, D).
        component: Whether it is the first principal component, with the sign of the mean, instead of the mean.

    Returns:
        (layers, D) float32; with `component`, the cosine of each with the mean.

    Raises:
        FitError: A component is almost orthogonal to the mean.
    """
    lengths, mean = visual.norm(dim=-1).mean(dim=0), visual.mean(dim=0)
    if not component:
        return (normalize(mean, dim=-1) * lengths[:, None]).float(), []
    found = [sign_aligned_component(samples) for samples in visual.unbind(dim=1)]
    parts = torch.stack([part.direction for part in found]).to(lengths)
    return (parts * lengths[:, None]).float(), [part.cosine for part in found]


def remove_prior(visual: Tensor, prior: Tensor) -> Tensor:
    """Remove the first principal component of the language prior from samples, in each layer in which it varies.

    Args:
        visual: With picture minus without, (pairs, layers, D).
        prior: Hallucinated minus refusing text, both without picture, (pairs, layers, D).
    """
    rest = []
    for samples, own in zip(visual.unbind(dim=1), prior.unbind(dim=1), strict=True):
        varies = bool((own - own.mean(dim=0)).norm() > _ROUNDING * own.norm())
        rest.append(project_out(samples, principal_component(own)[0]) if varies else samples)
    return torch.stack(rest, dim=1)


class YesNoAnswer(NamedTuple):
    """The model's answer to a question whether a picture shows something.

    Attributes:
        said_yes: Whether it was yes.
        shown: Whether the picture shows it.
        risks: Risk at the last position of the question in each layer, (layers,).
    """

    said_yes: bool
    shown: bool
    risks: Tensor


def choose_layer(
    answers: Sequence[YesNoAnswer], candidates: Sequence[int], percentile: float
) -> tuple[int, Tensor, dict[str, Any]]:
    """Choose the last layer in which false yes answers have a larger mean risk than correct ones, and thresholds.

    Args:
        answers: Answers to questions.
        candidates: Layers to choose from, in ascending order; a single one is taken as it is.
        percentile: Percentile of the correct answers' risks in a layer that becomes its threshold.

    Returns:
        The layer, the threshold of every layer, (layers,), and the numbers of answers with their mean risks there.

    Raises:
        FitError: There are no correct answers, no false ones, or no such layer.
    """
    false = [answer.risks for answer in answers if answer.said_yes and not answer.shown]
    correct = [answer.risks for answer in answers if answer.said_yes == answer.shown]
    if not correct:
        raise FitError(f"revis: none of {len(answers)} yes/no questions was answered correctly; give more pairs")
    risks = torch.stack(correct)
    means = risks.mean(dim=0), torch.stack(false).mean(dim=0) if false else None
    layer = candidates[0]
    if len(candidates) > 1:
        higher = [] if means[1] is None else [one for one in candidates if means[1][one] > means[0][one]]
        if not higher:
            raise FitError(
                f"revis: in no layer are the states of false yes answers ({len(false)} of {len(answers)} questions) "
                "further from the direction than those of correct ones; give more pairs, or name a layer: "
                "revis(layer='-2')"
            )
        layer = higher[-1]
    thresholds = risks.double().quantile(percentile / 100, dim=0).clamp(-1.0, 1.0).float().cpu()
    record: dict[str, Any] = {"questions": len(answers), "correct": len(correct), "false yes": len(false)}
    record |= {"risk, correct": float(means[0][layer])}
    record |= {} if means[1] is None else {"risk, false yes": float(means[1][layer])}
    return layer, thresholds, record


def _visual_states(adapter: Adapter, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return what the picture adds to each pair, (pairs, layers, D), and the mean length of states, (layers,)."""
    refusals: dict[str, Tensor] = {}
    visual, prior, shown = [], [], []
    for pair in pairs:
        if pair.prompt not in refusals:
            states = [read_states(adapter, None, pair.prompt, text) for text in REFUSALS]
            refusals[pair.prompt] = torch.stack(states).mean(dim=0)
        shown.append(read_states(adapter, pair.picture, pair.prompt, pair.faithful))
        visual.append(shown[-1] - read_states(adapter, None, pair.prompt, pair.faithful))
        prior.append(read_states(adapter, None, pair.prompt, pair.hallucinated) - refusals[pair.prompt])
    lengths = torch.stack(shown).norm(dim=-1).mean(dim=0)
    return remove_prior(torch.stack(visual), torch.stack(prior)), lengths


def _answers(adapter: Adapter, pair: Pair, direction: Tensor, tokens: YesNoTokens) -> Iterator[YesNoAnswer]:
    """Ask whether the picture of a pair shows what its texts differ in."""
    for phrase, shown in differing_phrases(pair):
        question = f"Is there {phrase} in the image? Please answer with yes or no."
        outputs = ReadOutputs()
        logits = read_prompts(adapter, adapter.inputs([make_request(pair.picture, question)]), [outputs])[0]
        states = outputs.states(len(adapter.layers))[:, 0]
        yield YesNoAnswer(bool(tokens.margin(logits) > 0), shown, measure_risk(states, direction.to(states)))


def differing_phrases(pair: Pair) -> Iterator[tuple[str, bool]]:
    """Yield the phrases in which the texts of a pair differ, and whether the picture shows them.

    "... shows a dog and a cup." and "... shows a dog and an oven." give "a cup" (shown) and "an oven" (not shown).
    """
    texts: list[list[str]] = [re.findall(r"[\w'-]+", text) for text in (pair.faithful, pair.hallucinated)]
    for kind, *bounds in SequenceMatcher(None, texts[0], texts[1], autojunk=False).get_opcodes():
        if kind != "replace":
            continue
        for words, (first, end), shown in ((texts[0], bounds[:2], True), (texts[1], bounds[2:], False)):
            first -= first > 0 and words[first - 1].lower() in ("a", "an", "the")
            if end - first <= _LONGEST:
                yield " ".join(words[first:end]), shown
