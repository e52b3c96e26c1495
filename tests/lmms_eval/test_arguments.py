"""What `--model_args` may say, and what it means."""

from __future__ import annotations

import pytest

import mmhall
from mmhall.decoders import STRATEGIES
from mmhall.errors import CompositionError, OptionError, UnknownNameError
from mmhall.lmms_eval.arguments import format_strategy, make_arguments, split_arguments


def read(text):
    return make_arguments(split_arguments(text))


def test_nothing_said_is_the_embedded_model_decoding_greedily():
    arguments = read("")
    assert (arguments.pretrained, str(arguments.strategy), arguments.batch_size) == ("embedded", "greedy", 1)
    assert (arguments.device, arguments.dtype, arguments.revision, arguments.tuned) == (None, None, None, None)
    assert arguments.max_new_tokens is None


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("strategy=vcd", "vcd"),
        ("strategy=vcd,alpha=1.0,noise_step=700", "vcd(alpha=1.0, noise_step=700)"),
        ("strategy=vcd,alpha=2", "vcd(alpha=2.0)"),
        ("strategy=vcd,alpha=5e-1", "vcd(alpha=0.5)"),
        ("strategy=vdd,free=none+unk", "vdd(free='none+unk')"),
        ("strategy=vdd,free='none+unk'", "vdd(free='none+unk')"),
        ("strategy=vhr,layers=50%:,scale_text=false", "vhr(layers='50%:', scale_text=False)"),
        ("strategy=vhr,scale_text=True", "vhr"),
        ("strategy=gift,saliency=35%", "gift(saliency='35%')"),
        ("strategy=var,sink_dims=(1,2)", "var(sink_dims=(1, 2))"),
        ("strategy=vcd(alpha=0.5,beta=0.2)", "vcd(alpha=0.5, beta=0.2)"),
        ('strategy="vcd(alpha=0.5,beta=0.2)"', "vcd(alpha=0.5, beta=0.2)"),
        ("strategy=vcd(alpha=0.5),alpha=0.7", "vcd(alpha=0.7)"),
        ("strategy=vhr+vcd,vcd.alpha=0.5,vhr.layers=50%:", "vhr(layers='50%:')+vcd(alpha=0.5)"),
        ("strategy=vhr(layers='50%:')+vcd,vcd.seed=3", "vhr(layers='50%:')+vcd(seed=3)"),
        ("strategy=beam,num_beams=3", "beam(num_beams=3)"),
    ],
)
def test_options_are_read_as_their_rules_want_them(text, same):
    assert read(text).strategy == mmhall.strategy(same)


def test_a_text_option_stays_text_even_if_it_looks_like_a_number():
    assert read("strategy=vhr,layers=2").strategy == mmhall.strategy("vhr(layers='2')")


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_option_of_every_strategy_can_be_given_alone_and_as_a_part(name):
    kind = STRATEGIES.load(name)
    for option, value in kind().options().items():
        if value is not None:
            assert read(f"strategy={name},{option}={value}").strategy == kind()
            other = "greedy" if name != "greedy" else "vcd"
            combined = read(f"strategy={other}+{name},{name}.{option}={value}").strategy
            assert combined == mmhall.strategy(f"{other}+{name}")


def test_where_to_load_from_stays_text():
    arguments = read(
        "pretrained=llava-hf/llava-1.5-7b-hf,revision=12345678,dtype=bfloat16,device=cuda:1,tuned=none,artifacts=none,"
        "batch_size=8,max_new_tokens=64"
    )
    assert (arguments.pretrained, arguments.revision) == ("llava-hf/llava-1.5-7b-hf", "12345678")
    assert (arguments.dtype, arguments.device, arguments.tuned) == ("bfloat16", "cuda:1", False)
    assert (arguments.artifacts, arguments.arguments()["artifacts"]) == (False, False)
    assert (arguments.batch_size, arguments.max_new_tokens) == (8, 64)


def test_values_of_the_right_type_are_taken_too():
    assert make_arguments({"strategy": "vcd", "alpha": 0.5, "batch_size": 2}) == read(
        "strategy=vcd,alpha=0.5,batch_size=2"
    )


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("strategy=gitf", UnknownNameError, "did you mean 'gift'"),
        ("strategy=vcd,alhpa=1", UnknownNameError, "unknown model argument 'alhpa'; did you mean 'alpha'"),
        (
            "strategy=vcd,layers=2",
            UnknownNameError,
            r"'layers'.*Known: alpha, artifacts, batch_size, beta, chat_template, device",
        ),
        ("strategy=vhr+vcd,beta=1", UnknownNameError, "did you mean 'vcd.beta'"),
        ("strategy=vcd,alpha=much", OptionError, "vcd: alpha must be a number .*got 'much'"),
        ("strategy=vcd,noise_step=1.5", OptionError, "vcd: noise_step must be an integer .*got 1.5"),
        ("strategy=vhr,squared=maybe", OptionError, "squared must be True or False, got 'maybe'"),
        ("strategy=vcd+pai", CompositionError, "contrast"),
        ("strategy=vcd(alpha", OptionError, "a name such as"),
        ("batch_size=auto", OptionError, "batch_size must be an integer >= 1, got 'auto'"),
        ("batch_size=0", OptionError, "batch_size must be an integer >= 1, got 0"),
        ("max_new_tokens=-5", OptionError, "max_new_tokens must be an integer >= 1, got '-5'"),
        ("pretrained=", OptionError, "pretrained must be a text, got ''"),
        ("embedded", OptionError, "model_args must be written as .*got 'embedded'"),
        ("=3", OptionError, "model_args must be written as"),
        ("alpha=1,alpha=2", OptionError, "without a second alpha"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, error, said):
    with pytest.raises(error, match=said):
        read(text)


def test_every_option_is_told():
    assert format_strategy(mmhall.strategy("vhr(layers='2:')+greedy")).startswith(
        "vhr(alpha=None, layers='2:', positions='all'"
    )
    noisy = "vcd(alpha=None, beta=0.1, noise_step=500, seed=0, draw='picture', twin=0)+greedy"
    assert format_strategy(mmhall.strategy("vcd+greedy")) == noisy
