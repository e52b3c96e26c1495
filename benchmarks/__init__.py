"""Benchmarks, one file each: items, answer rules and metrics; and the drawn scenes that ship with mmhall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmhall.errors import OptionError
from mmhall.options import make, parse
from mmhall.registry import Registry

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.benchmarks, not benchmarks: a second name would make a second copy of every class")

BUILT_IN = {
    "pope": "mmhall.benchmarks.pope:Pope",
    "chair": "mmhall.benchmarks.chair:Chair",
    "opope": "mmhall.benchmarks.opope:Opope",
    "sycophancy": "mmhall.benchmarks.sycophancy:Sycophancy",
    "amber-g": "mmhall.benchmarks.amber:AmberG",
    "amber-d": "mmhall.benchmarks.amber:AmberD",
    "beaf": "mmhall.benchmarks.beaf:Beaf",
    "agnosia": "mmhall.benchmarks.agnosia:Agnosia",
    "vlind": "mmhall.benchmarks.vlind:Vlind",
    "dash-b": "mmhall.benchmarks.dash:DashB",
    "mme": "mmhall.benchmarks.mme:Mme",
    "hallusion": "mmhall.benchmarks.hallusion:Hallusion",
    "mmhal": "mmhall.benchmarks.mmhal:MmHal",
    "detect": "mmhall.benchmarks.detect:Detect",
    "clip": "mmhall.benchmarks.clip:ClipAgreement",
}
BENCHMARKS = Registry(
    "benchmark", "mmhall.benchmarks:BUILT_IN", group="mmhall.benchmarks", base="mmhall.benchmarks.base:Benchmark"
)


def benchmark(spec: str | Benchmark | type[Benchmark]) -> Benchmark:
    """Build a benchmark from text such as "pope" or "pope(rule='official')", or from its class.

    Raises:
        UnknownNameError: There is no such benchmark or option.
        OptionError: An option is out of range or of the wrong type.
    """
    if not isinstance(spec, str):
        from mmhall.benchmarks.base import Benchmark

        given: Any = spec  # every subclass has defaults of all options
        own = given() if isinstance(spec, type) and issubclass(spec, Benchmark) else given
        if not isinstance(own, Benchmark):
            raise OptionError("benchmark", "benchmark", spec, 'a name such as "pope", a benchmark, or its class')
        return own
    name, options = parse(spec, "benchmark", '"pope" or "pope(rule=\'official\')"')
    built: Benchmark = make(BENCHMARKS, name, options)
    return built
