"""What a visitor may ask for, whatever their client sends."""

from __future__ import annotations

import pytest
from PIL import Image

from mmhall.demo import limits
from mmhall.demo.words import TRUTH
from mmhall.errors import ImageError, MmhallError, OptionError, PromptError
from mmhall.strategies import strategy
from tests.demo.visitor import Visitor, as_file

pytestmark = pytest.mark.slow

PROMPT = "What is in this image?"
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
BAD_PROMPTS = ["", "  \n", "x" * (limits.PROMPT + 1), None, "a\0b", "a\ud800b"]  # Gradio makes a text of all else
BAD_SETTINGS = [
    *({"max_new_tokens": one} for one in (0, -1, 10**9, 1.5, "x", float("nan"), float("inf"), None, True, [8], {})),
    *({"temperature": one} for one in (-0.1, 2.1, 10**400, "x", float("nan"), float("inf"), None, True, [0])),
    *({"seed": one} for one in (-1, 2**31, 10**400, 0.5, "x", float("nan"), float("inf"), None, True)),
    *({"present": one} for one in (5, ["x" * 41], [5], [[]], {"a": 1}, ["a"] * 5 + [None])),
    {"present": [str(number) for number in range(limits.OBJECTS + 1)]},
    {"prompts": "x"},
    {"": 0},
]
BAD_OBJECTS = [None, "", ",,", "x" * 41, ",".join(map(str, range(1000))), "x," * 10**6 + "y" * 50]


@pytest.fixture(scope="module")
def image(page_url, scene):
    with Visitor(page_url) as somebody:
        return as_file(somebody.upload(scene.image))


def plainly_refused(reply):
    """Whether an event was refused in one short line; what a client gets never holds a traceback."""
    assert reply.data is None, reply.data
    assert reply.error, reply.raw[-300:]
    assert len(reply.error) < 4000
    for trace in ("Traceback", 'File "', "site-packages"):
        assert trace not in reply.raw
    return True


def all_refused(visitor, event, *sent):
    for one, reply in zip(sent, visitor.asks((event, one) for one in sent), strict=True):
        assert plainly_refused(reply), one


def test_a_comparison_keeps_to_the_limits(visitor, image):
    number = visitor.event("compare")["id"]
    all_refused(
        visitor,
        number,
        *([image, prompt, ["greedy"], None] for prompt in BAD_PROMPTS[::2]),
        *([image, PROMPT, specs, None] for specs in BAD_STRATEGIES[::4]),
        *([image, PROMPT, ["greedy"], settings] for settings in BAD_SETTINGS[::5]),
        [None, PROMPT, ["greedy"], None],
    )
    done = visitor.ask(number, [image, PROMPT, ["greedy"], {"max_new_tokens": 4.0}])
    assert done.value["columns"][0]["tokens"] == 4


def test_a_probe_keeps_to_the_limits(visitor, image):
    number = visitor.event("probe")["id"]
    all_refused(
        visitor,
        number,
        *([image, objects, ["greedy"], None] for objects in BAD_OBJECTS),
        *([image, "cup", specs, None] for specs in BAD_STRATEGIES[1::6]),
        *([image, "cup", ["greedy"], one] for one in (5, [5], ["x" * 41], {"a": 1}, [str(n) for n in range(25)])),
    )
    assert visitor.ask(number, [image, "cup", ["greedy"], ["cup"]]).value["strategies"][0]["known"] == 1


def test_the_run_and_ask_buttons_keep_to_the_limits_too(visitor, image):
    run, ask = visitor.event("answer")["id"], visitor.event("answer_1")["id"]
    good = {"mode": TRUTH, "prompt": PROMPT, "tokens": 2, "temperature": 0, "seed": 0, "present": [], "offered": None}
    good |= {"count": 2}
    bad = [
        *({"prompt": one} for one in BAD_PROMPTS[::3]),
        *({"tokens": one} for one in (-1, "x", None)),
        *({"temperature": one} for one in (-1, float("nan"))),
        *({"seed": one} for one in (2**31, "x")),
        *({"present": one} for one in (["no such choice"], [[]])),
        *({"count": one} for one in (0, 5, "x")),
        *({"mode": one} for one in ("x", [])),
    ]
    all_refused(visitor, run, *([None, image, *{**good, **changed}.values(), *SPECS] for changed in bad))
    for specs in BAD_STRATEGIES[::4]:
        if isinstance(specs, list) and 1 <= len(specs) <= 2 and isinstance(specs[0], str):
            sent = [*specs, "beam", "vhr", "vhr"][:4]
            all_refused(visitor, run, [None, image, *good.values(), *sent])
            all_refused(visitor, ask, [None, image, "cup", [], None, 2, *sent])
    assert visitor.ask(run, [None, image, *good.values(), *SPECS]).error is None
    assert visitor.ask(ask, [None, image, "cup", [], None, 2, *SPECS]).error is None


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


@pytest.mark.slow
def test_no_event_of_the_page_breaks_over_what_it_gets(visitor, image):
    run, asked = visitor.event("answer")["id"], [None, image, TRUTH, PROMPT, 2, 0, 0, [], None, 2, *SPECS]
    assert visitor.ask(run, asked).error is None  # so that the others have something to do
    for event in visitor.config["dependencies"]:
        if event["api_name"] in ("compare", "probe", "answer", "answer_1") or not event["backend_fn"]:
            continue
        count = len(event["inputs"])
        start = event["id"] % len(ABSURD)  # each event gets two of them, mixed over its fields
        mixed = [[*ABSURD[at:], *ABSURD[:at]] * (1 + count // len(ABSURD)) for at in (start, (start + 4) % len(ABSURD))]
        told = [(event["id"], one[:count], dict.fromkeys(("index", "column", "word"), one[0])) for one in mixed]
        for reply in visitor.asks(told):
            assert "Traceback" not in reply.raw
            assert not (reply.error or "").startswith("HTTP 5"), event["api_name"]
    assert visitor.ask(run, asked).error is None
    for event in visitor.events("pick"):
        spots = [{"column": column, "word": word} for column, word in ((0, 10**9), (9, 0), (0, "0"), (-1, 0))]
        for reply in visitor.asks((event, [None, [], []], spot) for spot in (*spots, "x", None, [], 5)):
            assert plainly_refused(reply)
        drawn = visitor.ask(event, [None, [], []], {"column": 1, "word": 0})
        assert drawn.error is None
        assert "mm-saliency" in drawn.raw
        for some in ([99], ["x"], [None]):
            for sent in ([None, some, []], [None, [], some]):
                assert plainly_refused(visitor.ask(event, sent, {"column": 0, "word": 0}))
    for event in visitor.events("mark"):
        all_refused(visitor, event, *([None, [], None, mode] for mode in ("x", "__class__", "logprobs", 5)))
        assert "mm-columns" in visitor.ask(event, [None, [], None, "entropies"]).value


def test_an_event_that_does_not_exist_is_refused_and_the_server_goes_on(visitor, image):
    for number in (-1, 10**6, None, "x", 1.5):
        assert visitor.join(number, []).status_code in (400, 404, 422)
    for body in (b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"fn_index": 0, "data": {}}'):
        answer = visitor.http.post("gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
        assert answer.status_code >= 400
        assert "Traceback" not in answer.text
    for data in ([], [image] * 9, None):
        reply = visitor.ask(visitor.event("compare")["id"], data)
        assert reply.data is None
        assert "Traceback" not in reply.raw
    assert visitor.ask(visitor.event("compare")["id"], [image, PROMPT, ["greedy"], {"max_new_tokens": 2}]).data


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


def test_pictures_and_prompts_say_what_is_wrong(tmp_path):
    with pytest.raises(ImageError, match="no picture yet"):
        limits.picture(None)
    with pytest.raises(ImageError, match="pixels"):
        limits.picture(Image.new("1", (6000, 5000)))
    path = tmp_path / "private.png"
    path.write_text("no picture", encoding="utf-8")
    with pytest.raises(ImageError, match=r"^this picture") as caught:
        limits.picture(path)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(PromptError, match="2,001 characters; at most 2,000"):
        limits.prompt("x" * 2001)
    assert limits.prompt("x" * 2000) == "x" * 2000
    assert limits.prompt("日本 🙂") == "日本 🙂"


@pytest.mark.parametrize("count", [1, 512, 8.0])
def test_counts_of_tokens_in_bounds_are_kept(count):
    assert limits.tokens(count) == count
