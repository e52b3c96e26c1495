"""What a protocol is: runs of `mmhall bench` on one model, and the published figures that they answer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MEAN = "mean of settings"
"""Group of a published figure that is the mean over POPE's three settings on COCO."""

CONDITIONS = ("decoding", "token limit", "prompt", "answer rule", "captions", "beam score", "pictures")
"""Names of the conditions of a figure, in the order they are listed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One run: benchmarks that share strategies and a run folder.

    Attributes:
        name: Name of the run folder.
        reads: Kind of data, a key of `mmhall.benchmarks.reproduce.data.KINDS`.
        benchmarks: Benchmarks with their options, as text.
        strategies: Strategies as text, the baseline first.
        pictures: Number of pictures, the first ones; None: all.
        items: Number of items of each benchmark in the published data, for plans without the data.
        usual: Usual number of tokens of an answer, by benchmark name, for estimates of time.
    """

    name: str
    reads: str
    benchmarks: tuple[str, ...]
    strategies: tuple[str, ...]
    pictures: int | None
    items: tuple[int, ...]
    usual: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Published:
    """Figures that one source prints, made under one set of conditions.

    Attributes:
        source: Paper id or repository, such as "arXiv:2311.17911".
        step: Name of the step whose figures stand beside these.
        benchmark: Name of the benchmark.
        conditions: Name of a condition, of `CONDITIONS`, to what the source says; a missing one is not recorded here.
        figures: Strategy to (group, metric) to the figure in percent. A strategy is written as in the step.
        remark: What a reader must know about the source; "" if nothing.
    """

    source: str
    step: str
    benchmark: str
    conditions: Mapping[str, str]
    figures: Mapping[str, Mapping[tuple[str, str], float]]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model, which sets its memory.

    Attributes:
        parameters: Number of weights.
        layers: Number of decoder layers.
        kv_heads: Number of key-value heads of a layer.
        head_width: Values of one head.
        image_tokens: Tokens of one picture of 640 x 480 pixels, at most.
    """

    parameters: int
    layers: int
    kv_heads: int
    head_width: int
    image_tokens: int

    def cache_bytes(self, tokens: int, width: int) -> int:
        """Return the memory of the keys and values of one row: 2 x layers x heads x head width x tokens x bytes.

        Args:
            tokens: Tokens of prompt, picture and answer.
            width: Bytes of a value.
        """
        return 2 * self.layers * self.kv_heads * self.head_width * tokens * width


@dataclass(frozen=True, slots=True)
class Protocol:
    """A model with the runs and the published figures of it.

    Attributes:
        name: Short name, such as "llava-1.5-7b".
        model: Id on the hub.
        family: `model_type` of its configuration.
        shape: Its size.
        steps: The runs, in order.
        published: The published figures.
    """

    name: str
    model: str
    family: str
    shape: Shape
    steps: tuple[Step, ...]
    published: tuple[Published, ...] = field(default=())
