"""The methods of `mmhall.LVLM` that explain a strategy and analyse answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmhall.adapters import Adapter, check_text
from mmhall.analysis._explain import explain_strategy
from mmhall.analysis._explanation import Explanation
from mmhall.analysis._following import Followed, follow_answer
from mmhall.analysis._head_divergence import HeadDivergence, head_divergence
from mmhall.analysis._lens import Lens, read_lens
from mmhall.analysis._modality_dominance import ModalityDominance, measure_dominance
from mmhall.analysis._score import score
from mmhall.analysis._trace import Trace
from mmhall.analysis._tracing import trace_request
from mmhall.answers import Answer, Uncertainty
from mmhall.errors import PromptError
from mmhall.generation import Images, Prompt, make_recipe, make_request
from mmhall.strategies import Strategy
from mmhall.words import tokenize_answer


class AnalysisMethods:
    """Analysis methods, for a class with an adapter.

    Attributes:
        adapter: The model.
    """

    adapter: Adapter

    def _facts(self) -> dict[str, str | None]:
        """Return name, revision, dtype and device of the model, for traces."""
        raise NotImplementedError

    def explain(
        self, strategy: str | Strategy, image: Images = None, prompt: Prompt | None = None, **settings: Any
    ) -> Explanation:
        """Describe what a strategy reads and edits, its branches, and the cost of a token, without running it.

        Arguments and errors as in `generate`; by default a short question about a grey picture.
        """
        return explain_strategy(self.adapter, make_recipe(self.adapter, strategy, settings), image, prompt)

    def score(self, image: Images, prompt: Prompt, answer: str) -> Uncertainty:
        """Score each token of a given answer by the plain model, with and without the picture.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            answer: Any text.

        Raises:
            MmhallError: As in `generate`.
        """
        inputs = self.adapter.inputs([make_request(image, prompt)])
        return score(self.adapter, inputs, [answer_tokens(self.adapter, answer)])[0]

    def trace(
        self,
        image: Images,
        prompt: Prompt,
        strategy: str | Strategy = "greedy",
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        uncertainty: bool = False,
        **settings: Any,
    ) -> Trace:
        """Answer a prompt and record the attention of each token to the picture.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            strategy: As in `generate`; the trace shows attention as edited by the strategy. The answer of a search is
                decoded again for it, token by token.
            layers: 0-based decoder layers to record; None: all that attend to image tokens.
            heads: 0-based heads to record; None: all.
            uncertainty: As in `generate`.
            **settings: As in `generate`; one sequence.

        Raises:
            OptionError: A layer or head does not exist or attends to no image token; several sequences.
            MmhallError: As in `generate`.
        """
        recipe, facts = make_recipe(self.adapter, strategy, settings), self._facts()
        return trace_request(self.adapter, recipe, image, prompt, layers, heads, facts, uncertainty=uncertainty)

    def follow(
        self,
        image: Images,
        prompt: Prompt,
        answer: Answer,
        *,
        strategy: str | Strategy | None = None,
        candidates: int = 5,
    ) -> Followed:
        """Follow an answer of this model token by token: where each token looked, and what was likely in its place.

        The answer's tokens are forced, whatever its strategy would choose now, so that also a sampled, searched or
        stopped answer is followed as it stands.

        Args:
            image: As in `generate`, when the answer was given.
            prompt: As in `generate`.
            answer: The answer.
            strategy: The strategy that gave it; None: the one that it names.
            candidates: Number of likely tokens at each of its tokens.

        Raises:
            MmhallError: As in `generate`.
        """
        recipe = make_recipe(
            self.adapter, strategy or answer.strategy, {"max_new_tokens": max(1, len(answer.token_ids))}
        )
        return follow_answer(self.adapter, recipe, image, prompt, answer, self._facts(), candidates)

    def lens(self, image: Images, prompt: Prompt, layer: int, tokens: Sequence[int] = (), *, count: int = 3) -> Lens:
        """Read the likeliest words at each image token off an inner layer of the plain model, by the logit lens.

        Args:
            image: As in `generate`; at least one picture.
            prompt: As in `generate`.
            layer: 0-based decoder layer.
            tokens: Token ids whose probabilities to return at each image token.
            count: Number of words at each image token.

        Raises:
            ModelError: The prompts of this model hold no image tokens.
            OptionError: There is no such layer.
            MmhallError: As in `generate`.
        """
        return read_lens(self.adapter, image, prompt, layer, tokens, count)

    def head_divergence(self, image: Images, prompt: Prompt, answer: str) -> HeadDivergence:
        """Measure how much each head's output depends on the picture, for each token of an answer.

        Args:
            image: As in `generate`; at least one picture.
            prompt: As in `generate`.
            answer: Any text, from this model or not.

        Raises:
            PromptError: There is no picture or no answer, or they are too long together.
        """
        request, tokens = make_request(image, prompt), answer_tokens(self.adapter, answer)
        if not request.images or not tokens:
            raise PromptError("head divergence compares an answer with and without a picture: give both")
        return head_divergence(self.adapter, self.adapter.inputs([request]), tokens)

    def balance(self, image: Images, prompt: Prompt, answer: str) -> ModalityDominance:
        """Measure modality dominance, the attention to text and to the picture, layer by layer: MDI and AEI.

        Args:
            image: As in `generate`; at least one picture.
            prompt: As in `generate`.
            answer: Any text, from this model or not.

        Raises:
            ModelError: The model attends to pictures in layers of their own (Mllama).
            PromptError: There is no picture or no answer, or they are too long together.
        """
        inputs = self.adapter.inputs([make_request(image, prompt)])
        return measure_dominance(self.adapter, inputs, [answer_tokens(self.adapter, answer)])[0]


def answer_tokens(adapter: Adapter, answer: str) -> list[int]:
    """Tokenise an answer; special tokens typed in it stay text."""
    check_text("an answer", answer)
    return tokenize_answer(adapter.tokenizer, answer)
