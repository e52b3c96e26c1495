"""CLIP-guided decoding (CGD).

Paper     Deng et al., 2024, arXiv:2402.15300.
Idea      Later sentences of a description are more often hallucinated, and a CLIP detects it better than the model
          itself. Draw each sentence several times, and continue the texts that agree with the picture.
Formula   F = beta mean_i cos(picture, sentence_i) + alpha (sum_t log p_t) / tokens
          For each of `keep` texts `candidates` next sentences are drawn from softmax(z / temperature) over the top_k
          best tokens, each up to the first token that holds . ? or !; duplicates of a text's sentence are left out.
          Texts that have ended are finished; of the others the `keep` with the highest F continue. Once `keep` are
          finished, or no other is left, the finished text with the highest F is the answer.
Defaults  keep 3, candidates 3, temperature 0.2, top_k 5, alpha 0.01, beta 1: those of d-ailin/CLIP-Guided-Decoding,
          whose CLIP is SigLIP ViT-SO400M-14-384 (here "ViT-SO400M-14-SigLIP-384/webli"). There is no default
          CLIP: name one with `clip`.
Cost      keep x candidates sentences for each sentence: candidates rows for each text, all texts of all prompts in
          one pass, after reading their tokens again; and one pass of the CLIP for all new sentences.
Compared  log p: released code several terms to choose from; ours the mean log-probability of a token
          limit: released code 500 tokens for all texts; ours the generation setting
          baseline: not told in what this was written from; there is no cut-off but top_k
Differs   log p is the model's, before temperature and cut-off. A text at the length limit is finished, with an
          incomplete last sentence. A sentence without letter or digit changes no score; a text with only such sentences
          loses against any other. With several pictures the mean cosine counts; without a picture decoding is greedy.
          Draws are seeded for each sentence: a batch draws the same as single prompts. The generation setting
          `num_beams` overrides `keep`. Sentences longer than the CLIP's context are truncated for it. The common prefix
          of all texts is streamed; the rest follows at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
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
    Ask,
    Decoding,
    Feed,
    PromptSearch,
    SearchRows,
    Steps,
    TokenSampler,
    check_scores,
    common_prefix,
    greedy_search,
    run_searches,
)
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy

_TERMINAL = frozenset(".?!")


@dataclass(frozen=True)
class CGD(Strategy):
    """Draw each sentence several times, and keep the texts that agree with the picture by a CLIP.

    Attributes:
        clip: The CLIP: a folder, "architecture/weights" or "hf-hub:name"; see `mmhall.clip.load_clip`.
        keep: Number of texts followed in parallel, >= 1.
        candidates: Next sentences drawn for each text, >= 1.
        temperature: Divides logits before a draw, > 0.
        top_k: Number of tokens to draw from, >= 1.
        alpha: Weight of the mean log-probability of a text's tokens, >= 0.
        beta: Weight of the mean agreement of its sentences, >= 0.
        seed: Seed of the draws.
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
        """The option `keep`."""
        return self.keep

    def fitted(self, adapter: Adapter) -> Strategy:
        """Fit the options; a CLIP must be named."""
        self.check("clip", bool(self.clip), CLIP_NAMES)
        return super().fitted(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Embed the pictures, and return a session with the search."""
        if not has_picture(inputs):
            return Session(search=greedy_search)
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "cgd: it compares texts with the pictures themselves, and inputs made elsewhere hold only what the "
                "model's processor made of them; use LVLM.generate"
            )
        clip = load_clip(self.clip, adapter.device)
        embeddings = [clip.embed_pictures(request.images).mean(dim=0) for request in inputs.requests]
        search = partial(_search, self, adapter.tokenizer, clip, embeddings)
        return Session(search=search, rows_a_beam=self.candidates)


@dataclass(frozen=True, slots=True)
class Text:
    """A partial answer.

    Attributes:
        said: Its tokens.
        similarities: Cosine of each sentence that holds a word.
        logprob: Summed log-probability of the tokens of these sentences.
        counted: Number of these tokens.
        memory: Memory of its row at its end.
    """

    said: tuple[int, ...] = ()
    similarities: tuple[float, ...] = ()
    logprob: float = 0.0
    counted: int = 0
    memory: Memory = field(default_factory=Memory, compare=False)

    def score(self, options: CGD) -> float:
        """Return F; -inf without a sentence that holds a word."""
        if not self.similarities:
            return -math.inf
        agreement = sum(self.similarities) / len(self.similarities)
        return options.beta * agreement + options.alpha * self.logprob / self.counted


@dataclass(frozen=True, slots=True)
class Draft:
    """A candidate for the next sentence of a text: its tokens, their log-probability, and whether the answer ends."""

    text: Text
    tokens: tuple[int, ...]
    logprob: float
    ends: bool
    memory: Memory


def _search(options: CGD, tokenizer: Any, clip: Clip, embeddings: Sequence[Tensor], decoding: Decoding) -> Tensor:
    """Search for the answers to all prompts (`Session.search`)."""
    embed = partial(embed_sentences, clip)
    pictures = enumerate(embeddings)
    return run_searches(
        decoding, [Guided(options, tokenizer, embed, embedding, decoding, prompt) for prompt, embedding in pictures]
    )


def embed_sentences(clip: Clip, lists: Sequence[Sequence[str]]) -> list[Tensor]:
    """Embed the sentences of several lists in one batch, (sentences, size) for each list."""
    sentences = [sentence for each in lists for sentence in each]
    if not sentences:
        return [torch.empty(0)] * len(lists)
    return list(clip.embed_texts(sentences).split([len(each) for each in lists]))


class Guided(PromptSearch):
    """The CLIP-guided search for one prompt.

    Attributes:
        running: Texts that continue, the highest F first.
        finished: Texts that have ended, in order of completion.
        turns: Number of sentences searched so far.
    """

    def __init__(
        self,
        options: CGD,
        tokenizer: Any,
        embed: Callable[[Sequence[Sequence[str]]], list[Tensor]],
        embedding: Tensor,
        decoding: Decoding,
        prompt: int,
    ) -> None:
        """Start at the end of a prompt.

        Args:
            options: Options of the search.
            tokenizer: The model's tokenizer.
            embed: Embeds the sentences of all searches, `embed_sentences`.
            embedding: Mean embedding of the prompt's pictures, (size,).
            decoding: The batch.
            prompt: 0-based index of the prompt in the batch.
        """
        super().__init__(decoding, prompt)
        self._options, self._tokenizer, self._embed, self._embedding = options, tokenizer, embed, embedding
        self._keep = decoding.job.config.num_beams
        self.running, self.finished, self.turns = [Text()], list[Text](), 0

    def run(self) -> Steps:
        """Return the best answers, best first, (length,) each; the best one fills up where there are fewer."""
        while self.running and len(self.finished) < self._keep:
            drafts = yield from self._drafts()
            texts = yield from self._extend(drafts)
            self.finished += [text for text, draft in zip(texts, drafts, strict=True) if draft.ends]
            continuing = [text for text, draft in zip(texts, drafts, strict=True) if not draft.ends]
            self.running = sorted(continuing, key=self._score, reverse=True)[: self._keep]
            self.turns += 1
            self.tell(common_prefix([text.said for text in (*self.running, *self.finished)]))
        best = sorted(self.finished, key=self._score, reverse=True)
        self.end(best[0].said)
        best += [best[0]] * (self.count - len(best))
        return [torch.tensor(text.said, device=self.device) for text in best[: self.count]]

    def _score(self, text: Text) -> float:
        return text.score(self._options)

    def _drafts(self) -> Steps:
        """Draw the next sentences of all texts, in the order of the texts, without duplicates of one text."""
        order = sorted(range(len(self.running)), key=lambda index: len(self.running[index].said))
        groups = [list(same) for _, same in groupby(order, key=lambda index: len(self.running[index].said))]
        drawn = yield [self._draw_sentences(places) for places in groups]
        by_place = dict(zip(order, (drafts for group in drawn for drafts in group), strict=True))
        return [draft for place in range(len(order)) for draft in {one.tokens: one for one in by_place[place]}.values()]

    def _draw_sentences(self, places: Sequence[int]) -> Steps:
        """Draw the next sentences of texts of equal length, by their places in `running`; a list for each text."""
        each, device = self._options.candidates, self.device
        texts = [self.running[place] for place in places]
        rows = yield self.resume([text.said for text in texts], [text.memory for text in texts])
        said = torch.tensor([text.said for text in texts], dtype=torch.long, device=device)
        seeds = [
            sentence_seed(self._options.seed, self.turns, place, number) for place in places for number in range(each)
        ]
        ids = self.decoding.prepared.input_ids[self.prompt].expand(len(texts), -1)
        ids = torch.cat([ids, said], dim=1).repeat_interleave(each, dim=0)
        drafts = yield from self._write_sentences(
            rows, ids, TokenSampler(seeds, device), [text for text in texts for _ in range(each)]
        )
        return [drafts[at : at + each] for at in range(0, len(drafts), each)]

    def _write_sentences(self, rows: SearchRows, ids: Tensor, sampler: TokenSampler, texts: Sequence[Text]) -> Steps:
        """Draw tokens until each row has ended its sentence or its answer.

        Args:
            rows: One row for each text.
            ids: Tokens read so far of each draft, (drafts, position); those of a text follow each other.
            sampler: A generator for each draft.
            texts: The text that each draft continues.
        """
        drafts, prepared = dict[int, Draft](), self.decoding.prepared
        prompts, length = prepared.input_ids.shape
        start, sums = ids.shape[1], torch.zeros(len(ids), device=ids.device)
        live = torch.arange(len(ids), device=ids.device)  # the drafts that go on
        parents = live // self._options.candidates  # their rows
        while True:
            logits = prepared.processed_alone(self.prompt, ids, rows.scores()[parents])
            check_scores(logits, ids.shape[1] - length, prompts=prompts, prompt=self.prompt)
            chosen = sampler(keep_top_k(logits / self._options.temperature, self._options.top_k), live)
            sums = sums + logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
            ids, going = torch.cat([ids, chosen[:, None]], dim=1), list[int]()
            ended = prepared.criteria(ids, logits).tolist()
            for row, (number, token) in enumerate(zip(live.tolist(), chosen.tolist(), strict=True)):
                if not ended[row] and _TERMINAL.isdisjoint(self._tokenizer.decode([token])):
                    going.append(row)
                    continue
                memory = rows.memory.select(parents[row : row + 1], rows.size)
                new = tuple(ids[row, start:].tolist())
                drafts[number] = Draft(texts[number], new, float(sums[row]), ended[row], memory)
            if not going:
                return [drafts[number] for number in range(len(texts))]
            left = torch.tensor(going, device=ids.device)
            yield Feed(rows, chosen[left], parents[left])
            live, ids, sums = live[left], ids[left], sums[left]
            parents = torch.arange(len(left), device=ids.device)

    def _extend(self, drafts: Sequence[Draft]) -> Steps:
        """Extend texts by drafts, and compare each new sentence with the picture."""
        sentences = [self._tokenizer.decode(draft.tokens, skip_special_tokens=True).strip() for draft in drafts]
        worded = [sentence for sentence in sentences if has_word(sentence)]
        embedded = yield Ask(self._embed, worded)
        cosines = dict(zip(worded, (embedded @ self._embedding).tolist(), strict=True)) if worded else {}
        texts = []
        for draft, sentence in zip(drafts, sentences, strict=True):
            text = replace(draft.text, said=draft.text.said + draft.tokens, memory=draft.memory)
            if sentence in cosines:
                text = replace(
                    text,
                    similarities=(*text.similarities, cosines[sentence]),
                    logprob=text.logprob + draft.logprob,
                    counted=text.counted + len(draft.tokens),
                )
            texts.append(text)
        return texts


def keep_top_k(scores: Tensor, count: int) -> Tensor:
    """Rule out all but the `count` best tokens of each row, (rows, vocabulary); of equal ones the first is better."""
    count = min(count, scores.shape[1])
    last = scores.topk(count).values[:, -1:]
    better, equal = scores > last, scores == last
    kept = better | (equal & (equal.cumsum(dim=-1) <= count - better.sum(dim=-1, keepdim=True)))
    return scores.masked_fill(~kept, -torch.inf)


def sentence_seed(seed: int, turn: int, text: int, candidate: int) -> int:
    """Return the seed of the draws of one candidate sentence, by turn of the search and place of the text."""
    return random.Random(f"{seed} {turn} {text} {candidate}").getrandbits(63)
