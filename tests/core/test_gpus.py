"""Several GPUs in one machine.

A script in place of ``nvidia-smi`` lists them; the processes and locks are real.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")

RESERVE = """
import os, sys
from muse_pipeline.core.environment import reserve_gpu
reserve_gpu()
print(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), flush=True)
sys.stdin.read()
"""


class Job:
    """A process that holds a reserved GPU until it is stopped."""

    def __init__(self, environ: dict[str, str]):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RESERVE], env=environ, text=True, **pipes
        )
        self.gpu = self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts a job on a machine with the listed GPUs; all jobs are stopped at the
    end.
    """
    jobs = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def start(listed: str, **environ: str) -> Job:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'LIST'\n{listed}\nLIST\nexit 15\n")
        program.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        jobs.append(Job({**os.environ, "PATH": path, "TMPDIR": str(tmp_path), **environ}))
        return jobs[-1]

    yield start
    for job in jobs:
        job.stop()


def test_every_job_has_a_gpu_of_its_own_and_a_lost_one_is_passed_over(start):
    both = "GPU-a1\nGPU-b2"
    first, second = start(both), start(both)
    assert (first.gpu, second.gpu) == ("GPU-a1", "GPU-b2")
    assert start(both).gpu in {"GPU-a1", "GPU-b2"}  # shared, because there is no third GPU
    first.stop()
    assert start(both).gpu == "GPU-a1"
    second.stop()
    lost = "GPU-b2\nGPU-c3\nUnable to determine the device handle for GPU0000:01:00.0: GPU is lost."
    assert [start(lost).gpu, start(lost).gpu] == ["GPU-b2", "GPU-c3"]


@pytest.mark.parametrize(
    "listed, environ, gpu",
    [
        ("GPU-a1", {}, "all"),
        ("No devices were found", {}, "all"),
        ("GPU-a1\nGPU-b2", {"CUDA_VISIBLE_DEVICES": "3"}, "3"),
        ("GPU-a1\nGPU-b2", {"CUDA_VISIBLE_DEVICES": ""}, ""),
        ("GPU-a1\nGPU-b2", {"CUDA_VISIBLE_DEVICES": "2,3"}, "2"),
    ],
)
def test_a_single_or_assigned_gpu_stays(start, listed, environ, gpu):
    assert start(listed, **environ).gpu == gpu
