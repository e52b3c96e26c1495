"""CGD against a slow search that reads everything anew for each token, its parts by hand, and its refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from itertools import chain

import pytest
import torch
from transformers.generation import BaseStreamer

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.clip import has_word, load_clip
from mmhall.decoders.cgd import CGD, Guided, Text, embed_sentences, keep_top_k, sentence_seed
from mmhall.errors import CompositionError, OptionError
from mmhall.generation import run_searches
from mmhall.generation._settings import Settings
from mmhall.options import parse
from mmhall.strategies import Session, strategy
from tests.clip import CLIP
from tests.generation.reference import QUIET, REQUESTS, anew, built, cut, ends, in_turn
from tests.jobs import opened, run

pytestmark = [QUIET, pytest.mark.usefixtures("clip")]

LENGTH = 10
WILD = f"cgd(clip={str(CLIP)!r}, temperature=1.5, alpha=0.05)"  # draws differ, and both parts of F decide
NEUTRAL = f"cgd(clip={str(CLIP)!r}, keep=1, candidates=1, top_k=1)"


@cache
def dotted(name):
    """A family's adapter whose model likes to end sentences: a period is always among the five best tokens."""
    model, processor = built(name)
    dot = processor.tokenizer.convert_tokens_to_ids(".")
    assert processor.tokenizer.decode([dot]) == "."

    def like(module, inputs, logits):
        logits = logits.clone()
        logits[..., dot] = logits.amax(dim=-1) - 0.7
        return logits

    model.get_output_embeddings().register_forward_hook(like)
    adapter = adapter_for(model, processor)
    adapter.generator.generation_config.eos_token_id = [one for one in ends(name) if one != dot][-1:]
    return adapter


def said(adapter, inputs, spec="greedy", **settings):
    """What mmhall says with as many beams as the strategy wants, a row for each answer, ends included."""
    method = strategy(spec)
    config = Settings(**{"max_new_tokens": LENGTH, **settings}).resolved(adapter.generator, method.beams)
    rows = run(adapter, inputs, method, config, 0).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows]


READ = {}
"""What models without a session say after an answer, as `Naive.scores`, by adapter and prompt."""


class Naive:
    """CGD for one prompt: no cache, no batch, one token after the other."""

    def __init__(self, adapter, request, options, session=None, keep=None):
        self.adapter, self.options, self.keep = adapter, options, keep or options.keep
        self.inputs = adapter.inputs([request])
        self.session = session(adapter, self.inputs) if session else Session()
        self.stop = set(adapter.generator.generation_config.eos_token_id or ())
        self.clip, self.pictures = load_clip(options.clip), request.images
        self.turns = 0
        self.scores = cache(self.read) if session else READ.setdefault((id(adapter), request.prompt), cache(self.read))

    def read(self, answer):
        return anew(self.adapter, self.session, self.inputs, answer).log_softmax(-1).tolist()

    def sentence(self, answer, seed):
        """Draw a sentence: its tokens, their log-probability, and whether the answer is over."""
        generator, new, logprob = torch.Generator().manual_seed(seed), [], 0.0
        while True:
            scores = self.scores((*answer, *new))
            best = sorted(range(len(scores)), key=lambda token: (-scores[token], token))[: self.options.top_k]
            weights = [0.0] * len(scores)
            for token in best:
                weights[token] = math.exp((scores[token] - scores[best[0]]) / self.options.temperature)
            token = int(torch.multinomial(torch.tensor(weights) / sum(weights), 1, generator=generator))
            new.append(token)
            logprob += scores[token]
            over = token in self.stop or len(answer) + len(new) == LENGTH
            if over or set(self.adapter.tokenizer.decode([token])) & set(".?!"):
                return tuple(new), logprob, over

    def run(self):
        running, finished = [((), [], 0.0, 0)], []
        while running and len(finished) < self.keep:
            going = []
            for place, (answer, cosines, logprob, count) in enumerate(running):
                seen = []
                for one in range(self.options.candidates):
                    seed = sentence_seed(self.options.seed, self.turns, place, one)
                    new, more, over = self.sentence(answer, seed)
                    if new in seen:
                        continue
                    seen.append(new)
                    text = self.adapter.tokenizer.decode(new, skip_special_tokens=True).strip()
                    if has_word(text):
                        agreed = [float(self.clip.similarity(picture, [text])) for picture in self.pictures]
                        grown = [*cosines, sum(agreed) / len(agreed)], logprob + more, count + len(new)
                    else:
                        grown = cosines, logprob, count
                    (finished if over else going).append(((*answer, *new), *grown))
            running = sorted(going, key=self.score, reverse=True)[: self.keep]
            self.turns += 1
        return sorted(finished, key=self.score, reverse=True)

    def score(self, found):
        _, cosines, logprob, count = found
        if not cosines:
            return -math.inf
        return self.options.beta * sum(cosines) / len(cosines) + self.options.alpha * logprob / count


def searches(adapter, requests, spec, **settings):
    """Run the search for each prompt of a batch, and return what the searches hold at the end."""
    inputs = adapter.inputs(requests)
    config = Settings(max_new_tokens=LENGTH, **settings).resolved(adapter.generator, strategy(spec).beams)
    method = strategy(spec).fitted(adapter)
    with torch.inference_mode():
        session = method.prepare(adapter, inputs)
        decoding, _ = opened(adapter, inputs, session, config)
        options, tokenizer, clip, looks = session.search.args
        embed = partial(embed_sentences, clip)
        found = [Guided(options, tokenizer, embed, look, decoding, prompt) for prompt, look in enumerate(looks)]
        run_searches(decoding, found)
    return found


def check(name, spec, options, session=None, **settings):
    turns = 0
    for search, request in zip(searches(dotted(name), REQUESTS[:2], spec, **settings), REQUESTS[:2], strict=True):
        naive = Naive(dotted(name), request, options, session, settings.get("num_beams"))
        wanted = naive.run()
        found = sorted(search.finished, key=lambda text: text.score(options), reverse=True)
        assert [text.said for text in found] == [one[0] for one in wanted]
        assert [text.score(options) for text in found] == pytest.approx([naive.score(one) for one in wanted], abs=1e-4)
        assert search.turns == naive.turns
        turns += search.turns
    return turns


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_it_finds_what_a_slow_search_finds(name):
    options = strategy(WILD)
    assert check(name, WILD, options) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("llava", "keep=2, candidates=4, seed=7"), ("llava", "beta=0.0, keep=1"), ("qwen2_5_vl", "alpha=0.0, top_k=2")],
)
def test_each_option_does_what_the_slow_search_does(name, more):
    spec = str(strategy(WILD, **parse(f"cgd({more})")[1]))
    assert check(name, spec, strategy(spec)) > 2


@pytest.mark.slow
def test_beams_given_as_a_setting_win():
    assert check("llava", WILD, strategy(WILD), num_beams=5) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), [("llava", "vcd"), ("mllama", "vdd(alpha=0.5)")])
def test_a_contrast_is_searched(name, other):
    def session(adapter, inputs):
        return strategy(other).fitted(adapter).prepare(adapter, inputs)

    assert check(name, f"{other}+{WILD}", strategy(WILD), session) > 2


@pytest.mark.parametrize(("name", "beta"), in_turn(("llava", "qwen3_5", "gemma4", "paligemma"), (1.0, 0.0)))
def test_a_single_best_token_is_greedy(name, beta):
    """Sentences are read anew, with all that a family keeps of its prompts."""
    adapter = dotted(name)
    inputs = adapter.inputs(REQUESTS[:2])
    assert said(adapter, inputs, f"{NEUTRAL[:-1]}, beta={beta})") == said(adapter, inputs)


@pytest.mark.parametrize(
    ("name", "other"),
    in_turn(
        ("llava", "qwen3_5", "gemma3"),
        ("vhr(alpha=4)", "pai(alpha=2, gamma=1.5)", "gift(alpha=30)", "vaf(alpha=3)", "vcd"),
    ),
)
def test_what_steers_a_model_steers_its_drafts(name, other):
    """Sentences are read anew: a text's later sentences must be steered as if they had never been left."""
    adapter = dotted(name)
    inputs = adapter.inputs(REQUESTS[:2])
    alone = said(adapter, inputs, other)
    assert said(adapter, inputs, f"{other}+{NEUTRAL}") == alone
    assert alone != said(adapter, inputs)


def test_the_score_by_hand():
    """0.5 * (0.2 + 0.4) / 2 + 0.1 * (-6 / 4) = 0.15 - 0.15."""
    options = CGD(alpha=0.1, beta=0.5)
    assert Text((1, 2, 3, 4), (0.2, 0.4), -6.0, 4).score(options) == pytest.approx(0.0)
    assert Text((1,)).score(options) == -math.inf


def test_the_best_of_equal_tokens_are_the_first():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, -math.inf, -math.inf, 5.0, -math.inf]])
    out = -math.inf
    assert keep_top_k(scores, 2).tolist() == [[out, 3.0, 3.0, out, out], [0.0, out, out, 5.0, out]]
    assert torch.equal(keep_top_k(scores, 9), scores)


def test_every_draw_has_a_seed_of_its_own():
    seeds = {sentence_seed(*numbers) for numbers in torch.cartesian_prod(*[torch.arange(5)] * 4).tolist()}
    assert len(seeds) == 5**4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.slow
def test_seeds_are_repeated_and_differ():
    adapter = dotted("llava")
    found = [said(adapter, adapter.inputs(REQUESTS[:1]), f"{WILD[:-1]}, seed={seed})") for seed in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


@pytest.mark.slow
def test_several_answers_are_the_best_first():
    adapter = dotted("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    (first, *more), (second, *others) = (
        sorted(search.finished, key=lambda text: text.score(strategy(WILD)), reverse=True)
        for search in searches(adapter, REQUESTS[:2], WILD)
    )
    got = said(adapter, inputs, WILD, num_return_sequences=2)
    assert got == [first.said, more[0].said, second.said, others[0].said]
    assert said(adapter, inputs, WILD) == [first.said, second.said]


def test_where_fewer_answers_are_found_than_asked_for_the_best_stands_again():
    """Greedy drafts of one text are all equal, and only one is kept."""
    adapter = dotted("llava")
    spec = f"cgd(clip={str(CLIP)!r}, top_k=1)"
    rows = said(adapter, adapter.inputs(REQUESTS[:1]), spec, num_return_sequences=3)
    assert rows == said(adapter, adapter.inputs(REQUESTS[:1])) * 3


@pytest.mark.slow
def test_of_several_pictures_the_mean_counts():
    adapter = dotted("qwen2_vl")
    request = Request("What differs?", tuple(one.images[0] for one in REQUESTS[:3]))
    (search,) = searches(adapter, [request], WILD)
    naive = Naive(adapter, request, strategy(WILD))
    assert {text.said for text in search.finished} == {one[0] for one in naive.run()}
    alone = Naive(adapter, replace(request, images=request.images), strategy(WILD))
    alone.pictures = request.images[:1]
    assert max(map(naive.score, naive.run())) != pytest.approx(max(map(alone.score, alone.run())), abs=1e-4)


class Heard(BaseStreamer):
    def __init__(self):
        self.puts, self.ended = [], False

    def put(self, value):
        self.puts.append(value.tolist())

    def end(self):
        self.ended = True


def heard(adapter, request, spec):
    """What is streamed, piece by piece, and what is said."""
    config = Settings(max_new_tokens=LENGTH).resolved(adapter.generator, strategy(spec).beams)
    streamer = Heard()
    (row,) = run(adapter, adapter.inputs([request]), strategy(spec), config, 0, streamer).tolist()
    assert streamer.ended
    return streamer.puts, row


def test_a_single_text_is_streamed_sentence_by_sentence():
    adapter = dotted("llava")
    pieces, row = heard(adapter, REQUESTS[1], f"{WILD[:-1]}, keep=1, candidates=1)")
    assert list(chain(*pieces)) == row
    assert len(pieces) > 1
    decoded = [adapter.tokenizer.decode(piece) for piece in pieces]
    assert all(text.endswith(".") and text.count(".") == 1 for text in decoded[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_what_is_streamed_is_what_is_said(name):
    for request in REQUESTS[:2]:
        pieces, row = heard(dotted(name), request, WILD)
        assert list(chain(*pieces)) == row


def test_without_a_picture_it_is_greedy_streamed_or_not():
    adapter = dotted("llava")
    request = Request("What is a dog?")
    inputs = adapter.inputs([request])
    assert said(adapter, inputs, WILD, num_return_sequences=2) == said(adapter, inputs) * 2
    pieces, row = heard(adapter, request, WILD)
    assert len(pieces) == len(row)


@pytest.mark.slow
def test_stop_strings_end_an_answer():
    adapter = dotted("llava")
    plain = said(adapter, adapter.inputs(REQUESTS[:2]), WILD)
    stopped = said(adapter, adapter.inputs(REQUESTS[:2]), WILD, stop_strings=(".",))
    assert plain != stopped
    texts = [adapter.tokenizer.decode(answer, skip_special_tokens=True) for answer in stopped]
    assert any("." in text for text in texts)
    assert all("." not in text[:-1] for text in texts)


def test_it_needs_a_clip(llava, pictures):
    for spec in ("cgd", "cgd(keep=2)", "vhr+cgd", "cgd(clip='')"):
        with pytest.raises(OptionError, match=r"cgd: clip must be a folder that holds an open_clip model, .*got ''"):
            llava.generate(pictures[0], "What?", spec)
    with pytest.raises(OptionError, match=r"cgd: clip must be a folder .*got 'somewhere'"):
        strategy("cgd(clip='somewhere')")


def test_pictures_that_only_a_processor_saw_are_refused(llava, pictures):
    inputs = llava.adapter.inputs([Request("What?", (pictures[0],))])
    own = mmhall.custom_generate(WILD, processor=llava.processor)
    with pytest.raises(CompositionError, match=r"cgd: .* pictures themselves.*; use LVLM\.generate"):
        llava.model.generate(**inputs, max_new_tokens=4, do_sample=False, custom_generate=own)


def test_draws_of_its_own_leave_no_room_for_others(llava, pictures):
    with pytest.raises(OptionError, match="do_sample must be False with a search of 3 beams"):
        llava.generate(pictures[0], "What?", WILD, do_sample=True)
    with pytest.raises(OptionError, match="do_sample must be False with a strategy that searches"):
        llava.generate(pictures[0], "What?", NEUTRAL, do_sample=True)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [WILD, NEUTRAL])
def test_what_it_found_is_traced(llava, pictures, spec):
    trace = llava.trace(pictures[0], "What is this?", spec, max_new_tokens=5)
    assert trace.answer.token_ids == llava.generate(pictures[0], "What is this?", spec, max_new_tokens=5).token_ids
    assert trace.image_attention.shape[0] == len(trace.answer.token_ids)


@pytest.mark.parametrize("other", ["opera", "beam"])
def test_two_searches_are_refused(other):
    with pytest.raises(CompositionError, match="both want the search"):
        strategy(f"{other}+{WILD}")


def test_equal_drafts_of_a_text_are_kept_once(monkeypatch):
    """Greedy drafts are all equal: there is one text at every turn, however many candidates are drawn."""
    adapter, kept = dotted("llava"), []
    judged = Guided._extend
    monkeypatch.setattr(Guided, "_extend", lambda self, drafts: kept.append(len(drafts)) or judged(self, drafts))
    (search,) = searches(adapter, REQUESTS[1:2], f"cgd(clip={str(CLIP)!r}, top_k=1, candidates=4)")
    assert kept == [1] * search.turns
