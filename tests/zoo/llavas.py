"""Tiny LLaVA-like models: pictures become placeholder tokens in one stream with the text."""

from __future__ import annotations

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    Phi3Config,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from tests.zoo.common import finish, make_tokenizer, text_config

WINDOW = 24
SPREAD = 0.3
TILE, PATCH = 18, 3
"""Side of a tile and of a patch in pixels where tiles are 6x6 patches, merged to 3x3 tokens."""
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = ("<|im_start|>", "<|im_end|>")
TURNS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
FRAME = {"boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "img_line_break_token": "<|IMG_LINE_BREAK|>"}


def chat(start: str, end: str, prompt: str, image: str = "<image>\n") -> str:
    """A chat template: each message is `start`, its parts in order, `end`; `prompt` opens the answer."""
    part = f"{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    parts = f"{{% for part in message.content %}}{part}{{% endfor %}}"
    content = f"{{% if message.content is string %}}{{{{ message.content }}}}{{% else %}}{parts}{{% endif %}}"
    messages = f"{{% for message in messages %}}{start}{content}{end}{{% endfor %}}"
    return f"{messages}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


CHATML_CHAT = chat("<|im_start|>{{ message.role }} ", "<|im_end|>", "<|im_start|>assistant\n")


def cohere_chat(image: str) -> str:
    roles = "{{ {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[message.role] }}"
    turn = "<|START_OF_TURN_TOKEN|>"
    start = f"{{% if loop.first %}}{{{{ bos_token }}}}{{% endif %}}{turn}<|{roles}_TOKEN|>"
    return chat(start, "<|END_OF_TURN_TOKEN|>", f"{turn}<|CHATBOT_TOKEN|>", image)


def clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(**VISION, projection_dim=32, image_size=16, patch_size=4)


def siglip(image_size: int, patch_size: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(**VISION, vision_use_head=False, image_size=image_size, patch_size=patch_size)


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def build(
    model: type[PreTrainedModel], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """The model as drawn: `SPREAD` already makes its logits differ, and CLIP and SigLIP draw at full scale."""
    torch.manual_seed(0)
    return finish(model(config), tokenizer, gain=1.0)


def clip_processor(tokenizer: PreTrainedTokenizerFast, template: str) -> LlavaProcessor:
    """The processor of LLaVA-1.5: the picture's middle square, 4x4 patches and a class token left out."""
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=square(16)),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llava() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(image_token="<image>")
    config = LlavaConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**text_config(tokenizer, initializer_range=SPREAD)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    start = "{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}"
    processor = clip_processor(tokenizer, chat(start, " ", "ASSISTANT:"))
    return build(LlavaForConditionalGeneration, config, tokenizer), processor


def llava_qwen2() -> tuple[PreTrainedModel, ProcessorMixin]:
    """LLaVA-Interleave: SigLIP, which has no class token and squeezes the whole picture into a square."""
    tokenizer = make_tokenizer(CHATML, image_token="<image>")
    config = LlavaConfig(
        vision_config=siglip(16, 4),
        text_config=Qwen2Config(**text_config(tokenizer, initializer_range=SPREAD)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = LlavaProcessor(
        SiglipImageProcessor(size=square(16)),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=CHATML_CHAT,
    )
    return build(LlavaForConditionalGeneration, config, tokenizer), processor


def llava_phi3() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), image_token="<image>")
    config = LlavaConfig(
        vision_config=clip(),
        text_config=Phi3Config(
            **text_config(
                tokenizer, initializer_range=SPREAD, sliding_window=WINDOW, original_max_position_embeddings=1024
            )
        ),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    processor = clip_processor(tokenizer, chat("<|{{ message.role }}|>\n", "<|end|>\n", "<|assistant|>\n"))
    return build(LlavaForConditionalGeneration, config, tokenizer), processor


def vipllava() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(image_token="<image>")
    names = ("vision_feature_layer", "vision_feature_layers")  # the second until transformers 5.18
    taken = next(name for name in names if name in VipLlavaConfig().to_dict())
    config = VipLlavaConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**text_config(tokenizer, initializer_range=SPREAD)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        **{taken: [-1, -2, 0]},
    )
    start = "{{ {'user': '###Human: ', 'assistant': '###Assistant: ', 'system': ''}[message.role] }}"
    processor = clip_processor(tokenizer, chat(start, "", "###Assistant:"))
    return build(VipLlavaForConditionalGeneration, config, tokenizer), processor


def llava_next() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(image_token="<image>")
    pinpoints = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
    config = LlavaNextConfig(
        vision_config=clip(),
        text_config=MistralConfig(**text_config(tokenizer, initializer_range=SPREAD, sliding_window=None)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        image_grid_pinpoints=pinpoints,
    )
    start = "{% if message.role == 'user' %}[INST] {% endif %}"
    end = "{% if message.role == 'user' %} [/INST]{% elif message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(size={"shortest_edge": 16}, crop_size=square(16), image_grid_pinpoints=pinpoints),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat(start, end, ""),
    )
    return build(LlavaNextForConditionalGeneration, config, tokenizer), processor


def llava_onevision() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(CHATML, image_token="<image>", video_token="<video>")
    pinpoints = [[12 * rows, 12 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = LlavaOnevisionConfig(
        vision_config=siglip(12, 4),
        text_config=Qwen2Config(**text_config(tokenizer, initializer_range=SPREAD)),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=square(12), image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=square(12)),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=CHATML_CHAT,
    )
    return build(LlavaOnevisionForConditionalGeneration, config, tokenizer), processor


def mistral3() -> tuple[PreTrainedModel, ProcessorMixin]:
    markers = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = make_tokenizer(markers, image_token="[IMG]")
    config = Mistral3Config(
        vision_config=PixtralVisionConfig(**VISION, image_size=48, patch_size=4, initializer_range=SPREAD),
        text_config=MistralConfig(**text_config(tokenizer, initializer_range=SPREAD, sliding_window=None, head_dim=16)),
        image_token_index=tokenizer.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    start = (
        "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ {'user': '[INST]', 'assistant': '', 'system': '[SYSTEM_PROMPT]'}[message.role] }}"
    )
    end = "{{ {'user': '[/INST]', 'assistant': eos_token, 'system': '[/SYSTEM_PROMPT]'}[message.role] }}"
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 48}, patch_size=square(4)),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=chat(start, end, "", "[IMG]"),
    )
    return build(Mistral3ForConditionalGeneration, config, tokenizer), processor


def internvl() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(
        CHATML,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=TILE, patch_size=PATCH, initializer_range=SPREAD),
        text_config=Qwen2Config(**text_config(tokenizer, initializer_range=SPREAD)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=9,
    )
    model = build(InternVLForConditionalGeneration, config, tokenizer)
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=SPREAD)
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=square(TILE), max_patches=6),
        tokenizer,
        InternVLVideoProcessor(size=square(TILE)),
        image_seq_length=9,
        chat_template=chat(
            "<|im_start|>{{ message.role }}\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<IMG_CONTEXT>\n"
        ),
    )
    return model, processor


def cohere2_text(tokenizer: PreTrainedTokenizerFast) -> Cohere2Config:
    """Three layers that see a window and one that sees everything, as in the real models."""
    return Cohere2Config(**text_config(tokenizer, initializer_range=SPREAD, num_hidden_layers=4, sliding_window=WINDOW))


def aya_vision() -> tuple[PreTrainedModel, ProcessorMixin]:
    tiles = ("TILE", "TILE_GLOBAL", *(f"TILE_{number}" for number in range(1, 7)))
    tokenizer = make_tokenizer((*TURNS, *FRAME.values(), "<|IMG_PATCH|>", *tiles), image_token="<image>")
    config = AyaVisionConfig(
        vision_config=siglip(TILE, PATCH),
        text_config=cohere2_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessor(size=square(TILE), max_patches=6),
        tokenizer,
        patch_size=PATCH,
        img_size=TILE,
        downsample_factor=2,
        chat_template=cohere_chat("<image>"),
    )
    return build(AyaVisionForConditionalGeneration, config, tokenizer), processor


def cohere2_vision() -> tuple[PreTrainedModel, ProcessorMixin]:
    tokenizer = make_tokenizer(TURNS, image_token="<|IMG_PATCH|>", **FRAME)
    config = Cohere2VisionConfig(
        vision_config=siglip(TILE, PATCH),
        text_config=cohere2_text(tokenizer),
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
    )
    processor = Cohere2VisionProcessor(
        Cohere2VisionImageProcessor(size=square(TILE), patch_size=PATCH, max_patches=6),
        tokenizer,
        chat_template=cohere_chat("<|IMG_PATCH|>"),
    )
    return build(Cohere2VisionForConditionalGeneration, config, tokenizer), processor


ZOO = {
    "llava": llava,
    "llava_qwen2": llava_qwen2,
    "llava_phi3": llava_phi3,
    "vipllava": vipllava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "mistral3": mistral3,
    "internvl": internvl,
    "aya_vision": aya_vision,
    "cohere2_vision": cohere2_vision,
}
