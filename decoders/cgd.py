"""CLIP-guided decoding (CGD).

Paper     Deng et al., 2024, arXiv:2402.15300.
Idea      The later a sentence of a description, the likelier it is made up, and a CLIP notices better than the
          model itself. Write each sentence several times, and go on with the texts that agree with the picture.
Formula   F = beta mean_i cos(picture, sentence_i) + alpha (sum_t log p_t) / tokens
          Of each of `keep` texts `candidates` next sentences are drawn, by softmax(z / temperature) over the top_k
          best tokens, each up to the first token that holds . ? or !; those equal to a sibling are left out. Texts
          that have ended are finished, of the others the `keep` of the highest F go on. Once `keep` are finished,
          or no other is left, the finished text of the highest F is the answer.
Defaults  keep 3, candidates 3, temperature 0.2, top_k 5, alpha 0.01, beta 1: those of d-ailin/CLIP-Guided-Decoding,
          whose CLIP is SigLIP ViT-SO400M-14-384 (here "ViT-SO400M-14-SigLIP-384/webli"). None is loaded by
          itself: name one with `clip`.
Cost      keep x candidates sentences a sentence: candidates rows of each text, those of equally long texts in one
          pass, each of which first reads its texts' tokens anew; and one pass of the CLIP for each new sentence.
Differs   log p is the model's, before temperature and cut-off. A text that runs into the length limit is finished,
          with its last sentence as far as it got. A sentence without letter or digit changes no score; a text of
          such only loses against any other. Of several pictures the mean cosine counts, and without a picture it is
          greedy. Draws are seeded for each sentence: a batch draws what single prompts draw, and prompts are searched
          one after the other. `num_beams` given as a generation setting wins over `keep`. Sentences longer than the
          CLIP's context are cut for it. Streamed is what all texts begin with; the rest follows at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, has_picture
from mmhall.attention import Memory
from mmhall.clip import CLIP_NAMES, Clip, has_word, is_clip_name, load_clip
from mmhall.errors import CompositionError
from mmhall.generation import (
    DecodeBatch,
    Decoding,
    PromptSearch,
    TokenSampler,
    check_scores,
    common_prefix,
    run_sampling_loop,
    run_searches,
)
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy

_TERMINAL = frozenset(".?!")


@dataclass(frozen=True)
class CGD(Strategy):
    """Write each sentence several times and keep what a CLIP finds in the picture.

    Attributes:
        clip: Which CLIP: a folder, "architecture/weights" or "hf-hub:name"; see `mmhall.clip.load_clip`.
        keep: Texts followed side by side, >= 1.
        candidates: Next sentences drawn for each of them, >= 1.
        temperature: Divides logits before a draw, > 0.
        top_k: Tokens a draw is made from, >= 1.
        alpha: Weight of the mean log-probability of a text's tokens, >= 0.
        beta: Weight of the mean agreement of its sentences, >= 0.
        seed: Seeds the draws.
    """

    name: ClassVar[str] = "cgd"
    searches: ClassVar[bool] = True
    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    clip: str = option("", holds=lambda name: not name or is_clip_name(name), expected=CLIP_NAMES, opens=True)
    keep: int = option(3, low=1)
    candidates: int = option(3, low=1)
    temperature: float = option(0.2, holds=lambda value: value > 0, expected="a number > 0")
    top_k: int = option(5, low=1)
    alpha: float = option(0.01, low=0)
    beta: float = option(1.0, low=0)
    seed: int = option(0, low=0, high=2**63 - 1)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """As many as texts are followed."""
        return self.keep

    def fitted(self, adapter: Adapter) -> Strategy:
        """Refuse to go without a CLIP."""
        self.check("clip", bool(self.clip), CLIP_NAMES)
        return super().fitted(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Look at the pictures, and search."""
        if not has_picture(inputs):
            return Session(search=_greedy)
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "cgd: it compares texts with the pictures themselves, and inputs made elsewhere hold only what the "
                "model's processor made of them; use LVLM.generate"
            )
        clip = load_clip(self.clip, adapter.device)
        looks = [clip.embed_pictures(request.images).mean(dim=0) for request in inputs.requests]
        search = partial(_search, self, adapter.tokenizer, clip, looks)
        return Session(search=search, rows_a_beam=self.candidates)


@dataclass(frozen=True, slots=True)
class Text:
    """An answer so far.

    Attributes:
        said: Its tokens.
        similarities: Of each sentence that says something.
        logprob: Sum over the tokens of these sentences.
        counted: How many these are.
        memory: What its row remembered at its end.
    """

    said: tuple[int, ...] = ()
    similarities: tuple[float, ...] = ()
    logprob: float = 0.0
    counted: int = 0
    memory: Memory = field(default_factory=Memory, compare=False)

    def score(self, options: CGD) -> float:
        """Return F; -inf as long as nothing is said."""
        if not self.similarities:
            return -math.inf
        agreement = sum(self.similarities) / len(self.similarities)
        return options.beta * agreement + options.alpha * self.logprob / self.counted


@dataclass(frozen=True, slots=True)
class Draft:
    """A way to go on with a text: the tokens of its next sentence, their log-probability, and if the answer ends."""

    text: Text
    tokens: tuple[int, ...]
    logprob: float
    ends: bool
    memory: Memory


def _greedy(decoding: Decoding) -> Tensor:
    """Decode greedily, as `Session.search`; every answer to a prompt is the same."""
    job = decoding.job
    answers = run_sampling_loop(decoding.prepared, decoding.rows, None, 1, job.streamer)
    return answers.repeat_interleave(job.config.num_return_sequences or 1, dim=0)


def _search(options: CGD, tokenizer: Any, clip: Clip, looks: Sequence[Tensor], decoding: Decoding) -> Tensor:
    """Search for the answers to each prompt, as `Session.search`."""
    pictures = enumerate(looks)
    return run_searches(
        decoding, (Guided(options, tokenizer, clip, look, decoding, prompt) for prompt, look in pictures)
    )


class Guided(PromptSearch):
    """The search for one prompt.

    Attributes:
        running: Texts that are followed, the highest F first.
        finished: Texts that have ended, in the order they were found.
        turns: How many sentences deep the search is.
    """

    def __init__(self, options: CGD, tokenizer: Any, clip: Clip, look: Tensor, decoding: Decoding, prompt: int) -> None:
        """Start at the end of a prompt.

        Args:
            options: Of the search.
            tokenizer: The model's.
            clip: Reads sentences.
            look: Mean embedding of the prompt's pictures, (size,).
            decoding: The batch.
            prompt: Which prompt of the batch, 0-based.
        """
        super().__init__(decoding, prompt)
        self._options, self._tokenizer, self._clip, self._look = options, tokenizer, clip, look
        self._keep = decoding.job.config.num_beams
        self.running, self.finished, self.turns = [Text()], list[Text](), 0

    def run(self) -> list[Tensor]:
        """Return the best answers, best first, (length,) each; the best again where fewer were found."""
        while self.running and len(self.finished) < self._keep:
            drafts = self._drafts()
            texts = self._judged(drafts)
            self.finished += [text for text, draft in zip(texts, drafts, strict=True) if draft.ends]
            going = [text for text, draft in zip(texts, drafts, strict=True) if not draft.ends]
            self.running = sorted(going, key=self._score, reverse=True)[: self._keep]
            self.turns += 1
            self.tell(common_prefix([text.said for text in (*self.running, *self.finished)]))
        best = sorted(self.finished, key=self._score, reverse=True)
        self.end(best[0].said)
        best += [best[0]] * (self.count - len(best))
        return [torch.tensor(text.said, device=self.device) for text in best[: self.count]]

    def _score(self, text: Text) -> float:
        return text.score(self._options)

    def _drafts(self) -> list[Draft]:
        """Draw the next sentences of every text, those of the first text first; of equal ones of a text the first."""
        drawn: dict[int, list[Draft]] = {}
        order = sorted(range(len(self.running)), key=lambda index: len(self.running[index].said))
        for _, alike in groupby(order, key=lambda index: len(self.running[index].said)):
            places = list(alike)
            for draft_of, place in zip(self._drawn(places), places, strict=True):
                drawn[place] = list({draft.tokens: draft for draft in draft_of}.values())
        return [draft for place in range(len(self.running)) for draft in drawn[place]]

    def _drawn(self, places: Sequence[int]) -> list[list[Draft]]:
        """Draw the next sentences of texts of one length, by their places among those that run; a list for each."""
        each, device = self._options.candidates, self.device
        texts = [self.running[place] for place in places]
        rows = self.decoding.rows.taken(torch.full((len(texts),), self.prompt, device=device))
        said = torch.tensor([text.said for text in texts], dtype=torch.long, device=device)
        memory = Memory.joined([text.memory for text in texts])
        if said.shape[1]:
            last = 1 if rows.one_by_one or list(memory) else 0  # what reading it adds, a text does not yet remember
            rows.reread(said[:, : said.shape[1] - last], memory)
            if last:
                rows.step(said[:, -1])
        rows.select(torch.arange(len(texts), device=device).repeat_interleave(each))
        seeds = [sentence_seed(self._options.seed, self.turns, place, one) for place in places for one in range(each)]
        ids = self.decoding.prepared.input_ids[self.prompt].expand(len(seeds), -1)
        ids = torch.cat([ids, said.repeat_interleave(each, dim=0)], dim=1)
        drafts = self._written(rows, ids, TokenSampler(seeds, device), [text for text in texts for _ in range(each)])
        return [drafts[at : at + each] for at in range(0, len(drafts), each)]

    def _written(self, rows: DecodeBatch, ids: Tensor, draws: TokenSampler, texts: Sequence[Text]) -> list[Draft]:
        """Write on until every row has ended its sentence or its answer.

        Args:
            rows: One for each draft.
            ids: What they have read, (rows, position).
            draws: A generator for each.
            texts: What each goes on with.
        """
        drafts, prepared = dict[int, Draft](), self.decoding.prepared
        start, sums = ids.shape[1], torch.zeros(len(ids), device=ids.device)
        while True:
            logits = prepared.processed_alone(self.prompt, ids, rows.scores())
            prompts, length = prepared.input_ids.shape
            check_scores(logits, ids.shape[1] - length, prompts=prompts, prompt=self.prompt)
            chosen = draws(keep_top_k(logits / self._options.temperature, self._options.top_k))
            sums = sums + logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            ended = prepared.criteria(ids, logits).tolist()
            for row, token in enumerate(chosen.tolist()):
                if row not in drafts and (ended[row] or not _TERMINAL.isdisjoint(self._tokenizer.decode([token]))):
                    new = tuple(ids[row, start:].tolist())
                    memory = rows.memory.selected(torch.tensor([row]), len(ids))
                    drafts[row] = Draft(texts[row], new, float(sums[row]), ended[row], memory)
            if len(drafts) == len(ids):
                return [drafts[row] for row in range(len(ids))]
            rows.step(chosen)

    def _judged(self, drafts: Sequence[Draft]) -> list[Text]:
        """Return the texts that drafts make, each new sentence compared with the picture."""
        texts = [self._tokenizer.decode(draft.tokens, skip_special_tokens=True).strip() for draft in drafts]
        saying = [text for text in texts if has_word(text)]
        found = dict(zip(saying, (self._clip.embed_texts(saying) @ self._look).tolist(), strict=True)) if saying else {}
        judged = []
        for draft, sentence in zip(drafts, texts, strict=True):
            before = replace(draft.text, said=draft.text.said + draft.tokens, memory=draft.memory)
            if sentence not in found:
                judged.append(before)
                continue
            text = replace(
                before,
                similarities=(*before.similarities, found[sentence]),
                logprob=before.logprob + draft.logprob,
                counted=before.counted + len(draft.tokens),
            )
            judged.append(text)
        return judged


def keep_top_k(scores: Tensor, count: int) -> Tensor:
    """Rule out all but the best tokens of each row, (rows, vocabulary); of equal ones the first are better."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.full_like(scores, -torch.inf).scatter(1, order, scores.gather(1, order))


def sentence_seed(seed: int, turn: int, text: int, candidate: int) -> int:
    """Return the seed of one sentence's draws: of a candidate of the text in some place, in some turn of a search."""
    return random.Random(f"{seed} {turn} {text} {candidate}").getrandbits(63)
