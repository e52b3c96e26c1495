"""The drawn world: categories, places, and co-occurrences.

Categories are a subset of COCO's eighty, with COCO's ids and supercategories, so that annotation
files of scenes read like any COCO detection file. A *place* is a kind of scene with the categories
at home in it. A *partner* is a category that descriptions like to mention together with another
one; the training captions claim partners that are not there, which is where the embedded model's
hallucinations come from, and conflict scenes never show a category together with its partner.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """A COCO category that scenes can draw.

    Attributes:
        name: COCO's name.
        coco_id: COCO's category id, 1 to 90.
        supercategory: COCO's supercategory.
    """

    name: str
    coco_id: int
    supercategory: str


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of scene.

    Attributes:
        name: One word: street, kitchen, ...
        phrase: Words of a caption for the place: "on a street".
        members: Category name to weight: how often it is drawn here.
        tints: Background colours (top, bottom), RGB.
        pattern: Background pattern: plain, horizon, tiles, stripes or planks.
    """

    name: str
    phrase: str
    members: dict[str, float]
    tints: tuple[tuple[int, int, int], tuple[int, int, int]]
    pattern: str


CATEGORIES: tuple[Category, ...] = tuple(
    Category(name, coco_id, supercategory)
    for supercategory, members in {
        "person": {"person": 1},
        "vehicle": {"bicycle": 2, "car": 3, "airplane": 5, "bus": 6, "train": 7, "truck": 8, "boat": 9},
        "outdoor": {"traffic light": 10, "fire hydrant": 11, "stop sign": 13, "bench": 15},
        "animal": {
            "bird": 16,
            "cat": 17,
            "dog": 18,
            "horse": 19,
            "sheep": 20,
            "cow": 21,
            "elephant": 22,
            "zebra": 24,
            "giraffe": 25,
        },
        "accessory": {"backpack": 27, "umbrella": 28, "suitcase": 33},
        "sports": {
            "frisbee": 34,
            "sports ball": 37,
            "kite": 38,
            "skateboard": 41,
            "surfboard": 42,
            "tennis racket": 43,
        },
        "kitchen": {"bottle": 44, "wine glass": 46, "cup": 47, "fork": 48, "knife": 49, "spoon": 50, "bowl": 51},
        "food": {"banana": 52, "apple": 53, "carrot": 57, "pizza": 59, "donut": 60, "cake": 61},
        "furniture": {"chair": 62, "couch": 63, "potted plant": 64, "bed": 65},
        "electronic": {"tv": 72, "laptop": 73, "mouse": 74, "keyboard": 76, "cell phone": 77},
        "appliance": {"refrigerator": 82},
        "indoor": {"book": 84, "clock": 85, "vase": 86, "teddy bear": 88},
    }.items()
    for name, coco_id in members.items()
)

NAMES: tuple[str, ...] = tuple(category.name for category in CATEGORIES)

PLACES: tuple[Place, ...] = (
    Place(
        "street",
        "on a street",
        {
            "car": 4,
            "bus": 2,
            "truck": 2,
            "bicycle": 2,
            "person": 3,
            "traffic light": 3,
            "stop sign": 2,
            "fire hydrant": 2,
            "dog": 1,
            "skateboard": 1,
        },
        ((188, 206, 222), (140, 140, 146)),
        "horizon",
    ),
    Place(
        "station",
        "at a station",
        {
            "train": 4,
            "person": 3,
            "suitcase": 3,
            "backpack": 2,
            "clock": 2,
            "bench": 2,
            "umbrella": 2,
            "cell phone": 1,
            "bird": 1,
        },
        ((206, 200, 190), (168, 160, 156)),
        "stripes",
    ),
    Place(
        "kitchen",
        "in a kitchen",
        {
            "refrigerator": 3,
            "bowl": 2,
            "cup": 2,
            "banana": 2,
            "apple": 2,
            "carrot": 2,
            "bottle": 2,
            "knife": 2,
            "spoon": 2,
            "clock": 1,
            "cake": 1,
        },
        ((226, 236, 236), (200, 214, 216)),
        "tiles",
    ),
    Place(
        "restaurant",
        "in a restaurant",
        {
            "fork": 3,
            "knife": 3,
            "spoon": 2,
            "wine glass": 3,
            "bottle": 2,
            "pizza": 3,
            "cake": 2,
            "donut": 2,
            "cup": 2,
            "chair": 1,
            "bowl": 1,
        },
        ((232, 206, 178), (206, 164, 126)),
        "planks",
    ),
    Place(
        "living room",
        "in a living room",
        {
            "couch": 4,
            "tv": 3,
            "potted plant": 2,
            "cat": 2,
            "book": 2,
            "vase": 2,
            "clock": 1,
            "chair": 1,
            "laptop": 1,
            "dog": 1,
        },
        ((236, 224, 206), (196, 170, 148)),
        "stripes",
    ),
    Place(
        "office",
        "in an office",
        {
            "laptop": 3,
            "keyboard": 3,
            "mouse": 3,
            "cell phone": 2,
            "book": 2,
            "cup": 2,
            "chair": 2,
            "clock": 1,
            "potted plant": 1,
            "backpack": 1,
        },
        ((222, 226, 232), (184, 190, 202)),
        "plain",
    ),
    Place(
        "bedroom",
        "in a bedroom",
        {
            "bed": 4,
            "teddy bear": 3,
            "book": 2,
            "clock": 2,
            "cat": 2,
            "chair": 1,
            "cell phone": 1,
            "vase": 1,
            "suitcase": 1,
        },
        ((224, 214, 236), (188, 176, 206)),
        "stripes",
    ),
    Place(
        "farm",
        "on a farm",
        {"cow": 3, "sheep": 3, "horse": 3, "dog": 2, "truck": 2, "person": 2, "bird": 1, "carrot": 1, "apple": 1},
        ((196, 222, 240), (170, 186, 104)),
        "horizon",
    ),
    Place(
        "savanna",
        "on the savanna",
        {"elephant": 3, "zebra": 3, "giraffe": 3, "bird": 2, "person": 1, "truck": 1, "airplane": 1},
        ((240, 220, 172), (214, 178, 104)),
        "horizon",
    ),
    Place(
        "park",
        "in a park",
        {
            "person": 3,
            "dog": 3,
            "frisbee": 2,
            "bench": 2,
            "bird": 2,
            "bicycle": 2,
            "sports ball": 2,
            "tennis racket": 2,
            "skateboard": 1,
            "kite": 1,
            "umbrella": 1,
            "banana": 1,
        },
        ((190, 222, 238), (126, 180, 110)),
        "horizon",
    ),
    Place(
        "beach",
        "on a beach",
        {
            "surfboard": 3,
            "boat": 3,
            "umbrella": 3,
            "kite": 2,
            "person": 3,
            "sports ball": 1,
            "bird": 2,
            "airplane": 2,
            "bottle": 1,
        },
        ((150, 206, 236), (236, 214, 158)),
        "horizon",
    ),
)

PARTNERS: dict[str, dict[str, float]] = {
    "person": {"backpack": 0.5, "cell phone": 0.35},
    "bicycle": {"person": 0.6, "backpack": 0.3},
    "car": {"traffic light": 0.65, "truck": 0.35},
    "airplane": {"suitcase": 0.5, "bird": 0.3},
    "bus": {"car": 0.65, "stop sign": 0.3},
    "train": {"suitcase": 0.55, "clock": 0.4},
    "truck": {"car": 0.65, "traffic light": 0.3},
    "boat": {"person": 0.55, "bird": 0.4},
    "traffic light": {"car": 0.7, "bus": 0.3},
    "fire hydrant": {"car": 0.6, "dog": 0.35},
    "stop sign": {"car": 0.65, "fire hydrant": 0.35},
    "bench": {"person": 0.6, "bird": 0.35},
    "bird": {"boat": 0.4, "bench": 0.4},
    "cat": {"couch": 0.6, "book": 0.3},
    "dog": {"person": 0.5, "frisbee": 0.5},
    "horse": {"person": 0.55, "cow": 0.45},
    "sheep": {"dog": 0.6, "cow": 0.4},
    "cow": {"sheep": 0.6, "horse": 0.4},
    "elephant": {"zebra": 0.55, "giraffe": 0.4},
    "zebra": {"giraffe": 0.7, "elephant": 0.3},
    "giraffe": {"zebra": 0.7, "bird": 0.3},
    "backpack": {"person": 0.6, "book": 0.35},
    "umbrella": {"person": 0.6, "chair": 0.3},
    "suitcase": {"backpack": 0.55, "person": 0.4},
    "frisbee": {"dog": 0.75, "person": 0.25},
    "sports ball": {"person": 0.6, "dog": 0.35},
    "kite": {"person": 0.65, "bird": 0.3},
    "skateboard": {"person": 0.7, "backpack": 0.25},
    "surfboard": {"person": 0.65, "boat": 0.35},
    "tennis racket": {"sports ball": 0.75, "person": 0.25},
    "bottle": {"wine glass": 0.55, "cup": 0.4},
    "wine glass": {"bottle": 0.7, "fork": 0.3},
    "cup": {"spoon": 0.6, "book": 0.35},
    "fork": {"knife": 0.75, "spoon": 0.25},
    "knife": {"fork": 0.75, "spoon": 0.25},
    "spoon": {"bowl": 0.6, "fork": 0.4},
    "bowl": {"spoon": 0.6, "apple": 0.4},
    "banana": {"apple": 0.7, "bowl": 0.3},
    "apple": {"banana": 0.7, "bowl": 0.3},
    "carrot": {"knife": 0.55, "bowl": 0.4},
    "pizza": {"knife": 0.5, "bottle": 0.45},
    "donut": {"cup": 0.7, "cake": 0.3},
    "cake": {"fork": 0.6, "cup": 0.35},
    "chair": {"potted plant": 0.45, "couch": 0.45},
    "couch": {"tv": 0.7, "potted plant": 0.3},
    "potted plant": {"vase": 0.55, "chair": 0.4},
    "bed": {"teddy bear": 0.55, "book": 0.4},
    "tv": {"couch": 0.65, "book": 0.3},
    "laptop": {"mouse": 0.65, "cup": 0.35},
    "mouse": {"keyboard": 0.75, "laptop": 0.25},
    "keyboard": {"mouse": 0.75, "laptop": 0.25},
    "cell phone": {"laptop": 0.55, "cup": 0.35},
    "refrigerator": {"bottle": 0.5, "bowl": 0.45},
    "book": {"cup": 0.5, "clock": 0.4},
    "clock": {"book": 0.5, "vase": 0.4},
    "vase": {"potted plant": 0.55, "book": 0.35},
    "teddy bear": {"bed": 0.65, "book": 0.3},
}


def are_partners(a: str, b: str) -> bool:
    """Tell whether captions that mention one of two categories tend to mention the other."""
    return b in PARTNERS[a] or a in PARTNERS[b]
