"""One setting for all benchmarks, or what differs."""

from __future__ import annotations

from mmhall.benchmarks.report.settings import compare_settings, configuration_digest


def test_a_strength_of_its_own_for_each_benchmark_is_named():
    places = {"vista": {"captions": ("vista(strength=0.17)",), "yes/no": ("vista(strength=0.01)",)}}
    assert compare_settings(places) == ["settings differ: vista: strength 0.17 (captions), 0.01 (yes/no)"]
    assert configuration_digest("vista(strength=0.17)") != configuration_digest("vista(strength=0.01)")


def test_the_order_of_options_and_arms_makes_no_difference():
    places = {
        "vhr+vcd": {"chair": ("vhr(alpha=2.0, layers='0:2')+vcd",), "pope": ("vhr(layers='0:2', alpha=2.0)+vcd",)},
        "vcd": {"chair": ("vcd", "vcd(alpha=2.0)"), "pope": ("vcd(alpha=2.0)", "vcd")},
    }
    assert compare_settings(places) == ["one setting of each strategy for chair, pope"]


def test_left_out_options_arms_of_one_name_and_artifacts_are_told():
    artifact = {"vti": {"chair": ("vti(artifact='ab12')",), "pope": ("vti",)}}
    assert compare_settings(artifact) == ["settings differ: vti: artifact ab12 (chair), default (pope)"]
    composed = {"vhr+vcd": {"chair": ("vhr+vcd(alpha=2.0)",), "pope": ("vhr+vcd(alpha=1.0)",)}}
    assert compare_settings(composed) == ["settings differ: vhr+vcd: vcd.alpha 2.0 (chair), 1.0 (pope)"]
    several = {"vcd": {"chair": ("vcd", "vcd(alpha=2.0)"), "pope": ("vcd",)}}
    assert compare_settings(several) == ["settings differ: vcd: vcd, vcd(alpha=2.0) (chair); vcd (pope)"]
    assert compare_settings({"vcd": {"chair": ("vcd",)}}) == []
