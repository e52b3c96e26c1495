"""Hallucination reduction through adaptive focal-contrast decoding (HALC).

Paper     Chen et al., ICML 2024, arXiv:2403.00425; BillChan226/HALC.
Idea      When an object noun is complete, look at the object again: read crops of several sizes around its box, let
          the differences between their predictions propose other tokens for the end of the word, and keep the texts
          that agree best with the picture.
Formula   base step: each beam takes argmax_y s(y), s the scores of DoLa (see `dola`), or the model's own
          when the next token begins another word, or ends the answer, and the complete word is an object noun:
          a detector finds its boxes: more than three, no change; several, the smallest one
          fields of view: v_0 = box shrunk by min(expand, 0.8), v_1 = box, v_i+1 = v_i expanded by expand; each side
          moves by half of that share of the box's size, within the picture
          l_i: logits of the word's last token when v_i is the picture; M_ij = (p_i + p_j) / 2
          pairs with the largest (KL(M || p_i) + KL(M || p_j)) / 2, candidates / 2 of them, propose
          argmax l_i - contrast l_j and argmax l_j - contrast l_i
          each beam with each candidate token is a text; the num_beams texts of the highest CLIP cosine with the whole
          picture continue
Defaults  fields 4, expand 0.6, contrast 0.05, candidates 4: the authors' scripts. threshold 0: 0.05 for OWLv2 and 0.45
          for Grounding DINO, as theirs. num_beams 1, skip 0, no `words`. There is no default detector or CLIP.
Cost      One row for each beam and token. For each noun of a beam: `fields` prompts with their own pictures, the text
          read again, a pass of the CLIP, and a pass of the detector for each new word. All prompts of a batch are
          decoded to their next noun together, then crops are read and texts ranked for all. Without `words`, the
          detector is asked for every content word.
Compared  base step: released code greedy with DoLa in each beam; ours the same, or base="plain": the model's own scores
          nouns: released code spaCy's tags and two lists written by hand, one of which keeps COCO categories such as
            "cat" and "bus" from ever being looked at; ours the nouns of `words`, or, without them, every content word
            for which the detector finds one to three boxes; `exempt` is empty
          plurals: released code strips one final s ("bus" becomes "bu"); ours compares with the plurals of `words`,
            and asks the detector for other words as written
          no box: released code takes (0.2, 0.2, 0.8, 0.8); ours too for `words`; other words are kept
          skipped nouns: released code 0.3, in another copy 0.5, of them at random, with a generator that its ranking
            seeds again; ours `skip`, 0 by default, seeded for each word
          ranking: paper an image-text model; released code BLIP captioning or CLIP ViT-B/32; ours any CLIP of
            open_clip, over the last whole sentences that fit its context
          first beams: released code draws them at random until a noun was looked at, and fills up equal texts; ours
            begins with one text, and counts equal texts once
          undetected nouns that are written again: released code deletes them (unknown tokens, removed at the end);
            ours with delete=True, unless fewer than min_new_tokens would be left
          repeated tokens: released code ends a beam after eight; ours does not
          baseline: the authors' is greedy, without a plausibility cut-off, up to 64 tokens; the base step has DoLa's
            cut-off, so `dola` is the second one to compare with
Differs   Only the last token of a word can change, as in the authors' code. Crops are read by the model alone, with the
          logits processors of the request; other strategies of a composition act on the beams only. A crop has at
          least a twentieth of the picture's width and height. With several pictures, the boxes of all count, the crop
          replaces its own picture, and the mean cosine counts. Texts that have ended are ranked with the others. skip=1
          looks at nothing: with base="plain" it is plain decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, groupby, islice
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, has_picture
from mmhall.attention import Memory
from mmhall.clip import CLIP_NAMES, Clip, is_clip_name, load_clip
from mmhall.decoders._nouns import Noun, ObjectBoxes
from mmhall.decoders.cgd import embed_sentences
from mmhall.decoders.dola import DoLa, divergence
from mmhall.detection import DETECTOR_NAMES, Box, Detector, crop, is_detector_name, load_detector
from mmhall.errors import CompositionError
from mmhall.generation import (
    Ask,
    Decoding,
    Feed,
    PromptSearch,
    Steps,
    check_scores,
    common_prefix,
    run_searches,
)
from mmhall.options import by_model, option
from mmhall.strategies import CONTRAST, SEARCH, Session, Strategy, twin_option
from mmhall.words import decode_answer

_SHRINK = 0.8  # at most
_IMPOSSIBLE = -1e4  # replaces log 0 where it is subtracted
_WORDS = 'a list of object nouns in lower case, such as ("dog", "traffic light")'


def _are_nouns(words: tuple[Any, ...]) -> bool:
    return all(isinstance(word, str) and word == " ".join(word.lower().split()) != "" for word in words)


@dataclass(frozen=True)
class HALC(Strategy):
    """Look again at each object noun, through crops of several sizes, and keep the texts that agree with the picture.

    Attributes:
        detector: Finds the boxes: a folder, a hub id, or "truth:FILE"; see `mmhall.detection.load_detector`.
        clip: Ranks the texts: a folder, "architecture/weights" or "hf-hub:name"; see `mmhall.clip.load_clip`.
        num_beams: Number of texts followed in parallel, >= 1.
        fields: Number of crops of an object, >= 2.
        expand: Growth from one crop to the next, >= 0, as a share of its size.
        contrast: Weight of the crop that is subtracted, >= 0.
        candidates: Tokens proposed for the end of a word, an even number of at most fields (fields - 1).
        words: Object nouns that are looked at; empty: content words for which the detector finds one to three boxes.
        exempt: Nouns that are never looked at.
        threshold: Smallest score of a box, in [0, 1]; 0: the usual one of the detector.
        base: Scores of a step: "dola", or the model's own ("plain").
        skip: Share of nouns that are not looked at, drawn at random, in [0, 1].
        delete: Whether a noun of `words` without a box is deleted where it is written again.
        seed: Seed of these draws.
        twin: 0: the strategy; a larger number: the seed of a random twin (the place of each detected box).
    """

    name: ClassVar[str] = "halc"
    searches: ClassVar[bool] = True
    ways_out: ClassVar = {CONTRAST: "halc(base='plain')"}

    detector: str = option(
        "", holds=lambda name: not name or is_detector_name(name), expected=DETECTOR_NAMES, opens=True
    )
    clip: str = option("", holds=lambda name: not name or is_clip_name(name), expected=CLIP_NAMES, opens=True)
    num_beams: int = option(1, low=1)
    fields: int = option(4, low=2)
    expand: float = option(0.6, low=0)
    contrast: float = by_model(0.05, low=0, tries=(0.05, 0.1, 0.2, 0.4, 0.8))
    candidates: int = option(4, low=2)
    words: tuple[str, ...] = option((), holds=_are_nouns, expected=_WORDS)
    exempt: tuple[str, ...] = option((), holds=_are_nouns, expected=_WORDS)
    threshold: float = option(0.0, low=0, high=1)
    base: str = option("dola", choices=("dola", "plain"))
    skip: float = option(0.0, low=0, high=1)
    delete: bool = option(False)
    seed: int = option(0, low=0, high=2**63 - 1)
    twin: int = twin_option()

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        most = self.fields * (self.fields - 1)
        self.check("candidates", self.candidates % 2 == 0 and self.candidates <= most, f"even and at most {most}")
        self.check("delete", bool(self.words) or not self.delete, "False without `words`, which says what is a noun")

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The search; with DoLa's scores also the contrast."""
        return frozenset({SEARCH, CONTRAST} if self.base == "dola" else {SEARCH})

    @property
    def beams(self) -> int:  # type: ignore[override]
        """The option `num_beams`."""
        return self.num_beams

    def fitted(self, adapter: Adapter) -> Strategy:
        """Fit the options; a detector and a CLIP must be named."""
        self.check("detector", bool(self.detector), DETECTOR_NAMES)
        self.check("clip", bool(self.clip), CLIP_NAMES)
        return super().fitted(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Embed the pictures, and return a session with the search; without a picture an empty session."""
        if not has_picture(inputs):
            return Session()
        base = DoLa(bucket="all").prepare(adapter, inputs) if self.base == "dola" else Session()
        if self.skip == 1:
            return base
        if not isinstance(inputs, Batch):
            raise CompositionError(
                "halc: it looks at parts of the pictures, and inputs made elsewhere hold only what the model's "
                "processor made of them; use LVLM.generate"
            )
        detector = load_detector(self.detector, adapter.device, self.threshold or None)
        clip = load_clip(self.clip, adapter.device)
        return replace(base, search=_Search(self, detector, clip), rows_a_beam=self.fields)


@dataclass(frozen=True, slots=True)
class Text:
    """A partial answer.

    Attributes:
        said: Its tokens; deleted ones are replaced.
        deleted: Indices of deleted tokens.
        checked: Number of tokens up to the last noun that was looked at.
        noun: The noun at its end, to be looked at.
        over: Whether the answer has ended.
        memory: Memory of its row before its last token was read.
    """

    said: tuple[int, ...] = ()
    deleted: frozenset[int] = frozenset()
    checked: int = 0
    noun: Noun | None = None
    over: bool = False
    memory: Memory = field(default_factory=Memory, compare=False)

    @property
    def kept(self) -> tuple[int, ...]:
        """Its tokens without the deleted ones."""
        return tuple(token for index, token in enumerate(self.said) if index not in self.deleted)


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at again.

    Attributes:
        prompt: 0-based prompt of the batch.
        said: The text before the last token of the noun.
        picture: 0-based picture of the prompt.
        boxes: The crops of it.
    """

    prompt: int
    said: tuple[int, ...]
    picture: int
    boxes: list[Box]


class _Search:
    """Searches for the answers to all prompts (`Session.search`)."""

    def __init__(self, options: HALC, detector: Detector, clip: Clip) -> None:
        self.options, self.detector, self.clip = options, detector, clip
        self._searches: list[FocalContrast] = []

    def __call__(self, decoding: Decoding) -> Tensor:
        prompts = range(len(decoding.prepared.input_ids))
        functions = partial(read_views, decoding), partial(embed_sentences, self.clip)
        given = self.options, self.detector, self.clip, decoding
        self._searches = [FocalContrast(*given, prompt, *functions) for prompt in prompts]
        return run_searches(decoding, self._searches)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return in how many of the crops that were read each image token lies."""
        return {"crops": self._searches[0].count_crops()} if self._searches else {}


class FocalContrast(PromptSearch):
    """The HALC search for one prompt.

    Attributes:
        texts: The texts that are followed, best first.
        looked: Nouns that were looked at, in order.
    """

    def __init__(
        self,
        options: HALC,
        detector: Detector,
        clip: Clip,
        decoding: Decoding,
        prompt: int,
        read: Callable[[Sequence[Sequence[Look]]], list[list[Tensor]]],
        embed: Callable[[Sequence[Sequence[str]]], list[Tensor]],
    ) -> None:
        """Start at the end of a prompt.

        Args:
            options: Options of the search.
            detector: Finds objects.
            clip: Ranks texts.
            decoding: The batch.
            prompt: 0-based index of the prompt in the batch.
            read: Reads the crops of all searches, `read_views`.
            embed: Embeds the texts of all searches, `embed_sentences`.
        """
        super().__init__(decoding, prompt)
        self._read, self._embed = read, embed
        job = decoding.job
        assert isinstance(job.inputs, Batch)
        images = job.inputs.requests[prompt].images
        self._options, self._clip, self._tokenizer = options, clip, job.adapter.tokenizer
        self._keep = job.config.num_beams
        self._boxes = ObjectBoxes(options, detector, images)
        self._embedding = clip.embed_pictures(images).mean(dim=0)
        self.texts, self.looked = [Text()], list[Noun]()

    def run(self) -> Steps:
        """Return the best answers, best first, (length,) each; the best one fills up where there are fewer."""
        while not all(text.over for text in self.texts):
            advanced = yield from self._advance()
            proposed = yield from self._propose(advanced)
            self.texts = yield from self._choose(proposed)
            self.tell(common_prefix([text.kept for text in self.texts]))
        answers = [text.kept for text in self.texts]
        self.end(answers[0])
        answers += [answers[0]] * (self.count - len(answers))
        return [torch.tensor(answer, device=self.device, dtype=torch.long) for answer in answers[: self.count]]

    def _advance(self) -> Steps:
        """Continue all texts to their next noun or their end, those of equal length in one batch; the order is kept."""
        advanced = {place: text for place, text in enumerate(self.texts) if text.over}
        going = sorted(set(range(len(self.texts))) - advanced.keys(), key=lambda place: len(self.texts[place].said))
        groups = [list(same) for _, same in groupby(going, key=lambda place: len(self.texts[place].said))]
        decoded = yield [self._decode([self.texts[place] for place in places]) for places in groups]
        advanced |= dict(zip(going, (text for group in decoded for text in group), strict=True))
        return [advanced[place] for place in range(len(self.texts))]

    def _decode(self, texts: Sequence[Text]) -> Steps:
        """Decode texts of equal length greedily, until each has come to a noun to look at, or to its end."""
        prepared, stopped = self.decoding.prepared, dict[int, Text]()
        memory = Memory.join([text.memory for text in texts])
        rows = yield self.resume([text.said for text in texts], [text.memory for text in texts])
        ids, live = self._with_prompt([text.said for text in texts]), list(range(len(texts)))
        while True:
            logits = self._processed(ids, rows.scores())
            chosen = logits.argmax(dim=-1)
            longer, going = torch.cat([ids, chosen[:, None]], dim=1), list[int]()
            ended = prepared.criteria(longer, logits).tolist()
            for row, (number, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                text = replace(texts[number], said=tuple(ids[row, prepared.length :].tolist()))
                noun = self._noun_at_end(text, token)
                if noun is not None:
                    stopped[number] = replace(text, noun=noun, memory=memory.select(torch.tensor([row]), len(live)))
                elif ended[row]:
                    stopped[number] = replace(text, said=(*text.said, token), over=True)
                else:
                    going.append(row)
            if not going:
                return [stopped[number] for number in range(len(texts))]
            if len(self.texts) == 1 and not self._options.delete:
                self.tell(ids[0, prepared.length : -1].tolist())  # only the last token of a word may still change
            left = torch.tensor(going, device=self.device)
            memory = rows.memory.select(left, rows.size)
            yield Feed(rows, chosen[left], left)
            ids, live = longer[left], [live[row] for row in going]

    def _noun_at_end(self, text: Text, token: int) -> Noun | None:
        """Return the noun to look at again, if a text ends with one, and the next token does not continue it."""
        if len(text.said) <= text.checked:
            return None
        written = self._write(text.kept)
        if not written[-1:].isalnum() or len(self._write(text.kept[:-1])) >= len(written):
            return None
        if token not in self.decoding.prepared.ends:
            following = self._write((*text.kept, token)).removeprefix(written)
            if not following or following[0].isalnum() or following[0] in "'’-":
                return None
        return self._boxes.locate(written, len(text.said))

    def _propose(self, texts: Sequence[Text]) -> Steps:
        """Replace each text that ends in a noun by those that differ from it in the end of the noun."""
        nouns = [(text, text.noun) for text in texts if text.noun is not None]
        self.looked += [noun for _, noun in nouns]
        fields, expand = self._options.fields, self._options.expand
        looks = [
            Look(self.prompt, text.said[:-1], noun.picture, fields_of_view(noun.box, fields, expand))
            for text, noun in nouns
        ]
        read = iter((yield Ask(self._read, looks)) if looks else ())
        return [new for text in texts for new in ([text] if text.noun is None else self._ends(text, next(read)))]

    def _ends(self, text: Text, scores: Tensor) -> list[Text]:
        """Return the texts that differ from a text in its last token.

        Args:
            text: The text.
            scores: The model's scores of its last token with each view, (fields, vocabulary).
        """
        views = self._processed(self._with_prompt([text.said[:-1]] * len(scores)), scores).log_softmax(dim=-1)
        pairs = contrast_pairs(views, self._options.candidates // 2)
        tokens = propose_tokens(views, pairs, self._options.contrast)
        answers = [(*text.said[:-1], token) for token in tokens]
        over = self.decoding.prepared.criteria(self._with_prompt(answers), views[:1]).tolist()
        return [
            replace(text, said=answer, checked=len(answer), over=ended)
            for answer, ended in zip(answers, over, strict=True)
        ]

    def count_crops(self) -> Tensor:
        """Return in how many of the crops that were read the middle of each image token lies, (N,) float32."""
        job, options = self.decoding.job, self._options
        inputs = job.adapter.picked(job.inputs, [self.prompt])
        grid = job.adapter.places(inputs.requests[0], inputs)
        counts = torch.zeros(len(grid.image))
        if grid.edges is None:
            return counts
        across, down = (grid.edges[:, side::2].mean(dim=1) for side in (0, 1))  # NaN is in no crop
        for noun in self.looked:
            for box in fields_of_view(noun.box, options.fields, options.expand):
                inside = (box.left <= across) & (across < box.right) & (box.top <= down) & (down < box.bottom)
                counts += inside & (grid.image == noun.picture)
        return counts

    def _choose(self, candidates: Iterable[Text]) -> Steps:
        """Return the different texts that agree best with the picture, best first, ready to continue."""
        distinct: dict[str, Text] = {}
        for text in candidates:
            distinct.setdefault(self._write(text.kept), text)
        texts = list(distinct.values())
        if len(texts) > 1:
            embedded = yield Ask(self._embed, [self._clip.fitting_end(written) for written in distinct])
            order = (embedded @ self._embedding).sort(descending=True, stable=True).indices
            texts = [texts[place] for place in order[: self._keep].tolist()]
        return [replace(self._delete_noun(text) if self._options.delete else text, noun=None) for text in texts]

    def _delete_noun(self, text: Text) -> Text:
        """Delete the noun of a text that was not detected and was written again."""
        noun = text.noun
        if noun is None or noun.detected or text.over:
            return text
        if noun.written not in self._write(text.kept)[noun.start :].lower():
            return text
        kept = [index for index in range(len(text.said)) if index not in text.deleted]
        before = next(count for count in range(len(kept)) if len(self._write(text.kept[: count + 1])) > noun.start)
        if before < (self.decoding.job.config.min_new_tokens or 0):
            return text
        gone = frozenset(kept[before:])
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        instead = self.decoding.job.adapter.pad_token_id if unknown is None else unknown
        said = tuple(instead if index in gone else token for index, token in enumerate(text.said))
        return replace(text, said=said, deleted=text.deleted | gone)

    def _write(self, tokens: Sequence[int]) -> str:
        return decode_answer(self._tokenizer, tokens)

    def _with_prompt(self, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return the tokens of the prompt and of answers of equal length, (answers, positions)."""
        prompt = self.decoding.prepared.input_ids[self.prompt].expand(len(answers), -1)
        said = torch.tensor([list(answer) for answer in answers], dtype=torch.long, device=self.device)
        return torch.cat([prompt, said], dim=1)

    def _processed(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Apply the logits processors to the next-token scores of some rows, and check them."""
        prepared = self.decoding.prepared
        scores = prepared.processed_alone(self.prompt, ids, scores)
        prompts, length = prepared.input_ids.shape
        return check_scores(scores, ids.shape[1] - length, prompts=prompts, prompt=self.prompt)


def read_views(decoding: Decoding, asked: Sequence[Sequence[Look]]) -> list[list[Tensor]]:
    """Read crops of pictures with the texts that follow them, by the model alone.

    As many views as the batch has prompts are read at a time, at least those of one noun.

    Returns:
        For each list of looks the scores of the next token, (crops, vocabulary) for each look.
    """
    looks, scores = [look for each in asked for look in each], list[Tensor]()
    at_once = max(1, len(decoding.prepared.input_ids) // len(looks[0].boxes))
    for start in range(0, len(looks), at_once):
        scores += _read_at_once(decoding, looks[start : start + at_once])
    left = iter(scores)
    return [list(islice(left, len(each))) for each in asked]


def _read_at_once(decoding: Decoding, looks: Sequence[Look]) -> list[Tensor]:
    """Read the crops of some looks in one pass, then the texts of equal length; scores as in `read_views`."""
    adapter, views = decoding.job.adapter, [(look, box) for look in looks for box in look.boxes]

    def change(image: Image.Image, row: int, number: int) -> Image.Image:
        look, box = views[row]
        return crop(image, box) if number == look.picture else image

    inputs = adapter.picked(decoding.job.inputs, [look.prompt for look, _ in views])
    opened, found = decoding.open(adapter.with_pictures(inputs, change)), dict[int, Tensor]()
    device, by_length = opened.said.device, dict[int, list[int]]()
    for row, (look, _) in enumerate(views):
        by_length.setdefault(len(look.said), []).append(row)
    for same in by_length.values():
        rows = opened.taken(torch.tensor(same, device=device)) if len(by_length) > 1 else opened
        rows.reread(torch.tensor([views[row][0].said for row in same], dtype=torch.long, device=device))
        found |= dict(zip(same, rows.scores(), strict=True))
    ordered = torch.stack([found[row] for row in range(len(views))])
    return list(ordered.split([len(look.boxes) for look in looks]))


def fields_of_view(box: Box, count: int, expand: float) -> list[Box]:
    """Return a shrunk box, the box, and ever larger ones, `count` in all."""
    views = [box.expanded(-min(expand, _SHRINK)), box]
    while len(views) < count:
        views.append(views[-1].expanded(expand))
    return views


def contrast_pairs(views: Tensor, count: int) -> list[tuple[int, int]]:
    """Return the pairs of views whose predictions differ most, the most different first; on ties the earlier ones.

    Args:
        views: Log-probabilities of each view, (views, vocabulary).
        count: Number of pairs.
    """
    pairs = list(combinations(range(len(views)), 2))
    first, second = (views[list(side)] for side in zip(*pairs, strict=True))
    order = divergence(first, second.clamp_min(_IMPOSSIBLE)).sort(descending=True, stable=True).indices
    return [pairs[place] for place in order[:count].tolist()]


def propose_tokens(views: Tensor, pairs: Iterable[tuple[int, int]], weight: float) -> list[int]:
    """Return the best tokens of the contrasts of each pair, in both directions, without duplicates.

    Args:
        views: Log-probabilities of each view, (views, vocabulary).
        pairs: Pairs of views.
        weight: Weight of the view that is subtracted.
    """
    directed = [way for pair in pairs for way in (pair, pair[::-1])]
    tokens = [int((views[one] - weight * views[other].clamp_min(_IMPOSSIBLE)).argmax()) for one, other in directed]
    return list(dict.fromkeys(tokens))
