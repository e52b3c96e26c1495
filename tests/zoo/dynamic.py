"""Tiny Qwen-VL, GLM-4V and Gemma models: pictures of dynamic resolution, hybrid decoder layers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
)

from tests.zoo.common import finish, make_tokenizer, text_config

PATCH = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "intermediate_size": 48}
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
HYBRID = ["sliding_attention", "full_attention"] * 2


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary positions shared out to time, rows and columns."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}


def _template(image: str, turn: str, end: str, assistant: str = "assistant", start: str = "") -> str:
    """A chat template; `turn` opens a message and names its ROLE."""
    opening = turn.replace("ROLE", "{{ '" + assistant + "' if message.role == 'assistant' else message.role }}")
    return (
        f"{start}{{% for message in messages %}}{opening}"
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endif %}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{turn.replace('ROLE', assistant)}{{% endif %}}"
    )


def _ids(tokenizer: PreTrainedTokenizerFast, **tokens: str) -> dict[str, int]:
    """The ids of special tokens, under the names a config gives them."""
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _qwen(
    processor_class: type[ProcessorMixin],
    video_class: type,
    model_class: type[PreTrainedModel],
    config_class: type[PreTrainedConfig],
    vision: dict[str, Any],
    **text: Any,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """One of Qwen's generations: they share the tokens, the picture processor and the chat template."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(
        ["<|im_start|>", "<|im_end|>"],
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    size = {"shortest_edge": 4 * 16**2, "longest_edge": 36 * 16**2}
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(size=size, **PATCH),
        tokenizer=tokenizer,
        video_processor=video_class(size=size, **PATCH),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>", "<|im_start|>ROLE\n", "<|im_end|>\n"),
    )
    config = config_class(
        text_config=text_config(tokenizer, num_hidden_layers=4, **text),
        vision_config={**VISION, **vision},
        **_ids(
            tokenizer,
            image_token_id="<|image_pad|>",
            video_token_id="<|video_pad|>",
            vision_start_token_id="<|vision_start|>",
            vision_end_token_id="<|vision_end|>",
        ),
    )
    return finish(model_class(config), tokenizer, gain=8.0), processor


def qwen2_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Qwen2-VL; its vision part calls its own width `embed_dim` and the decoder's `hidden_size`."""
    return _qwen(
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
        Qwen2VLForConditionalGeneration,
        Qwen2VLConfig,
        {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        rope_parameters=_rope(2, 3, 3),
    )


def qwen2_5_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Qwen2.5-VL: one vision layer attends within windows of 2 x 2 merged patches, the other everywhere."""
    return _qwen(
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLConfig,
        {"out_hidden_size": 64, "window_size": 32, "fullatt_block_indexes": [1]},
        rope_parameters=_rope(2, 3, 3),
    )


def qwen3_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Qwen3-VL: features of both vision layers are also added after the first decoder layers."""
    return _qwen(
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        Qwen3VLForConditionalGeneration,
        Qwen3VLConfig,
        {"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        head_dim=16,
        rope_parameters=_rope(4, 2, 2, mrope_interleaved=True),
    )


def qwen3_5() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Qwen3.5: linear and full attention alternate."""
    return _qwen(
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        Qwen3_5ForConditionalGeneration,
        Qwen3_5Config,
        {"out_hidden_size": 64, "num_position_embeddings": 64},
        head_dim=32,
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        rope_parameters=_rope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.25),
    )


def glm4v() -> tuple[PreTrainedModel, ProcessorMixin]:
    """GLM-4.1V; its limits on pixels count the two frames a picture is repeated to."""
    torch.manual_seed(0)
    frames = {
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    turns = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = make_tokenizer([*frames.values(), *turns], image_token="<|image|>", video_token="<|video|>")
    size = {"shortest_edge": 2 * 4 * 16**2, "longest_edge": 2 * 36 * 16**2}
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessor(size=size, **PATCH),
        tokenizer=tokenizer,
        video_processor=Glm4vVideoProcessor(size=size, **PATCH),
        chat_template=_template("<|begin_of_image|><|image|><|end_of_image|>", "<|ROLE|>\n", "", start="[gMASK]<sop>"),
    )
    config = Glm4vConfig(
        text_config=text_config(
            tokenizer, num_hidden_layers=4, rope_parameters=_rope(2, 1, 1, partial_rotary_factor=0.5)
        ),
        vision_config={**VISION, "out_hidden_size": 64, "image_size": 64},
        **_ids(tokenizer, image_token_id="<|image|>", video_token_id="<|video|>", **frames),
    )
    return finish(Glm4vForConditionalGeneration(config), tokenizer, gain=8.0), processor


def gemma3() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Gemma 3: 8 x 8 patches of a squashed picture are pooled to 4 x 4 tokens that see each other."""
    torch.manual_seed(0)
    frame = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = make_tokenizer(["<start_of_turn>", "<end_of_turn>"], **frame)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        chat_template=_template(
            "<start_of_image>", "<start_of_turn>ROLE\n", "<end_of_turn>\n", assistant="model", start="{{ bos_token }}"
        ),
        image_seq_length=16,
    )
    config = Gemma3Config(
        text_config=text_config(
            tokenizer,
            num_hidden_layers=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=HYBRID,
            initializer_range=0.2,
        ),
        vision_config={**SIGLIP, "image_size": 32, "patch_size": 4, "vision_use_head": False},
        mm_tokens_per_image=16,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **_ids(tokenizer, **{f"{name}_index": token for name, token in frame.items()}),
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return finish(model, tokenizer, gain=1.0), processor


def gemma4() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Gemma 4 as in its small sizes: embeddings for every layer, the last two layers reuse earlier keys.

    A picture takes up to 70 tokens, the fewest that its processor admits.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer(
        ["<|turn>", "<turn|>", "<|video|>"],
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    patch = {"patch_size": 4, "pooling_kernel_size": 2}
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(max_soft_tokens=70, **patch),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(max_soft_tokens=70, **patch),
        chat_template=_template("<|image|>", "<|turn>ROLE\n", "<turn|>\n", assistant="model", start="{{ bos_token }}"),
        image_seq_length=70,
    )
    config = Gemma4Config(
        text_config=text_config(
            tokenizer,
            num_hidden_layers=4,
            head_dim=16,
            global_head_dim=32,
            sliding_window=24,
            layer_types=HYBRID,
            num_kv_shared_layers=2,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(tokenizer),
            initializer_range=0.2,
        ),
        vision_config={
            **SIGLIP,
            **patch,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "position_embedding_size": 256,
            "initializer_range": 0.2,
        },
        initializer_range=0.2,
        tie_word_embeddings=False,
        **_ids(
            tokenizer,
            image_token_id="<|image|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
            video_token_id="<|video|>",
            audio_token_id="<|audio|>",
            boa_token_id="<|audio>",
            eoa_token_index="<audio|>",
        ),
    )
    model = Gemma4ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.vision_tower.patch_embedder.position_embedding_table)
    return finish(model, tokenizer, gain=1.0), processor


def paligemma() -> tuple[PreTrainedModel, ProcessorMixin]:
    """PaliGemma: no chat template, and the whole prompt attends to itself."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(image_token="<image>")
    processor = PaliGemmaProcessor(
        image_processor=SiglipImageProcessor(size={"height": 32, "width": 32}, image_seq_length=16),
        tokenizer=tokenizer,
    )
    config = PaliGemmaConfig(
        text_config=text_config(tokenizer, num_hidden_layers=4, model_type="gemma", head_dim=16, initializer_range=0.2),
        vision_config={
            **SIGLIP,
            "model_type": "siglip_vision_model",
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        projection_dim=64,
        hidden_size=64,
        vocab_size=len(tokenizer),
        **_ids(tokenizer, image_token_index="<image>"),
    )
    return finish(PaliGemmaForConditionalGeneration(config), tokenizer, gain=1.0), processor


ZOO = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "paligemma": paligemma,
}
