"""A Slurm cluster of two nodes in a folder, with its own munge, controller, daemons, ports and
configuration.

Missing packages are installed from Debian if tests run as root. Otherwise, jobs run as the user of
the tests.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from debian import install

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PACKAGES = ("slurm-wlm", "munge")
DEADLINE_S = 60

NODES = (socket.gethostname().partition(".")[0], "localhost")  # names that resolve on this machine

# Both nodes are on this machine. Each declares as many cores as the profile's largest job requests,
# whatever the machine has (config_overrides).
CONFIGURATION = """
ClusterName=local
SlurmctldHost={nodes[0]}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/bin/note-gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
MinJobAge=3600
FirstJobId=900001
KillWait=5
NodeName=DEFAULT Gres=gpu:1 CPUs=16 CoresPerSocket=16 Sockets=1 ThreadsPerCore=1 RealMemory=32000
NodeName={nodes[0]} NodeHostname={nodes[0]} NodeAddr=127.0.0.1 Port={ports[0]}
NodeName={nodes[1]} NodeHostname={nodes[0]} NodeAddr=127.0.0.1 Port={ports[1]}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=1000
"""


class NoSlurmError(Exception):
    """Slurm cannot run here; the message gives the reason."""


@dataclass
class Slurm:
    """A running Slurm, found by commands that run in ``environment`` and by all processes that they
    start.
    """

    folder: Path
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> Slurm:
        """Start munge, controller and nodes.

        Raises:
            NoSlurmError: a program is missing or does not start.
        """
        _require_programs()
        self._configure()
        try:
            self._start_munge()
            self._daemon("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
        except Exception:
            self.stop()
            raise
        return self

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, and wait until the controller can use it."""
        self._daemon(node, "slurmd", "-D", "-N", node)
        # The node may have been marked as down.
        self.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
        state = "sinfo", "-h", "-n", node, "-o", "%t"
        self._wait(lambda: self.call(*state) in ("idle", "mix"), f"{node} never came up")

    def node_of(self, job: str) -> str:
        """Name of the node that a job runs on."""
        return self.call("squeue", "-h", "-j", job, "-o", "%N")

    def lose_node(self, node: str) -> None:
        """Kill the daemon of a node and all processes of its jobs, as in a power failure, and tell
        the controller.
        """
        jobs = self.call("squeue", "-h", "-w", node, "-o", "%i").split()
        self.processes.pop(node).kill()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                of_step = any(f"slurmstepd: [{job}." in " ".join(process.cmdline()) for job in jobs)
                if of_step or process.environ().get("SLURM_JOB_ID") in jobs:
                    process.kill()
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        for job in jobs:  # Slurm requeues lost jobs, but would delay them by two minutes
            self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        """Stop the jobs, then everything that ``start`` started."""
        with suppress(subprocess.SubprocessError, OSError):
            self.call("scancel", "--user", getpass.getuser())
            self._wait(lambda: not self.call("squeue", "-h"), "jobs remain")
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def gpus(self) -> dict[str, str]:
        """Job -> its value of CUDA_VISIBLE_DEVICES; jobs without a GPU are left out."""
        lines = [line.split() for line in (self.folder / "gpus").read_text("ascii").splitlines()]
        return {job: gpu for job, *gpus in lines for gpu in gpus}

    def granted(self, job: str) -> tuple[int, int]:
        """Cores and MB of memory that a job was given."""
        facts = self.call("scontrol", "show", "job", job)
        cores, megabytes = re.search(r"TRES=cpu=(\d+),mem=(\d+)M", facts).groups()
        return int(cores), int(megabytes)

    def call(self, *command: str) -> str:
        """Run a Slurm command and return what it prints."""
        run = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=30
        )
        return run.stdout.strip()

    def _configure(self) -> None:
        if len(set(NODES)) < 2:
            raise NoSlurmError("this machine has no name of its own")
        (self.folder / "state").mkdir(parents=True)
        controller_port, *ports = _free_ports(1 + len(NODES))
        settings = {"nodes": NODES, "controller_port": controller_port, "ports": ports}
        text = CONFIGURATION.format(folder=self.folder, user=getpass.getuser(), **settings)
        (self.folder / "slurm.conf").write_text(text.lstrip(), encoding="ascii")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="ascii")
        # A file that every process can open stands in for the GPU; it suffices to test that jobs
        # request and get one.
        (self.folder / "gres.conf").write_text(
            f"NodeName={','.join(NODES)} Name=gpu File=/dev/null\n", encoding="ascii"
        )
        # The executor plugin clears SLURM_CONF, so that `srun` would only search /etc.
        wrapped = f'SLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"'
        self._write_script("srun", wrapped)
        gpu = "$SLURM_JOB_ID $CUDA_VISIBLE_DEVICES"
        self._write_script("note-gpu", f'echo "{gpu}" >> {self.folder}/gpus')

    def _write_script(self, name: str, text: str) -> None:
        script = self.folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{text}\n", "ascii")
        script.chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "socket", "key-file": "key", "log-file": "log"}
        files |= {"pid-file": "pid", "seed-file": "seed"}
        options = [f"--{name}={self.folder}/munge.{end}" for name, end in files.items()]
        self._daemon("munged", "munged", "--foreground", "--force", *options)
        self._wait((self.folder / "munge.socket").is_socket, "munge did not start")

    def _daemon(self, name: str, *command: str) -> None:
        # A session of its own, so that a Ctrl-C in pytest does not end the daemon before its jobs.
        how = {"env": self.environment, "start_new_session": True, "stderr": subprocess.STDOUT}
        with (self.folder / f"{name}.out").open("w", encoding="utf-8") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, **how)

    def _wait(self, ready, complaint: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not ready():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                outputs = [(self.folder / f"{name}.out").read_text("utf-8") for name in dead]
                outputs.append(self.call("sinfo", "-N", "-h", "-o", "%N %t %E"))
                raise NoSlurmError(f"{complaint} in {self.folder}: {'; '.join(outputs)[-300:]}")
            time.sleep(0.2)


def _require_programs() -> None:
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and (reason := install(*PACKAGES)):
        raise NoSlurmError(f"{', '.join(missing)} not found; {reason}")


def _free_ports(n_ports: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n_ports)]
    with ExitStack() as opened:
        for each in sockets:
            opened.enter_context(each).bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
