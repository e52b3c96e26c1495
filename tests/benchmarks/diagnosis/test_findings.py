"""What a diagnosis suggests, and its page."""

from __future__ import annotations

import re

import pytest

from mmhall.benchmarks.diagnosis.diagnosis import Diagnosis
from mmhall.benchmarks.diagnosis.figures import Figure
from mmhall.benchmarks.diagnosis.findings import MARKED, RULES, TEXT, findings
from mmhall.benchmarks.diagnosis.page import write_page
from mmhall.benchmarks.diagnosis.report import as_data, suggestions
from mmhall.benchmarks.diagnosis.svg import curve, heat_map, nice_ticks
from mmhall.benchmarks.diagnosis.targets import Targets
from mmhall.decoders import STRATEGIES
from mmhall.results.statistics import Estimate


def figure(key, value, low, high, **more):
    return Figure(key, "mechanisms", key, Estimate(value, low, high, value, 1.0), **{"percent": False, **more})


def diagnosed(*figures):
    return Diagnosis(2, 2, 2, figures, (), ())


def test_figures_and_thresholds_make_statements():
    found = {
        one.rule.mechanism.key: one
        for one in findings(
            diagnosed(
                figure("marked_sinks", 0.0, 0.0, 0.1),
                figure("stripe_ratio", 9.0, 7.0, 12.0),
                figure("sink_share", 0.2, 0.16, 0.3, percent=True),
                figure("gaze_lift", None, None, None),
            )
        )
    }
    assert found["marked_sinks"].state == "absent"
    assert found["marked_sinks"].text.endswith("`var` will do nothing")
    assert found["stripe_ratio"].state == "present?"  # the interval holds the threshold of 8
    assert found["stripe_ratio"].measured == "9.00 [7.00, 12.00]; present: at least 8"
    assert found["stripe_ratio"].strategies == ("opera",)
    assert (found["sink_share"].state, found["sink_share"].measured) == (
        "present",
        "20.0 % [16.0, 30.0]; present: at least 15 %",
    )
    assert found["gaze_lift"].state == found["vhd_variation"].state == "not measured"


def test_a_sink_at_the_first_token_alone_is_no_dominance_of_text():
    """MDI 12 with the first token and 0.8 without it: what other text gets is less than what the picture gets."""
    shown = diagnosed(figure("mdi_middle", 12.0, 11.0, 13.0), figure("mdi_middle_bare", 0.8, 0.7, 0.9))
    (found,) = (one for one in findings(shown) if one.rule.mechanism is TEXT)
    assert (found.state, found.measured) == ("absent", "0.80 [0.70, 0.90]; present: at least 1")


def test_rules_name_registered_strategies_only():
    """Rules are there for strategies that may not be registered; those are not named."""
    registered = set(STRATEGIES.names())
    assert all(set(one.strategies) <= registered for one in findings(diagnosed()))
    assert len({rule.mechanism.key for rule in RULES}) == len(RULES)
    assert MARKED in [rule.mechanism for rule in RULES]
    for rule in RULES:
        for text in (rule.present, rule.absent):
            assert set(re.findall(r"{(\w+)}", text)) <= {"strategies"}


def test_a_page_holds_findings_plots_and_no_script(tmp_path):
    """Every plot is a drawing in the page; names from outside are escaped."""
    e = Estimate(0.2, 0.1, 0.3, 0.2, 1.0)
    found = diagnosed(
        figure("stripe_ratio", 9.0, 8.5, 12.0, layers={0: e, 1: e}),
        figure("image_share", 0.2, 0.1, 0.3, heads={0: (0.1, 0.4), 1: (-0.2, 0.0)}, percent=True, by_head="<b>"),
        figure("growth", 0.1, 0.0, 0.2, places=(("1", e), ("2+", Estimate(None, None, None, 0, 0)))),
    )
    path = tmp_path / "page.html"
    write_page(found, Targets(), {"model": "<script>x"}, "two scenes", path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<code>opera</code> has columns to penalise" in page
    data = as_data(found, Targets(), {})
    assert [one["key"] for one in data["findings"]] == [one.rule.mechanism.key for one in findings(found)]
    assert data["figures"][1]["heads"] == {0: [0.1, 0.4], 1: [-0.2, 0.0]}
    assert data["figures"][2]["places"][0]["place"] == "1"
    assert any(line.startswith("stripes: present (9.00 [8.50, 12.00]") for line in suggestions(found))


def test_plots_by_hand():
    """Ticks of 0 to 40 over 146 units: 20 lies in the middle. A head at half the largest has half the colour."""
    drawn = curve([("0", Estimate(0.2, 0.1, 0.4, 0, 1))], "layer", 100, line=30)
    assert '<circle class="dot" cx="189.0" cy="83.0"' in drawn
    assert "<title>layer 0: 20 [10, 40]</title>" in drawn
    assert 'class="limit"' in drawn
    assert curve([("0", Estimate(None, None, None, 0, 0))], "layer") == ""
    cells = re.findall(r'class="(hot|cold)".*?fill-opacity="(.*?)"', heat_map({0: (0.2, -0.4)}))
    assert cells == [("hot", "0.50"), ("cold", "1.00")]


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((0.0, 1.0), [0, 0.5, 1]), ((8.9, 10.8), [8.5, 9, 9.5, 10, 10.5, 11]), ((-3, 2), [-4, -2, 0, 2])],
)
def test_round_ticks(ends, ticks):
    assert nice_ticks(*ends) == ticks
