"""Trains once for each of some points and dies there: ``python -m tests.training.killed JOB.json``.

The job holds `points` (numbers) and `config`, whose `output_dir` is a folder for all runs; the run that dies at point 7
is in `7/` there. Each is a fork of one process that has only imported, because importing takes longer than training.
Prints the list of exit statuses as JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch

from quatrain.training import config_from_dict, saving, train
from tests.training.faults import FaultyFiles, kill


def train_until(settings: dict[str, Any], point: int) -> NoReturn:
    """Train; the process ends at the point, or with 0 if the run has none of that number."""
    files = FaultyFiles(kill, [point])
    saving.Files = lambda: files
    settings = settings | {"output_dir": f"{settings['output_dir']}/{point}"}
    train(None, None, config_from_dict(settings), progress=False)
    sys.exit(0)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    statuses = []
    for point in job["points"]:
        child = os.fork()
        if child == 0:
            # An error or an end leaves `main` from here: the fork never goes on as the process that it came from.
            train_until(job["config"], point)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
