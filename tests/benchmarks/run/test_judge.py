from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.hallusion import Hallusion
from mmhall.benchmarks.mmhal import MmHal
from mmhall.benchmarks.rules.judged import fill_template
from mmhall.benchmarks.run.endpoint import Endpoint
from mmhall.benchmarks.run.judge import import_judgements, judge, part_to_judge, requests, template_of, write_requests
from mmhall.benchmarks.run.runs import Run, reopen
from mmhall.errors import DataError, EndpointError, OptionError, RunError
from mmhall.results.judgements import Judgement, Judgements, with_judgements
from mmhall.results.store import Row, Store
from tests.benchmarks.conftest import write_lines

STRATEGIES = ("greedy", "vcd")


def spoken(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@contextmanager
def serving(*replies):
    """A judge that gives these replies in turn, the last for ever: text, an HTTP status, raw bytes; None: it hangs."""
    left, asked, wake = list(replies), [], threading.Event()

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if reply is None:
                wake.wait(20)
                return
            status = reply if isinstance(reply, int) else 200
            told = spoken(reply) if isinstance(reply, str) else b"out  of\norder" if isinstance(reply, int) else reply
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        wake.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def run(tmp_path) -> Iterator[Run]:
    """A run of mmhal with two items and two strategies, and one of pope that no judge scores."""
    benchmarks = {name: {"spec": name, "remarks": []} for name in ("mmhal", "pope")}
    store = Store.create(tmp_path / "run", {"benchmarks": benchmarks, "strategies": list(STRATEGIES)})
    items = {
        f"{n}": {
            "id": f"{n}",
            "picture": None,
            "prompt": f"What is {n}?",
            "groups": ["overall"],
            "cluster": f"{n}",
            "file": None,
            "truth": {"question": f"What is {n}?", "reference": f"It is {n}.", "contents": "Cat, Hat"},
        }
        for n in range(2)
    }
    store.keep_items("mmhal", items.items())
    store.add([Row("mmhal", f"{n}", s, f"{s} says {n}", "eos", 3, 0.1, 0) for n in range(2) for s in STRATEGIES])
    store.close()
    opened = reopen(tmp_path / "run")
    yield opened
    opened.store.close()


TEMPLATE = "Contents {} question {} reference {} answer {}"


def replies_of(run):
    return [(j.item, j.strategy, j.reply, j.error) for j in Judgements.open(run.store.path.parent).all("mmhal")]


def endpoint(url, **options):
    return Endpoint(url, "wise", wait=0.001, **options)


def test_an_endpoint_is_asked_once_for_each_answer_and_never_again(run):
    part = part_to_judge(run)
    with serving("Rating: 5", "Rating: 1", "Rating: 2", "Rating: 3") as (url, asked):
        outcome = judge(run, part, endpoint(url, key="secret"), TEMPLATE)
        again = judge(run, part, endpoint(url, key="secret"), TEMPLATE)
    assert (outcome.added, outcome.failed, outcome.judged_before) == (4, 0, 0)
    assert (again.added, again.judged_before) == (0, 4)
    assert replies_of(run) == [
        ("0", "greedy", "Rating: 5", None), ("0", "vcd", "Rating: 1", None),
        ("1", "greedy", "Rating: 2", None), ("1", "vcd", "Rating: 3", None),
    ]  # fmt: skip
    path, key, body = asked[0]
    assert (path, key, len(asked)) == ("/v1/chat/completions", "Bearer secret", 4)
    prompt = "Contents Cat, Hat question What is 0? reference It is 0. answer greedy says 0"
    assert body == {"model": "wise", "messages": [{"role": "user", "content": prompt}], "temperature": 0}


def test_replies_become_scores(run):
    with serving("Rating: 5", "Rating: 1", "Rating: 2", "banana") as (url, _):
        judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
    part = part_to_judge(run)
    rows = with_judgements(list(run.store.rows("mmhal")), Judgements.open(run.store.path.parent).all("mmhal"))
    cells = part.benchmark.evaluate(part.items, rows, STRATEGIES).cells
    got = {(c.strategy, c.metric.name): (c.estimate.over, c.estimate.under) for c in cells if c.group == "overall"}
    assert got["greedy", "score"] == (7, 2)
    assert got["vcd", "score"] == (1, 2)
    assert got["vcd", "hallucination"] == (2, 2)
    assert got["vcd", "unparsed"] == (1, 2)


@pytest.mark.parametrize(
    "trouble", [500, 429, b"", b"<html>", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}']
)
def test_passing_trouble_is_tried_again(run, trouble):
    with serving(trouble, "Rating: 5") as (url, asked):
        outcome = judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
    assert (outcome.added, outcome.failed, len(asked)) == (4, 0, 5)


def test_a_failure_is_recorded_never_scored_and_asked_again(run):
    with serving(b"nonsense", b"nonsense", "Rating: 5") as (url, _):
        outcome = judge(run, part_to_judge(run), endpoint(url, tries=2), TEMPLATE)
        assert (outcome.added, outcome.failed) == (3, 1)
        told = replies_of(run)
        assert told[0][:3] == ("0", "greedy", None)
        assert "does not answer as a chat endpoint does: 'nonsense'" in told[0][3]
        kept = Judgements.open(run.store.path.parent).all("mmhal")
        rows = with_judgements(list(run.store.rows("mmhal")), kept)
        assert [row.extra is None for row in rows] == [True, True, False, False]
        assert judge(run, part_to_judge(run), endpoint(url, tries=2), TEMPLATE).added == 1
    assert sorted(r for _, _, r, _ in replies_of(run)) == ["Rating: 5"] * 4


@pytest.mark.slow
def test_a_judge_that_hangs_is_given_up(run):
    with serving(None, "Rating: 5") as (url, asked):
        outcome = judge(run, part_to_judge(run), endpoint(url, timeout=2, tries=1), TEMPLATE)
    assert (outcome.added, outcome.failed, len(asked)) == (3, 1, 4)
    assert next(e for _, _, _, e in replies_of(run) if e).endswith("no reply in time")


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_it_at_once(run, status):
    with serving("Rating: 4", status) as (url, asked):
        with pytest.raises(EndpointError, match=rf"HTTP {status}: out of order; 1 judged in this call are kept"):
            judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
        assert len(asked) == 2
    assert replies_of(run)[0][2] == "Rating: 4"


def test_a_request_that_is_too_much_is_not_repeated(run):
    with serving("Rating: 4", 400, "Rating: 3") as (url, asked):
        outcome = judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
    assert (outcome.added, outcome.failed, len(asked)) == (3, 1, 4)


def test_an_endpoint_that_is_down_is_not_asked_for_everything(run):
    run.store.add([Row("mmhal", "0", f"s{n}", "?", "eos", 3, 0.1, 0) for n in range(9)])
    with serving(500) as (url, asked):
        with pytest.raises(EndpointError, match=r"5 answers in a row could not be judged; .*HTTP 500"):
            judge(run, part_to_judge(run), endpoint(url, tries=1), TEMPLATE)
        assert len(asked) == 5
    with pytest.raises(EndpointError, match=r"in a row could not be judged; http://127\.0\.0\.1"):
        judge(run, part_to_judge(run), endpoint(url, tries=1), TEMPLATE)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://a:1", "http://a:1/v1/chat/completions"),
        ("https://a/v1/", "https://a/v1/chat/completions"),
        ("http://a/x/v1/chat/completions", "http://a/x/v1/chat/completions"),
    ],
)
def test_addresses_are_completed(given, url):
    assert Endpoint(given, "m").url == url


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000", "", "http://", "http://a:b", "ftp://a"])
def test_addresses_of_another_kind_are_refused(url):
    with pytest.raises(OptionError, match="endpoint must be an address such as"):
        Endpoint(url, "m")


def test_a_key_is_never_shown():
    assert "secret" not in repr(Endpoint("http://a", "m", key="secret"))


def test_replies_from_a_file(run, tmp_path):
    part = part_to_judge(run)
    file = tmp_path / "requests.jsonl"
    write_requests(list(requests(run, part, TEMPLATE)), file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[1] == {
        "benchmark": "mmhal", "item": "0", "strategy": "vcd", "answer": "vcd says 0",
        "prompt": "Contents Cat, Hat question What is 0? reference It is 0. answer vcd says 0",
    }  # fmt: skip
    told = write_lines(tmp_path / "told.jsonl", [{**line, "reply": "Rating: 3"} for line in lines])
    assert import_judgements(run, part, told, "people").added == 4
    assert import_judgements(run, part, told, "people").added == 0
    assert {reply for _, _, reply, _ in replies_of(run)} == {"Rating: 3"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item": "7"}, "line 1: the run has no answer to item '7' with strategy 'greedy'"),
        ({"strategy": "pai"}, "has no answer to item '0' with strategy 'pai'"),
        ({"answer": "another"}, "line 1: judges another answer than the run's 'greedy says 0'"),
        ({"reply": None}, "line 1: 'reply' must be a text, got null"),
        ({"item": None}, "line 1: 'item' must be a text"),
    ],
)
def test_replies_to_something_else_are_refused(run, tmp_path, changed, message):
    line = {"item": "0", "strategy": "greedy", "reply": "Rating: 1", **changed}
    with pytest.raises(DataError, match=message):
        import_judgements(run, part_to_judge(run), write_lines(tmp_path / "r", [line]), "people")
    assert replies_of(run) == []


def test_a_judge_that_contradicts_itself_is_refused(run, tmp_path):
    part = part_to_judge(run)
    line = {"item": "0", "strategy": "greedy", "reply": "Rating: 1"}
    with pytest.raises(DataError, match="line 2: answer '0, greedy' is there already"):
        import_judgements(run, part, write_lines(tmp_path / "r", [line, line]), "people")
    import_judgements(run, part, write_lines(tmp_path / "r", [line]), "people")
    other = write_lines(tmp_path / "r", [{**line, "reply": "Rating: 2"}])
    with pytest.raises(RunError, match="judge 'people' has another stored reply; give another name with --judge"):
        import_judgements(run, part, other, "people")
    assert import_judgements(run, part, other, "others").added == 1


def row(item, strategy, text="text", error=None):
    return Row("mmhal", item, strategy, text, "eos", 1, 0.1, 0, {"kept": 1}, error)


def said(item, strategy, reply, by="a", answer="text"):
    return Judgement("mmhal", item, strategy, by, answer, reply)


def test_an_item_counts_when_all_strategies_are_judged_by_the_last_judge():
    rows = [row(i, s) for i in "12" for s in STRATEGIES]
    judgements = [said(i, s, "old", "b") for i in "12" for s in STRATEGIES] + [
        said("1", "greedy", "x"), said("1", "vcd", "y"), said("2", "greedy", "z"),
    ]  # fmt: skip
    got = [r.extra.get("judgement") for r in with_judgements(rows, judgements)]
    assert got == [{"judge": "a", "reply": "x"}, {"judge": "a", "reply": "y"}, None, None]
    assert all(r.extra["kept"] == 1 for r in with_judgements(rows, judgements))


def test_a_judgement_of_another_text_counts_for_nothing_and_a_failed_answer_asks_for_none():
    got = with_judgements([row("1", "greedy"), row("1", "vcd")], [said("1", s, "x", answer="old") for s in STRATEGIES])
    assert [r.extra for r in got] == [{"kept": 1}] * 2
    got = with_judgements([row("1", "greedy"), row("1", "vcd", error="torn")], [said("1", "greedy", "x")])
    assert got[0].extra["judgement"]["reply"] == "x"


def test_a_reply_that_is_there_stays_and_a_failure_gives_way(run):
    kept = Judgements.open(run.store.path.parent)
    for reply in (None, "first", "second", None):
        error = "down" if reply is None else None
        kept.add("a", {}, [Judgement("mmhal", "0", "greedy", "a", "greedy says 0", reply, error)])
    assert replies_of(run) == [("0", "greedy", "first", None)]
    with pytest.raises(RunError, match=r"judge 'a' was {}, now .* give it another name"):
        kept.add("a", {"model": "other"}, [])


def test_a_run_without_judgements_is_left_alone(run):
    kept = Judgements.open(run.store.path.parent)
    assert kept.all("mmhal") == []
    assert kept.judges() == {}
    rows = list(run.store.rows("mmhal"))
    assert with_judgements(rows, []) == rows


def test_a_judge_is_told_in_full(run):
    with serving("Rating: 5") as (url, _):
        outcome = judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
        other = judge(run, part_to_judge(run), endpoint(url), TEMPLATE + "!")
    known = Judgements.open(run.store.path.parent).judges()
    assert known[outcome.judge]["template"] == TEMPLATE
    assert known[outcome.judge]["model"] == "wise"
    assert other.judge != outcome.judge
    assert other.added == 4


def test_a_torn_file_is_named(run, tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.sqlite").write_bytes(b"no database " * 99)
    with pytest.raises(RunError, match=r"run.sqlite"):
        Judgements.open(tmp_path / "torn")
    with pytest.raises(RunError, match="holds no run"):
        Judgements.open(tmp_path / "nothing")
    with pytest.raises(RunError, match="cannot read the run"):
        Judgements(tmp_path / "torn" / "run.sqlite").all("mmhal")


def test_templates():
    fields = {"contents": "C {answer}", "question": "Q {}", "reference": "R", "answer": "A"}
    assert fill_template("{}|{}|{}|{}", fields) == "C {answer}|Q {}|R|A"
    assert fill_template('{"x": 1} {answer} {unknown} {question}', fields) == '{"x": 1} A {unknown} Q {}'
    for wrong in ("{} {}", "no place", "{question}", "{} {answer}"):
        with pytest.raises(DataError, match="the template must hold"):
            fill_template(wrong, fields)


def test_whose_template_it_is(tmp_path):
    assert "Reference: {reference}" in template_of(Hallusion(rule="judge"), None)
    with pytest.raises(OptionError, match="template must be a file: the authors' prompt for mmhal does not ship"):
        template_of(MmHal(), None)
    (tmp_path / "t").write_text("{answer}")
    assert template_of(MmHal(), tmp_path / "t") == "{answer}"


def test_hallusion_shows_the_judge_question_reference_and_answer():
    made = Hallusion(rule="judge")
    item = Item("1", None, "Q?\nsuffix", ("overall",), {"question": "Q?", "reference": "It is."})
    prompt = fill_template(template_of(made, None), made.judge_fields(item, "Yes {reference}."))
    assert "Question: Q?\nReference: It is.\nAnswer: Yes {reference}.\n" in prompt


def test_a_run_that_needs_no_judge_is_refused(run, tmp_path):
    setup = {"benchmarks": {"hallusion": {"spec": "hallusion", "remarks": []}}, "strategies": ["greedy"]}
    Store.create(tmp_path / "other", setup)
    with pytest.raises(OptionError, match=r"run must be one with mmhal or hallusion\(rule='judge'\).*got 'hallusion'"):
        part_to_judge(reopen(tmp_path / "other"))
    with pytest.raises(OptionError, match="benchmark must be one of mmhal, got 'pope'"):
        part_to_judge(run, "pope")


def test_a_judge_may_move_to_another_address(run):
    with serving("Rating: 5", 401) as (url, _), pytest.raises(EndpointError):
        judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
    with serving("Rating: 4") as (url, asked):
        outcome = judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
    assert (outcome.added, outcome.judged_before, len(asked)) == (3, 1, 3)


def test_a_judge_told_its_address_in_an_old_run_goes_on(run):
    kept = Judgements.open(run.store.path.parent)
    told = {"model": "wise", "template": "T", "temperature": 0}
    kept.add("a", {**told, "endpoint": "http://a:1"}, [])
    kept.add("a", told, [])
    with pytest.raises(RunError, match=r"judge 'a' was .*; give it another name"):
        kept.check("a", {**told, "model": "other"})


def test_another_judge_of_the_name_is_refused_before_anything_is_asked(run):
    with serving("Rating: 5") as (url, asked):
        name = f"wise ({hashlib.sha256(TEMPLATE.encode()).hexdigest()[:8]})"
        Judgements.open(run.store.path.parent).add(name, {"imported": True}, [])
        with pytest.raises(RunError, match="give it another name"):
            judge(run, part_to_judge(run), endpoint(url), TEMPLATE)
        assert asked == []
