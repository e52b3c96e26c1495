"""Requests of lmms-eval: generation settings, pictures, and which requests can share a batch."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from mmhall.adapters import Conversation, Turn
from mmhall.errors import ImageError
from mmhall.images import open_image

MAX_NEW_TOKENS = 1024  # for a task without a limit, as in lmms-eval's own LLaVA models
PLACEHOLDER = "<image>"
_LEADING = re.compile(rf"(?:\s*{PLACEHOLDER})*")
_PASSED_ON = ("repetition_penalty", "length_penalty")
_SAMPLING = ("temperature", "top_p", "top_k")
_LENGTHS = ("max_new_tokens", "max_gen_toks")
_STOPS = ("until", "stop_sequences", "stop")
_READ = {*_PASSED_ON, *_SAMPLING, *_LENGTHS, *_STOPS, "do_sample", "num_beams", "seed"}


def settings_of(task_settings: Mapping[str, Any], max_new_tokens: int | None = None, seed: int = 0) -> dict[str, Any]:
    r"""Convert a task's `generation_kwargs` to generation settings.

    Temperature 0 and top_p 0 mean greedy for any `do_sample`; without `do_sample`, a temperature above 0 means
    sampling. With one beam the strategy sets the number of beams. The stop string of two line breaks, which lmms-eval
    adds to tasks without stop strings, is left out: it would cut captions after their first paragraph.

    >>> settings_of({"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "until": ["\n\n"]})
    {'max_new_tokens': 16}
    >>> settings_of({"temperature": 0.7, "until": ["Q:"]}, max_new_tokens=8, seed=3)
    {'max_new_tokens': 8, 'stop_strings': ('Q:',), 'do_sample': True, 'seed': 3, 'temperature': 0.7}

    Args:
        task_settings: The task's `generation_kwargs`; null values count as absent.
        max_new_tokens: Overrides the task's limit.
        seed: Seed of sampling, if the task has none.
    """
    options = {name: value for name, value in task_settings.items() if value is not None}
    length = max_new_tokens or next((options[name] for name in _LENGTHS if name in options), MAX_NEW_TOKENS)
    settings: dict[str, Any] = {"max_new_tokens": length}
    stops = _stop_strings(options)
    if stops:
        settings["stop_strings"] = stops
    if options.get("num_beams", 1) != 1:
        settings["num_beams"] = options["num_beams"]
    settings |= {name: options[name] for name in _PASSED_ON if name in options}
    temperature = options.get("temperature")
    if options.get("do_sample", bool(temperature)) and temperature != 0 and options.get("top_p") != 0:
        settings |= {"do_sample": True, "seed": options.get("seed", seed)}
        settings |= {name: options[name] for name in _SAMPLING if name in options}
    return settings


def ignored_settings(task_settings: Mapping[str, Any]) -> list[str]:
    """Return the names of `generation_kwargs` that `settings_of` ignores."""
    return sorted(name for name, value in task_settings.items() if name not in _READ and value is not None)


def pictures_of(visuals: Any) -> tuple[Image.Image, ...]:
    """Open the result of a task's `doc_to_visual`: pictures or their paths, in lists that may be nested; or nothing.

    Raises:
        ImageError: A visual is a video, a sound, or an unreadable picture.
    """
    if visuals is None or (isinstance(visuals, str | list | tuple) and not visuals):
        return ()
    if isinstance(visuals, list | tuple):
        return tuple(picture for visual in visuals for picture in pictures_of(visual))
    try:
        return (open_image(visuals),)
    except ImageError as error:
        raise ImageError(f"{error}; mmhall answers tasks with pictures or text, not with video or sound") from error


def has_inner_marks(prompt: str) -> bool:
    r"""Tell whether a picture placeholder comes after words, so that the picture belongs within the text.

    >>> has_inner_marks("<image>\nWhat is this?"), has_inner_marks("First: <image>")
    (False, True)
    """
    return PLACEHOLDER in _LEADING.sub("", prompt, count=1)


def place_pictures(prompt: str) -> Conversation:
    r"""Split a text into parts, with None for a picture at each "<image>" placeholder.

    >>> place_pictures("First: <image> Second: <image>\n").turns[0].parts
    ('First: ', None, ' Second: ', None)
    """
    parts = [part for text in prompt.strip().split(PLACEHOLDER) for part in (text, None)][:-1]
    return Conversation((Turn("user", tuple(part for part in parts if part != "")),))


def without_placeholders(prompt: str) -> str:
    r"""Remove "<image>" placeholders and the white space left at both ends: pictures are shown before the text.

    >>> without_placeholders("<image>\nWhat is this?")
    'What is this?'
    """
    return prompt.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in prompt else prompt


def batches(keys: Sequence[Hashable], size: int) -> Iterator[list[int]]:
    """Yield batches of request positions: requests with equal keys, at most `size` together.

    The order is kept, so that consecutive questions about one picture stay together.

    >>> list(batches(["a", "b", "a", "a"], 2))
    [[0, 2], [3], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    for positions in groups.values():
        yield from (positions[start : start + size] for start in range(0, len(positions), size))


def _stop_strings(options: Mapping[str, Any]) -> tuple[str, ...]:
    named = [options[name] for name in _STOPS if name in options]
    stops = [stop for stop in named for stop in ([stop] if isinstance(stop, str) else stop)]
    return tuple(dict.fromkeys(stop for stop in stops if stop and stop != "\n\n"))
