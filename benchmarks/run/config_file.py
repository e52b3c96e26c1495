"""Configuration files: the words of a run in YAML.

    benchmarks: [pope, chair]
    strategies:
      - greedy
      - vdd(alpha=0.5)
    scenes: 200

Words are those of the flags of `mmhall bench`, in any order; hyphens and underscores are the same. Relative paths start
at the current folder, as those of flags do. Files are read safely: nothing is built but texts, numbers, lists and
mappings, and aliases, with which a short file can stand for a huge one, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import mmhall
from mmhall.benchmarks.run.config import Config
from mmhall.errors import ConfigError, MmhallError, RunError
from mmhall.files import atomic_path, read_text, why_not_a_file

NAME = "config.yaml"
_LARGEST = 1_000_000  # bytes
_HEAD = "# Written by mmhall {}; to repeat the run: mmhall run config.yaml --out DIR\n"
_LIKE = "words with values, such as benchmarks: [pope, chair]"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses aliases and words that are given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_config(path: Path, given: Mapping[str, Any]) -> Config:
    """Read a configuration file.

    Args:
        path: The file.
        given: Words that win over those of the file.

    Raises:
        ConfigError: The file cannot be read, or has an unknown word or a value that is not allowed.
    """
    words = _read(path)
    try:
        plain = {str(word).replace("-", "_"): value for word, value in words.items()}
        if len(plain) < len(words):
            raise ConfigError("a word is given twice, with a hyphen and with an underscore; keep one of them")
        return Config.from_words({**plain, **given})
    except MmhallError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_config(folder: Path, words: Mapping[str, Any]) -> None:
    """Write the words of a run into its folder.

    Raises:
        RunError: The file cannot be written.
    """
    text = yaml.safe_dump(dict(words), sort_keys=False, allow_unicode=True, width=1000)
    try:
        with atomic_path(folder / NAME) as scratch:
            scratch.write_text(_HEAD.format(mmhall.__version__) + text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder / NAME}: cannot be written: {error.strerror}") from error


def _read(path: Path) -> dict[Any, Any]:
    """Read the words of a file.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    reason = why_not_a_file(path)
    if reason is not None:
        raise ConfigError(f"{path}: {reason}; give a configuration file, such as RUN/{NAME}")
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: has more than {_LARGEST:,} bytes; a configuration file holds {_LIKE}")
        words = yaml.load(read_text(path), _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise ConfigError(f"{path}: {place}{' '.join(problem.split())}; a configuration file holds {_LIKE}") from error
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read as YAML: {what}; a configuration file holds {_LIKE}") from error
    if not isinstance(words, dict):
        kind = "nothing" if words is None else f"a {type(words).__name__}"
        raise ConfigError(f"{path}: holds {kind}; a configuration file holds {_LIKE}")
    return words
