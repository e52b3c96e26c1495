"""The functions of the server about benchmark runs and examples: everything comes from stored answers.

They wait for the model, since two threads must not import its libraries at once, but not for its work. Annotations are
evaluated here, since Gradio reads them.
"""

from dataclasses import dataclass
from typing import Any

from mmhall.demo.state import AppState

Data = dict[str, Any]


@dataclass(frozen=True)
class RunApi:
    """The functions, for one server.

    Attributes:
        app: State of the server.
    """

    app: AppState

    def runs(self) -> Data:
        """List the benchmark runs that this server shows: {runs: [name, ...]}, the one written last first."""
        self.app.wait_for_model()
        from mmhall.demo.runs import list_runs

        return {"runs": list_runs(self.app.runs)}

    def run(self, run: str) -> Data:
        """Return a run's title and its first table, as HTML: {name, title, html}."""
        self.app.wait_for_model()
        from mmhall.demo.runs import view

        return view(self.app.runs, run)

    def tables(self, run: str) -> Data:
        """Return every table of a run, as HTML: {html}. May take a minute for many answers, once."""
        self.app.wait_for_model()
        from mmhall.demo.runs import more_tables

        return more_tables(self.app.runs, run)

    def items(
        self,
        run: str,
        benchmark: str,
        group: str,
        metric: str,
        strategy: str,
        cause: str = "any",
        visibility: str = "any",
        side: str = "any",
        offset: int = 0,
    ) -> Data:
        """Return the items behind a figure of a run, some at a time: {html, shown, total}."""
        self.app.wait_for_model()
        from mmhall.demo.run_items import items

        return items(self.app.runs, run, benchmark, group, metric, strategy, cause, visibility, side, offset)

    def item(self, run: str, benchmark: str, item: str, strategy: str) -> Data:
        """Return an item of a run with stored answers, as `compare` records: {setup, image, columns, notes}."""
        self.app.wait_for_model()
        from mmhall.demo.run_items import stored_item

        return stored_item(self.app.runs, run, benchmark, item, strategy)

    def examples(self) -> Data:
        """Return telling cases that a benchmark found, as HTML: {html}."""
        self.app.wait_for_model()
        from mmhall.demo.examples import list_examples

        return list_examples(self.app.runs)

    def example(self, key: int) -> Data:
        """Return a telling case with its stored answers, as `item` does."""
        self.app.wait_for_model()
        from mmhall.demo.examples import stored_example

        return stored_example(key)
