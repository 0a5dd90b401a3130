"""What the demo shows while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from meterline_dev.demo import tables
from meterline_dev.demo.capture import Captured
from meterline_dev.demo.closing import Invoices
from meterline_dev.demo.explained import Explained
from meterline_dev.demo.months import Month
from meterline_dev.demo.quarantine_fix import QuarantineFix
from meterline_dev.demo.verdict import Stages, Verdict


@dataclass(frozen=True, slots=True)
class Counter:
    """Moves a progress bar: `at` a count, or by so many `more`. From any thread."""

    at: Callable[[int], None]
    more: Callable[[int], None]


class Report:
    """Writes to a console, which may be no terminal: then there are no moving parts."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, what: RenderableType) -> None:
        """Writes with an empty line above."""
        self._console.print()
        self._console.print(what)

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Shows that a step is running, and then how long it took. The function that it yields shows a
        detail of the running step."""
        started = time.perf_counter()
        with self._console.status(title) as status:
            yield lambda detail: status.update(f"{title}: {detail}")
        seconds = time.perf_counter() - started
        self._console.print(f"[green]✓[/] {title} [dim]{seconds:.1f} s[/]", highlight=False)

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Counter]:
        """Shows a progress bar that stays when it is done."""
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield Counter(
                at=lambda count: progress.update(task, completed=count),
                more=lambda count: progress.advance(task, count),
            )

    def captured(self, captured: Captured) -> None:
        """The outcomes of capture, and why events were refused."""
        self.show(tables.outcomes(captured))
        if captured.refusals:
            self.show(tables.refusals(captured))
        self._console.print()

    def quarantine_fix(self, fix: QuarantineFix) -> None:
        """What was in quarantine, and what the replay changed."""
        self.show(tables.quarantine_fix(fix))
        self._console.print()

    def invoices(self, invoices: Invoices, months: Sequence[Month], running: Month) -> None:
        """Totals by tenant and month."""
        self.show(tables.invoices(invoices, months, running, self._console.width))
        self._console.print()

    def explained(self, explained: Explained) -> None:
        """One line, down to its events, and back."""
        self.show(tables.explained(explained))

    def verdict(self, verdict: Verdict, stages: Stages) -> None:
        """Sums side by side, every check, and what differs."""
        self.show(tables.stages(stages))
        self.show(tables.checks(verdict))
        self.show(tables.conclusion(verdict))


class _Rate(ProgressColumn):
    """Things a second, over the whole time."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        if not seconds or not task.completed:
            return Text("")
        return Text(f"{task.completed / seconds:,.0f}/s", style="cyan")
