"""The embedded model's tokenizer, processor and architecture: a small LLaVA.

Everything here is stock transformers, so that the saved folder loads with `AutoProcessor` and
`AutoModelForImageTextToText` and needs none of our code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmhall.benchmarks.scenes.language import all_words

IMAGE_SIZE = 112
PATCH = 14
SIDE = IMAGE_SIZE // PATCH
IMAGE_TOKENS = SIDE**2
WIDTH = 192
LAYERS = 6
MAX_TOKENS = 512
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PIECE = "▁?[A-Za-z]+|▁?[0-9]|[^A-Za-z0-9▁]"


def make_tokenizer(more: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer: words carry their leading space, marks stand alone.

    Args:
        more: Sentences whose words are known beside those of the plain model.
    """
    counts = Counter(
        piece
        for text in (*all_words(), *more)
        for piece in re.findall(_PIECE, "▁" + re.sub(r"\s+", " ", text).strip().replace(" ", "▁"))
    )
    counts.update(["▁USER", "▁ASSISTANT", ":", *(f"▁{n}" for n in range(10))])
    for word in [w for w in counts if w[-1].isalpha()]:
        counts[word.lower()] += 0
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *sorted(counts)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(" ", "▁"),
            normalizers.Prepend("▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "removed", invert=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=MAX_TOKENS,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Wrap the tokenizer and CLIP's image processing at 112 pixels."""
    from transformers import CLIPImageProcessor

    images = CLIPImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        resample=3,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        image_token="<image>",
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, layers: int = LAYERS
) -> LlavaForConditionalGeneration:
    """Initialise the model: half the heads of the first layers start by looking for what resembles the word.

    Query weights equal to key weights make a word attend to positions that hold similar vectors
    (mimetic initialisation, arXiv:2305.09828); without it grounding takes many times longer to appear.

    Args:
        tokenizer: Sets the number of words.
        seed: Seed of the weights.
        layers: Number of decoder layers.
    """
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=MAX_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # for training only: compiled, it beats SDPA's backward on a CPU
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    with torch.no_grad():
        for layer in model.model.language_model.layers[:3]:
            half = layer.self_attn.q_proj.weight.shape[0] // 2
            layer.self_attn.q_proj.weight[:half] = layer.self_attn.k_proj.weight[:half]
    return model
