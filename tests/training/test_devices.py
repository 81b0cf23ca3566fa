"""How a run sets up the devices that it trains on."""

import pytest
import torch
from muse_views import make_method
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from muse_pipeline.core.errors import ProviderError
from muse_pipeline.training.devices import open_fabric, share_batch_norms


@pytest.mark.parametrize(
    "n_processes, device, kind",
    [(2, "cuda:1", nn.SyncBatchNorm), (1, "cuda:0", nn.BatchNorm2d), (2, "cpu", nn.BatchNorm2d)],
)
def test_batch_norms_are_shared_between_gpus_alone(n_processes, device, kind):
    """Norms of student and teacher are treated alike; weights and their names stay the same."""
    method = make_method()
    before = method.state_dict(keep_vars=True)
    shared = share_batch_norms(method, n_processes, torch.device(device))
    norms = {
        name: module for name, module in shared.named_modules() if isinstance(module, _BatchNorm)
    }
    assert {name.split(".")[0] for name in norms} == {"backbone", "teacher"}
    assert {type(norm) for norm in norms.values()} == {kind}
    after = shared.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and all(
        after[name] is value for name, value in before.items()
    )


@pytest.mark.parametrize(
    "environment, devices, nodes, message",
    [
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            8,
            1,
            r"--nodes 1 --devices 8 is 8 process\(es\), but srun started 2",
        ),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, 1, 1, "but torchrun started 2"),
        ({}, 2, 2, "--nodes 2: start the command on every node"),
    ],
)
def test_another_number_of_processes_is_an_error(monkeypatch, environment, devices, nodes, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProviderError, match=message):
        open_fabric("cpu", devices, "32-true", nodes)


def test_a_slurm_job_of_one_task_is_a_single_process(monkeypatch):
    """Snakemake's steps are jobs of one task; by default, Fabric expects Slurm to start a task per
    device.
    """
    for name, value in {
        "SLURM_NTASKS": "1",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_JOB_ID": "7",
    }.items():
        monkeypatch.setenv(name, value)
    fabric = open_fabric("cpu", 1, "32-true")
    assert (fabric.world_size, type(fabric._connector.cluster_environment).__name__) == (
        1,
        "LightningEnvironment",
    )
