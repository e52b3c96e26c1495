"""LLaVA: a vision tower's patches, projected, at the image positions; one raster of patches a picture."""

from __future__ import annotations

from mmhall.adapters.base import Adapter, Request


class LlavaAdapter(Adapter):
    """LLaVA-1.5 and every model saved with its architecture, the embedded one included."""

    def render(self, request: Request) -> str:
        """Write a request in the processor's chat format, or LLaVA-1.5's where it has none."""
        if self.processor.chat_template is not None:
            return super().render(request)
        self.processor.chat_template = (
            "USER: {% for part in messages[0]['content'] %}"
            "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
            "{% endfor %} ASSISTANT:"
        )
        return super().render(request)
