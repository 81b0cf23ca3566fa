"""Costs of a cohort: wall-clock time, processor time and memory of every step, over all slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from muse_pipeline.cohort.ledgers import StepRecord, order_steps
from muse_pipeline.core.text import memory_text, time_text
from muse_pipeline.report.cohort import SlideResult

COLUMNS = ("Step", "Time", "Processor", "Busy cores", "Processor s/mm²", "Peak memory")
OTHER, WHOLE = "other", "all"  # rows besides the steps: the rest of a run, such as its start, and the whole run


@dataclass(frozen=True)
class Cost:
    """The cost of a step."""

    step: str  # name of the step, ``OTHER`` or ``WHOLE``
    seconds: float  # wall-clock time, added up over shards even if they ran at the same time
    processor_seconds: float  # processor time of all threads
    tissue_mm2: float  # area of tissue of the slides on which the step ran
    peak_memory_mib: int | None = None  # highest peak memory on any slide; None for the row ``OTHER``

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells of ``COLUMNS``; a dash for a missing value."""
        cores = f"{self.processor_seconds / self.seconds:.2f}" if self.seconds else "–"
        per_mm2 = f"{self.processor_seconds / self.tissue_mm2:.3f}" if self.tissue_mm2 else "–"
        times = time_text(self.seconds), time_text(self.processor_seconds)
        return self.step, *times, cores, per_mm2, memory_text(self.peak_memory_mib)


def step_costs(slides: Sequence[SlideResult]) -> list[Cost]:
    """The costs of the steps that ran, summed over their slides, and their total ``WHOLE``; empty if none ran."""
    ran = [(record, slide) for slide in slides for record in slide.progress if record.seconds is not None]
    steps = order_steps({record.step for record, _ in ran})
    costs = [_add_up(step, [pair for pair in ran if pair[0].step == step]) for step in steps]
    return [*costs, _add_up(WHOLE, ran)] if ran else []


def _add_up(name: str, ran: Sequence[tuple[StepRecord, SlideResult]]) -> Cost:
    seconds, used = (sum(getattr(end, what) or 0 for end, _ in ran) for what in ("seconds", "processor_seconds"))
    # The area of a slide counts once, however many of its steps are added up.
    tissue_mm2 = sum({id(slide): slide.processed_mm2 for _, slide in ran}.values())
    return Cost(name, seconds, used, tissue_mm2, max(end.peak_memory_mib or 0 for end, _ in ran))


def cost_lines(slides: Sequence[SlideResult], seconds: float, processor_seconds: float) -> Iterator[str]:
    """The costs of a run as lines of text; wall-clock and processor time are those of the run from start to end."""
    *steps, total = step_costs(slides) or [Cost(WHOLE, 0, 0, 0)]
    rest = seconds - total.seconds, processor_seconds - total.processor_seconds
    steps.append(Cost(OTHER, *rest, total.tissue_mm2))
    steps.append(Cost(WHOLE, seconds, processor_seconds, total.tissue_mm2, total.peak_memory_mib))
    table = [COLUMNS, *(cost.texts for cost in steps)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for step, *cells in table:
        yield "  ".join([step.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
