"""Say at the end how many of the known faults hold."""

from __future__ import annotations

FAULTS = range(1, 46)


def pytest_terminal_summary(terminalreporter):
    ran, broken = set(), set()
    for state in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(state, []):
            numbers = {value for name, value in getattr(report, "user_properties", []) if name == "fault"}
            ran |= numbers
            broken |= numbers if state != "passed" else set()
    if ran:
        parts = [f"{len(ran - broken)} of {len(FAULTS)} hold"]
        parts += [
            f"{text}: {named(numbers)}"
            for text, numbers in (("broken", broken), ("did not run or have no row", set(FAULTS) - ran))
            if numbers
        ]
        terminalreporter.write_line("faults: " + "; ".join(parts))


def named(numbers):
    return ", ".join(map(str, sorted(numbers)))
