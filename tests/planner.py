"""Dry runs without paying for Snakemake's imports each time: a process that has them and forks for every call.

Reads one JSON request `{folder, arguments, output}` per line, runs `snakemake` with the arguments in the folder, its
two streams into the file `output`, and prints the exit status. Nothing of affectome is imported before the fork, so
every call sees the sources as they are.
"""

import json
import os
import sys
import traceback

import snakemake.cli
import snakemake.dag
import snakemake.persistence
import snakemake.workflow


def run(folder: str, arguments: list[str], output: str) -> None:
    """Become `snakemake arguments`; never returns."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    status = 1
    try:
        os.chdir(folder)
        snakemake.cli.main(arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
