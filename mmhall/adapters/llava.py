"""LLaVA and VipLLaVA: projected patches of the vision tower at the image positions, one grid for each picture."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mmhall.adapters._base import Adapter, Inputs

_PLAIN = (
    "{% for message in messages %}{{ {'user': 'USER: ', 'assistant': ' ASSISTANT: '}[message['role']] }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ {'system': ' ', 'assistant': eos_token}[message['role']] }}{% endfor %} ASSISTANT:"
)


class LlavaAdapter(Adapter):
    """LLaVA-1.5 and all models with its architecture, such as the embedded model."""

    causal: ClassVar[bool] = True
    grid: ClassVar[str] = "patches of the (cropped) picture"
    default_template: ClassVar[tuple[str, str] | None] = ("LLaVA-1.5's", _PLAIN)

    @property
    def patches(self) -> bool:
        """True, unless a CLS token is among the image tokens, or a patch is left out where there is none."""
        left_out = getattr(self.model.config, "vision_feature_select_strategy", "default") == "default"
        return self.anatomy.has_cls == left_out

    @property
    def merges_patches(self) -> bool:
        """Whether image tokens are patches."""
        return self.patches

    def merge_patches(self, values: Tensor, inputs: Inputs) -> Tensor:
        """Return the values as they are: each image token is a patch."""
        return values.flatten()
