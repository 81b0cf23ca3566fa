"""Run commands one after the other in this process, under a limit of memory, and state how each ended.

Reads one JSON list of arguments a line, answers with one JSON object a line. What a command prints goes no further.
"""

import contextlib
import io
import json
import os
import resource
import sys
import traceback


def run(arguments: list[str]) -> dict:
    """Exit status, what was printed, and a traceback where there should be none."""
    from muse_pipeline.cli.main import main

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
            status = main(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:
        return {"status": 1, "output": output.getvalue(), "traceback": traceback.format_exc()}
    return {"status": status, "output": output.getvalue(), "traceback": ""}


def serve(memory_bytes: int) -> None:
    """Answer until no one asks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print themselves
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
