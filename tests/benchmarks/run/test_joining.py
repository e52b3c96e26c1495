"""Answer files in the shapes that the field's own scripts write."""

from __future__ import annotations

import json

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source, file_digest
from mmhall.benchmarks.run.scoring import DIGEST, score
from mmhall.errors import DataError
from tests.benchmarks.conftest import picture, write_json, write_lines

NAMES = ("dog", "cat", "dog", "car")
QUESTIONS = [f"Is there a {name} in the image?" for name in NAMES]
SUFFIX = "\nAnswer the question using a single word or phrase."
SAID = ("Yes", "No", "Yes", "Yes")


@pytest.fixture
def pope_file(tmp_path):
    """Four questions about two pictures: yes, no, no, yes."""
    rows = zip(QUESTIONS, ("a.jpg", "a.jpg", "b.jpg", "b.jpg"), ("yes", "no", "no", "yes"), strict=True)
    lines = [{"question_id": n, "image": i, "text": q, "label": t} for n, (q, i, t) in enumerate(rows, 1)]
    return write_lines(tmp_path / "coco_pope_random.json", lines)


@pytest.fixture
def coco(tmp_path):
    """Two pictures: a dog, and a cat with a chair; the second picture's number is the first one's id plus one."""
    names = {1: "dog", 2: "cat", 3: "chair"}
    return write_json(
        tmp_path / "instances.json",
        {
            "images": [{"id": i, "file_name": f"val2014/COCO_val2014_{i:012d}.jpg"} for i in (41, 42)],
            "annotations": [{"image_id": i, "category_id": c} for i, c in ((41, 1), (42, 2), (42, 3))],
            "categories": [{"id": id_, "name": name} for id_, name in names.items()],
        },
    )


def mme_folder(folder):
    """A picture 1.jpg in two categories, one of them in the nested layout; the same two questions of each."""
    asked = ["Is there a fridge in this image? Please answer yes or no.\tYes", "Is there a donut? Please answer.\tNo"]
    for shown, texts in (
        ("existence", "existence"),
        ("artwork/images", "artwork/questions_answers_YN"),
    ):
        picture(folder / shown / "1.jpg")
        (folder / texts).mkdir(parents=True, exist_ok=True)
        (folder / texts / "1.txt").write_text("\n".join(asked))
    return folder


def value(found, group, metric):
    cell = next(c for c in found.evaluation.cells if (c.group, c.metric.name) == (group, metric))
    return cell.estimate.over, cell.estimate.under


def scored(spec, data, records, name="answers.jsonl"):
    path = data.parent / name
    return score(benchmark(spec), Source(data), write_lines(path, records))


def test_captions_may_be_objects_over_several_lines_with_a_running_number_beside_the_picture(coco):
    """A running question_id is no picture: 41 and 42 are the other way round."""
    rows = [
        {"question_id": 42, "image_id": 41, "text": "A dog."},
        {"question_id": 41, "image_id": 42, "text": "A cat, a dog."},
    ]
    path = coco.parent / "captions.json"
    path.write_text("".join(json.dumps(row, indent=4) + "\n" for row in rows))
    assert value(score(benchmark("chair"), Source(coco), path), "captions", "CHAIR_i") == (1, 3)


@pytest.mark.parametrize(
    "name",
    [
        lambda i: {"image_id": f"COCO_val2014_{i:012d}.jpg"},
        lambda i: {"image_id": f"{i:012d}"},
        lambda i: {"image": f"val2017/{i:012d}.jpg"},
        lambda i: {"image_id": float(i)},
        lambda i: {"image_id": f"COCO_val2014_{i:012d}"},
        lambda i: {"image_id": f"/data/val2014/COCO_val2014_{i:012d}.jpg"},
        lambda i: {"image": f"COCO_val2014_{i:012d}.jpg"},
        lambda i: {"image_path": f"C:\\coco\\COCO_val2014_{i:012d}.jpg", "id": 3},
        lambda i: {"image_name": f"val2014/COCO_val2014_{i:012d}.jpg", "question_id": 99 - i},
    ],
)
def test_a_picture_goes_by_its_file_in_every_spelling(coco, name):
    said = {41: "A dog.", 42: "A cat, a dog."}
    found = scored("chair", coco, [{**name(i), "caption": text} for i, text in said.items()])
    assert value(found, "captions", "CHAIR_i") == (1, 3)
    assert value(found, "captions", "recall") == (2, 3)


def test_a_coco_number_is_no_number_that_another_name_ends_in(tmp_path):
    data = write_json(tmp_path / "o.json", {"n101.jpg": ["dog"], "n102.jpg": ["cat"]})
    records = [{"image": f"COCO_val2014_{i:012d}.jpg", "caption": "A dog."} for i in (101, 102)]
    with pytest.raises(DataError, match="none of its 2 answers is for an item of chair"):
        scored("chair", data, records)
    bare = write_json(tmp_path / "o.json", {"000000000101.jpg": ["dog"], "102.jpg": ["cat"]})
    assert value(scored("chair", bare, records), "captions", "CHAIR_i") == (1, 2)


def test_two_pictures_of_one_name_are_not_told_apart_by_it(tmp_path):
    data = write_json(tmp_path / "o.json", {"a/1.jpg": ["dog"], "b/1.jpg": ["cat"]})
    with pytest.raises(DataError, match=r"image '1\.jpg' may be 'a/1\.jpg', 'b/1\.jpg'"):
        scored("chair", data, [{"image": "1.jpg", "caption": "A dog."}])


def test_mme_answers_are_joined_by_picture_and_question(tmp_path):
    """Right, right; wrong, right, in two shapes; the nested category is told by the path."""
    data = mme_folder(tmp_path / "MME")
    said = {"existence/1.jpg": ("Yes", "No"), "artwork/1.jpg": ("No", "No")}
    asked = ("Is there a fridge in this image?", "Is there a donut?")
    llava = [
        {"question_id": id_, "prompt": question + SUFFIX, "text": text, "model_id": "m"}
        for id_, texts in said.items()
        for question, text in zip(asked, texts, strict=True)
    ]
    log = [
        {"doc_id": n, "doc": {"question_id": r["question_id"], "question": r["prompt"]}, "resps": [[r["text"]]]}
        for n, r in enumerate(llava)
    ]
    for records in (llava, log, llava[::-1]):
        found = scored("mme(subset='all')", data, records)
        assert value(found, "existence", "acc") == (2, 2)
        assert value(found, "artwork", "acc") == (1, 2)
    with pytest.raises(DataError, match=r"may be 'existence/1\.jpg/1', 'existence/1\.jpg/2'; give its question, too"):
        scored("mme(subset='all')", data, [{"question_id": "existence/1.jpg", "text": "Yes"}])
    lost = scored("mme(subset='all')", data, [*llava, {**llava[0], "prompt": "Is there a dog?"}])
    assert any("1 answers are for no item" in remark for remark in lost.part.remarks)


def test_mmes_own_results_are_read(tmp_path):
    """A folder with a file for each category; the picture has one name in both."""
    data, out = mme_folder(tmp_path / "MME"), tmp_path / "results"
    out.mkdir()
    for category, said in (("existence", ("Yes", "No")), ("artwork", ("No", "No"))):
        asked = ("Is there a fridge in this image? Please answer yes or no.", "Is there a donut? Please answer.")
        lines = [f"1.jpg\t{q}\t{t}\t{a}" for q, t, a in zip(asked, ("Yes", "No"), said, strict=True)]
        (out / f"{category}.txt").write_text("\r\n".join(lines) + "\n")
    made = benchmark("mme(subset='all')")
    found = score(made, Source(data), out)
    assert value(found, "existence", "acc") == (2, 2)
    assert value(found, "artwork", "acc") == (1, 2)
    assert value(score(made, Source(data), out / "artwork.txt"), "artwork", "acc") == (1, 2)
    (out / "artwork.txt").write_text("1.jpg\tIs there a fridge?\tYes\tNo\n2.jpg\tNo\n")
    with pytest.raises(DataError, match="line 2: has 2 cells; give picture, question, label and answer"):
        score(made, Source(data), out)


def test_answers_without_ids_are_joined_in_order_if_each_question_is_that_of_its_place(pope_file):
    records = [{"question": q, "answer": a} for q, a in zip(QUESTIONS, SAID, strict=True)]
    assert value(scored("pope", pope_file, records), "random", "accuracy") == (3, 4)
    told = [{**r, "question": r["question"] + SUFFIX} for r in records[:3]]
    assert value(scored("pope", pope_file, told), "random", "accuracy") == (2, 3)
    swapped = [records[0], records[2], records[1], records[3]]
    with pytest.raises(
        DataError, match=r"line 2: .* at place 2 the data has 'Is there a cat .*', the file 'Is there a do"
    ):
        scored("pope", pope_file, swapped)
    with pytest.raises(DataError, match=r"line 5: .* at place 5 the data has none"):
        scored("pope", pope_file, [*records, records[0]])


def test_answers_that_repeat_another_question_than_their_ids_are_told(pope_file):
    """Asked in other words, they may still be the data's."""
    records = [
        {"question_id": n, "question": f"Do you see a {q[11:]}", "answer": "No"} for n, q in enumerate(QUESTIONS, 1)
    ]
    found = scored("pope", pope_file, records)
    assert any(remark.startswith("4 answers repeat another question") for remark in found.part.remarks)
    right = [{**r, "question": q} for r, q in zip(records, QUESTIONS, strict=True)]
    assert not any("another question" in remark for remark in scored("pope", pope_file, right).part.remarks)


def test_numbers_from_0_are_never_taken_for_those_from_1(pope_file):
    """With questions beside them the answers are joined by place or picture; alone they cannot be told apart."""
    rows = list(zip(QUESTIONS, SAID, ("a.jpg", "a.jpg", "b.jpg", "b.jpg"), strict=True))
    llava = [{"question_id": n, "prompt": q + SUFFIX, "text": a} for n, (q, a, _) in enumerate(rows)]
    assert value(scored("pope", pope_file, llava), "random", "accuracy") == (3, 4)
    with pytest.raises(DataError, match=r"line 1: counts from question_id 0, the data from 1"):
        scored("pope", pope_file, [{"question_id": r["question_id"], "text": r["text"]} for r in llava])
    vcd = [{**r, "image": i} for r, (_, _, i) in zip(llava, rows, strict=True)]
    assert value(scored("pope", pope_file, vcd[::-1]), "random", "accuracy") == (3, 4)
    with pytest.raises(
        DataError, match=r"question_id '3' is 'Is there a dog .*, but the answer repeats 'Is there a car"
    ):
        scored("pope", pope_file, llava[:0:-1])


def test_answers_of_another_setting_are_not_joined_by_their_numbers(pope_file):
    """Half of the questions of two settings are the same; the figure would look right."""
    records = [{"question_id": n, "text": s} for n, s in enumerate(SAID, 1)]
    with pytest.raises(DataError, match=r"its name has the setting popular, the data is of random"):
        scored("pope", pope_file, records, "llava_coco_pope_popular.jsonl")
    for name in ("pope_coco_popular.jsonl", "llava15_popular_pope.jsonl", "popular.jsonl"):
        with pytest.raises(DataError, match=r"its name has the setting popular, the data is of random"):
            scored("pope", pope_file, records, name)
    with pytest.raises(DataError, match=r"none of its 4 answers .* the file 'popular/1'"):
        scored("pope", pope_file, [{**r, "category": "popular"} for r in records])
    mixed = [{**r, "category": c} for r in records for c in ("popular", "random")]
    assert value(scored("pope", pope_file, mixed), "random", "accuracy") == (3, 4)
    asked = [{"category": "popular", "question": q, "answer": "Yes"} for q in QUESTIONS]
    with pytest.raises(DataError, match="at place 1 the data has none"):
        scored("pope", pope_file, asked)


def test_an_answer_about_another_picture_is_not_joined_by_its_number(pope_file):
    records = [{"question_id": n, "image": i, "text": "Yes"} for n, i in enumerate(("b.jpg", "a.jpg"), 2)]
    with pytest.raises(DataError, match=r"line 1: names picture 'b\.jpg', but by its id it is about 'a\.jpg'"):
        scored("pope", pope_file, records)


def test_llava_asks_all_settings_in_one_file(tmp_path):
    """Numbers from 0 through adversarial and random: in adversarial the first answer is wrong."""
    lines, asked = {}, []
    for setting, absent in (("adversarial", "cat"), ("random", "bus")):
        questions = [(f"Is there a {name} in the image?", label) for name, label in (("dog", "yes"), (absent, "no"))]
        lines[setting] = [
            {"question_id": n, "image": "a.jpg", "text": q, "label": t} for n, (q, t) in enumerate(questions, 1)
        ]
        write_lines(tmp_path / f"coco_pope_{setting}.json", lines[setting])
        asked += questions
    said = ("No", "No", "Yes", "No")
    rows = enumerate(zip(asked, said, strict=True))
    records = [{"question_id": n, "prompt": q + SUFFIX, "text": s} for n, ((q, _), s) in rows]
    write_lines(tmp_path / "answers.jsonl", records)
    found = score(benchmark("pope"), Source(tmp_path), tmp_path / "answers.jsonl")
    assert [value(found, s, "accuracy") for s in lines] == [(1, 2), (2, 2)]
    write_lines(tmp_path / "answers.jsonl", records[:3])
    with pytest.raises(DataError, match="question_id 1 is in random, adversarial; give its setting"):
        score(benchmark("pope"), Source(tmp_path), tmp_path / "answers.jsonl")


def test_one_question_for_all_pictures_says_no_place(coco):
    """Captions of other pictures, all asked for in the words of the data."""
    asked = {"question": benchmark("chair").material(Source(coco, pictures=False)).items[0].prompt}
    records = [{"image_id": i, **asked, "caption": "A dog."} for i in (901, 902)]
    with pytest.raises(DataError, match="none of its 2 answers is for an item of chair"):
        scored("chair", coco, records)
    with pytest.raises(DataError, match=r"answers have no id, and the data asks only 'please describe .*; give each"):
        scored("chair", coco, [{**asked, "caption": "A dog."} for _ in records])


@pytest.mark.parametrize("more", [lambda n: {"image": "ba"[n] + ".jpg"}, lambda n: {"item": f"x{n}"}])
def test_answers_that_name_another_picture_or_item_are_not_joined_by_place(tmp_path, more):
    asked = [{"image": f"{'ab'[n]}.jpg", "text": QUESTIONS[n], "label": "yes", "question_id": n + 1} for n in range(2)]
    data = write_lines(tmp_path / "coco_pope_random.json", asked)
    records = [{"question_id": 90 + n, "question": QUESTIONS[n], "answer": "Yes"} for n in range(2)]
    assert value(scored("pope", data, records), "random", "accuracy") == (2, 2)
    with pytest.raises(DataError, match=r"none of its 2 answers|which is another"):
        scored("pope", data, [{**record, **more(n)} for n, record in enumerate(records)])


@pytest.mark.parametrize("field", ["prediction", "pred", "predict", "model_output", "generated_text", "llm_answer"])
def test_the_label_beside_what_the_model_said_is_left(pope_file, field):
    labels = ("yes", "no", "no", "yes")
    records = [{"question_id": n, "answer": t, field: s} for n, (t, s) in enumerate(zip(labels, SAID, strict=True), 1)]
    assert value(scored("pope", pope_file, records), "random", "accuracy") == (3, 4)


def test_which_field_is_the_models_is_decided_for_the_whole_file(pope_file):
    """Records that lack it have no answer, and their label is none: none right of two, and two failures."""
    labels = ("yes", "no", "no", "yes")
    records = [{"question_id": n, "answer": t} for n, t in enumerate(labels, 1)]
    for record in records[:2]:
        record["prediction"] = "maybe"
    for rest in ({}, {"prediction": None}, {"prediction": float("nan")}):
        found = scored("pope", pope_file, [*records[:2], *({**record, **rest} for record in records[2:])])
        assert value(found, "random", "accuracy") == (0, 2)
        assert found.evaluation.failed == {"answers": 2}
    log = [{"question_id": n, "resps": [[s]], "pred": "1", "filtered_resps": ["x"]} for n, s in enumerate(SAID, 1)]
    assert value(scored("pope", pope_file, log), "random", "accuracy") == (3, 4)


@pytest.mark.parametrize("more", [{"pred": 1}, {"outputs": {"n": 1}}, {"output": [0.5, 0.5]}])
def test_fields_that_hold_no_text_are_left_where_another_does(pope_file, more):
    records = [{"question_id": n, "text": s, **more} for n, s in enumerate(SAID, 1)]
    assert value(scored("pope", pope_file, records), "random", "accuracy") == (3, 4)
    records[1]["text"] = 1
    with pytest.raises(DataError, match="line 2: text must be one text, got 1"):
        scored("pope", pope_file, records)


def test_a_label_is_not_scored_where_an_unknown_field_has_the_answers(pope_file):
    labels = ("yes", "no", "no", "yes")
    rows = list(zip(labels, SAID, strict=True))
    records = [{"question_id": n, "answer": t, "vcd_run": s} for n, (t, s) in enumerate(rows, 1)]
    with pytest.raises(DataError, match="answer is the label of every item, and vcd_run may be what the model said"):
        scored("pope", pope_file, records)
    more = {"gt": "", "model_id": "m", "correct": "yes", "pred": 1}
    right = [{"question_id": n, "answer": t, **more, "gt": t} for n, (t, _) in enumerate(rows, 1)]
    assert value(scored("pope", pope_file, right), "random", "accuracy") == (4, 4)
    numbers = [{**r, "pred": int(s == "Yes")} for r, s in zip(right, SAID, strict=True)]
    with pytest.raises(DataError, match="answer is the label of every item, and pred may be what the model said"):
        scored("pope", pope_file, numbers)
    with pytest.raises(DataError, match="answer is the label of every item, and vcd_run may be what the model said"):
        scored("pope", pope_file, [*records[:3], {**records[3], "answer": None}])
    both = [{"question_id": n, "answer": t, "output": s} for n, (t, s) in enumerate(rows, 1)]
    with pytest.raises(DataError, match="line 1: both answer and output could be the answer"):
        scored("pope", pope_file, both)


def test_answers_that_hold_their_prompt_are_refused(pope_file):
    records = [{"question_id": n, "text": f"USER: {q} ASSISTANT: Yes"} for n, q in enumerate(QUESTIONS, 1)]
    with pytest.raises(DataError, match="every answer holds its question; give what the model said"):
        scored("pope", pope_file, records)
    records[0]["text"] = "Yes"
    scored("pope", pope_file, records)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_answers_may_be_a_table(pope_file, name, mark, encoding):
    """As VLMEvalKit writes them: the label in answer; and as spreadsheets save them."""
    rows = [("question_id", "answer", "prediction")]
    rows += [(str(n), t, s) for n, (t, s) in enumerate(zip(("Yes", "No", "No", "Yes"), SAID, strict=True), 1)]
    path = pope_file.parent / name
    path.write_text("\r\n".join(mark.join(row) for row in rows), encoding=encoding)
    assert value(score(benchmark("pope"), Source(pope_file), path), "random", "accuracy") == (3, 4)
    path.write_text(f"question_id{mark}answer\n1{mark}Yes{mark}2\n")
    with pytest.raises(DataError, match="line 2: has other cells than the first line"):
        score(benchmark("pope"), Source(pope_file), path)


def test_whole_numbers_of_a_table_are_numbers_and_no_column_is_there_twice(pope_file):
    path = pope_file.parent / "a.csv"
    rows = "".join(f"{n}.0,{s}\n" for n, s in enumerate(SAID, 1))
    path.write_text(f"question_id,prediction\n{rows}")
    assert value(score(benchmark("pope"), Source(pope_file), path), "random", "accuracy") == (3, 4)
    path.write_text("question_id,prediction,prediction\n1,Yes,No\n")
    with pytest.raises(DataError, match=r"a\.csv: has two columns 'prediction'; keep one"):
        score(benchmark("pope"), Source(pope_file), path)


def test_pope_answers_may_name_picture_and_question(pope_file):
    pictures = ("a.jpg", "a.jpg", "b.jpg", "b.jpg")
    records = [{"image": i, "question": q, "answer": a} for i, q, a in zip(pictures, QUESTIONS, SAID, strict=True)]
    assert value(scored("pope", pope_file, records[::-1]), "random", "accuracy") == (3, 4)


def test_hallusion_results_are_known_by_their_six_fields(tmp_path):
    """Right, right, wrong, right; the model's answer is in model_prediction."""
    rows = [
        {
            "category": "VS",
            "subcategory": "chart",
            "visual_input": str(n),
            "set_id": "0",
            "figure_id": str(n),
            "question_id": "0",
            "question": "Is the first one larger?",
            "gt_answer": label,
            "gt_answer_details": "It is.",
            "filename": None if n == 0 else f"VS/{n}.png",
        }
        for n, label in enumerate(("1", "1", "0", "1"))
    ]
    data = write_json(tmp_path / "HallusionBench.json", rows)
    answers = [{**row, "model_prediction": "Yes, it is."} for row in rows]
    assert value(scored("hallusion", data, answers), "overall", "aAcc") == (3, 4)


def test_answers_about_another_picture_of_the_name_do_not_count(coco):
    """An export says SHA-256 of each picture: of 41 it is that of the data, of 42 another."""
    there = {i: coco.parent / "val2014" / f"COCO_val2014_{i:012d}.jpg" for i in (41, 42)}
    digests = {i: file_digest(picture(path)) for i, path in there.items()}
    exported = {"benchmark": "chair", "strategy": "greedy", "resps": [["A dog."]]}
    records = [{**exported, "item": str(i), "doc": {"picture": str(i)}, DIGEST: digests[i]} for i in (41, 42)]
    assert value(scored("chair", coco, records), "captions", "CHAIR_i") == (1, 2)
    picture(there[42], "blue")
    found = scored("chair", coco, records)
    assert value(found, "captions", "CHAIR_i") == (0, 1)
    assert any("the answers to 1 items, such as '42', are about other" in remark for remark in found.part.remarks)
    picture(there[41], "green")
    with pytest.raises(DataError, match="its 2 answers are all about other pictures"):
        scored("chair", coco, records)
    old = scored("chair", coco, [{**record, DIGEST: None} for record in records])
    assert sum("has no digests of its pictures" in remark for remark in old.part.remarks) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PAR1\x00\x00\xff", "a Parquet file"),
        (b"PK\x03\x04\xff\xff", "a zip archive or an Excel file"),
        (b"question_id,answer\n1,Yes\n", "it has question_id,answer"),
        (b"\xff\xfe\x00", "is not UTF-8 text; give a file of answers"),
        (b'{"results": [1]}', "it has the fields results"),
    ],
)
def test_a_refusal_says_what_the_file_seems_to_be(pope_file, content, told):
    path = pope_file.parent / "answers"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        score(benchmark("pope"), Source(pope_file), path)


def test_a_file_for_other_data_says_its_fields_and_number(coco):
    with pytest.raises(DataError, match=r"it is a list of 2 records with the fields image_id, caption; check --data"):
        scored("chair", coco, [{"image_id": i, "caption": "A dog."} for i in (1, 2)])
