"""The components of the Compare tab that other parts of the page read or fill, and the set-up in its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from mmhall.demo.pickers import Picker, parts_of
from mmhall.demo.setups import Setup, ground_truth
from mmhall.demo.state import AppState


@dataclass(frozen=True, slots=True)
class Board:
    """Components of the Compare tab.

    Attributes:
        picture: The picture.
        prompt: The prompt.
        present: Check boxes for the objects in the picture.
        ticked: Event of ticking an object; from then on, every offered object is judged.
        count: Number of columns in use.
        pickers: Strategy picker of each column.
        tokens: Maximum number of tokens in an answer.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed of the sampling.
        answers: Columns with the answers.
        legend: Legend of the marks on words.
        saliency: Heat maps of the columns.
        shown: State: the comparison on the page.
        offered: State: objects that are absent unless ticked; None: the truth is complete.
    """

    picture: gr.Image
    prompt: gr.Textbox
    present: gr.CheckboxGroup
    ticked: Dependency
    count: gr.Radio
    pickers: tuple[Picker, ...]
    tokens: gr.Slider
    temperature: gr.Slider
    seed: gr.Number
    answers: gr.HTML
    legend: gr.HTML
    saliency: gr.HTML
    shown: gr.State
    offered: gr.State

    @property
    def specs(self) -> list[gr.Textbox]:
        """The strategy specification of each column."""
        return [picker.spec for picker in self.pickers]

    @property
    def setup_inputs(self) -> list[Any]:
        """The fields of a set-up, in the order in which `to_setup_data` takes their values."""
        sampling = (self.tokens, self.temperature, self.seed)
        return [self.prompt, *sampling, self.present, self.offered, self.count, *self.specs]

    @property
    def setup_outputs(self) -> list[Any]:
        """The fields that a loaded set-up fills, in the order of `setup_values`."""
        names = [picker.names for picker in self.pickers]
        groups = [picker.group for picker in self.pickers]
        return [*self.setup_inputs, *names, *groups]

    def setup_values(self, app: AppState, setup: Setup) -> tuple[Any, ...]:
        """Return the values of `setup_outputs` for a set-up; unused columns keep their values."""
        count = max(2, len(setup.strategies))
        unused = [gr.skip()] * (len(self.pickers) - len(setup.strategies))
        present, absent = list(setup.present or ()), setup.absent or ()
        return (
            setup.prompt,
            setup.max_new_tokens,
            setup.temperature,
            setup.seed,
            gr.CheckboxGroup(list(dict.fromkeys((*present, *absent))), value=present),
            None if present and setup.absent is None else (*present, *absent),
            count,
            *setup.strategies,
            *unused,
            *(parts_of(spec, app.owner_specs) for spec in setup.strategies),
            *unused,
            *(gr.Column(visible=index < count) for index in range(len(self.pickers))),
        )


def to_setup_data(
    prompt: Any, tokens: Any, temperature: Any, seed: Any, present: Any, offered: Any, count: Any, *specs: Any
) -> dict[str, Any]:
    """Combine the values of `Board.setup_inputs` into the mapping that `setup` checks."""
    return {
        "prompt": prompt,
        "strategies": list(specs[: count if isinstance(count, int) else len(specs)]),
        "max_new_tokens": tokens,
        "temperature": temperature or 0.0,
        "seed": seed or 0,
        **ground_truth(present, offered),
    }
