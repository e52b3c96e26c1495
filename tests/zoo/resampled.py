"""Tiny models whose pictures reach the text resampled, shuffled into tiles or through cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    PreTrainedModel,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from mmhall._transformers.pictures import add_missing_outputs
from tests.zoo.common import finish, make_tokenizer, text_config

Built = tuple[PreTrainedModel, ProcessorMixin]

TILE, PATCH = 32, 8
SQUARE = {"height": TILE, "width": TILE}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}
QFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QUERIES = 6
GAIN = 8.0
SHUFFLED = (TILE // PATCH) ** 2 // 4

UTTERANCES = (
    "{% for message in messages %}{{ message.role | capitalize }}"
    "{{ ':' if message.content[0].type == 'image' else ': ' }}"
    "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
IDEFICS_TOKENS = ("<fake_token_around_image>", "<end_of_utterance>")
TILE_TOKENS = ("<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)))

HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% for part in message.content %}{{ '<|image|>' if part.type == 'image' else part.text }}{% endfor %}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MLLAMA_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
LLAMA4_TOKENS = (
    "<|header_start|>",
    "<|header_end|>",
    "<|eot|>",
    "<|image|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)


def _draw(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Draw at random what transformers starts at one constant, which would hide the picture or make places alike."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_()


def idefics2() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(
        ["<end_of_utterance>"], image_token="<image>", image_boundary_token="<fake_token_around_image>"
    )
    config = Idefics2Config(
        text_config=text_config(tokenizer, model_type="mistral", sliding_window=48),
        vision_config={**VISION, "image_size": 2 * TILE},
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": QUERIES,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        image_token_id=tokenizer.image_token_id,
    )
    processor = Idefics2Processor(
        Idefics2ImageProcessor(size={"shortest_edge": TILE, "longest_edge": 2 * TILE}),
        tokenizer,
        image_seq_len=QUERIES,
        chat_template=UTTERANCES,
    )
    model = Idefics2ForConditionalGeneration(config)
    _draw([model.model.connector.perceiver_resampler.latents])
    return finish(model, tokenizer, GAIN), processor


def idefics3() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["<image>", *IDEFICS_TOKENS, *TILE_TOKENS])
    config = Idefics3Config(
        text_config=text_config(tokenizer, model_type="llama"),
        vision_config=VISION,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 3 * TILE}, max_image_size={"longest_edge": TILE}),
        tokenizer,
        image_seq_len=SHUFFLED,
        chat_template="{{ bos_token }}" + UTTERANCES,
    )
    return finish(Idefics3ForConditionalGeneration(config), tokenizer, GAIN), processor


def smolvlm() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["<|im_start|>", "<image>", "<video>", *IDEFICS_TOKENS, *TILE_TOKENS])
    config = SmolVLMConfig(
        text_config=text_config(tokenizer, model_type="llama"),
        vision_config=VISION,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    sizes = {"size": {"longest_edge": 3 * TILE}, "max_image_size": {"longest_edge": TILE}}
    with mock.patch.object(processing_smolvlm, "num2words", str):  # only prompts with a video spell out numbers
        processor = SmolVLMProcessor(
            SmolVLMImageProcessor(**sizes),
            tokenizer,
            SmolVLMVideoProcessor(**sizes),
            image_seq_len=SHUFFLED,
            chat_template="<|im_start|>" + UTTERANCES,
        )
    return finish(SmolVLMForConditionalGeneration(config), tokenizer, GAIN), processor


def blip_2() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    # The processor adds <image> to the tokenizer, whose length the configuration reads.
    processor = Blip2Processor(BlipImageProcessor(size=SQUARE), tokenizer, num_query_tokens=QUERIES)
    config = Blip2Config(
        text_config=text_config(
            tokenizer,
            model_type="opt",
            num_key_value_heads=4,
            ffn_dim=96,
            word_embed_proj_dim=64,
            tie_word_embeddings=False,
        ),
        vision_config={**VISION, "initializer_range": 0.02},
        qformer_config=QFORMER,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    _draw([model.query_tokens])
    return finish(model, tokenizer, GAIN), processor


def instructblip() -> Built:
    torch.manual_seed(0)
    tokenizer, qformer_tokenizer = make_tokenizer(), make_tokenizer()
    qformer_tokenizer.padding_side = "right"
    processor = InstructBlipProcessor(
        BlipImageProcessor(size=SQUARE), tokenizer, qformer_tokenizer, num_query_tokens=QUERIES
    )
    config = InstructBlipConfig(
        text_config=text_config(tokenizer, model_type="llama"),
        vision_config={**VISION, "initializer_range": 0.02},
        qformer_config={**QFORMER, "vocab_size": len(qformer_tokenizer)},
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = InstructBlipForConditionalGeneration(config)
    _draw([model.query_tokens])
    return finish(model, tokenizer, GAIN), processor


def mllama() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["<|image|>", *MLLAMA_TOKENS])
    config = MllamaConfig(
        text_config=text_config(tokenizer, num_hidden_layers=4, cross_attention_layers=[1, 3]),
        vision_config={**VISION, "num_global_layers": 1, "intermediate_layers_indices": [1], "vision_output_dim": 64},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    processor = MllamaProcessor(MllamaImageProcessor(size=SQUARE, max_image_tiles=4), tokenizer, chat_template=HEADERS)
    model = MllamaForConditionalGeneration(config)
    _draw([parameter for name, parameter in model.named_parameters() if name.endswith("gate")])
    return finish(model, tokenizer, GAIN), processor


def llama4() -> Built:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(LLAMA4_TOKENS)
    config = Llama4Config(
        text_config=text_config(
            tokenizer,
            num_hidden_layers=4,
            head_dim=16,
            intermediate_size_mlp=96,
            attention_chunk_size=24,
            num_local_experts=2,
            interleave_moe_layer_step=2,
        ),
        vision_config={
            **VISION,
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    processor = Llama4Processor(Llama4ImageProcessor(size=SQUARE, max_patches=6), tokenizer, patch_size=PATCH)
    model = finish(Llama4ForConditionalGeneration(config), tokenizer, GAIN)
    add_missing_outputs(model)  # transformers 5.24.0 cannot run it otherwise
    return model, processor


ZOO = {
    "idefics2": idefics2,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "blip_2": blip_2,
    "instructblip": instructblip,
    "mllama": mllama,
    "llama4": llama4,
}
