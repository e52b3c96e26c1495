"""Agreement with a tiny CLIP: against open_clip's own way, from every kind of place, and refused where unsafe."""

from __future__ import annotations

import json
import logging
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmhall.clip import check_clip, is_clip_name, load_clip, sentences
from mmhall.errors import ModelError
from tests.clip import CONTEXT, make_clip
from tests.zoo.common import make_tokenizer

TEXTS = ["A dog.", "Two cats sit on a sofa.", "", "nothing of the kind", "A DOG."]


def written(folder, change):
    """Change what a model's folder says of it."""
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


@pytest.fixture
def copied(clip, tmp_path):
    return shutil.copytree(clip, tmp_path / "copied")


@pytest.mark.slow
def test_it_is_what_open_clip_computes(clip, pictures):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    read = open_clip.get_tokenizer(f"local-dir:{clip}")
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([transform(picture) for picture in pictures]))
        said = model.encode_text(read(TEXTS))
    wanted = torch.nn.functional.cosine_similarity(seen[:, None], said[None], dim=-1)
    loaded = load_clip(str(clip))
    for picture, row in zip(pictures, wanted, strict=True):
        torch.testing.assert_close(loaded.similarity(picture, TEXTS), row)
    assert wanted.std() > 0.05
    assert loaded.similarity(pictures[0], []).shape == (0,)


def test_embeddings_have_length_one_and_many_are_read_in_parts(clip, pictures):
    loaded = load_clip(str(clip))
    texts = [f"picture {number}" for number in range(150)]
    both = loaded.embed_texts(texts), loaded.embed_pictures(pictures)
    for embedded in both:
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(embedded)))
    torch.testing.assert_close(both[0][140], loaded.embed_texts(texts[140:141])[0])


def test_long_texts_are_cut_and_said_to_be(clip):
    """CONTEXT tokens hold two marks and so many words; what follows changes nothing."""
    loaded = load_clip(str(clip))
    fits = " ".join(["dog"] * (CONTEXT - 2))
    assert loaded.context == CONTEXT
    assert loaded.find_truncated([fits, f"{fits} cat", "", f"{fits} cat " * 9]) == [False, True, False, True]
    one, other, whole = loaded.embed_texts([f"{fits} cat", f"{fits} bus", fits])
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, whole)
    assert not torch.allclose(loaded.embed_texts([fits.replace("dog", "cat")])[0], whole)


def test_the_end_of_a_long_text_is_of_whole_sentences_or_else_words(clip):
    """A sentence of n words takes n tokens and one for the period, beside the two marks."""
    loaded, room = load_clip(str(clip)), CONTEXT - 2
    first, second = " ".join(["cat"] * (room - 6)) + ".", "dog dog dog dog."
    assert loaded.fitting_end("A dog.") == "A dog."
    assert loaded.fitting_end(f"{first} {second}") == f"{first} {second}"
    assert loaded.fitting_end(f"bus. {first} {second}") == f"{first} {second}"
    assert loaded.fitting_end(f"{first} cat {second}") == f"cat {second}"
    assert loaded.fitting_end(" ".join(["cat"] * 50) + " dog") == " ".join(["cat"] * (room - 1)) + " dog"
    assert loaded.fitting_end("") == ""


def test_a_tokenizer_of_its_own(tmp_path, pictures):
    folder = make_clip(tmp_path / "own", tokenizer=make_tokenizer())
    loaded = load_clip(str(folder))
    found = loaded.similarity(pictures[0], ["A dog.", "A cat."])
    assert found[0] != found[1]
    assert loaded.find_truncated(["x" * CONTEXT, "x" * (CONTEXT + 1), ""]) == [False, True, False]


def test_a_model_is_loaded_once_by_all_threads(clip):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_clip(str(clip)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


@pytest.mark.slow
def test_threads_read_at_once(tmp_path):
    loaded, wrong = load_clip(str(make_clip(tmp_path / "own", tokenizer=make_tokenizer()))), []
    wanted = [loaded.embed_texts([text]) for text in TEXTS]

    def work(number):
        for _ in range(20):
            if not torch.equal(loaded.embed_texts([TEXTS[number]]), wanted[number]) or loaded.find_truncated(["x"]) != [
                False
            ]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_loaded_in_inference_mode_it_is_of_use_outside(copied, pictures):
    with torch.inference_mode():
        loaded = load_clip(str(copied))
    assert not loaded.embed_texts(["A dog."]).requires_grad
    assert not any(part.is_inference() for part in loaded._model.parameters())


def test_logging_is_left_alone(copied):
    before = list(logging.root.handlers)
    load_clip(str(copied))
    assert logging.root.handlers == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("  \n ", []),
        ("A dog", ["A dog"]),
        ("A dog. A cat", ["A dog.", "A cat"]),
        ("Is it? Yes! It is.\n", ["Is it?", "Yes!", "It is."]),
        ("It costs 3.5 dollars... Really?!  Yes.", ["It costs 3.5 dollars...", "Really?!", "Yes."]),
        ("Things:\n- a dog\n- a cat\r\n\r\nThat is all.", ["Things:", "- a dog", "- a cat", "That is all."]),
        ("A dog. . ! --- A cat.", ["A dog.", "--- A cat."]),
        ("Mr. Smith", ["Mr.", "Smith"]),
        ("Un chien. Über Äpfel! 犬がいる。", ["Un chien.", "Über Äpfel!", "犬がいる。"]),
    ],
)
def test_sentences(text, wanted):
    assert sentences(text) == wanted


def refused(name):
    with pytest.raises(ModelError) as caught:
        load_clip(str(name))
    return str(caught.value)


def test_pickles_are_refused(copied, tmp_path):
    weights = copied / "model.safetensors"
    pickled = copied / "open_clip_pytorch_model.bin"
    torch.save(load_file(weights), pickled)
    assert "holds open_clip_pytorch_model.bin beside model.safetensors" in refused(copied)
    assert "is a file; mmhall loads no pickled weights" in refused(pickled)
    weights.rename(copied / "open_clip_model.safetensors")
    assert load_clip(str(copied)).context == CONTEXT
    (copied / "open_clip_model.safetensors").unlink()
    other = shutil.copytree(copied, tmp_path / "other")  # the one before is held in memory
    assert "holds no *.safetensors weights; mmhall loads no pickled weights" in refused(other)


def test_of_two_files_of_weights_neither_is_guessed(copied):
    shutil.copy(copied / "model.safetensors", copied / "second.safetensors")
    assert "holds second.safetensors beside model.safetensors; name the weights" in refused(copied)


def test_folders_that_hold_no_model(copied, tmp_path):
    assert "holds no open_clip_config.json" in refused(tmp_path)
    assert "is a file; give a folder" in refused(copied / "open_clip_config.json")
    for content, told in (
        ("", "does not describe an open_clip model"),
        ("[1]", "does not describe an open_clip model"),
        ('{"model_cfg": {"embed_dim": 4}}', "KeyError: 'text_cfg'"),
        ('{"model_cfg": {"text_cfg": 1, "vision_cfg": {}}}', "must be objects"),
        ("\udcff", "does not describe an open_clip model"),
    ):
        (copied / "open_clip_config.json").write_bytes(content.encode(errors="surrogateescape"))
        assert told in refused(copied)


def test_weights_that_do_not_fit(copied):
    file = copied / "model.safetensors"
    weights = load_file(file)
    lost = dict(weights)
    del lost["visual.proj"]
    save_file(lost, file)
    assert "visual.proj" in refused(copied) or "Missing key" in refused(copied)
    written(copied, lambda config: config["model_cfg"].update(embed_dim=13))
    save_file(weights, file)
    assert f"cannot load CLIP '{copied}'" in refused(copied)
    file.write_bytes(b"torn")
    assert f"cannot load CLIP '{copied}'" in refused(copied)
    written(copied, lambda config: config["model_cfg"]["vision_cfg"].update(surprise=1))
    assert "surprise" in refused(copied)


def test_a_folder_never_reaches_the_network(copied):
    written(copied, lambda config: config["model_cfg"]["text_cfg"].update(hf_model_name="roberta-base"))
    assert "its text tower, roberta-base, is described on the hub" in refused(copied)


def test_a_missing_tokenizer_is_told(tmp_path):
    folder = make_clip(tmp_path / "own", tokenizer=make_tokenizer())
    for file in folder.glob("*token*"):
        file.unlink()
    assert "cannot load CLIP" in refused(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "neither a folder nor an architecture"),
        ("nowhere", "neither a folder nor an architecture"),
        ("/nowhere/at/all", "neither a folder nor an architecture"),
        ("ViT-B-32", "neither a folder nor an architecture"),
        ("timm/ViT-B-16-SigLIP", '"hf-hub:" with the name of one on the hub'),
        ("ViT-B-32/nosuch", "no weights of ViT-B-32 have that tag; known: openai, "),
        ("ViT-B-32/laion2b_s34b_b79k", "cannot load CLIP 'ViT-B-32/laion2b_s34b_b79k': "),
        ("ViT-SO400M-14-SigLIP-384/webli", "cannot load CLIP "),
        ("hf-hub:timm/ViT-B-16-SigLIP", "cannot load CLIP 'hf-hub:timm/ViT-B-16-SigLIP': "),
        ("hf-hub:", "cannot load CLIP 'hf-hub:': "),
        ("hf-hub:no such/name", "cannot load CLIP "),
    ],
)
def test_names_that_lead_nowhere_offline(name, told):
    assert told in refused(name)


def test_names_are_checked_without_the_network(clip):
    check_clip(str(clip))
    check_clip("ViT-B-32/laion2b_s34b_b79k")
    check_clip("hf-hub:timm/ViT-B-16-SigLIP")
    with pytest.raises(ModelError, match="no weights of ViT-B-32"):
        check_clip("ViT-B-32/nosuch")
    assert is_clip_name("./here")
    assert not is_clip_name("here")
