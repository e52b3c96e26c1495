"""The functions of the server, for the page, for gradio_client and for agents (MCP): typed, by name, JSON in and out.

A picture is {"scene": 4}, a bundled one, or {"upload": path} with the path that an upload returned; gradio_client's
`handle_file(path)` uploads one. Annotations are evaluated here, since Gradio reads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from mmhall.benchmarks.scenes.world import PARTNERS
from mmhall.demo import catalog, gazing, limits
from mmhall.demo.compare import Column, compare
from mmhall.demo.failures import as_model_errors
from mmhall.demo.guard import check_upload
from mmhall.demo.photos import Photo, open_photo, write_photo
from mmhall.demo.probe import as_data, default_objects, probe
from mmhall.demo.scenes import SEED, BundledScene, bundled_scenes
from mmhall.demo.setups import Setup, read_setup, read_truth
from mmhall.demo.state import AppState, Kept
from mmhall.display.marks import is_present
from mmhall.display.records import Truth, answer_record, growing_record, signals
from mmhall.errors import ImageError, OptionError
from mmhall.text import printable

DESCRIBE = "Please describe this image in detail."
_SCENE = {"scene": 4}
_COLUMNS = ["greedy", "vdd"]
_THERE = {True: "there", False: "not there", None: "not known"}
_EXAMPLE = 48  # tokens of an example's answer
_SETUP = {"picture": _SCENE, "prompt": DESCRIBE, "strategies": _COLUMNS}
_ASK = "Is there {article} {name} in the image?"
Data = dict[str, Any]


@dataclass(frozen=True)
class Api:
    """The functions, for one server.

    Attributes:
        app: State of the server.
        folder: Folder of the uploads.
    """

    app: AppState
    folder: Path

    def about(self) -> Data:
        """Say what this server offers: model and its state, scenes, strategies in groups, limits and signals of words.

        Answers at once, also while the model is being loaded; until then, few strategies are listed.
        """
        model = _model(self.app)
        known = catalog.groups(self.app.owner_specs) if model["state"] == "ready" else catalog.first_groups()
        return {
            "model": model,
            "scenes": [scene.data for scene in bundled_scenes()],
            "groups": known,
            "limits": limits.as_data(),
            "signals": signals(),
            "prompts": [DESCRIBE, "What is in this image?", "What is happening here?"],
        }

    def receive(self, picture: Data) -> Data:
        """Check an uploaded picture, and shrink or convert it where it is large or no browser shows it.

        Returns the picture to use from now on: upload, its path; image, the address that shows it ("": the file itself
        shows); width, height; note, what was done.
        """
        opened = self._open(picture)
        if isinstance(opened, BundledScene):
            raise ImageError("a scene needs no upload; name it as the picture")
        upload, image = Path(picture["upload"]), ""
        if not opened.shows:
            upload = write_photo(opened, self.folder)
            self.app.files.add(str(upload))
            image = f"gradio_api/file={upload}"
        width, height = opened.image.size
        return {"upload": str(upload), "image": image, "width": width, "height": height, "note": opened.note}

    def presets(self, setup: Data = _SETUP) -> Data:
        """Suggest prompts and objects to ask about, from what is known to be in the picture of a set-up.

        Returns presets, each with label and prompt: a description, an object that is there, and one that is not but
        usually goes with it; and ask, names of objects for `probe`.
        """
        truth = self._truth(setup.get("picture"), setup) if isinstance(setup, dict) else Truth()
        suggested = default_objects(truth.present)
        known = {name: is_present(name, truth.present, truth.absent) for name in suggested}
        there = [name for name in suggested if known[name]]
        there.sort(key=lambda name: name not in PARTNERS)  # those first that others usually go with
        absent = sorted((name for name in suggested if not known[name]), key=lambda name: known[name] is None)
        questions = [
            {"label": f"{printable(name)}: {_THERE[known[name]]}", "prompt": _question(name)}
            for name in (*there[:1], *absent[:1])
        ]
        return {
            "presets": [{"label": "Describe", "prompt": DESCRIBE}, *questions],
            "ask": list(map(printable, suggested)),
        }

    def options(self, spec: str = "vcd") -> Data:
        """Describe the options of a strategy on this model: fields, the cards of its parts, and its normal form."""
        return catalog.describe(spec, self.app.require_model().adapter, self.app.owner_specs)

    def compare(
        self,
        request: gr.Request,
        picture: Data = _SCENE,
        prompt: str = DESCRIBE,
        strategies: list[str] = _COLUMNS,
        settings: Data | None = None,
    ) -> Iterator[Data]:
        """Answer one prompt about a picture with 1 to 4 strategies; yields {columns: [...]} while the answers grow.

        strategies: specs such as ["greedy", "vcd(alpha=0.5)"]; settings: {max_new_tokens, temperature, seed, present,
        absent}, each optional. present and absent name objects that are in the picture and that are not; of a scene
        they are known. A column: strategy, state (waiting, reading, writing; at the end done, cut, stopped or failed),
        text, tokens, seconds, passes_per_token; at its end also words with marks, objects (named, made_up, missing,
        unknown), verdict of a question of yes or no, and id for `gaze`.
        """
        stop = self.app.begin(request.session_hash or "")
        self.app.wait_for_model()
        image, note = self._image(picture)
        checked, methods = read_setup(
            {**_settings(settings), "prompt": prompt, "strategies": strategies}, self.app.owner_specs
        )
        truth = self._truth(picture, checked.data())
        recorder = _Recorder(self.app, image, checked, truth)
        with self.app.exclusive_model() as lvlm:
            recorder.tokenizer = lvlm.adapter.tokenizer
            for columns in compare(lvlm, image, checked.prompt, methods, stop.is_set, **checked.settings):
                yield {"columns": [recorder.record(column) for column in columns], "note": note}

    def stop(self, request: gr.Request) -> Data:
        """Stop what runs for this visitor; the columns of a comparison end with the text that they have."""
        self.app.stop(request.session_hash or "")
        return {}

    def judge(
        self,
        ids: list[str] = [],  # noqa: B006
        present: list[str] | None = None,
        absent: list[str] | None = None,
    ) -> Data:
        """Mark answers anew by what is known of the picture; nothing is decoded again. Returns {columns: [...]}."""
        truth = read_truth(present, absent)
        lvlm = self.app.require_model()
        kept = [(key, self.app.answers.get(key)) for key in limits.ids(ids)]
        return {"columns": [_record(one, lvlm.adapter.tokenizer, truth, key) for key, one in kept]}

    def gaze(self, answer: str = "") -> Data:
        """Return where an answer of `compare` looked: maps for all its words, and likely tokens at each token.

        answer: its id; "": that of an example, greedy decoding about a scene.
        maps: base64 of uint8 (words x rows x columns); 255 stands for scale. shares: base64 of uint8 (words x layers x
        heads), the share of attention on the picture; 255 stands for share_scale. candidates: for each token, five
        likely ones, with their probabilities plain and by the strategy. findings: what the strategy computed.
        """
        return gazing.gaze(self.app, *self._answer(answer))

    def gaze_heads(self, answer: str = "", layers: list[int] | None = None, heads: list[int] | None = None) -> Data:
        """Return the maps of `gaze` for some layers and heads; none: all of them. Returns maps and scale."""
        return gazing.gaze_heads(self.app, self._answer(answer)[0], layers or None, heads or None)

    def saliency(self, picture: Data = _SCENE, prompt: str = DESCRIBE) -> Data:
        """Return where the gaze shifts while the question is read (GIFT, arXiv:2510.22067): grid, box, map, scale."""
        self.app.wait_for_model()
        return gazing.saliency(self.app, self._image(picture)[0], limits.prompt(prompt))

    def lens(self, answer: str = "", word: int = 0, layer: int | None = None) -> Data:
        """Read words off the patches of the picture by the logit lens: three likeliest ones, and a word's probability.

        Returns grid, box, layer, words (for each patch three pairs of text and probability), and map with scale: the
        probability of the answer's word at each patch.
        """
        return gazing.lens(self.app, self._answer(answer)[0], word, layer)

    def probe(
        self,
        request: gr.Request,
        picture: Data = _SCENE,
        objects: list[str] = ["car", "boat"],  # noqa: B006
        strategies: list[str] = _COLUMNS,
        present: list[str] | None = None,
        absent: list[str] | None = None,
    ) -> Iterator[Data]:
        """Ask each strategy "Is there a ... in the image?" for every object; yields the table while it grows.

        For each strategy and object: the answer (yes, no or null), the probability of yes, and whether the answer is
        right, where the truth is known: never of an object outside the vocabulary. unknown_words: objects that the
        model's tokenizer has no words for.
        """
        stop = self.app.begin(request.session_hash or "")
        self.app.wait_for_model()
        image, _ = self._image(picture)
        names, methods = limits.objects(objects), limits.strategies(strategies, self.app.owner_specs)
        truth = self._truth(picture, {"present": present, "absent": absent})
        with self.app.exclusive_model() as lvlm:
            for table in probe(lvlm, image, names, methods, truth.present, truth.absent, should_stop=stop.is_set):
                yield as_data(table, lvlm.adapter.tokenizer)  # a client that hangs up ends the probe here

    def exports(self, setup: Data = _SETUP, columns: list[Data] = []) -> Data:  # noqa: B006
        """Return what repeats a comparison (python, shell, notebook) and its table (csv, markdown, latex), as texts.

        setup: {picture, prompt, strategies, and the settings of `compare`}; columns: the records of `compare`.
        """
        from mmhall.demo.share import Picture, exports

        lvlm, picture = self.app.require_model(), None
        if isinstance(setup, dict):
            picture, setup = setup.get("picture"), {name: setup[name] for name in setup if name != "picture"}
        checked, _ = read_setup(setup, self.app.owner_specs)
        scene = picture.get("scene") if isinstance(picture, dict) else None
        named = Picture("picture.png", None if scene is None else (SEED, bundled_scenes()[_scene(scene)].index))
        return exports(lvlm, checked, named, columns)

    def _answer(self, key: Any) -> tuple[Kept, str]:
        """Return an answer by its key, and the key; "": an example.

        Raises:
            OptionError: There is none of that key, or no longer.
        """
        if key != "":
            return self.app.answers.get(key), key
        image = self._image(_SCENE)[0]
        with self.app.exclusive_model() as lvlm, as_model_errors():
            answer = lvlm.generate(image, DESCRIBE, max_new_tokens=_EXAMPLE)
        kept = Kept(image, DESCRIBE, answer, {})
        return kept, self.app.answers.add(self.app.answers.digest(image), kept)

    def _open(self, picture: Any) -> BundledScene | Photo:
        """Open a visitor's picture.

        Raises:
            ImageError: There is none, or it is no upload, or it cannot be read.
            OptionError: It is written in another way, or there is no such scene.
        """
        if picture is None or picture == {}:
            raise ImageError("there is no picture yet; choose a scene or upload one")
        if not isinstance(picture, dict) or len(picture) != 1 or not picture.keys() <= {"scene", "upload"}:
            raise ImageError('a picture is {"scene": number} or {"upload": path}; upload a file first')
        if "scene" in picture:
            return bundled_scenes()[_scene(picture["scene"])]
        return open_photo(check_upload(picture["upload"], self.folder))

    def _image(self, picture: Any) -> tuple[Image.Image, str]:
        """Return a visitor's picture and what was done to it."""
        opened = self._open(picture)
        return (opened.scene.image, "") if isinstance(opened, BundledScene) else (opened.image, opened.note)

    def _truth(self, picture: Any, known: Data) -> Truth:
        """Return what is known of a picture: what the visitor says, else of a scene all of it."""
        truth = read_truth(known.get("present"), known.get("absent"))
        if truth.present is None and isinstance(picture, dict) and "scene" in picture:
            return Truth(bundled_scenes()[_scene(picture["scene"])].present)
        return truth


@dataclass
class _Recorder:
    """Makes records of the columns of one comparison, of each ended column once."""

    app: AppState
    image: Image.Image
    setup: Setup
    truth: Truth
    tokenizer: Any = None

    def __post_init__(self) -> None:
        self._ended: dict[str, Data] = {}
        self._digest = b""

    def record(self, column: Column) -> Data:
        """Return the record of a column; an answer is kept for `gaze` and `judge`."""
        facts = {
            "strategy": column.strategy,
            "tokens": column.steps,
            "seconds": round(column.seconds, 4),
            "reading_seconds": round(column.reading_seconds, 4),
            "error": printable(column.error),
        }
        if column.answer is None:
            return growing_record(column.text, self.setup.prompt, column.state, **facts)
        if column.strategy not in self._ended:
            self._digest = self._digest or self.app.answers.digest(self.image)
            del facts["tokens"]
            kept = Kept(self.image, self.setup.prompt, column.answer, facts)
            key = self.app.answers.add(self._digest, kept)
            self._ended[column.strategy] = _record(kept, self.tokenizer, self.truth, key)
        return self._ended[column.strategy]


def _record(kept: Kept, tokenizer: Any, truth: Truth, key: str) -> Data:
    from mmhall.words import locate_words

    located = locate_words(tokenizer, kept.answer.token_ids)
    return answer_record(kept.answer, located, kept.prompt, truth, id=key, **kept.facts)


def _model(app: AppState) -> Data:
    """Describe the model, or say that it is being loaded, or cannot be."""
    facts: Data = {"name": "", "state": "loading", "parameters": 0, "device": "", "layers": 0, "heads": 0, "error": ""}
    if not app.model.done():
        return facts
    if app.model.exception() is not None:
        return {**facts, "state": "failed", "error": "the model could not be loaded; the terminal of the page says why"}
    lvlm = app.require_model()
    adapter = lvlm.adapter
    facts |= {"name": printable(lvlm.name), "state": "ready", "parameters": lvlm.size, "device": str(adapter.device)}
    return facts | {"layers": len(adapter.layers), "heads": adapter.heads}


def _settings(settings: Any) -> Data:
    if settings is None:
        return {}
    if not isinstance(settings, dict) or {"prompt", "strategies"} & settings.keys():
        raise OptionError("demo", "settings", settings, 'an object such as {"max_new_tokens": 64}, or null')
    return settings


def _scene(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(bundled_scenes()):
        raise OptionError("demo", "scene", number, f"an integer from 0 to {len(bundled_scenes()) - 1}")
    return number


def _question(name: str) -> str:
    return _ASK.format(article="an" if name[:1] in "aeiou" else "a", name=printable(name))
