"""The declared protocols, one for each released model."""

from __future__ import annotations

from mmhall.benchmarks.reproduce.protocol import Protocol, Shape, Step
from mmhall.benchmarks.reproduce.published import (
    BEAM,
    INTERNVL_3,
    LLAVA_1_5,
    LLAVA_NEXT,
    OPERA,
    QWEN_2_5_VL,
    VCD_SAMPLED,
)
from mmhall.errors import UnknownNameError

PICTURES = 500
_POPE_ITEMS, _AMBER_CAPTIONS, _AMBER_QUESTIONS = 5127, 1004, 14216
_YES_NO, _CAPTION = 3, 120
_YES_NO_CONTROLS = ("yes-prompt", "olm")


def _pope(name: str, spec: str, *strategies: str) -> Step:
    return Step(name, "pope", (spec,), strategies, None, (_POPE_ITEMS,), {"pope": _YES_NO})


def _chair(tokens: int, *strategies: str) -> Step:
    options = ", drop_unfinished=True" if tokens <= 64 else ""
    spec, usual = f"chair(max_new_tokens={tokens}{options})", {"chair": min(tokens, _CAPTION)}
    return Step(f"chair-{tokens}", "coco", (spec,), strategies, PICTURES, (PICTURES,), usual)


_MAIN = "pope(rule='official', prompt='llava', max_new_tokens=128)"
_AMBER = Step(
    "amber",
    "amber",
    ("amber-g(max_new_tokens=512)", "amber-d"),
    ("greedy", "vcd"),
    None,
    (_AMBER_CAPTIONS, _AMBER_QUESTIONS),
    {"amber-g": _CAPTION, "amber-d": _YES_NO},
)


def _plain_steps(*published: str) -> tuple[Step, ...]:
    """Return the steps of a model of which few strategies have published figures."""
    return (
        _pope("pope", _MAIN, "greedy", *_YES_NO_CONTROLS, "vcd", *published),
        _chair(512, "greedy", "self-verify", BEAM, "vcd", *published),
        _chair(64, "greedy", BEAM, "vcd", *published),
        _AMBER,
    )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "llava-1.5-7b",
            "llava-hf/llava-1.5-7b-hf",
            "llava",
            Shape(7_063_000_000, 32, 32, 128, 576),
            (
                _pope("pope", _MAIN, "greedy", *_YES_NO_CONTROLS, "vcd", "vhr", "vista(strength=0.01)", "rudder"),
                _pope(
                    "pope-opera",
                    "pope(rule='opera', prompt='opera', max_new_tokens=10)",
                    *("greedy", *_YES_NO_CONTROLS, BEAM, "dola", OPERA),
                ),
                _pope(
                    "pope-sampled",
                    "pope(rule='vcd', prompt='vcd', max_new_tokens=1024, sample=True, sample_seed=55)",
                    *("greedy", "apc(beta=0.2)", *_YES_NO_CONTROLS, VCD_SAMPLED),
                ),
                _chair(
                    512,
                    *("greedy", "self-verify", BEAM, "dola", "vcd", OPERA, "deco", "pai", "vhr"),
                    *("vista(strength=0.17)", "rudder"),
                ),
                _chair(64, "greedy", "self-verify", BEAM, "dola", OPERA),
                _AMBER,
            ),
            LLAVA_1_5,
        ),
        Protocol(
            "llava-next-7b",
            "llava-hf/llava-v1.6-vicuna-7b-hf",
            "llava_next",
            Shape(7_063_000_000, 32, 32, 128, 2880),
            _plain_steps("vhr"),
            LLAVA_NEXT,
        ),
        Protocol(
            "qwen2.5-vl-7b",
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "qwen2_5_vl",
            Shape(8_292_000_000, 28, 4, 128, 391),
            _plain_steps("rudder"),
            QWEN_2_5_VL,
        ),
        Protocol(
            "internvl3-8b",
            "OpenGVLab/InternVL3-8B-hf",
            "internvl",
            Shape(7_944_000_000, 28, 4, 128, 3328),
            _plain_steps(),
            INTERNVL_3,
        ),
        Protocol(
            "gemma-3-12b",
            "google/gemma-3-12b-it",
            "gemma3",
            Shape(12_187_000_000, 48, 8, 256, 256),
            _plain_steps(),
        ),
    )
}


def protocol_for(name: str | None, model: str) -> Protocol:
    """Return the protocol of a name; without one, that of the model.

    Raises:
        UnknownNameError: There is no such protocol, or none for the model.
    """
    if name is None:
        found = next((protocol for protocol in PROTOCOLS.values() if model in (protocol.model, protocol.name)), None)
        if found is None:
            raise UnknownNameError("protocol of model", model, [protocol.model for protocol in PROTOCOLS.values()])
        return found
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
