"""Check a model before its weights are read: its path, options and config."""

from __future__ import annotations

from pathlib import Path

from mmhall._transformers.versions import check_version
from mmhall.errors import ModelError
from mmhall.models import LoadOptions, base_of, find_model_path
from mmhall.strategies import artifacts, tuned as tuned_options

_KIND = "AutoModelForImageTextToText"


def check_model(name: str | Path, tuned: tuned_options.Where, loading: LoadOptions) -> None:
    """Check that a model can be loaded, without reading its weights; only a hub id reaches the hub.

    Args:
        name: As `mmhall.load` takes it.
        tuned: As `mmhall.load` takes it.
        loading: The other options of `mmhall.load`.

    Raises:
        OptionError: An option has a value that is not allowed.
        ModelError: There is no model to load, or a package is missing.
        DataError: The file of tuned options, or an artifact, is missing or damaged.
        VersionError: There is no transformers, or one that mmhall was not tested with.
    """
    check_version()  # before imports that another version lacks
    import transformers

    from mmhall.models import UNLOADABLE, hint_for, placement_arguments, reason_of, source_arguments

    folder = find_model_path(name)
    file = tuned_options.find(name, tuned)
    if file is not None:
        tuned_options.read(file)
    artifacts.find(name, loading.artifacts)
    placement_arguments(loading, {})
    source = base_of(str(folder) if folder.is_dir() else str(name))
    try:
        config = transformers.AutoConfig.from_pretrained(source, **source_arguments(source, loading))
        supported = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    except UNLOADABLE as error:
        raise ModelError(f"cannot load model {str(name)!r}: {reason_of(error)}{hint_for(source)}") from error
    if not supported and _KIND not in (getattr(config, "auto_map", None) or {}):
        raise ModelError(
            f"cannot load model {str(name)!r}: a {config.model_type} model does not read pictures and text; give a "
            "vision-language model, see `mmhall list models`"
        )
