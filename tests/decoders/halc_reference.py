"""HALC for one prompt as a slow search: everything is read anew for each token, without cache and batch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations

from mmhall.adapters._base import Request
from mmhall.clip import load_clip
from mmhall.decoders._nouns import CENTRE, ObjectBoxes, random_box
from mmhall.detection import load_detector
from mmhall.objects.plurals import plural
from mmhall.strategies import Session
from mmhall.words import FUNCTION_WORDS
from tests.generation.reference import anew

LENGTH = 10  # tokens of an answer


@dataclass(frozen=True)
class State:
    """A text of the slow search; deleted tokens are None in `shown`."""

    said: tuple = ()
    shown: tuple = ()
    checked: int = 0
    over: bool = False
    noun: tuple | None = None


class Naive:
    """HALC for one prompt with a plain base step: no cache, no batch, one token after the other."""

    def __init__(self, adapter, request, options):
        self.adapter, self.request, self.options = adapter, request, options
        self.detector = load_detector(options.detector, threshold=options.threshold)
        self.clip, self.looked, self.views = load_clip(options.clip), [], []
        self.stop = adapter.generator.generation_config.eos_token_id
        self.scores = cache(partial(self.read, request.images))

    def read(self, images, answer):
        inputs = self.adapter.inputs([Request(self.request.prompt, tuple(images))])
        return anew(self.adapter, Session(), inputs, answer).log_softmax(-1)

    def write(self, shown):
        return self.adapter.tokenizer.decode([one for one in shown if one is not None], skip_special_tokens=True)

    def run(self):
        texts = [State()]
        while not all(text.over for text in texts):
            pool = {}
            for text in texts:
                for found in self.looked_at(self.onward(text)):
                    pool.setdefault(self.write(found.shown), found)
            if len(pool) > 1:
                cosines = [self.clip.similarity(image, list(pool)) for image in self.request.images]
                best = (sum(cosines) / len(cosines)).tolist()
                order = sorted(range(len(pool)), key=lambda at: -best[at])
                texts = [list(pool.values())[at] for at in order][: self.options.num_beams]
            else:
                texts = list(pool.values())
            texts = [replace(self.deleted(text), noun=None) for text in texts]
        return [tuple(one for one in text.shown if one is not None) for text in texts]

    def onward(self, text):
        while not text.over:
            token = int(self.scores(text.said).argmax())
            noun = self.noun(text, token)
            if noun:
                self.looked.append(noun)
                return replace(text, noun=noun)
            over = token in self.stop or len(text.said) + 1 == LENGTH
            text = replace(text, said=(*text.said, token), shown=(*text.shown, token), over=over)
        return text

    def noun(self, text, token):
        """The noun's text, phrase, picture, box and whether it was detected."""
        written = self.write(text.shown)
        continues = token not in self.stop and re.match(r"[aens]", self.write([token]))
        if len(text.said) <= text.checked or continues or not written[-1:].isalpha():
            return None
        word = re.search(r"[aens]+$", written).group()
        options, phrase = self.options, word
        if options.words:
            phrase = next((one for one in options.words if word in (one, plural(one))), "")
        elif len(word) < 2 or word in FUNCTION_WORDS:
            return None
        if not phrase or phrase in options.exempt:
            return None
        if options.skip:
            draw = ObjectBoxes(replace(options, exempt=()), None, ())
            draw._found = {phrase: [(0, CENTRE)]}
            if draw.locate(word, len(text.said)) is None:
                return None
        boxes = [(at, box) for at, image in enumerate(self.request.images) for box in self.detector.find(image, phrase)]
        if len(boxes) > 3 or (not boxes and not options.words):
            return None
        if not boxes:
            return word, phrase, 0, (0.2, 0.2, 0.8, 0.8), False
        at, box = sorted(boxes, key=lambda one: (one[1].right - one[1].left) * (one[1].bottom - one[1].top))[0]
        if options.twin:
            box = random_box(box, options.twin, f"{phrase} {len(text.said)}")
        return word, phrase, at, (box.left, box.top, box.right, box.bottom), True

    def looked_at(self, text):
        if text.noun is None:
            return [text]
        _, _, at, box, _ = text.noun
        boxes = [grown(box, -min(self.options.expand, 0.8)), box]
        while len(boxes) < self.options.fields:
            boxes.append(grown(boxes[-1], self.options.expand))
        images = self.request.images
        views = [self.read((*images[:at], cutout(images[at], one), *images[at + 1 :]), text.said[:-1]) for one in boxes]
        self.views.append(views)
        pairs = sorted(combinations(range(len(views)), 2), key=lambda pair: -apart(*(views[one] for one in pair)))
        found = []
        for one, other in pairs[: self.options.candidates // 2]:
            for first, second in ((one, other), (other, one)):
                token = int((views[first] - self.options.contrast * views[second]).argmax())
                shown = (*text.shown[:-1], token)
                end = token in self.stop
                found.append(State((*text.said[:-1], token), shown, len(text.said), end, text.noun))
        return found

    def deleted(self, text):
        if not self.options.delete or text.noun is None or text.noun[-1] or text.over:
            return text
        word = text.noun[0]
        if not re.search(rf"{word}[aens ]*$", self.write(text.shown)) or text.shown[-1] is None:
            return text
        places = [at for at, one in enumerate(text.shown) if one is not None][-len(word) :]
        if self.write([text.shown[at] for at in places]) != word:
            return text
        unknown = self.adapter.tokenizer.unk_token_id
        instead = self.adapter.pad_token_id if unknown is None else unknown
        return replace(
            text,
            said=tuple(instead if at in places else one for at, one in enumerate(text.said)),
            shown=tuple(None if at in places else one for at, one in enumerate(text.shown)),
        )


def grown(box, ratio):
    left, top, right, bottom = box
    across, down = ratio * (right - left) / 2, ratio * (bottom - top) / 2
    return max(left - across, 0), max(top - down, 0), min(right + across, 1), min(bottom + down, 1)


def cutout(image, box):
    edges = [one * size for one, size in zip(box, image.size * 2, strict=True)]
    least = [size / 20 for size in image.size]
    for axis in (0, 1):
        if edges[axis + 2] - edges[axis] < least[axis]:
            middle = (edges[axis] + edges[axis + 2]) / 2
            edges[axis] = min(max(middle - least[axis] / 2, 0), image.size[axis] - least[axis])
            edges[axis + 2] = edges[axis] + least[axis]
    left, top = (math.floor(one + 1e-4) for one in edges[:2])
    right, bottom = (math.ceil(one - 1e-4) for one in edges[2:])
    return image.crop((left, top, right, bottom))


def apart(one, other):
    mixed = ((one.double().exp() + other.double().exp()) / 2).log()
    return float(sum((mixed.exp() * (mixed - part.double())).sum() for part in (one, other)) / 2)
