"""LLaVA and VipLLaVA: projected patches of the vision tower at the image positions, one grid for each picture."""

from __future__ import annotations

from typing import ClassVar

from mmhall.adapters._base import Adapter

_PLAIN = (
    "{% for message in messages %}{{ {'user': 'USER: ', 'assistant': ' ASSISTANT: '}[message['role']] }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ {'system': ' ', 'assistant': eos_token}[message['role']] }}{% endfor %} ASSISTANT:"
)


class LlavaAdapter(Adapter):
    """LLaVA-1.5 and all models with its architecture, such as the embedded model."""

    causal: ClassVar[bool] = True
    patches: ClassVar[bool] = True
    grid: ClassVar[str] = "patches of the (cropped) picture"
    default_template: ClassVar[tuple[str, str] | None] = ("LLaVA-1.5's", _PLAIN)
