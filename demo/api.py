"""Endpoints for gradio_client: `compare` streams records of columns, `probe` streams a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmhall.demo import limits
from mmhall.demo.compare import Column, compare, time_ratio
from mmhall.demo.events import MODEL_QUEUE
from mmhall.demo.guard import show_errors, uploads_only
from mmhall.demo.probe import as_data, probe
from mmhall.demo.setups import setup
from mmhall.demo.state import AppState
from mmhall.demo.words import named_objects, split_by_truth
from mmhall.errors import OptionError

_COMPARE = (
    "Answer one prompt about a picture with 1 to 4 strategies; yields {columns: [...]} repeatedly while the answers "
    "grow. strategies: specs such as ['greedy', 'vcd(alpha=0.5)']; settings: {max_new_tokens, temperature, seed, "
    "present, absent}, each optional. A column: strategy, state (waiting, writing, done, failed), text, tokens, "
    "seconds, ratio (time per token to the first column's), objects (named), hallucinated (null unless present is "
    "given), error."
)
_PROBE = (
    "Ask each strategy 'Is there a ... in the image?' for every object (names separated by commas); yields the table "
    "repeatedly while it grows: for each strategy and object the answer (yes, no or null), the probability of yes, "
    "and whether the answer is right, if `present` is given."
)


def endpoints(app: AppState) -> None:
    """Add the endpoints, as invisible components, to the page being built."""

    @show_errors
    def compare_api(image: Any, prompt: Any, strategies: Any, settings: Any) -> Iterator[dict[str, Any]]:
        app.wait_for_model()
        picture = limits.picture(image)
        data = {**_check_settings(settings), "prompt": prompt, "strategies": strategies}
        checked, methods = setup(data, app.owner_specs)
        with app.exclusive_model() as lvlm:
            for columns in compare(lvlm, picture, checked.prompt, methods, **checked.settings):
                yield {"columns": [record(column, columns[0], checked.present, checked.absent) for column in columns]}

    @show_errors
    def probe_api(image: Any, objects: Any, strategies: Any, present: Any) -> Iterator[dict[str, Any]]:
        app.wait_for_model()
        picture, names = limits.picture(image), limits.objects(objects)
        methods = limits.strategies(strategies, app.owner_specs)
        truth = None if present is None else limits.objects(present)
        with app.exclusive_model() as lvlm:
            for table in probe(lvlm, picture, names, methods, truth):
                yield as_data(table)  # a client that hangs up ends the probe here

    with gr.Group(visible=False):
        image = uploads_only(gr.Image(label="image", type="pil", format="png"))
        prompt = gr.Textbox(label="prompt", max_length=limits.PROMPT)
        objects = gr.Textbox(label="objects: names separated by commas")
        strategies = gr.JSON(label="strategies: a list of specs")
        settings = gr.JSON(label="settings: an object, or null")
        present = gr.JSON(label="present: a list of the objects in the picture, or null")
        output = gr.JSON(label="record")
        gr.Button().click(
            compare_api,
            [image, prompt, strategies, settings],
            output,
            api_name="compare",
            api_description=_COMPARE,
            **MODEL_QUEUE,
        )
        gr.Button().click(
            probe_api,
            [image, objects, strategies, present],
            output,
            api_name="probe",
            api_description=_PROBE,
            **MODEL_QUEUE,
        )


def record(
    column: Column, first: Column, present: tuple[str, ...] | None, absent: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Return a column as data for JSON."""
    objects = named_objects(column.text, present or ())
    return {
        "strategy": column.strategy,
        "state": column.state,
        "text": column.text,
        "tokens": column.tokens,
        "seconds": round(column.seconds, 4),
        "ratio": time_ratio(column, first),
        "objects": objects,
        "hallucinated": None if present is None else split_by_truth(objects, present, absent)[1],
        "error": column.error,
    }


def _check_settings(settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise OptionError("demo", "settings", settings, 'an object such as {"max_new_tokens": 64}, or null')
    return settings
