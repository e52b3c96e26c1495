"""What a visitor may ask for, whatever their client sends."""

from __future__ import annotations

import pytest

from mmhall.demo import limits
from mmhall.errors import MmhallError, OptionError, PromptError
from mmhall.strategies import strategy

pytestmark = pytest.mark.slow

PROMPT = "What is in this image?"


def nested(depth):
    """A list of a list of a list ..."""
    return [nested(depth - 1)] if depth else []


NESTED = "(" * 140 + ")" * 140
SPECS = ["greedy", "vcd", "vdd", "vhr"]

BAD_STRATEGIES = [
    None,
    [],
    ["greedy", "vcd", "vdd", "vhr", "var"],
    "greedy",
    {"greedy": 1},
    5,
    ["greedy", "greedy"],
    ["vcd(alpha=1.0)", "vcd( alpha = 1 )"],
    [5],
    [None],
    [["greedy"]],
    [{"name": "greedy"}],
    [""],
    ["no such one"],
    ["vcd(alpha=nan)"],
    ["vcd(alpha=" + "9" * 10_000 + ")"],
    ["x" * 10_000],
    ["beam(num_beams=100000)"],
    ["opera(num_attn_candidates=1000000000)"],
    ["cgd(clip='/etc')"],
    ["vhr+cgd(clip='/etc')"],
    ["greedy+greedy+" * 20],
    ["vcd+vdd"],
    ["__import__('os').system('true')"],
    ["vcd(alpha=__import__('os'))"],
    ["vcd(__class__=1)"],
    ["vcd(alpha=().__class__)"],
    [f"vcd(alpha={NESTED})"],
    ["vcd(alpha=" + "-" * 280 + "1)"],
    ["vcd(alpha=" + "[" * 280 + ")"],
    ["(" * 300],
    ["\0"],
    ["\ud800"],
    ["vcd(alpha=1)\n\nvcd"],
]
BAD_PROMPTS = ["", "  \n", "x" * (limits.PROMPT + 1), None, "a\0b", "a\ud800b"]
BAD_SETTINGS = [
    *({"max_new_tokens": one} for one in (0, -1, 10**9, 1.5, "x", float("nan"), float("inf"), None, True, [8], {})),
    *({"temperature": one} for one in (-0.1, 2.1, 10**400, "x", float("nan"), float("inf"), None, True, [0])),
    *({"seed": one} for one in (-1, 2**31, 10**400, 0.5, "x", float("nan"), float("inf"), None, True)),
    *({"present": one} for one in (5, ["x" * 41], [5], [[]], {"a": 1}, ["a"] * 5 + [None])),
    {"present": [str(number) for number in range(limits.OBJECTS + 1)]},
    {"present": nested(400)},
    {"prompts": "x"},
    {"": 0},
]
BAD_OBJECTS = [None, "", ",,", "x" * 41, ",".join(map(str, range(1000))), "x," * 10**6 + "y" * 50]


SCENE = {"scene": 4}


def plainly_refused(reply):
    """Whether an event was refused in one short line; what a client gets never holds a traceback."""
    assert reply.data is None, reply.data
    assert reply.error, reply.raw[-300:]
    assert len(reply.error) < 4000
    for trace in ("Traceback", 'File "', "site-packages"):
        assert trace not in reply.raw
    return True


def all_refused(visitor, name, *sent):
    for one, reply in zip(sent, visitor.calls(name, sent), strict=True):
        assert plainly_refused(reply), one


def test_a_comparison_keeps_to_the_limits(visitor):
    all_refused(
        visitor,
        "compare",
        *([SCENE, prompt, ["greedy"], None] for prompt in (*BAD_PROMPTS, 5, ["a"])),
        *([SCENE, PROMPT, specs, None] for specs in BAD_STRATEGIES[::4]),
        *([SCENE, PROMPT, ["greedy"], settings] for settings in BAD_SETTINGS[::5]),
        *([SCENE, PROMPT, ["greedy"], settings] for settings in ([], "x", {"strategies": ["vcd"]})),
        *([picture, PROMPT, ["greedy"], None] for picture in (None, {}, {"scene": 8}, {"scene": True}, {"scene": -1})),
    )
    done = visitor.call("compare", SCENE, PROMPT, ["greedy"], {"max_new_tokens": 4.0})
    assert (done.value["columns"][0]["tokens"], done.value["columns"][0]["state"]) == (4, "cut")


def test_a_probe_keeps_to_the_limits(visitor):
    all_refused(
        visitor,
        "probe",
        *([SCENE, objects, ["greedy"], None, None] for objects in BAD_OBJECTS),
        *([SCENE, "cup", specs, None, None] for specs in BAD_STRATEGIES[1::6]),
        *([SCENE, "cup", ["greedy"], one, None] for one in (5, [5], ["x" * 41], {"a": 1}, [str(n) for n in range(25)])),
    )
    assert visitor.call("probe", SCENE, ["cup"], ["greedy"], ["cup"], None).value["strategies"][0]["known"] == 1


ABSURD = [
    None,
    "\ud800",
    -1,
    10**30,
    float("nan"),
    ["x"],
    [[["a"]]],
    {"index": 0},
    "<script>" * 1000,
]


def test_no_function_breaks_over_what_it_gets(visitor):
    asked = [SCENE, PROMPT, ["greedy"], {"max_new_tokens": 4}]
    (column,) = visitor.call("compare", *asked).value["columns"]
    for function in visitor.config["dependencies"]:
        count = len(function["inputs"])
        start = function["id"] % len(ABSURD)  # each function gets three of them, mixed over its fields
        mixed = [
            [*ABSURD[at:], *ABSURD[:at]] * 2 for at in (start, (start + 3) % len(ABSURD), (start + 6) % len(ABSURD))
        ]
        for reply in visitor.asks((function["id"], one[:count]) for one in mixed):
            assert "Traceback" not in reply.raw
            assert not (reply.error or "").startswith("HTTP 5"), function["api_name"]
            assert reply.error != "", function["api_name"]  # Gradio's word for an exception that nobody foresaw
    key = column["id"]
    all_refused(visitor, "gaze", *([one] for one in ABSURD))
    all_refused(
        visitor,
        "gaze_heads",
        *([key, layers, heads] for layers, heads in (([99], None), (["x"], None), (None, [None]), ("x", None))),
    )
    all_refused(
        visitor,
        "lens",
        *([key, word, layer] for word, layer in ((99, None), (-1, None), ("x", None), (0, 99), (0, "x"))),
    )
    all_refused(visitor, "judge", [[key] * 5], ["x"], [[5]], [[key], [5]], [[key], "x" * 50])
    assert visitor.call("gaze", key).value["id"] == key
    assert visitor.call("judge", [key], ["cup"]).value["columns"][0]["known"] == 1


def test_a_call_that_does_not_exist_is_refused_and_the_server_goes_on(visitor):
    for number in (-1, 10**6, None, "x", 1.5):
        assert visitor.join(number, []).status_code in (400, 404, 422)
    for body in (b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"fn_index": 0, "data": {}}'):
        answer = visitor.http.post("gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
        assert answer.status_code >= 400
        assert "Traceback" not in answer.text
    for data in ([SCENE] * 9, None, {}):
        reply = visitor.ask(visitor.number("compare"), data)
        assert reply.data is None
        assert "Traceback" not in reply.raw
    assert visitor.call("compare", SCENE, PROMPT, ["greedy"], {"max_new_tokens": 2}).data


@pytest.mark.parametrize("spec", ["cgd(clip='/etc')", "vhr+cgd(clip='/etc')"])
def test_a_strategy_that_opens_something_is_the_owners_to_offer(spec):
    with pytest.raises(OptionError, match="left to the owner"):
        limits.strategies([spec])
    assert limits.strategies([spec], owner_specs=["cgd(clip='/etc')"]) == (strategy(spec),)
    with pytest.raises(OptionError, match="left to the owner"):
        limits.strategies([spec.replace("etc", "usr")], owner_specs=["cgd(clip='/etc')"])


def test_strategies_out_of_bounds_are_refused():
    taken = []
    for specs in BAD_STRATEGIES:
        try:
            taken.append(limits.strategies(specs))
        except MmhallError:
            continue
    assert taken == []


def test_every_strategy_may_be_asked_for_with_its_defaults():
    from mmhall.decoders import STRATEGIES

    for name in STRATEGIES.names():
        assert str(limits.strategies([name])[0]) == name


@pytest.mark.parametrize("text", [5, None, ["a"], {"a": "b"}, True])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(PromptError):
        limits.prompt(text)
    if text != ["a"]:
        with pytest.raises(OptionError):
            limits.objects(text)


@pytest.mark.parametrize("names", BAD_OBJECTS, ids=lambda names: str(names)[:20])
def test_objects_out_of_bounds_are_refused(names):
    with pytest.raises(OptionError):
        limits.objects(names)


def test_objects_are_cleaned():
    assert limits.objects(" cup,dining   table,, cup,DOG ") == ("cup", "dining table", "DOG")
    assert limits.objects(["cup", " cup "]) == ("cup",)


def test_prompts_say_what_is_wrong():
    with pytest.raises(PromptError, match="2,001 characters; at most 2,000"):
        limits.prompt("x" * 2001)
    assert limits.prompt("x" * 2000) == "x" * 2000
    assert limits.prompt("日本 🙂") == "日本 🙂"


@pytest.mark.parametrize("count", [1, 512, 8.0])
def test_counts_of_tokens_in_bounds_are_kept(count):
    assert limits.tokens(count) == count
