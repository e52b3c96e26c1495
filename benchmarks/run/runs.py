"""Runs: a store of answers, the items of benchmarks, and the compared strategies.

A run folder is self-contained: it stores the items, so that a report needs neither the data nor
the pictures, and several processes can share it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mmhall
from mmhall.benchmarks import benchmark as make_benchmark
from mmhall.benchmarks.base import Benchmark, Figures, Item, Material, Source, digest_of
from mmhall.benchmarks.data.hub import remarks as hub_remarks
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence import lineup_of
from mmhall.benchmarks.run.config import Config
from mmhall.benchmarks.run.config_file import write_config
from mmhall.benchmarks.run.decoding_rules import decoding_rules
from mmhall.benchmarks.run.items import note_files, store_items, stored_items
from mmhall.benchmarks.run.pictures import compare_pictures, refuse_changed
from mmhall.benchmarks.run.seconds import note_seconds, seconds_remarks
from mmhall.collecting import collector_paused
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError, RunError
from mmhall.options import check_known, parse
from mmhall.progress import MANY, progress as show_progress
from mmhall.results.judgements import Judgements, with_judgements
from mmhall.results.leases import is_worked_on
from mmhall.results.pictures import Fingerprint, store_fingerprints, stored_fingerprints
from mmhall.results.store import FILE, Row, Store
from mmhall.strategies import Composed, LearnedStrategy, Strategy, strategy
from mmhall.text import without_home

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

LEFT_OUT = "left_out"  # the note on strategies that were not run
CONFIG = "config"  # the note with the words of the run's configuration
_LARGE_FILE = 10_000_000  # bytes of a file whose reading takes time
_GROWING = ("strategies", "fitted", "num_beams", "options", "searches", "sources", "artifacts")
"""What a set-up says of strategies, and gains with further ones."""


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark of a run.

    Attributes:
        benchmark: The benchmark with its options.
        items: Items of the benchmark.
        pictures: Picture id to file.
        remarks: Notes for the report on how the items were made.
        digests: Picture id to the SHA-256 digest of its file, for those that were asked about.
    """

    benchmark: Benchmark
    items: list[Item]
    pictures: Mapping[str, Path]
    remarks: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def picture(self, item: Item) -> Path | None:
        """Return the picture file of an item; None without a picture."""
        return None if item.picture is None else self.pictures[item.picture]

    def request(self, item: Item) -> tuple[Path | None, str]:
        """Return an item as `LVLM.generate_batch` takes it."""
        return self.picture(item), item.prompt


@dataclass(frozen=True, slots=True)
class Run:
    """An open run.

    Attributes:
        store: Store of the answers.
        parts: Benchmarks of the run.
        strategies: Strategies, as written for the run, the baseline first.
    """

    store: Store
    parts: tuple[Part, ...]
    strategies: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Strategies with a row of their own, the baseline first: all but random twins."""
        return lineup_of(self.strategies).arms

    @property
    def fitted(self) -> dict[str, str]:
        """Each arm as written for the run, to the strategy with all options in force."""
        specs = self.store.setup().get("fitted", {})
        return {written: specs.get(written, written) for written in self.arms}

    @property
    def left_out(self) -> dict[str, str]:
        """Name of a strategy that was wanted and not run, to the reason."""
        return dict(json.loads(self.store.notes().get(LEFT_OUT, "{}")))

    @property
    def config(self) -> Config | None:
        """The configuration that repeats the run; None: it was made from Python objects, or by an older version.

        Raises:
            MmhallError: A strategy or a benchmark of it does not exist any more.
        """
        words = self.store.notes().get(CONFIG)
        return None if words is None else Config.from_words(json.loads(words))

    @property
    def expected(self) -> int:
        """Number of answers of a finished run."""
        return len(self.strategies) * sum(len(part.items) for part in self.parts)

    @property
    def answered(self) -> int:
        """Number of stored answers."""
        return sum(self.store.count_done(part.benchmark.name) for part in self.parts)

    @property
    def settled(self) -> int:
        """Number of stored answers and failures."""
        return int(self.store.read("select count(*) from answers")[0][0])

    def read_as(self, specs: Sequence[str]) -> Run:
        """Return this run with other options for reading the stored answers.

        Args:
            specs: Benchmarks with options, such as "pope(rule='official')".

        Raises:
            RunError: The run has no such benchmark.
            OptionError: An option affects more than how answers are read.
        """
        ways: dict[str, Benchmark] = {}
        for name, options in map(parse, specs):
            part = next((part for part in self.parts if part.benchmark.name == name), None)
            if part is None:
                names = ", ".join(part.benchmark.name for part in self.parts)
                raise RunError(f"{self.store.path.parent}: has no {name}, only {names}")
            check_known(type(part.benchmark), options)
            for option, value in options.items():
                if option not in part.benchmark.read_by:
                    able = ", ".join(sorted(part.benchmark.read_by))
                    raise OptionError(name, option, value, f"left out: answers are stored already; {able} can change")
            ways[name] = replace(part.benchmark, **options)
        parts = tuple(replace(part, benchmark=ways.get(part.benchmark.name, part.benchmark)) for part in self.parts)
        return replace(self, parts=parts)

    def with_digests(self) -> Run:
        """Return the run with the digests of all pictures that were asked about until now, by whichever process."""
        return replace(self, parts=tuple(replace(part, digests=self._digests(part)) for part in self.parts))

    def _digests(self, part: Part) -> dict[str, str]:
        known = stored_fingerprints(self.store, part.benchmark.name)
        return {**part.digests, **{name: one.sha256 for name, one in known.items()}}

    @property
    def setup(self) -> dict[str, Any]:
        """The set-up, with a digest of each benchmark's pictures once all of them were asked about."""
        setup = self.store.setup()
        for part in self.parts:
            if part.pictures and part.digests.keys() >= part.pictures.keys():
                setup["benchmarks"][part.benchmark.name]["pictures"] = digest_of(part.digests)
        return setup

    @property
    def current_setup(self) -> dict[str, Any]:
        """The set-up, with the current rules for reading answers."""
        setup = self.setup
        for part in self.parts:
            setup["benchmarks"][part.benchmark.name] |= {"spec": str(part.benchmark), "rule": part.benchmark.rule}
        return setup | ({"left_out": self.left_out} if self.left_out else {})

    def evaluate(self, only: Callable[[Part], Figures] | None = None) -> list[tuple[Part, Evaluation]]:
        """Evaluate every benchmark on the items that all strategies have answered.

        Args:
            only: The figures of a benchmark to estimate, and nothing else; None: everything, with the evidence.
        """
        return [(part, self._evaluate(part, None if only is None else only(part))) for part in self.parts]

    def _evaluate(self, part: Part, only: Figures | None) -> Evaluation:
        lineup = lineup_of(self.strategies, self.rules(part))
        return part.benchmark.evaluate(part.items, self.rows_without_paths(part), self.strategies, lineup, only)

    def rules(self, part: Part) -> dict[str, str]:
        """Return the decoding rule of each strategy: "greedy", "beam 5", "search of opera, 5 beams", or sampling.

        Sampling is named with its settings but the seed: with another one the rule is the same.
        """
        return decoding_rules(self.store.setup(), part.benchmark.name, self.strategies)

    def rows_without_paths(self, part: Part) -> list[Row]:
        """Return the answers to a benchmark; error texts have no picture path, so that equal errors can be counted."""
        rows = self.rows(part)
        failed = {row.item for row in rows if row.error is not None}
        pictures = {item.id: without_home(f"{part.picture(item)}: ") for item in part.items if item.id in failed}
        return [
            row if row.error is None else replace(row, error=row.error.removeprefix(pictures[row.item])) for row in rows
        ]

    def rows(self, part: Part) -> list[Row]:
        """Return the answers to a benchmark, with their judgements."""
        name = part.benchmark.name
        with collector_paused():
            rows = list(self.store.rows(name))
        return with_judgements(rows, Judgements(self.store.path).all(name))


def make_strategies(specs: Sequence[str | Strategy | type[Strategy]]) -> list[Strategy]:
    """Build the strategies of a run; the first one is the baseline.

    Raises:
        OptionError: A name is repeated.
        MmhallError: A name is unknown, or an option is out of range.
    """
    built = [strategy(spec) for spec in specs]
    _check_named_once("strategy", [str(s) for s in built])
    return built


def make_benchmarks(specs: Sequence[str | Benchmark | type[Benchmark]]) -> list[Benchmark]:
    """Build the benchmarks of a run.

    Raises:
        OptionError: A name is repeated.
        MmhallError: A name is unknown, or an option is out of range.
    """
    built = [make_benchmark(spec) for spec in specs]
    _check_named_once("benchmark", [b.name for b in built])
    return built


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark with its data.

    Attributes:
        benchmark: The benchmark with its options.
        source: Where the data is.
        material: Items and pictures of the benchmark.
    """

    benchmark: Benchmark
    source: Source
    material: Material


@collector_paused()
def read(benchmarks: Sequence[tuple[Benchmark, Source]], *, progress: bool = True) -> list[LoadedBenchmark]:
    """Read the data of benchmarks; no model is needed, and no picture is read.

    Args:
        benchmarks: Benchmarks, each with the source of its data.
        progress: Whether to say on stderr what is read, if it is large.

    Raises:
        DataError: The data is missing, malformed, or insufficient.
    """
    loaded = []
    for benchmark, source in benchmarks:
        if progress and source.data is not None and source.data.is_file() and source.data.stat().st_size >= _LARGE_FILE:
            print(f"{benchmark.name}: reading {without_home(str(source.data))}", file=sys.stderr, flush=True)
        loaded.append(LoadedBenchmark(benchmark, source, benchmark.material(source)))
    return loaded


def start(
    folder: Path,
    lvlm: LVLM,
    *,
    benchmarks: Sequence[tuple[Benchmark, Source]],
    strategies: Sequence[Strategy],
    batch_size: int,
) -> Run:
    """Start a run, or continue one of the same set-up: `read` and `begin` in one call.

    Args:
        folder: Run folder.
        lvlm: The model.
        benchmarks: Benchmarks, each with the source of its data.
        strategies: Strategies, the baseline first.
        batch_size: Items decoded together.

    Raises:
        OptionError: Two strategies are equal on this model.
        MmhallError: The data is unsuitable, or the folder belongs to another set-up.
    """
    return begin(folder, lvlm, loaded=read(benchmarks), strategies=strategies, batch_size=batch_size)


@collector_paused()
def begin(
    folder: Path,
    lvlm: LVLM,
    *,
    loaded: Sequence[LoadedBenchmark],
    strategies: Sequence[Strategy],
    batch_size: int,
    left_out: Mapping[str, str] = MappingProxyType({}),
    config: Config | None = None,
    progress: bool = True,
) -> Run:
    """Start a run on loaded benchmarks, or continue one of the same set-up; further strategies are added to it.

    Args:
        folder: Run folder.
        lvlm: The model.
        loaded: Result of `read`.
        strategies: Strategies, the baseline first.
        batch_size: Items decoded together.
        left_out: Name of a strategy that was wanted and cannot be run, to the reason.
        config: What was asked for; it is written beside the answers.
        progress: Whether to show progress on stderr, if there are many items.

    Raises:
        OptionError: Two strategies are equal on this model.
        DataError: A picture that was asked about cannot be read.
        MmhallError: The folder cannot be written or belongs to another set-up, or strategies are added while another
            process answers.
    """
    setup: dict[str, Any] = {
        **lvlm.identity(),
        "strategies": [str(s) for s in strategies],
        "fitted": _fitted_specs(lvlm, strategies),
        "num_beams": {str(s): s.beams for s in strategies},
        "options": {str(s): s.options() for s in strategies},
        "benchmarks": {each.benchmark.name: _describe_benchmark(lvlm, each) for each in loaded},
        "batch_size": batch_size,
        "loading": _loading(lvlm),
        "chat_template": lvlm.chat_template,
        "versions": {"mmhall": mmhall.__version__, **{p: version(p) for p in ("torch", "transformers")}},
    }
    searches = [str(s) for s in strategies if s.searches]
    setup |= {"searches": searches} if searches else {}
    singles = _single_strategies(strategies)
    sources = {each.name: source for each in singles if (source := STRATEGIES.source(type(each))) is not None}
    setup |= {"sources": sources} if sources else {}
    learned = _learned(lvlm, singles)
    setup |= {"artifacts": learned} if learned else {}
    words = {} if config is None else config.settled().words()
    notes = {LEFT_OUT: json.dumps(dict(left_out)), **({CONFIG: json.dumps(words)} if words else {})}
    known = _compared(folder, setup["benchmarks"], loaded, shown=progress)
    store = Store.create(folder, setup, notes, _GROWING, _check_nobody_answers)
    try:
        note_seconds(store)
        parts = tuple(_stored_part(store, folder, one, known.get(one.benchmark.name, {}), progress) for one in loaded)
        if words:
            write_config(folder, words)
        return Run(store, parts, tuple(store.setup()["strategies"]))
    except BaseException:
        store.close()
        raise


def _compared(
    folder: Path, described: Mapping[str, Any], loaded: Sequence[LoadedBenchmark], *, shown: bool
) -> dict[str, dict[str, Fingerprint]]:
    """Compare the pictures that a stored run has asked about with their files; return them by benchmark.

    Raises:
        MmhallError: A picture has changed or cannot be read, or the folder holds no readable run.
    """
    found = dict[str, dict[str, Fingerprint]]()
    if not (folder / FILE).is_file():
        return found
    store, begun = Store.open_checked(folder)
    with closing(store):
        stored = store.setup()["benchmarks"] if begun else {}
        for each in loaded:
            name, items = each.benchmark.name, each.material.items
            if name in stored and stored[name]["items"] == described[name]["items"]:  # else the set-up is refused
                old = stored_items(store, name, folder)[2] if "pictures" in stored[name] else {}
                known = {p: Fingerprint(d) for p, d in old.items()} | stored_fingerprints(store, name)
                found[name] = compare_pictures(name, known, each.material.pictures, shown=shown)
                refuse_changed(store, name, items, known, found[name])
    return found


def _stored_part(
    store: Store, folder: Path, loaded: LoadedBenchmark, known: Mapping[str, Fingerprint], shown: bool
) -> Part:
    """Store the items of a benchmark, and what is known of their pictures; return it as part of the run."""
    benchmark, material = loaded.benchmark, loaded.material
    files = note_files(material.pictures, folder)
    store_fingerprints(store, benchmark.name, known)  # first: items of older versions hold digests, which are lost then
    count = len(material.items)
    with show_progress(f"{benchmark.name}: items stored", count, shown=shown and count >= MANY) as advance:
        store_items(store, benchmark.name, material, files, advance)
    return Part(benchmark, list(material.items), files, material.remarks, {p: one.sha256 for p, one in known.items()})


def _check_nobody_answers(store: Store) -> None:
    """Check that no other process answers a run that strategies are added to: it does not know of them.

    Raises:
        RunError: One does.
    """
    if is_worked_on(store):
        raise RunError(f"{store.path.parent}: another process answers this run; add strategies when it is done")


@collector_paused()
def reopen(folder: Path) -> Run:
    """Open an existing run, to report on it or to continue it.

    Raises:
        MmhallError: The folder holds no run, or an unreadable one.
    """
    store = Store.open(folder)
    setup = store.setup()
    parts = tuple(_part(store, folder, facts) for facts in setup["benchmarks"].values())
    return Run(store, parts, tuple(setup["strategies"]))


def _single_strategies(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return the parts of strategies, each name once."""
    parts = [part for method in strategies for part in (method.parts if isinstance(method, Composed) else (method,))]
    return list({part.name: part for part in parts}.values())


def _learned(lvlm: LVLM, strategies: Sequence[Strategy]) -> dict[str, Any]:
    """Describe the artifacts that strategies need, by the strategy's name."""
    learners = [each for each in strategies if isinstance(each, LearnedStrategy) and each.needs_artifact(lvlm.adapter)]
    return {each.name: each.learned(lvlm.adapter).summary() for each in learners}


def _check_named_once(option: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise OptionError("bench", option, name, "named once")


def _describe_benchmark(lvlm: LVLM, loaded: LoadedBenchmark) -> dict[str, Any]:
    """Describe a benchmark for the set-up: what must not change between calls."""
    benchmark, source, material = loaded.benchmark, loaded.source, loaded.material
    return {
        "spec": str(benchmark),
        "rule": benchmark.rule,
        "items": material.digest,
        "count": len(material.items),
        "limit": source.limit,
        "seed": source.seed,
        "settings": _settings(lvlm, benchmark),
        "remarks": [*material.remarks, *hub_remarks(source.data)],
    }


def _fitted_specs(lvlm: LVLM, strategies: Sequence[Strategy]) -> dict[str, str]:
    """Return each strategy with all options in force on this model."""
    fitted = {str(s): str(s.fitted(lvlm.adapter)) for s in strategies}
    for written, text in fitted.items():
        if list(fitted.values()).count(text) > 1:
            raise OptionError("bench", "strategy", written, f"named once; another one is {text} on this model, too")
    return fitted


def _loading(lvlm: LVLM) -> list[str]:
    """Return the loading options that are nowhere else in the set-up; the list is compared as a whole."""
    elsewhere = ("device", "dtype", "revision", "chat_template", "artifacts")
    return [
        f"{name}={without_home(json.dumps(value))}" for name, value in lvlm.loading.items() if name not in elsewhere
    ]


def _settings(lvlm: LVLM, benchmark: Benchmark) -> dict[str, Any]:
    from mmhall.generation import Settings  # reading a run needs no torch

    settings = Settings(**benchmark.settings)
    shared = settings.record(settings.resolved(lvlm.model))
    del shared["num_beams"]  # each strategy has its own
    return shared


def _part(store: Store, folder: Path, facts: Mapping[str, Any]) -> Part:
    benchmark = make_benchmark(facts["spec"])
    items, files, digests = stored_items(store, benchmark.name, folder)
    digests |= {picture: one.sha256 for picture, one in stored_fingerprints(store, benchmark.name).items()}
    remarks = (*facts["remarks"], *seconds_remarks(store, benchmark.name))
    return Part(benchmark, items, files, remarks, digests)
