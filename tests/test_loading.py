"""Load options: dtype, placement, quantisation, the processor and its template; weights that do not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mmhall
from mmhall.errors import DataError, ModelError, OptionError
from mmhall.loading import reason_of
from mmhall.models._options import LoadOptions, parse_assignments, to_flags
from mmhall.models._weights import digest
from tests.conftest import make_random_llava
from tests.zoo import built

TEMPLATE = "{% for m in messages %}Q {% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %} A"  # noqa: E501


@pytest.fixture(scope="module")
def folder(model_folder):
    return model_folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


class TestDtype:
    def test_transformers_old_word_is_honoured(self, folder):
        assert mmhall.load(folder, torch_dtype=torch.float16).model.dtype == torch.float16

    def test_both_words_are_refused(self, folder):
        with pytest.raises(OptionError, match="torch_dtype must be left out beside dtype"):
            mmhall.load(folder, torch_dtype="float16", dtype="float16")

    @pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto", torch.device("cpu")], ids=str)
    def test_it_is_float32_where_all_is_on_a_cpu(self, folder, device_map, monkeypatch):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        assert mmhall.load(folder, device_map=device_map).model.dtype == torch.float32


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "cpu", "device_map": "auto"}, "device must be left out with a device_map"),
            ({"quantize": "2bit"}, 'quantize must be "4bit" or "8bit"'),
            ({"device_map": "{torn"}, 'device_map must be "auto"'),
            ({"device_map": {}}, 'device_map must be "auto"'),
            ({"processor": "max_pixels=3"}, "processor must be options by name"),
            ({"chat_template": ""}, "chat_template must be a Jinja template"),
            ({"trust_remote_code": "yes"}, "trust_remote_code must be True or False"),
            ({"artifacts": True}, "artifacts must be a file or folder written by `mmhall fit`, or False"),
            ({"dtype": ""}, "dtype must be a text"),
            ({"dtype": "flot16"}, "dtype must be one of auto, float32, .*, got 'flot16'"),
            ({"dtype": "int8"}, "dtype must be one of"),
        ],
    )
    def test_those_that_cannot_be_are_refused_before_anything_is_loaded(self, options, message):
        with pytest.raises(OptionError, match=message):
            LoadOptions(**options)

    def test_a_device_map_may_be_written_as_text(self):
        assert LoadOptions(device_map='{"model": 0, "lm_head": "cpu"}').device_map == {"model": 0, "lm_head": "cpu"}

    def test_several_gpus_are_spread_over(self):
        assert LoadOptions().for_gpus(1).device_map is None
        assert LoadOptions().for_gpus(2).device_map == "auto"
        assert LoadOptions(device_map="balanced").for_gpus(2).device_map == "balanced"
        with pytest.raises(OptionError, match="device must be left out"):
            LoadOptions(device="cuda:0").for_gpus(2)

    def test_quantising_says_what_it_needs(self, folder, monkeypatch):
        monkeypatch.setattr("mmhall.models._placement.find_spec", lambda name: None if name == "bitsandbytes" else name)
        with pytest.raises(ModelError, match="pip install bitsandbytes"):
            mmhall.load(folder, quantize="4bit")
        with pytest.raises(OptionError, match="quantize must be left out beside a quantization_config"):
            mmhall.load(folder, quantize="4bit", quantization_config=object())

    def test_those_given_are_kept(self, folder):
        options = {"processor": {"do_rescale": True}, "device_map": {"": "cpu"}, "attn_implementation": "sdpa"}
        assert mmhall.load(folder, **options).loading == options
        assert mmhall.load(folder).loading == {}

    def test_those_given_are_written_as_flags(self):
        given = LoadOptions(artifacts="none", dtype="float16", trust_remote_code=True).non_defaults()
        assert given["artifacts"] is False
        assert to_flags(given) == ["--dtype", "float16", "--trust-remote-code", "--artifacts", "none"]
        assert to_flags(LoadOptions(artifacts="a b").non_defaults()) == ["--artifacts", "a b"]

    @pytest.mark.parametrize("texts", [["max_pixels"], ["=3"], ["a=1", "a=2"]], ids=str)
    def test_a_processors_options_are_keys_and_values(self, texts):
        with pytest.raises(OptionError, match="KEY=VALUE"):
            parse_assignments(texts)


class TestProcessor:
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")  # transformers' own word for it is size
    def test_its_options_change_how_many_tokens_a_picture_has(self, tmp_path, pictures):
        model, processor = built("qwen2_5_vl")
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        few, many = (
            mmhall.load(tmp_path, processor={"max_pixels": side * side, "min_pixels": 28 * 28}) for side in (56, 112)
        )
        said = [one.generate(pictures[0], "What?", max_new_tokens=1).usage.prompt_tokens for one in (few, many)]
        assert said[0] < said[1]

    def test_an_option_it_does_not_have_is_refused(self, folder):
        with pytest.raises(OptionError, match=r"processor max_pixel=3 must be an option of this model's processor"):
            mmhall.load(folder, processor={"max_pixel": 3})


class TestChatTemplate:
    def test_it_may_be_a_text_or_a_file(self, folder, tmp_path, pictures):
        (tmp_path / "own.jinja").write_text(TEMPLATE)
        for given in (TEMPLATE, tmp_path / "own.jinja", str(tmp_path / "own.jinja")):
            lvlm = mmhall.load(folder, chat_template=given)
            assert lvlm.adapter.render(mmhall.adapters._base.Request("Why?", tuple(pictures[:1]))) == "Q <image>Why? A"
            assert lvlm.loading["chat_template"] == TEMPLATE

    def test_a_file_that_is_not_there_is_told(self, folder, tmp_path):
        with pytest.raises(DataError, match=r"none\.jinja: the chat template cannot be read: No such file"):
            mmhall.load(folder, chat_template=tmp_path / "none.jinja")

    def test_a_family_without_chat_format_refuses_one(self, tmp_path):
        model, processor = built("paligemma")
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        with pytest.raises(OptionError, match="this family has no chat format"):
            mmhall.load(tmp_path, chat_template=TEMPLATE)


class TestWeights:
    def test_a_config_with_fewer_layers_than_the_file_is_refused(self, copied):
        config = json.loads((copied / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] -= 1
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"fewer layers than its file.*language_model\.layers\.2\."):
            mmhall.load(copied)

    def test_other_surplus_is_told(self, copied):
        weights = load_file(copied / "model.safetensors")
        save_file({**weights, "strange": torch.ones(1)}, copied / "model.safetensors", {"format": "pt"})
        with pytest.warns(UserWarning, match="1 weights of the file have no place in the model .*such as strange"):
            mmhall.load(copied)

    def test_a_wrong_shape_is_told_with_both(self, copied):
        weights = load_file(copied / "model.safetensors")
        name = next(key for key in weights if key.endswith("linear_1.weight"))
        save_file({**weights, name: torch.ones(3, 2)}, copied / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"linear_1\.weight \(\(3, 2\) in the file, \(48, 32\) in the model\)"):
            mmhall.load(copied)


class TestReasons:
    def test_a_message_is_told_to_its_end_on_one_line(self):
        told = reason_of(ValueError("It holds code.\n You can read it.\nPass `trust_remote_code=True` to run it."))
        assert told == "It holds code. You can read it. Pass `trust_remote_code=True` to run it."

    def test_a_very_long_one_keeps_beginning_and_end(self):
        told = reason_of(ValueError(f"Unknown model; {'known, ' * 500} set trust_remote_code"))
        assert told.startswith("Unknown model; known")
        assert told.endswith("set trust_remote_code")
        assert len(told) < 700

    def test_code_that_comes_with_a_model_is_named(self, copied):
        config = json.loads((copied / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
        (copied / "config.json").write_text(json.dumps(config))
        (copied / "own.py").write_text("from transformers import PretrainedConfig as Config\n")
        with pytest.raises(ModelError, match="trust_remote_code=True"):
            mmhall.load(copied)

    def test_a_file_that_is_no_json_is_named(self, copied):
        (copied / "tokenizer.json").write_text("{torn")
        with pytest.raises(ModelError, match=r"; tokenizer\.json is damaged: get an intact copy"):
            mmhall.load(copied)

    def test_offline_a_model_that_is_not_there_says_why(self):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set: if files are missing, run once without it"):
            mmhall.load("nobody/nothing")

    def test_missing_tokenizer_files_are_told(self, copied):
        for file in copied.glob("*token*"):
            file.unlink()
        with pytest.raises(ModelError, match="tokenizer") as caught:
            mmhall.load(copied)
        assert "\n" not in str(caught.value)


class TestIdentity:
    @pytest.fixture
    def plain(self, folder):
        return mmhall.load(folder, dtype="float32", device="cpu").identity()

    def test_a_weight_that_cannot_be_read_is_told(self, plain, folder):
        lvlm = mmhall.load(folder, device="cpu")
        head = lvlm.model.lm_head
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight, device="meta"), requires_grad=False)
        assert lvlm.identity() == lvlm.identity()
        assert lvlm.identity()["weights"] != plain["weights"]
        assert lvlm.identity()["weights_unread"].startswith("1 of ")
        assert "weights_unread" not in plain

    @pytest.mark.filterwarnings("ignore")  # accelerate's own
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("on_disk", "tied"),
        [
            (("model.language_model", "lm_head"), False),
            (("model.vision_tower", "model.multi_modal_projector"), True),
            (("",), True),
        ],
        ids=str,
    )
    def test_weights_on_disk_are_the_same_weights_and_answer_alike(self, processor, pictures, tmp_path, on_disk, tied):
        model = make_random_llava(processor)
        model.config.tie_word_embeddings = tied
        model.tie_weights()
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        names = ("model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head")
        parts = {name: "disk" if name in on_disk else "cpu" for name in names} if "" not in on_disk else {"": "disk"}
        plain = mmhall.load(tmp_path, device="cpu")
        lvlm = mmhall.load(tmp_path, device_map=parts, offload_folder=str(tmp_path / "off"), dtype="float32")
        assert any(weight.is_meta for weight in lvlm.model.parameters())
        assert lvlm.identity() == plain.identity()
        for strategy in ("greedy", "vcd", "vhr"):
            said = [one.generate(pictures[0], "What?", strategy, max_new_tokens=4).token_ids for one in (plain, lvlm)]
            assert said[0] == said[1]

    def test_codes_and_scales_of_a_quantised_tensor_count(self, folder):
        quantization = pytest.importorskip("torchao.quantization")
        from transformers import TorchAoConfig

        how = {"quantization_config": TorchAoConfig(quantization.Int8WeightOnlyConfig()), "device": "cpu"}
        first, second = (mmhall.load(folder, **how) for _ in range(2))
        assert first.identity() == second.identity()
        assert "weights_unread" not in first.identity()
        second.model.model.language_model.layers[0].mlp.up_proj.weight.scale.mul_(2)
        assert first.identity()["weights"] != second.identity()["weights"]

    @pytest.mark.filterwarnings("ignore")  # torch's own, about its packages
    def test_packed_weights_and_codes_in_buffers_count_whoever_quantised(self):
        """The linear layers of torch's own way hold no parameters; GPTQ's hold codes as buffers."""

        def packed(seed):
            torch.manual_seed(seed)
            layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
            return torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})

        def coded(code):
            layer = nn.Module()
            layer.register_buffer("qweight", torch.full((2, 2), code))
            layer.register_buffer("scales", torch.ones(2))
            return layer

        for made in (packed, coded):
            assert digest(made(0)) == digest(made(0))
            assert digest(made(0)) != digest(made(1))
