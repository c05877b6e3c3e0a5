"""One notebook, executed in a process of its own: ``python -m geocbm.workbench.execute JOB.json``.

The job names the notebook, the output, the parameters and the limit; the outcome is written beside it, so that the
parent needs neither papermill nor a kernel in its own process.
"""

import sys
from pathlib import Path
from typing import Any

from geocbm.files import read_json, write_json
from geocbm.workbench.sync import write_pair


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Execute one notebook with papermill.

    Args:
        job: ``source`` (the percent script), ``notebook`` (where its form for papermill is written), ``output``,
            ``parameters``, ``cwd`` and ``timeout`` (seconds for each cell).

    Returns:
        ``status`` (``ok``, ``failed`` or ``timeout``) and, unless it is ok, ``kind``, ``message`` and ``traceback``.
    """
    import logging

    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # The script is the source of truth: a pair that lags behind it must not be what is executed.
    write_pair(Path(job["source"]), Path(job["notebook"]))
    try:
        papermill.execute_notebook(
            job["notebook"],
            job["output"],
            parameters=job["parameters"],
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            execution_timeout=int(job["timeout"]),
            start_timeout=120,
        )
    except papermill.PapermillExecutionError as failure:
        return {
            "status": "failed",
            "kind": failure.ename,
            "message": str(failure.evalue),
            "traceback": list(failure.traceback),
        }
    except CellTimeoutError:
        return {"status": "timeout", "kind": "timeout", "message": f"a cell took more than {job['timeout']} s"}
    except DeadKernelError:
        message = "the kernel died; most often the machine ran out of memory"
        return {"status": "failed", "kind": "DeadKernelError", "message": message, "traceback": [message]}
    return {"status": "ok"}


def main(arguments: list[str]) -> int:
    """Read the job, execute it, and write ``<job>.result.json``."""
    job_file = Path(arguments[0])
    write_json(job_file.with_suffix(".result.json"), run_job(read_json(job_file)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
