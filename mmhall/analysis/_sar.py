"""Shifting attention to relevance (SAR): uncertainty of an answer, weighted by what matters in it.

Paper    Duan et al., ACL 2024, arXiv:2307.01379; jinhaoduan/SAR.
Token    The relevance of a token is R_i = 1 - similarity of the answer with and without it. With the shares
         R_i / sum R as weights, tokenSAR = sum of weight times -log p_i.
Answers  Of several answers to one question, each with an energy E (its tokenSAR; or the sum of -log p, sentSAR), an
         answer is surer the more probable answers mean the same: -log(e^-E_k + sum over others of sim_kj e^-E_j / t).
Ours     Where no token is relevant, all count alike. The similarity is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

TEMPERATURE = 0.001
"""t of the released code: how much other answers count beside the answer itself."""


def relevance_shares(relevance: Sequence[float]) -> list[float]:
    """Return the share of each token in the relevance of an answer; they sum to 1.

    Relevances below 0 (an answer that is more similar without the token) count as 0; where all are 0, shares are even.

    >>> relevance_shares([0.5, 1.5]), relevance_shares([0.0, 0.0])
    ([0.25, 0.75], [0.5, 0.5])
    """
    floored = [max(0.0, value) for value in relevance]
    whole = sum(floored)
    return [value / whole for value in floored] if whole > 0 else [1 / len(floored)] * len(floored)


def token_sar(relevance: Sequence[float], logprobs: Sequence[float]) -> float:
    """Return the mean of -log p over the tokens of an answer, weighted by relevance, in nats (tokenSAR).

    Relevances 0.1, 0.3 and 0.6 with -log p of 1, 2 and 0.5: 0.1 + 0.6 + 0.3 = 1.

    Args:
        relevance: Relevance of each token, at least one.
        logprobs: Log-probability of each token.
    """
    shares = relevance_shares(relevance)
    return sum(-share * logprob for share, logprob in zip(shares, logprobs, strict=True) if share > 0)


def answer_sar(
    energy: float, others: Sequence[float], similarities: Sequence[float], temperature: float = TEMPERATURE
) -> float:
    """Return the uncertainty of an answer among others to the same question, in nats (sentence level of SAR).

    Energies 1.2 of it, 1.2 and 3 of the others, similarities 0.9 and 0.1, t = 1:
    -log(e^-1.2 + 0.9 e^-1.2 + 0.1 e^-3) = 0.5495.

    Args:
        energy: Energy of the answer: its tokenSAR (SAR), or the sum of -log p (sentSAR).
        others: Energy of each other answer.
        similarities: Similarity of the answer to each other one, in [0, 1].
        temperature: t, > 0: the smaller, the more the other answers count.
    """
    shared = [
        math.log(similarity / temperature) - other
        for other, similarity in zip(others, similarities, strict=True)
        if similarity > 0
    ]
    return -float(np.logaddexp.reduce([-energy, *shared]))
