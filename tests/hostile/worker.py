"""Run commands one after the other in this process, under a memory limit, and report how each
ended.

It reads a JSON list of arguments per line, and answers with a JSON object per line. What commands
print is captured.
"""

import contextlib
import io
import json
import os
import resource
import sys
import traceback


def run(arguments: list[str]) -> dict:
    """The exit status and the output of a command, and the traceback of any exception that it did
    not handle.
    """
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
    """Answer until the standard input is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that write to descriptor 1 now write to standard error
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
