"""Options for loading a model, shared by Python, the command line, workers and lmms-eval; loads nothing."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmhall import files
from mmhall.errors import DataError, OptionError

OWNER = "load"
DTYPES = ("auto", "float32", "float", "bfloat16", "float16", "half", "float64", "double")  # as torch names them
QUANTISED = ("4bit", "8bit")
_BY_NAME = {"processor": ("max_pixels", 200704), "model_arg": ("attn_implementation", "sdpa")}  # with an example
SECRET = ("token", "use_auth_token")  # options of transformers that must not be stored
_BESIDE = ("tuned",)  # in `LVLM.loading`, with a flag and no field here


@dataclass(frozen=True)
class LoadOptions:
    """Options of `mmhall.load` that can be written as text.

    Attributes:
        device: "cpu", "cuda", ...; by default a GPU where there is one.
        device_map: Distribution of the model over devices: "auto", "balanced", or a mapping of parts to devices, also
            as JSON text.
        dtype: Type of the weights, one of `DTYPES`; "auto": that of the checkpoint.
        quantize: "4bit" or "8bit", by bitsandbytes.
        revision: Commit, tag or branch on the hub.
        processor: Options of the processor, such as max_pixels.
        chat_template: Chat template that replaces the processor's: its text, or a file.
        trust_remote_code: Whether code in the model's repository may run.
        artifacts: Artifacts fitted to the model: a file that `mmhall fit` wrote, or a folder of such files; False, as
            text "none": no artifacts.
        model_arg: Options of transformers' `from_pretrained`, such as attn_implementation.
    """

    owner: ClassVar[str] = OWNER  # subject of error messages

    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    dtype: str | None = None
    quantize: str | None = None
    revision: str | None = None
    processor: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    trust_remote_code: bool = False
    artifacts: str | Literal[False] | None = None
    model_arg: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values, and read values that are given as a file or as text.

        Raises:
            OptionError: A value is invalid, or two values contradict each other.
            DataError: The file of a chat template cannot be read.
        """
        for name in ("device", "dtype", "quantize", "revision"):
            value = getattr(self, name)
            if value is not None and not _is_text(value):
                raise OptionError(self.owner, name, value, "a text")
        if self.dtype not in (None, *DTYPES):
            raise OptionError(self.owner, "dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        if self.quantize not in (None, *QUANTISED):
            raise OptionError(self.owner, "quantize", self.quantize, '"4bit" or "8bit"')
        if not isinstance(self.trust_remote_code, bool):
            raise OptionError(self.owner, "trust_remote_code", self.trust_remote_code, "True or False")
        for name, (key, setting) in _BY_NAME.items():
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise OptionError(self.owner, name, value, f"options by name, such as { {key: setting} }")
        taken = next((name for name in self.model_arg if name in {option.name for option in fields(LoadOptions)}), None)
        if taken is not None:
            raise OptionError(self.owner, "model_arg", taken, f"left out: {taken} is an option of its own")
        if self.device is not None and self.device_map is not None:
            raise OptionError(
                self.owner, "device", self.device, "left out with a device_map, which sets the device of each part"
            )
        if self.artifacts is not None and not (self.artifacts is False or _is_text(self.artifacts)):
            raise OptionError(
                self.owner, "artifacts", self.artifacts, "a file or folder written by `mmhall fit`, or False for none"
            )
        object.__setattr__(self, "artifacts", False if self.artifacts == "none" else self.artifacts)
        object.__setattr__(self, "device_map", _device_map(self.device_map, self.owner))
        object.__setattr__(self, "chat_template", _template(self.chat_template, self.owner))

    @classmethod
    def given_to(cls, loading: Mapping[str, Any]) -> LoadOptions:
        """Return the options that a model was loaded with, from `LVLM.loading`."""
        names = {option.name for option in fields(LoadOptions)}
        own = {name: value for name, value in loading.items() if name in names}
        return LoadOptions(**own, model_arg={name: value for name, value in loading.items() if name not in names})

    def arguments(self) -> dict[str, Any]:
        """Return all options as keyword arguments of `mmhall.load`."""
        own = {option.name: getattr(self, option.name) for option in fields(LoadOptions)}
        return {**own.pop("model_arg"), **own}

    def for_gpus(self, gpus: int) -> LoadOptions:
        """Return the options for a process with some GPUs; on several, the default device_map is "auto".

        Raises:
            OptionError: A single device is set, but there are several GPUs.
        """
        if gpus <= 1 or self.device_map is not None:
            return self
        return replace(self, device_map="auto")

    def non_defaults(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, serialisable as JSON."""
        defaults = LoadOptions()
        own = {option.name: getattr(self, option.name) for option in fields(LoadOptions)}
        return {name: value for name, value in own.items() if value != getattr(defaults, name)}


def parse_assignments(texts: Iterable[str], owner: str = OWNER, option: str = "processor") -> dict[str, Any]:
    """Parse options, written as KEY=VALUE; a value that is not a Python literal is a string.

    >>> parse_assignments(["max_pixels=200704", "do_pan_and_scan=true", "padding_side=left"])
    {'max_pixels': 200704, 'do_pan_and_scan': True, 'padding_side': 'left'}

    Args:
        texts: The options.
        owner: Subject of error messages.
        option: What they are given as, for error messages.

    Raises:
        OptionError: A text has another form, or a key occurs twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals) or name in options:
            like = "=".join(map(str, _BY_NAME[option]))
            raise OptionError(owner, option, text, f"KEY=VALUE, each key once, such as {like}")
        options[name] = literal(value)
    return options


def to_flags(options: Mapping[str, Any]) -> list[str]:
    """Convert options to command line flags.

    >>> to_flags({"dtype": "float16", "processor": {"max_pixels": 200704}, "trust_remote_code": True})
    ['--dtype', 'float16', '--processor', 'max_pixels=200704', '--trust-remote-code']

    Args:
        options: Result of `LoadOptions.non_defaults`, or `LVLM.loading`.
    """
    flags, given = list[str](), LoadOptions.given_to({k: v for k, v in options.items() if k not in _BESIDE})
    beside = {name: options[name] for name in _BESIDE if name in options}
    for name, value in {**given.non_defaults(), **beside}.items():
        flag = f"--{name.replace('_', '-')}"
        if name in _BY_NAME:
            flags += [word for key, setting in value.items() for word in (flag, f"{key}={setting}")]
        elif value is True:
            flags.append(flag)
        elif value is False:
            flags += [flag, "none"]
        else:
            flags += [flag, value if isinstance(value, str) else json.dumps(value)]
    return flags


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def literal(text: str) -> Any:
    """Parse a Python or JSON literal; any other text is returned as it is."""
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text


def _device_map(value: Any, owner: str) -> str | dict[str, Any] | None:
    """Parse a device map; a single device may be given alone.

    Raises:
        OptionError: The value is neither a text nor a mapping of parts to devices.
    """
    expected = '"auto", a device, or parts to devices, such as {"model": 0, "lm_head": "cpu"}'
    if value is None or (isinstance(value, str) and value and not value.lstrip().startswith("{")):
        return value
    original = value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise OptionError(owner, "device_map", original, expected) from None
    if not isinstance(value, Mapping) or not value:
        raise OptionError(owner, "device_map", original, expected)
    return {str(part): device if isinstance(device, int | str) else str(device) for part, device in value.items()}


def _template(value: Any, owner: str) -> str | None:
    """Return the text of a chat template; a value without a brace is the path of a file.

    Raises:
        OptionError: The value is neither a template nor a path.
        DataError: The file cannot be read.
    """
    if value is None or (isinstance(value, str) and "{" in value):
        return value
    if not isinstance(value, str | Path) or not str(value):
        raise OptionError(owner, "chat_template", value, "a Jinja template, or a file that holds one")
    try:
        return files.read_text(Path(value))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"{value}: the chat template cannot be read: {reason}; give a file, or a Jinja template"
        ) from error
