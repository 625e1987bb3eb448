"""Which executor runs the workers of a study, and on which devices."""

from __future__ import annotations

from collections.abc import Sequence

from studies.spec import StudySpec
from sweeper.devices import default_devices
from sweeper.errors import UsageError
from sweeper.executors.base import Executor
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor


def choose_executor(
    spec: StudySpec, devices: Sequence[str] | None, in_process: bool, cluster: str | None, workers: int | None = None
) -> tuple[Executor, list[str]]:
    """Return what runs the workers, and the device of each.

    Args:
        spec: the study, which may say how many workers.
        devices: one worker each; every GPU, or else one `cpu` a core, if None.
        in_process: train in this process, with one worker.
        cluster: address of a Ray cluster; None: processes of this machine.
        workers: how many, whatever the study says.

    Raises:
        UsageError: there is no such cluster, or Ray is not installed.
    """
    workers = workers or spec.array.workers
    if cluster is not None:
        try:
            from sweeper.executors.ray import RayExecutor
        except ModuleNotFoundError:
            raise UsageError("a Ray cluster needs the package ray: pip install 'sweeper[ray]'") from None
        on_cluster = RayExecutor(cluster)
        return on_cluster, list(devices) if devices else on_cluster.devices(workers)
    chosen = list(devices) if devices else default_devices(1 if in_process else workers)
    return InlineExecutor() if in_process else LocalExecutor(warm=len(chosen)), chosen
