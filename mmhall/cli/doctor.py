"""The command `mmhall doctor`: check this installation and this machine, and say what to do."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OK, NOTE, BROKEN = "ok", "note", "BROKEN"
_GB = 1e9
_ROOM = 20  # GB; a model of 7 billion parameters takes 14 to 16
_MEMORY = 4  # GB; torch, transformers and the embedded model take about 1
_OPTIONAL = {
    "accelerate": "to spread a model over devices: pip install 'mmhall[accelerate]'",
    "ray": "for runs on a Ray cluster: pip install 'mmhall[ray]'",
    "bitsandbytes": "for --quantize: pip install bitsandbytes",
}
_IMPORTED = {
    "torch": "every model",
    "transformers": "every model",
    "torchvision": "the picture processors of some models",
    "gradio": "mmhall demo",
    "open_clip": "cgd, halc and the benchmark clip",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        state: "ok", "note" (something is missing that not everybody needs) or "BROKEN".
        what: What was checked.
        text: What was found, and for a note or what is broken, what to do.
    """

    state: str
    what: str
    text: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.state:<7} {self.what:<16} {self.text}"


def doctor() -> None:
    """Check versions, devices, caches, disk and memory, and let the embedded model answer; exit with 1 if one fails.

    Example: mmhall doctor
    """
    broken = 0
    checks = (_versions, _optional, _imports, _devices, _memory, _cache, _disk, _answer)
    for check in checks:
        for finding in _findings(check):
            print(finding, flush=True)
            broken += finding.state == BROKEN
    if broken:
        typer.echo(f"mmhall: {broken} broken; each line says what to do", err=True)
        raise typer.Exit(1)


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; one that cannot be made is a finding itself."""
    what = check.__name__.strip("_")
    try:
        yield from check()
    except Exception as error:  # whatever is broken here is what is looked for
        yield Finding(BROKEN, what, f"{_reason(error)}; repair it as the reason says, or reinstall mmhall")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _versions() -> Iterator[Finding]:
    """Compare Python and every required package with what mmhall was made for."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    import mmhall

    yield Finding(OK, "mmhall", f"{mmhall.__version__} in {Path(mmhall.__file__).parent}")
    try:
        own = metadata("mmhall")
    except PackageNotFoundError:
        yield Finding(BROKEN, "packages", "mmhall itself is not installed; run pip install -e . in its folder")
        return
    from packaging.requirements import Requirement

    python = Requirement(f"python{own['Requires-Python']}")
    yield _version(python, platform.python_version(), "install such a Python, and mmhall in it")
    for requirement in map(Requirement, own.get_all("Requires-Dist") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, remedy = requirement.name, f'run: pip install "{requirement}"'
        try:
            yield _version(requirement, version(name), remedy)
        except PackageNotFoundError:
            yield Finding(BROKEN, name, f"is not installed; {remedy}")


def _version(requirement: Requirement, found: str, remedy: str) -> Finding:
    fits = requirement.specifier.contains(found, prereleases=True)
    told = f"{found} (supported: {requirement.specifier or 'any'})"
    return Finding(OK if fits else BROKEN, requirement.name, told if fits else f"{told}; {remedy}")


def _optional() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    for name, use in _OPTIONAL.items():
        try:
            yield Finding(OK, name, version(name))
        except PackageNotFoundError:
            yield Finding(NOTE, name, f"is not installed; only needed {use}")


def _imports() -> Iterator[Finding]:
    """Import what is needed: an installed package may still fail, as where a library of the system is missing."""
    import importlib

    for name, use in _IMPORTED.items():
        try:
            importlib.import_module(name)
        except Exception as error:  # any reason is the finding
            package = name.replace("_", "-") + ("-torch" if name == "open_clip" else "")
            remedy = f"reinstall it: pip install --force-reinstall --no-deps {package}"
            yield Finding(BROKEN, f"import {name}", f"{_reason(error)}; {use} needs it: {remedy}")
        else:
            yield Finding(OK, f"import {name}", f"works; used by {use}")


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding(OK, "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} used; OMP_NUM_THREADS changes it")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Finding(OK, f"cuda:{number}", f"{name}, {free / _GB:.1f} of {total / _GB:.1f} GB free")
    elif torch.backends.mps.is_available():
        yield Finding(OK, "mps", "a GPU of Apple's; use it by --device mps")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            NOTE,
            "gpu",
            f"nvidia-smi is there, but torch {torch.__version__} finds no GPU; see that nvidia-smi runs, and install a "
            "build of torch for its CUDA version (pytorch.org)",
        )
    else:
        yield Finding(OK, "gpu", "none; models run on the CPU")


def _memory() -> Iterator[Finding]:
    free = _free_memory()
    if free is None:
        yield Finding(OK, "memory", "unknown on this system")
        return
    enough, told = free >= _MEMORY * _GB, f"{free / _GB:.1f} GB free"
    yield Finding(
        OK if enough else NOTE, "memory", told if enough else f"{told}; below {_MEMORY}, end other programs first"
    )


def _free_memory() -> int | None:
    """Return the free memory in bytes; None: unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _cache() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    yield _place("hub cache", cache, f"{models} models; HF_HOME moves it")


def _disk() -> Iterator[Finding]:
    yield _place("this folder", Path.cwd(), "run folders are written where --out says")
    yield _place("temporary", Path(tempfile.gettempdir()), "TMPDIR moves it")


def _place(what: str, folder: Path, note: str) -> Finding:
    """Check that a folder, or the nearest one that exists above it, can be written to and has room."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    told = f"{folder}: "
    if not os.access(nearest, os.W_OK):
        return Finding(BROKEN, what, f"{told}cannot be written to; {note}")
    free = shutil.disk_usage(nearest).free
    told += f"{free / _GB:.1f} GB free, {note}"
    return Finding(OK, what, told) if free >= _ROOM * _GB else Finding(NOTE, what, f"{told}; a 7B model takes 16 GB")


def _answer() -> Iterator[Finding]:
    """Draw a scene and have the embedded model describe it, with and without a strategy."""
    import time

    import mmhall
    from mmhall.benchmarks.scenes.dataset import write_scenes

    with tempfile.TemporaryDirectory() as folder:
        list(write_scenes(Path(folder), 1, 0))
        start = time.perf_counter()
        lvlm: Any = mmhall.load()
        yield Finding(OK, "embedded model", f"loaded in {time.perf_counter() - start:.1f} s")
        for strategy in ("greedy", "vdd"):
            answer = lvlm.generate(Path(folder) / "000001.png", "Please describe this image in detail.", strategy)
            seconds, text = answer.usage.seconds, " ".join(answer.text.split())
            if not text:
                remedy = "run the tests of mmhall (make test), and report what they say"
                yield Finding(BROKEN, strategy, f"the embedded model gave no answer; {remedy}")
                continue
            yield Finding(OK, strategy, f"answered in {seconds:.1f} s: {text[:60]}...")
