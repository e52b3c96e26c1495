"""What a run asks, declared once: the flags of `mmhall bench`, the words of a configuration file, `mmhall.bench`.

A word is a field of `Config` or an option of the model's loading. Flags are made from the fields (`mmhall.cli.asking`),
and a file has them as keys (`mmhall.benchmarks.run.config_file`). Defaults, ranges and checks are those below. Every
run stores its words, so that it can be repeated, and strategies can be added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmhall.benchmarks.run.drawn_scenes import COUNT, KIND, KINDS, DrawnScenes
from mmhall.errors import OptionError, UnknownNameError
from mmhall.models import SECRET, LoadOptions
from mmhall.options import Configured, by_model, option
from mmhall.text import without_home

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark
    from mmhall.generation import Budget
    from mmhall.lvlm import LVLM
    from mmhall.strategies import Strategy

ALL = "all"  # the word of `every`
BUDGET = ("max_tokens", "memory")
"""Words that say how much is decoded at a time."""
WHERE = (*BUDGET, "workers", "gpus_per_worker", "engine", "address", "max_errors")
"""Words that say where a run is answered and when it counts as failed; answers do not depend on them."""
LOADING = tuple(each.name for each in fields(LoadOptions))
_FILES = ("model", "artifacts", "chat_template", "tuned")  # words that may name a file in the home folder


@dataclass(frozen=True, kw_only=True)
class Config(Configured):
    """What a run asks.

    Attributes:
        benchmarks: Benchmarks, such as pope, or with options: "pope(rule='official')".
        strategies: Strategy; repeatable. The first is the baseline. By default, greedy.
        model: Model to load: embedded, a folder, or a hub id.
        loading: How the model is loaded.
        tuned: File with options tuned for the model, or "none". By default, the model's own.
        every: Add every strategy that the model can carry, with its default options. Those that are fitted to a model
            are fitted to this one first, in the run folder. With the embedded model on two cores, pope and chair of 200
            scenes take about half a minute for each strategy and twin.
        twins: Number of random twins of each strategy that has them, as its controls; 5 is usual.
        data: Data to read: a file or folder, also of Parquet, or hub:ID[@REVISION]; for several benchmarks also
            NAME=PATH, repeatable. By default, scenes are drawn.
        images: Folder with the pictures of --data, or NAME=FOLDER. By default, the data's own.
        scenes: Number of scenes to draw. By default, 200.
        conflict: Fraction of scenes that break co-occurrence. By default, 0.5.
        kind: Kind of scenes: usual or hard. By default, the one the model is made for, else usual.
        limit: Use only this many pictures, the first ones.
        seed: Seed of the scenes and questions.
        seeds: Seeds of sampled answers, such as 0,1,2: a run in DIR/seed-N for each.
        batch_size: Number of items to decode together.
        max_tokens: Most positions in caches at a time: those of prompt and longest answer, times the rows of branches
            and beams. Items of a batch that do not fit wait, and join as others end. By default, all are decoded.
        memory: Most memory beside the model, such as 6G, as it is predicted; items that do not fit wait likewise, and
            one that alone takes more fails. By default, any.
        workers: Number of processes that share the work.
        gpus_per_worker: Number of GPUs for each process; its model is spread over them.
        engine: Where workers run: "local", or "ray" for a Ray cluster.
        address: Address of the Ray cluster.
        max_errors: Exit with 1 if more answers than this fail. By default, they are only reported.
    """

    name: ClassVar[str] = "bench"

    benchmarks: tuple[Benchmark, ...]
    strategies: tuple[Strategy, ...]
    model: str = option("embedded", expected="embedded, a folder, or a hub id", holds=bool)
    loading: LoadOptions = field(default_factory=LoadOptions)
    tuned: str | Literal[False] | None = None
    every: bool = option(False)
    twins: int = option(0, low=0)
    data: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    scenes: int | None = by_model(COUNT, low=1)
    conflict: float | None = by_model(0.5, low=0, high=1)
    kind: str | None = by_model(KIND, choices=KINDS)
    limit: int | None = by_model(1, low=1)
    seed: int = option(0, expected="an integer")
    seeds: tuple[int, ...] | None = None
    batch_size: int = option(16, low=1)
    max_tokens: int | None = by_model(1, low=1)
    memory: str | int | None = None
    workers: int = option(1, low=1)
    gpus_per_worker: int = option(1, low=1)
    engine: str = option("local", choices=("local", "ray"))
    address: str = option("auto", expected="an address such as auto or 10.0.0.1:6379")
    max_errors: int | None = by_model(0, low=0)

    def __post_init__(self) -> None:
        """Check each value, and that none contradicts another.

        Raises:
            OptionError: A value is not allowed, or contradicts another.
        """
        super().__post_init__()
        self.drawn.check(data=bool(self.data))
        if self.images and not self.data:
            raise OptionError(self.name, "images", next(iter(self.images.values())), "given together with --data")
        self.runs(Path())
        self.budget  # noqa: B018 - it is checked

    @property
    def budget(self) -> Budget | None:
        """What may be decoded of a batch at a time; None: all of it.

        Raises:
            OptionError: The memory is no number of bytes.
        """
        from mmhall.generation import Budget  # it imports no torch

        budget = Budget.of(self.name, self.batch_size, self.max_tokens, self.memory)
        return budget if budget.limits_prompts else None

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> Config:
        """Build a configuration from words as flags, a file, or Python give them; None: not given.

        Raises:
            UnknownNameError: There is no such word, strategy or benchmark.
            OptionError: A value is of the wrong type, out of range, or contradicts another.
        """
        from mmhall.benchmarks.run.arms import in_order
        from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies

        given = {str(word).replace("-", "_"): value for word, value in words.items() if value is not None}
        check_words(given)
        given |= {w: _from_home(given[w]) for w in _FILES if isinstance(given.get(w), str)}
        loading = LoadOptions(**{word: given.pop(word) for word in LOADING if word in given})
        benchmarks = make_benchmarks(_several("benchmarks", given.pop("benchmarks", ())))
        strategies = make_strategies(_several("strategies", given.pop("strategies", "greedy")))
        for word, several in (("benchmarks", benchmarks), ("strategies", strategies)):
            if not several:
                raise OptionError(cls.name, word, None, f"at least one of `mmhall list {word}`")
        names = [each.name for each in benchmarks]
        if not isinstance(every := given.pop(ALL, False), bool):
            raise OptionError(cls.name, ALL, every, "True or False")
        given |= {word: _paths(word, given.get(word), names) for word in ("data", "images")}
        return cls(
            benchmarks=tuple(benchmarks),
            strategies=in_order(strategies),
            loading=loading,
            tuned=_tuned(given.pop("tuned", None)),
            seeds=_seeds(given.pop("seeds", None)),
            every=every,
            **given,
        )

    @classmethod
    def of_model(cls, lvlm: LVLM, words: Mapping[str, Any]) -> Config:
        """Build the configuration of a run with a model that is loaded already; see `from_words`."""
        loading = {name: value for name, value in lvlm.loading.items() if name != "tuned"}
        known = LoadOptions.given_to(loading).non_defaults() | {"tuned": lvlm.loading.get("tuned")}
        return cls.from_words({"model": lvlm.name, **known, **words})

    def words(self) -> dict[str, Any]:
        """Return the words of a file that says the same: plain values, with absolute paths.

        Words at their defaults are left out if they say how the model is loaded or where the run is answered; an access
        token is always left out.
        """
        loading = {**self.loading.non_defaults(), "tuned": self.tuned}
        public = {name: value for name, value in self.loading.model_arg.items() if name not in SECRET}
        loading["model_arg"] = public or None
        for word in ("artifacts", "tuned"):
            loading[word] = "none" if loading.get(word) is False else _written(loading.get(word))
        written = {
            "model": without_home(self.model),
            **loading,
            "benchmarks": [str(each) for each in self.benchmarks],
            "strategies": [str(each) for each in self.strategies],
            ALL: self.every or None,
            "twins": self.twins,
            "data": _one_or_each(self.data, len(self.benchmarks)),
            "images": _one_or_each(self.images, len(self.benchmarks)),
            **{word: getattr(self, word) for word in ("scenes", "conflict", "kind", "limit", "seed")},
            "seeds": None if self.seeds is None else list(self.seeds),
            "batch_size": self.batch_size,
            **{word: value for word in WHERE if (value := getattr(self, word)) != _default(word)},
        }
        return {word: value for word, value in written.items() if value is not None}

    @property
    def drawn(self) -> DrawnScenes:
        """The scenes that are drawn, if no data is given."""
        return DrawnScenes(self.scenes, self.conflict, self.kind)

    @property
    def draws(self) -> bool:
        """Whether scenes are drawn."""
        return not self.data and any(each.drawn for each in self.benchmarks)

    def settled(self) -> Config:
        """Return the configuration with the scenes that the model is made for, where none are named."""
        if not self.draws:
            return self
        drawn = self.drawn.for_model(self.model)
        return replace(self, scenes=drawn.count, conflict=drawn.conflict, kind=drawn.kind)

    def adding(self, strategies: Sequence[Strategy]) -> Config:
        """Return the configuration with further strategies; those that it has stay as they are."""
        from mmhall.benchmarks.run.arms import in_order

        own = {str(each) for each in self.strategies}
        return replace(self, strategies=in_order((*self.strategies, *(s for s in strategies if str(s) not in own))))

    def with_seeds(self, seeds: Sequence[int]) -> Config:
        """Return the configuration of all runs that differ from this one in the seed of their answers."""
        return replace(self, benchmarks=tuple(each.with_seed(0) for each in self.benchmarks), seeds=tuple(seeds))

    def runs(self, out: Path) -> list[tuple[Path, Config]]:
        """Return folder and configuration of each run: one in `out`; with seeds, one in `out`/seed-N for each.

        Raises:
            OptionError: There are seeds, but a benchmark does not sample answers.
        """
        from mmhall.benchmarks.run.seeds import seeded_runs

        if self.seeds is None:
            return [(out, self)]
        asked = seeded_runs(out, self.benchmarks, self.seeds)
        return [(folder, replace(self, benchmarks=tuple(own), seeds=None)) for folder, own in asked]


def check_words(words: Mapping[str, Any]) -> None:
    """Check that there are such words.

    Raises:
        UnknownNameError: There is no such word.
    """
    known = {ALL if each.name == "every" else each.name for each in fields(Config)} - {"loading"} | set(LOADING)
    for word in words:
        if word not in known:
            raise UnknownNameError("word", word, known)


def _default(word: str) -> Any:
    declared = next(each for each in fields(Config) if each.name == word)
    return None if declared.default is MISSING else declared.default


def _several(word: str, given: Any) -> list[Any]:
    """Return one thing, or several, as a list."""
    if isinstance(given, Mapping):
        raise OptionError(Config.name, word, given, "a name or a list of names")
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _tuned(given: Any) -> str | Literal[False] | None:
    if given is None or given is False or given == "none":
        return None if given is None else False
    if not isinstance(given, str | Path) or not str(given):
        raise OptionError(Config.name, "tuned", given, 'a file written by `mmhall tune`, or "none"')
    return str(given)


def _seeds(given: Any) -> tuple[int, ...] | None:
    from mmhall.benchmarks.run.seeds import parse_seeds

    if given is None:
        return None
    return tuple(parse_seeds(given if isinstance(given, str) else ",".join(map(str, _several("seeds", given)))))


def _paths(word: str, given: Any, names: Sequence[str]) -> dict[str, str]:
    """Return the path of each benchmark by name.

    Args:
        word: The word.
        given: One path for all benchmarks; benchmark to path; or texts, of which some are NAME=PATH.
        names: Names of the benchmarks.

    Raises:
        OptionError: A value is no path, or a benchmark has two.
        UnknownNameError: The run has no such benchmark.
    """
    pairs: list[tuple[str | None, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        for value in [] if given is None else _several(word, given):
            name, sign, rest = str(value).partition("=")
            pairs.append((name, rest) if sign and name in names else (None, value))
    found: dict[str, str] = {}
    for own, path in pairs:
        if own is not None and own not in names:
            raise UnknownNameError(f"benchmark of {word}", str(own), names)
        if not isinstance(path, str | Path) or not str(path):
            raise OptionError(Config.name, word, path, "a path, or paths by benchmark")
        for benchmark in names if own is None else [own]:
            if benchmark in found:
                raise OptionError(Config.name, word, str(path), f"given once for {benchmark}")
            found[benchmark] = _from_home(path)
    return found


def _one_or_each(paths: Mapping[str, str], count: int) -> Any:
    """Return paths as a file has them: one for all benchmarks where it is the same, else by benchmark."""
    written = {name: _written(path) for name, path in paths.items()}
    if len(written) == count and len(set(written.values())) == 1:
        return next(iter(written.values()))
    return written or None


def _written(path: str | None) -> str | None:
    """Return a path as a file has it, absolute, and without the home folder's name; "hub:ID" as it is."""
    from mmhall.benchmarks.data.hub import PREFIX

    if path is None or path.startswith(PREFIX):
        return path
    return without_home(str(Path(path).absolute()))


def _from_home(path: str | Path) -> str:
    """Return a path that may begin with "~/", as files have it."""
    text = str(path)
    return str(Path.home() / text[2:]) if text.startswith("~/") else text
