"""A process from which the jobs of slides are forked, so that they need not load libraries.

It is used only if there are several slides and jobs run on this machine in Snakemake's environment.
"""

import shlex

WARM_MUSE = workflow.source_path("../scripts/warm_muse.py")
FORKS = {"image", "detect", "nuclei"}  # rules whose jobs are forked; each runs the `muse` command of the same name
MAX_SOCKET_BYTES = 100  # largest length of a socket's path


def start_warm_muse():
    """Start the process, and put a `muse` that calls it at the front of the jobs' PATH."""
    slides = {job.wildcards.slide for job in TERMINAL.job_of_id.values() if job.rule.name in FORKS}
    is_here = workflow.local_exec and not workflow.deployment_settings.deployment_method
    if len(slides) < 2 or not is_here or sys.platform != "linux" or os.environ.get("MUSE_START_METHOD") == "spawn":
        return
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, command = f"{folder}/socket", Path(folder, "muse")
    if len(os.fsencode(address)) > MAX_SOCKET_BYTES:
        return
    warm = shlex.join([sys.executable, "-I", "-S", WARM_MUSE, "call", address])
    itself = shlex.join([sys.executable, "-P", "-m", "muse_pipeline.cli.main"])
    verbs = "|".join(sorted(FORKS))
    script = f'#!/bin/sh\ncase $1 in {verbs}) exec {warm} "$@" ;; *) exec {itself} "$@" ;; esac\n'
    command.write_text(script, encoding="utf-8")
    command.chmod(0o700)
    process = subprocess.Popen(
        [sys.executable, WARM_MUSE, "serve", address], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    atexit.register(process.communicate)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
