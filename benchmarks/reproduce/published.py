"""Published figures, each with its source and the conditions it was made under; percent, as printed.

Only figures whose source is known are listed. Conditions that a source is not known to state are left out, and the page
says "not recorded" for them.
"""

from __future__ import annotations

from mmhall.benchmarks.reproduce.protocol import MEAN, Published

BEAM, OPERA = "beam(length_rule='official')", "opera(length_rule='official')"
VCD_SAMPLED = "vcd(beta=0.2)"
DETAIL = "Please describe this image in detail."
HELP = "Please help me describe the image in detail."
WORDNET = "wordnet"
DRAWN = "500 of COCO val2014, drawn"
MEAN_READ = "that its figures are means over the three settings is our reading"
_POPE_NAMES = ("random", "popular", "adversarial")


def _chair(sentence: float, instance: float) -> dict[tuple[str, str], float]:
    return {("captions", "CHAIR_s"): sentence, ("captions", "CHAIR_i"): instance}


def _accuracies(*values: float) -> dict[tuple[str, str], float]:
    return {(group, "accuracy"): value for group, value in zip(_POPE_NAMES, values, strict=True)}


def _mean(**values: float) -> dict[tuple[str, str], float]:
    return {(MEAN, name): value for name, value in values.items()}


_LONG = {"decoding": "greedy", "token limit": "512", "answer rule": WORDNET, "captions": "whole"}

LLAVA_1_5 = (
    Published(
        "arXiv:2311.17911",
        "chair-512",
        "chair",
        {**_LONG, "prompt": DETAIL, "beam score": "official", "pictures": DRAWN},
        {
            "greedy": _chair(45.0, 14.7),
            BEAM: _chair(48.8, 13.9),
            "dola": _chair(47.8, 13.8),
            OPERA: _chair(44.6, 12.8),
        },
        "the authors' script gives the released greedy captions (shikiw/OPERA) CHAIR_i 12.7, not the printed 14.7",
    ),
    Published(
        "arXiv:2311.17911",
        "chair-64",
        "chair",
        {
            "decoding": "greedy",
            "token limit": "64",
            "prompt": DETAIL,
            "answer rule": WORDNET,
            "captions": "without a last unfinished sentence",
            "beam score": "official",
            "pictures": DRAWN,
        },
        {
            "greedy": _chair(20.6, 6.2),
            BEAM: _chair(18.8, 5.9),
            "dola": _chair(20.4, 6.3),
            OPERA: _chair(14.2, 5.2),
        },
        "that the last unfinished sentence is left out stands in shikiw/OPERA issue 30; kept, a user measured OPERA at "
        "19.4/6.4",
    ),
    Published(
        "arXiv:2412.13949",
        "chair-512",
        "chair",
        {**_LONG, "pictures": "5 draws of 500"},
        {
            "greedy": _chair(49.68, 14.32),
            BEAM: _chair(53.84, 15.60),
            "dola": _chair(50.88, 14.64),
            "vcd": _chair(51.92, 15.42),
            OPERA: _chair(44.28, 13.36),
            "vhr": _chair(33.32, 9.71),
        },
    ),
    Published(
        "arXiv:2511.10292",
        "chair-512",
        "chair",
        {"decoding": "greedy", "token limit": "512", "prompt": HELP, "captions": "whole"},
        {
            "greedy": _chair(48.6, 13.6),
            BEAM: _chair(52.8, 15.6),
            "vcd": _chair(49.8, 14.5),
            "dola": _chair(47.6, 13.4),
            "vista(strength=0.17)": _chair(38.6, 11.4),
            "rudder": _chair(39.5, 10.5),
        },
    ),
    Published(
        "arXiv:2502.03628",
        "chair-512",
        "chair",
        {"decoding": "greedy", "token limit": "512", "prompt": HELP, "captions": "whole", "pictures": DRAWN},
        {
            "greedy": _chair(46.4, 12.1),
            "vcd": _chair(47.4, 13.0),
            "dola": _chair(45.4, 11.9),
            "pai": _chair(22.8, 7.0),
        },
    ),
    Published(
        "arXiv:2410.11779",
        "chair-512",
        "chair",
        {"decoding": "greedy", "token limit": "512", "captions": "whole", "pictures": DRAWN},
        {"deco": _chair(37.8, 11.1)},
        "its greedy line, 45.0/14.7, is that of arXiv:2311.17911",
    ),
    Published(
        "haotian-liu/LLaVA, model zoo",
        "pope",
        "pope",
        {
            "decoding": "greedy",
            "token limit": "128",
            "prompt": "profile llava",
            "answer rule": "official",
            "pictures": "500",
        },
        {"greedy": _mean(F1=85.9)},
        "printed for 7B and 13B alike, as the mean of three F1 (LLaVA issue 626); its file of the random setting has "
        "2 910 questions",
    ),
    Published(
        "arXiv:2412.13949",
        "pope",
        "pope",
        {"decoding": "greedy"},
        {"greedy": _mean(F1=84.98), "vhr": _mean(F1=85.47)},
    ),
    Published(
        "arXiv:2511.10292",
        "pope",
        "pope",
        {"decoding": "greedy"},
        {
            "greedy": _mean(accuracy=85.34, F1=84.91),
            "vista(strength=0.01)": _mean(accuracy=86.21, F1=85.42),
            "rudder": _mean(accuracy=86.53, F1=86.03),
        },
        MEAN_READ,
    ),
    Published(
        "arXiv:2311.17911",
        "pope-opera",
        "pope",
        {
            "decoding": "greedy",
            "token limit": "10",
            "prompt": "profile opera",
            "answer rule": "opera",
            "beam score": "official",
            "pictures": "500",
        },
        {"greedy": _mean(F1=82.2), BEAM: _mean(F1=84.9), "dola": _mean(F1=83.2), OPERA: _mean(F1=85.4)},
        "its prompt has no system sentence, which a chat template may have; its file of the random setting has 2 910 "
        "questions",
    ),
    *(
        Published(
            "arXiv:2311.16922",
            step,
            "pope",
            {
                "decoding": "sampling at temperature 1",
                "token limit": "1024",
                "prompt": "profile vcd",
                "answer rule": "vcd",
                "pictures": "500",
            },
            {"greedy": _accuracies(83.29, 81.88, 78.96), method: _accuracies(87.73, 85.38, 80.88)},
            'its baseline "regular" is sampled; a user measured the greedy model at 88.5, 87.3 and 85.2, above both '
            "lines (DAMO-NLP-SG/VCD issue 16)",
        )
        for step, method in (("pope", "vcd"), ("pope-sampled", VCD_SAMPLED))
    ),
    Published(
        "arXiv:2311.07397",
        "amber",
        "amber-g",
        {"answer rule": "official"},
        {
            "greedy": {
                ("captions", "CHAIR"): 7.8,
                ("captions", "Cover"): 51.0,
                ("captions", "Hal"): 36.4,
                ("captions", "Cog"): 4.2,
            }
        },
    ),
    Published("arXiv:2311.07397", "amber", "amber-d", {}, {"greedy": {("overall", "F1 of no"): 74.7}}),
)

LLAVA_NEXT = (
    Published(
        "arXiv:2412.13949",
        "chair-512",
        "chair",
        {**_LONG, "pictures": "5 draws of 500"},
        {"greedy": _chair(29.08, 8.08), "vhr": _chair(24.96, 6.80)},
        "the paper names LLaVA-NeXT-7B; that it is the one with Vicuna is our reading",
    ),
    Published(
        "arXiv:2412.13949",
        "pope",
        "pope",
        {"decoding": "greedy"},
        {"greedy": _mean(F1=88.51), "vhr": _mean(F1=88.87)},
    ),
)

QWEN_2_5_VL = (
    Published(
        "arXiv:2511.10292",
        "chair-512",
        "chair",
        {"decoding": "greedy", "token limit": "512", "prompt": HELP, "captions": "whole"},
        {"greedy": _chair(35.2, 9.5), "rudder": _chair(26.9, 7.0)},
    ),
    Published(
        "arXiv:2511.10292",
        "pope",
        "pope",
        {"decoding": "greedy"},
        {"greedy": _mean(accuracy=88.8, F1=87.8), "rudder": _mean(accuracy=89.0, F1=88.1)},
        MEAN_READ,
    ),
)

INTERNVL_3 = (
    Published(
        "arXiv:2605.20965",
        "chair-512",
        "chair",
        {"decoding": "greedy"},
        {"greedy": {("captions", "CHAIR_s"): 21.2}},
        "read in a public summary of the paper, not in the paper",
    ),
)
