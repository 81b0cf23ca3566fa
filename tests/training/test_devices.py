"""What a run prepares for the devices that it trains on."""

import pytest
import torch
from muse_views import make_method
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from muse_pipeline.training.devices import share_batch_norms


@pytest.mark.parametrize(
    ("n_processes", "device", "kind"),
    [(2, "cuda:1", nn.SyncBatchNorm), (1, "cuda:0", nn.BatchNorm2d), (2, "cpu", nn.BatchNorm2d)],
)
def test_batch_norms_are_shared_between_gpus_alone(n_processes, device, kind):
    """Those of student and teacher; weights and their names stay the same."""
    method = make_method()
    before = method.state_dict(keep_vars=True)
    shared = share_batch_norms(method, n_processes, torch.device(device))
    norms = {name: module for name, module in shared.named_modules() if isinstance(module, _BatchNorm)}
    assert {name.split(".")[0] for name in norms} == {"backbone", "teacher"}
    assert {type(norm) for norm in norms.values()} == {kind}
    after = shared.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and all(after[name] is value for name, value in before.items())
