"""The job that submitit pickles: one call per rank. It must not import torch, since it is unpickled before torch."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from dist_dash.ranks.launched import Launcher
from dist_dash.runs.folder import RunFolder
from dist_dash.runs.process import FINISHED, TO_BE_CONTINUED, guarded, leave
from dist_dash.training.rank import stoppable, train_on_this_rank

FOLLOWED = "DIST_DASH_FOLLOWED"
"""Set where the batch script judges how the step ended, and requeues the job: `requeue.py`."""


@dataclass(frozen=True)
class TrainJob:
    """`dist-dash train` as one task per rank.

    Args:
        run: the run folder.
        arguments: of `dist-dash train`; `--fresh` has been done already when the job was submitted.
        attempts: failures in a row without progress after which the run is given up.
        joins: the folder in which a member that is trained alone is joined with the others; None for all members.
    """

    run: str
    arguments: tuple[str, ...]
    attempts: int = 3
    joins: str | None = None

    def __call__(self) -> int:
        """Train on this rank; a call that does not finish leaves no result file, which would count as finished."""
        environment = JobEnvironment()
        environment.paths.result_pickle.unlink(missing_ok=True)  # of an earlier life of the job
        status = guarded(lambda: self._train(environment))
        if status != FINISHED:
            stopped = RunFolder(self.run).to_continue
            again = [number.name for number in Launcher().requeue_signals]
            saved = status == TO_BE_CONTINUED and stopped.exists() and stopped.read_text().strip() in again
            if saved and FOLLOWED not in os.environ:
                signal.raise_signal(signal.SIGUSR2)  # submitit's turn: rank 0 calls `checkpoint` and starts again
            leave(status)
        return FINISHED

    def checkpoint(self) -> DelayedSubmission:
        """The call that submitit starts again: this one. All ranks have saved when they agreed to stop."""
        return DelayedSubmission(self)

    def _train(self, environment: JobEnvironment) -> int:
        first = environment.global_rank == 0
        with stoppable(speaks=first) as stop:
            if environment.cluster == "local":
                TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
                os.environ["MASTER_ADDR"] = "127.0.0.1"  # all ranks are on this host
                share = max(1, (os.cpu_count() or 1) // environment.num_tasks)
                os.environ.setdefault("OMP_NUM_THREADS", str(share))
            # Not `fresh`, which may stand in the recipe: a job that is started again would lose everything.
            status = train_on_this_rank([*self.arguments, f"--run={self.run}"], stop, may_start_over=False)
        if status == FINISHED and first and FOLLOWED not in os.environ:
            self.join()
        return status

    def join(self) -> None:
        """Join the members that were trained alone, where this was the last of them.

        Where there is a batch script, it calls this: srun ends ranks that stay longer than the others.
        """
        if self.joins is not None:
            from dist_dash.ensembles.join import join_if_complete

            join_if_complete(Path(self.joins))
