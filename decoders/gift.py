"""Gaze shift-guided cross-modal fusion enhancement (GIFT).

Paper     arXiv:2510.22067; amazon-science/GIFT (under a non-commercial licence; written from descriptions only).
Idea      While a model reads the informative words of a question, its attention shifts to what they are about (gaze
          shifts). Sum these shifts to a saliency map of the picture, raise the newest row's attention to it, and the
          attention to the question in proportion, so that neither outweighs the other.
Formula   shift of a head at word row i: max(0, A[i, k] - A[i - 1, k]) on image columns k; half of the heads with the
          largest sums, mean over heads, rows and saliency layers, clipped at 3 deviations, scaled to [0, 1]: S
          newest row, half of the heads with most weight on the picture: A[k] *= exp(alpha S[k])
          r = their picture mass after over before; half of the heads with most weight on the question:
          A[k] *= beta r; each row is then normalised to sum 1
Defaults  alpha 5, beta 1, saliency layer 11, enhanced layers 12 to 22 (LLaVA-1.5-7B); 13B 10 and 14 to 20;
          Qwen2-VL-7B alpha 4, 14 and 5 to 18.
Cost      Attention weights of the words' rows in the saliency layers, and of the newest row, are computed explicitly.
          Where an enhanced layer comes before a saliency layer, the last prompt token is read twice (the whole prompt
          where its rows attend to later ones or a layer is recurrent).
Compared  words: released code those that a tagger marks as nouns, verbs, adjectives, adverbs or numbers, of a
            repeated word the last; ours all but function words of a list of our own, at every occurrence
          question: released code between fixed places of the template (span "3:-6" for LLaVA-1.5, "2:-6" for
            Qwen2-VL); ours found at any place in the template
          no informative word: released code NaN; ours nothing is enhanced
          baseline: greedy; without a branch in decoding there is no cut-off
Differs   `words` can also be all words, or given ones. Each prompt of a batch has its own map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import SaliencyProbe, mark_informative, mark_words
from mmhall.attention import Call, Groups
from mmhall.errors import ModelError
from mmhall.options import by_model, option
from mmhall.strategies import (
    RowStrategy,
    Session,
    Steer,
    layers_option,
    select_layers,
    shuffled_columns,
    top_half,
    twin_option,
)

_SPAN = re.compile(r"[1-9]\d{0,5}:-[1-9]\d{0,5}")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def _is_word(word: object) -> bool:
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


@dataclass(frozen=True)
class GIFT(RowStrategy):
    """Raise attention to the parts of the picture that the question is about.

    Attributes:
        alpha: Strength on the saliency map, >= 0; 0 changes nothing while beta is 1.
        beta: Gain of the question's columns relative to the picture's, >= 0.
        saliency: Layers whose attention shifts make the saliency map.
        layers: Layers in which the newest row is enhanced.
        words: Which words of the question count: "informative" words, "all" of it, or a tuple of words.
        span: Position of the question: "question": the user's own words; "a:b", such as "3:-6": from the a-th token
            behind the picture to the b-th from the end, both included.
        twin: 0: the strategy; a larger number: the seed of a random twin (the saliency map in a random order).
    """

    name: ClassVar[str] = "gift"
    published: ClassVar = {
        ("llava", 32): {"alpha": 5.0, "saliency": "11", "layers": "12:23"},
        ("llava", 40): {"alpha": 5.0, "saliency": "10", "layers": "14:21"},
        ("qwen2_vl", 28): {"alpha": 4.0, "saliency": "14", "layers": "5:19"},
    }

    alpha: float = by_model(5.0, low=0, high=60, tries=(0.5, 1.0, 2.0, 5.0))
    beta: float = option(1.0, low=0, high=100)
    saliency: str = layers_option("35%", tries=("35%", "50%"))
    layers: str = layers_option("37%:71%", tries=("37%:71%", "50%:"))
    words: str | tuple[str, ...] = option(
        "informative",
        choices=("informative", "all"),
        also=(tuple,),
        holds=lambda words: isinstance(words, str) or (bool(words) and all(_is_word(word) for word in words)),
        expected='"informative", "all", or a tuple of single words such as ("red", "dog")',
    )
    span: str = option(
        "question",
        holds=lambda span: span == "question" or _SPAN.fullmatch(span) is not None,
        expected='"question", or "a:b" such as "3:-6": tokens behind the picture, and from the end',
    )
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Record attention shifts at prefill, and enhance from the last prompt row on."""
        if not has_picture(inputs) or (self.alpha == 0 and self.beta == 1):
            return Session()
        query = self._query(adapter, inputs)
        words = self._words(adapter, inputs, query)
        shift_layers = select_layers(adapter, self, "saliency", self.saliency, whole=True)
        enhanced = select_layers(adapter, self, "layers", self.layers)
        saliency = SaliencyProbe(shift_layers, adapter.image_mask(inputs["input_ids"]), words)
        reread = max(shift_layers) >= min(enhanced)
        return Session(ops=[saliency, _Enhance(self, enhanced, saliency, query, reread)], reread=reread)

    def _query(self, adapter: Adapter, inputs: Inputs) -> Tensor:
        """Mark the question, (batch, position) bool.

        Raises:
            OptionError: `span` leaves no token of a prompt.
        """
        if self.span == "question":
            return adapter.query_mask(inputs)
        first, last = map(int, self.span.split(":"))
        behind = adapter.after_image(inputs).cumsum(dim=1)  # 1 at the first token behind the picture
        length = behind.shape[1]
        query = (behind >= first) & (torch.arange(length, device=behind.device) <= length + last)
        nonempty = bool(query.any(dim=1).all())
        self.check(
            "span", nonempty, f"within the tokens behind the picture, of which a prompt has {int(behind.amax())}"
        )
        return query

    def _words(self, adapter: Adapter, inputs: Inputs, query: Tensor) -> Tensor:
        """Mark the words that count, (batch, position) bool.

        Raises:
            ModelError: Words are given, and there is no tokenizer to find them.
            OptionError: A question holds none of the given words.
        """
        if isinstance(self.words, str):
            return mark_informative(adapter, inputs, query) if self.words == "informative" else query
        if adapter.tokenizer is None:
            raise ModelError("gift: words are found with the model's processor; hand it over too")
        words = mark_words(adapter, inputs, query, self.words)
        self.check("words", bool(words.any(dim=1).all()), "words of which the question holds at least one")
        return words


class _Enhance(Steer):
    """Raises the newest row's attention to the saliency map, and to the question in proportion."""

    first_row = -1

    def __init__(
        self, options: GIFT, layers: frozenset[int], saliency: SaliencyProbe, query: Tensor, reread: bool
    ) -> None:
        super().__init__(layers)
        self._options, self._saliency, self._query, self._reread = options, saliency, query, reread
        self._has_words = saliency.words.any(dim=1)
        self._groups: Groups

    def rows(self, call: Call) -> LongTensor | None:
        return None if self._reread and call.step == 0 and not call.reread else call.newest

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        if call.step == 0 and call.layer == min(self.layers or ()):  # of these prompts the map is known only now
            saliency, image = self._saliency.map(), self._saliency.image
            if self._options.twin:
                saliency = shuffled_columns(saliency, image, self._options.twin, "saliency")
            self._groups = Groups(torch.expm1(self._options.alpha * saliency), self._query, image)
        lifted, query, image = self._groups.masses(call, probs)
        image_heads = top_half(image)
        growth = 1 + (image_heads * lifted).sum(dim=1, keepdim=True) / (image_heads * image).sum(dim=1, keepdim=True)
        gain = top_half(query) * (self._options.beta * growth.nan_to_num(1.0) - 1)
        gain = gain * call.each(self._has_words)[:, None, None, None]
        edited = self._groups.scale(call, probs, image_heads, gain)
        return edited.div_(1 + image_heads * lifted + gain * query)
