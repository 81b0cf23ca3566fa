"""When a pretraining run has collapsed: the teacher says the same of every nucleus, and the loss falls for nothing."""

from __future__ import annotations

from muse_pipeline.core.errors import CollapsedError
from muse_pipeline.training.run_folder import RunFolder
from muse_pipeline.training.schedule import Schedule

PATIENCE = 5  # looks in a row
GRACE = 0.1  # share of a run, at whose beginning all vectors are alike
LIMITS = {  # name -> (least, most) of a run that still learns; healthy ones keep far from either
    "entropy_nucleus": (0.01, 0.995),
    "entropy_image": (0.01, 0.999),
    "spread": (0.05, float("inf")),
}
OF_NUCLEI = {"entropy_nucleus", "spread"}  # unknown where a step's views share none


class CollapseAlarm:
    """Called with (steps done, losses) at every logged step, by every process with the same numbers.

    Args:
        schedule: of the run.
        folder: of the run, for the message.
    """

    def __init__(self, schedule: Schedule, folder: RunFolder):
        self._begin, self._folder = GRACE * schedule.steps, folder
        self._outside: dict[str, int] = {}

    def __call__(self, done: int, losses: dict[str, float]) -> None:
        """Raise once a number lay outside its limits at ``PATIENCE`` looks in a row.

        Raises:
            CollapsedError: see above.
        """
        if done < self._begin:
            return
        shares_none = losses.get("shared_nuclei") == 0
        if self._count("shared_nuclei", shares_none) >= PATIENCE:
            raise CollapsedError(
                f"{self._folder.path}: by step {done} no two views shared a nucleus for {PATIENCE} looks in a row, so "
                "nothing is learnt of nuclei; begin another run folder with a larger `views.global_px` or `batch`"
            )
        for name, (least, most) in LIMITS.items():
            if shares_none and name in OF_NUCLEI:
                continue
            if name not in OF_NUCLEI and "entropy_nucleus" in losses:
                continue  # whole views of uniform tissue may well look alike while nuclei are told apart
            value = losses.get(name, least)
            if self._count(name, not least <= value <= most) >= PATIENCE:
                seen = "nuclei" if name in OF_NUCLEI else "views"
                raise CollapsedError(
                    f"{self._folder.path}: collapsed by step {done}: {name.replace('_', ' ')} is {value:.3g}, outside "
                    f"{least:g} to {most:g} for {PATIENCE} looks in a row, so all {seen} look alike to the network; "
                    "begin another run folder with `distillation.balance: sinkhorn`, a lower learning rate or a larger "
                    "batch"
                )

    def _count(self, name: str, is_outside: bool) -> int:
        """Looks in a row, this one included, at which ``name`` lay outside."""
        self._outside[name] = self._outside.get(name, 0) + 1 if is_outside else 0
        return self._outside[name]
