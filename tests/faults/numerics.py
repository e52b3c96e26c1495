"""Faults 18 to 25: numerics and model."""

from __future__ import annotations

import copy
import gc
import json
import re
import threading
import weakref
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import mmhall
from mmhall.adapters._base import Request
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.report.table import remarks
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import GenerationError, MmhallError, MmhallWarning, ModelError, OptionError
from mmhall.strategies import strategy
from tests.benchmarks.siege import images_of
from tests.faults.support import embedded, refused, refuses

QUESTION = "Please describe this image in detail."
SPECS = ("greedy", "vcd", "vdd(free='unk')", "vhr", "gift", "opera(num_attn_candidates=2)", "vhr+vcd")


def noise(seed=0):
    """Return one of several pictures, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize((112, 112), Image.Resampling.NEAREST)


def asked(lvlm, spec="greedy", *, count=2, **settings):
    """Ask about several pictures at once; return the tokens of each answer."""
    requests = [(noise(seed), QUESTION) for seed in range(count)]
    answers = lvlm.generate_batch(requests, spec, **{"max_new_tokens": 4, **settings})
    return [one.token_ids for one in answers]


@contextmanager
def logits(lvlm, change):
    """Let a function change the logits, from its call on which it gets the number of, 0-based."""
    passes = iter(range(10_000))
    head = lvlm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, given, out: change(out, next(passes)))
    try:
        yield
    finally:
        hook.remove()


def no_numbers(folder):
    """The first passes are sound: greedy would then go on with token 0."""
    lvlm = embedded()
    numbers = (torch.nan, torch.inf, -torch.inf)
    for which, (spec, settings) in enumerate([*((spec, {}) for spec in SPECS), ("greedy", {"num_beams": 2})]):
        for what in numbers if spec == "greedy" else numbers[which % 3 :][:1]:
            name = mmhall.strategy(spec).name
            told = rf"^{re.escape(name)}: prompt \d of 2, step \d: the next-token scores hold "
            spoil = lambda out, number, what=what: out if number < 3 else torch.full_like(out, what)  # noqa: E731
            with logits(lvlm, spoil):
                refuses(GenerationError, told, asked, lvlm, spec, max_new_tokens=5, **settings)


def half_precision(folder):
    """5 x 15 000 is more than half precision holds, and so are the sums that a softmax takes."""
    lvlm = mmhall.load("embedded", device="cpu", dtype="float16")
    kept = []

    def large(out, number):
        spread = out.float() - out.float().amin(dim=-1, keepdim=True)
        kept.append((spread / spread.amax() * 15_000).half())
        return kept[-1]

    with logits(lvlm, large):
        method = mmhall.strategy("vcd", alpha=4.0, beta=0.0)
        found = lvlm.generate(noise(), QUESTION, method, max_new_tokens=1, scores=True).scores[0]
    clean, noised = (row.float().log_softmax(dim=-1) for row in torch.cat([part[:, -1] for part in kept]))
    wanted = 5 * clean - 4 * noised.clamp_min(-1e4)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (5 * clean).abs().max() > 65_504
    torch.testing.assert_close(found - found.max(), wanted - wanted.max(), rtol=1e-5, atol=0.1)


def bad_options(folder):
    for spec in ("vcd(beta=2)", "vcd(alpha=1e999)", "vhr(alpha=1e300)", "vcd(alpha='a')", "vcd(alpha=nan)"):
        refuses(OptionError, "must be", strategy, spec)
    refuses(OptionError, "must be", strategy, "vcd", alpha=float("nan"))
    refuses(MmhallError, "did you mean 'gift'", strategy, "gitf")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    for spec, told in (("vcd(beta=2)", "beta must be"), ("vdc", "unknown strategy 'vdc'"), ("vcd(alpha=nan)", "alpha")):
        for command in (("generate", "a.png"), ("bench", "pope", "--out", "run")):
            assert told in refused(folder, *command, "--model", "/no/such/model", "--strategy", spec)
    with logits(embedded(), lambda out, number: pytest.fail("the model was asked")):
        for spec in ("vhr(layers='40')", "gift(layers='-9')", "pai(layers='50:')", "vaf(layers='0:7')"):
            refuses(OptionError, "6 layers of this model|from 0 to 5 of this model", asked, embedded(), spec)
    refuses(OptionError, r"layers must be among 0-5, got \[6\]", embedded().trace, noise(), QUESTION, layers=[6])


def unfit_models(folder):
    lvlm = embedded()
    inputs = lvlm.adapter.inputs([Request(QUESTION, (noise(),))])
    with pytest.warns(MmhallWarning, match="the attention of mmhall returns no attention weights; use LVLM.trace"):
        lvlm.model(**inputs, output_attentions=True)
    own = mmhall.custom_generate("vcd")
    refuses(
        OptionError,
        "left out",
        lvlm.model.generate,
        **inputs,
        custom_generate=own,
        output_attentions=True,
        max_new_tokens=2,
    )
    for name, kind in (("words", "llama"), ("unknown", "nonsense")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": kind}))
        (folder / name / "model.safetensors").touch()
        refuses(ModelError, f"cannot load model '{folder / name}': ", mmhall.load, folder / name)
    lvlm.model.save_pretrained(folder / "alone")
    refuses(ModelError, "cannot load model .*processor", mmhall.load, folder / "alone")
    for dtype in ("flot16", "int8", torch.int64):
        told = f"dtype must be one of .*, got '{str(dtype).removeprefix('torch.')}'"
        refuses(OptionError, told, mmhall.load, "embedded", dtype=dtype)


class Failing(mmhall.Strategy):
    """Raises while it combines, at its second step."""

    name = "failing"
    error = RuntimeError

    def prepare(self, adapter, inputs):
        steps = iter(range(100))

        def combine(step):
            main = step.main
            if next(steps):
                raise self.error("on purpose")
            return main

        return mmhall.Session(combine=combine)


class Stopped(Failing):
    """The same, as by Ctrl-C."""

    error = KeyboardInterrupt


def state(lvlm):
    """Return what a run may leave behind on a model: hooks, settings, attributes, its attention."""
    modules = {
        name: (sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks), "forward" in vars(part))
        for name, part in lvlm.model.named_modules()
    }
    settings = lvlm.model.config.to_dict(), lvlm.model.generation_config.to_dict()
    return copy.deepcopy((modules, settings, lvlm.adapter.decoder.config._attn_implementation))


def interrupted(folder):
    lvlm = mmhall.load("embedded", device="cpu")
    wanted, before = asked(lvlm), state(lvlm)
    for error, method in ((RuntimeError, Failing()), (KeyboardInterrupt, Stopped())):
        refuses(error, "on purpose", asked, lvlm, method)
        assert state(lvlm) == before
        for spec in SPECS[::2] if error is RuntimeError else SPECS[1::2]:

            def fail(out, number, error=error):
                if number == 2:
                    raise error("on purpose")
                return out

            with logits(lvlm, fail):
                refuses(error, "on purpose", asked, lvlm, spec)
            assert state(lvlm) == before
    for spec in SPECS:
        stream = lvlm.stream(noise(), QUESTION, spec, max_new_tokens=8)
        stream.step()
        stream.close()
        assert state(lvlm) == before
    assert asked(lvlm) == wanted
    lvlm.close()
    assert lvlm.adapter.decoder.config._attn_implementation == "sdpa"


def two_threads(folder):
    lvlm, found = embedded(), {}
    for one, other in (("vcd", "vhr"), ("gift", "greedy"), ("opera(num_attn_candidates=2)", "vdd")):
        wanted = {spec: asked(lvlm, spec) for spec in (one, other)}
        threads = [
            threading.Thread(target=lambda spec=spec: found.update({spec: asked(lvlm, spec)})) for spec in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {spec: found[spec] for spec in wanted} == wanted


def reused(folder):
    lvlm = embedded()
    for spec in SPECS[1:]:
        method = strategy(spec)
        first = asked(lvlm, method, max_new_tokens=3)
        assert asked(lvlm, method, max_new_tokens=3) == first
        assert first[1] == asked_alone(lvlm, method, 1, max_new_tokens=3)
        assert str(method) == str(strategy(spec))
    found = asked(lvlm, "vcd", num_beams=3, max_new_tokens=3)
    assert found == [asked_alone(lvlm, "vcd", seed, num_beams=3, max_new_tokens=3) for seed in range(2)]
    for number in (0, -1, 1.0, True):
        refuses(OptionError, "max_new_tokens must be an integer >= 1", asked, lvlm, max_new_tokens=number)
    ends = lvlm.model.generation_config.eos_token_id
    for spec in SPECS[::2]:
        assert all(len(answer) <= 1 for answer in asked(lvlm, spec, max_new_tokens=1))
        only = lambda out, number: torch.full_like(out, -100.0).index_fill(-1, torch.tensor(ends), 0.0)  # noqa: E731
        with logits(lvlm, only):
            ended = lvlm.generate(noise(), QUESTION, spec, max_new_tokens=4)
        assert (ended.text, ended.token_ids, ended.stopped_by) == ("", (), "eos")


def asked_alone(lvlm, spec, seed, **settings):
    return lvlm.generate(noise(seed), QUESTION, spec, **{"max_new_tokens": 4, **settings}).token_ids


def no_memory(folder):
    """At the prefill of any batch of more than two, and at a later step wherever the third picture is read."""
    list(write_scenes(folder / "scenes", 4, 0))
    lvlm, methods = mmhall.load("embedded", device="cpu"), [strategy("greedy"), strategy("vdd")]
    source = [(Chair(max_new_tokens=4), Source(folder / "scenes" / "annotations.json"))]
    sizes, held, ask = [], [], lvlm.generate_batch

    def narrow(module, given, out):
        sizes.append(len(out))
        if len(out) > 2 and out.shape[1] > 1:
            held.append(weakref.ref(out))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return out

    last = Image.open(folder / "scenes" / "000003.png").convert("RGB").tobytes()

    def third(requests, *arguments, **settings):
        read = last in map(Image.Image.tobytes, images_of(requests))
        if not read or settings["max_new_tokens"] < 4:
            return ask(requests, *arguments, **settings)
        with logits(lvlm, out_of_memory_later):
            return ask(requests, *arguments, **settings)

    hook = lvlm.adapter.layers[0].mlp.register_forward_hook(narrow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lvlm, "generate_batch", third)
        opened = start(folder / "run", lvlm, benchmarks=source, strategies=methods, batch_size=4)
        answer(lvlm, opened, opened.parts[0], methods, batch_size=4)
    hook.remove()
    gc.collect()
    rows = opened.rows(opened.parts[0])
    assert {(row.item, row.error is None) for row in rows} == {("1", True), ("2", True), ("3", False), ("4", True)}
    assert {row.error for row in rows if row.error} == {"out of memory: CUDA out of memory. Tried to allocate 3.00 GiB"}
    assert len(rows) == 8
    assert 4 in sizes
    assert not any(reference() is not None for reference in held)
    told = remarks(opened.evaluate(), opened.fitted)
    assert any("1 items could not be answered" in line and "out of memory" in line for line in told)


def out_of_memory_later(out, number):
    if number == 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
    return out


ROWS = [
    (18, "scores that are no numbers", no_numbers),
    (19, "a contrast beyond half precision", half_precision),
    (20, "options out of range", bad_options),
    (21, "a model that is unfit, or asked for what it has not", unfit_models),
    (22, "an error, a stop, an answer that is left", interrupted),
    (23, "two threads with two strategies on one model", two_threads),
    (24, "strategies used again, beams, an early end", reused),
    (25, "memory that does not suffice", no_memory),
]
