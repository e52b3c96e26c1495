from __future__ import annotations

import importlib.util
import json
import re

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.rules.chair import MERGED, WordRule, word_rule
from mmhall.errors import DataError, OptionError

SYNONYMS = """person, man, woman, people
bus, minibus
tie, bow
chair, seat
motorcycle,  motor bike, motor cycle
cell phone, phone, iPhone
vase
wine glass
toilet
train
dog
elephant
tennis racket, racket
skis, ski
oven, stove, stove top oven
"""
SINGULAR = {
    "bus": "bu",
    "minibus": "minibu",
    "buses": "bus",
    "ties": "ty",
    "tennis": "tenni",
    "rackets": "racket",
    "men": "man",
    "people": "person",
    "vases": "vase",
    "glass": "glas",
    "glasses": "glass",
    "dogs": "dog",
    "skis": "ski",
    "bikes": "bike",
    "tracks": "track",
    "seats": "seat",
    "elephants": "elephant",
    "trains": "train",
}
FOUR = {
    "women": ["woman"] * 4,
    "buses": ["bus", "bus", "buses", "buses"],
    "dogs": ["dog", "dog", "dogs", "dogs"],
    "seated": ["seated", "seat", "seated", "seated"],
    "skiing": ["skiing", "ski", "skiing", "skiing"],
    "glasses": ["glass", "glass", "glasses", "glasses"],
    "skis": ["ski", "ski", "skis", "skis"],
    "tracks": ["track", "track", "tracks", "tracks"],
    "vases": ["vas", "vases", "vases", "vases"],
    "running": ["running", "run", "running", "running"],
    "ties": ["tie", "tie", "ties", "ties"],
}


@pytest.fixture
def paths(tmp_path):
    for name, text in (("words.txt", SYNONYMS), ("original", json.dumps(SINGULAR)), ("wordnet", json.dumps(FOUR))):
        (tmp_path / name).write_text(text)
    return tmp_path


def read(folder, rule, text):
    return word_rule(rule, str(folder / "words.txt"), str(folder / rule)).read(text)


@pytest.mark.parametrize(
    ("text", "original", "wordnet"),
    [
        ("a bus", [], ["bus"]),
        ("two buses and a minibus", ["bus"], ["bus", "bus"]),
        ("men and women", ["person"], ["person"]),
        ("a woman", ["person"], ["person"]),
        ("vases", ["vase"], []),
        ("a vase", ["vase"], ["vase"]),
        ("seated people", ["person"], ["chair", "person"]),
        ("a woman skiing on skis", ["person", "skis"], ["person", "skis", "skis"]),
        ("a motor bike, a motor cycle", ["motorcycle"], ["motorcycle"]),
        ("an iPhone on the phone", ["cell phone"], ["cell phone"]),
        ("stove top oven", ["oven", "oven"], ["oven", "oven"]),
        ("wine glasses, one wine glass", ["wine glass"] * 2, ["wine glass"] * 2),
        ("a tennis racket", ["tennis racket"], ["tennis racket"]),
        ("a bow tie and ties", ["tie"], ["tie", "tie"]),
        ("a train on train tracks", ["train"], ["train"]),
        ("a passenger train", ["train"], ["train"]),
        ("a baby elephant", ["elephant"], ["elephant"]),
        ("a toilet seat", ["toilet"], ["toilet"]),
        ("a toilet, its seat", ["toilet"], ["toilet"]),
        ("a seat", ["chair"], ["chair"]),
        ("table.the dog and dog/dog", ["dog"], ["dog"]),
        ("A DOG!", ["dog"], ["dog"]),
        ("", [], []),
    ],
)
def test_the_rules_traps(paths, text, original, wordnet):
    assert [m.name for m in read(paths, "original", text).mentions] == original
    assert [m.name for m in read(paths, "wordnet", text).mentions] == wordnet


def test_length_counts_merged_tokens_and_punctuation(paths):
    """a, toilet, and, a, hot dog, seat, . are seven; the seat is dropped behind."""
    reading = read(paths, "wordnet", "A toilet and a hot dog seat.")
    assert reading.tokens == 7
    assert [m.name for m in reading.mentions] == ["toilet"]


def test_mentions_say_where_they_stand(paths):
    text = "İ: a Tennis Racket’s dog; wine  glasses."
    found = read(paths, "wordnet", text).mentions
    assert [text[m.start : m.end] for m in found] == ["Tennis Racket", "dog", "wine  glasses"]


def slow(nodes, lemmas, name, words):
    """Count by the specification's words: normalise, merge, drop the seat, look up."""
    forms = []
    for word in words:
        form = lemmas.get(word, word if name == "original" else [word, word])
        if name == "wordnet":
            form = form[1] if form[0] == word and form[1] in nodes else form[0]
        forms.append(form)
    merged = []
    while forms:
        if " ".join(forms[:2]) in MERGED:
            merged.append(MERGED[" ".join(forms[:2])])
            forms = forms[2:]
        else:
            merged.append(forms[0])
            forms = forms[1:]
    kept = [word for word in merged if not (word == "seat" and "toilet" in merged)]
    return [nodes[word] for word in kept if word in nodes], len(merged)


WORDS = sorted({*SINGULAR, *FOUR, *" ".join(MERGED).split(), *re.findall(r"\w+", SYNONYMS.lower()), "a", "the"})
NODES = {word: line.split(", ")[0] for line in SYNONYMS.splitlines() for word in line.split(", ")}


@pytest.mark.parametrize(("name", "lemmas"), [("original", SINGULAR), ("wordnet", FOUR)])
@given(words=st.lists(st.sampled_from(WORDS), max_size=12))
def test_reading_equals_a_slow_count(name, lemmas, words):
    reading = WordRule(name, NODES, lemmas).read(" ".join(words))
    assert ([m.name for m in reading.mentions], reading.tokens) == slow(NODES, lemmas, name, words)


def test_chair_reads_with_a_rule(paths):
    chair = Chair(rule="wordnet", vocabulary=str(paths / "words.txt"), lemmas=str(paths / "wordnet"))
    item = Item("1", "1", "", (), {"objects": ["bus"]})
    counts = chair.count(item, "A bus, vases. Seated dogs.")
    picked = {name: counts[name] for name in ("named", "absent", "found", "tokens", "words", "split")}
    assert picked == {"named": 3, "absent": 2, "found": 1, "tokens": 8, "words": 5, "split": 1}
    assert chair.mark(item, "A bus, dogs.") == [(2, 5, True), (7, 11, False)]


@pytest.fixture
def tagger(tmp_path, monkeypatch):
    """The data of a tagger that nltk was taught two sentences."""
    nltk = pytest.importorskip("nltk")
    perceptron = importlib.import_module("nltk.tag.perceptron").PerceptronTagger(load=False)
    sport, fun = "a/DT woman/NN is/VBZ skiing/VBG ./.", "the/DT skiing/NN is/VBZ fun/JJ ./."
    taught = [[tuple(word.rsplit("/", 1)) for word in sentence.split()] for sentence in (sport, fun)]
    perceptron.train(taught * 5)
    folder = tmp_path / "nltk_data" / "taggers" / "averaged_perceptron_tagger_eng"
    folder.mkdir(parents=True)
    for part, name in zip(perceptron.encode_json_obj(), perceptron.param_files("eng"), strict=True):
        (folder / name).write_text(json.dumps(part))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    nltk.tag._get_tagger.cache_clear()
    yield
    nltk.tag._get_tagger.cache_clear()


def test_a_tagger_tells_the_verb_from_the_noun(paths, tagger):
    """Skiing, the verb, is an object of the published evaluator; skiing, the noun, is not."""
    files = str(paths / "words.txt"), str(paths / "wordnet")
    for text, named in (("A woman is skiing.", ["person", "skis"]), ("The skiing is fun.", [])):
        assert [m.name for m in word_rule("wordnet", *files, "nltk").read(text).mentions] == named
    assert [m.name for m in word_rule("wordnet", *files).read("The skiing is fun.").mentions] == ["skis"]


@pytest.mark.skipif(importlib.util.find_spec("nltk") is not None, reason="nltk is installed")
def test_a_tagger_that_is_not_installed_is_named(paths):
    chair = Chair(rule="wordnet", tagger="nltk", vocabulary=str(paths / "words.txt"), lemmas=str(paths / "wordnet"))
    with pytest.raises(DataError, match=r"tagger 'nltk' needs nltk with its data .*pip install.*or take tagger='none'"):
        chair.count(Item("1", "1", "", (), {"objects": ["bus"]}), "A bus.")


def test_ours_counts_no_tokens():
    counts = Chair().count(Item("1", "1", "", (), {"objects": ["bus"]}), "A bus.")
    assert (counts["tokens"], counts["split"]) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "original"},
        {"rule": "wordnet", "vocabulary": "a"},
        {"lemmas": "a"},
        {"rule": "none"},
        {"tagger": "nltk"},
    ],
)
def test_rules_and_files_go_together(options):
    with pytest.raises(OptionError):
        Chair(**options)


@pytest.mark.parametrize(
    ("words", "lemmas", "message"),
    [
        (None, "{}", "words: does not exist"),
        ("", "{}", "no line names"),
        ("person\ndog\n", "{}", "no line names"),
        (b"\xff\xfe\x00", "{}", "no UTF-8 text"),
        ("dog, pup", None, "lemmas: does not exist"),
        ("dog, pup", "{", "no JSON"),
        ("dog, pup", "[" * 100_000, "no JSON"),
        ("dog, pup", "[1]", "no table"),
        ("dog, pup", "{}", "no table"),
        ("dog, pup", '{"dogs": "dog"}', "'dogs' has 'dog'"),
        ("dog, pup", '{"dogs": ["dog", "dog"]}', "'dogs' has"),
        ("dog, pup", '{"dogs": ["dog", "dog", 1, 2]}', "'dogs' has"),
    ],
)
def test_unfit_files_are_refused(tmp_path, words, lemmas, message):
    for name, content in (("words", words), ("lemmas", lemmas)):
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        word_rule("wordnet", str(tmp_path / "words"), str(tmp_path / "lemmas"))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        word_rule("original", str(tmp_path), str(tmp_path))
