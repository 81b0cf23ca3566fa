"""What a run needs to go on exactly where it stopped.

Weights, running statistics, averages and the optimiser are saved. Batches and random numbers are functions of the
run's seed, the step and the process (see ``loop``), so the number of the step is all that must be known of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file


def save_resume_point(
    path: Path, step: int, n_processes: int, method: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write the state before ``step``, complete or not at all."""
    state = {
        "step": step,
        "processes": n_processes,
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with complete_file(path) as partial:
        torch.save(state, partial)


def load_resume_point(path: Path, n_processes: int, method: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Put method and optimiser back where they were; returns the step to go on with, 0 where nothing was saved.

    Raises:
        CheckpointError: the file is damaged, or of a run with other settings or another number of processes.
    """
    if not path.is_file():
        return 0
    state = _read(path, next(method.parameters()).device)
    if state["processes"] != n_processes:
        raise CheckpointError(
            f"{path}: the run began with {state['processes']} device(s), not {n_processes}; give that many again, or "
            "delete the run folder to start anew"
        )
    try:
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: belongs to another configuration; choose another run folder or delete it"
        ) from error
    return state["step"]


def steps_done(path: Path) -> int:
    """The step that a run would go on with, read without its weights; 0 where there is nothing to go on from."""
    if not path.is_file():
        return 0
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # a damaged file is named when the run goes on from it
        return 0


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many unrelated classes on damaged bytes
        raise CheckpointError(f"{path}: damaged; delete it to train from the start") from error
    if not isinstance(state, dict) or not {"step", "processes", "method", "optimiser"} <= state.keys():
        raise CheckpointError(f"{path}: not a resume point of this version; delete it to train from the start")
    return state
