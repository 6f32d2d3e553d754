"""Luthier on a cluster of Ray: `pip install 'luthier[ray]'`.

`trainer` runs a function in several workers of Ray Train, in which `luthier.fit` trains together and goes on after a
worker or a node has died; `tune` does the trials of a study on the cluster.
"""

import shutil
import tempfile
from collections.abc import Callable as Function
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.processes import find_group
from luthier.errors import MissingPackageError, RunError
from luthier.store.checkpoint import checkpoints, step_of
from luthier.training.callbacks import Callback, View

if TYPE_CHECKING:
    from luthier.pipeline.tune import Study

__all__ = ["Report", "run_folder", "trainer", "tune"]

_FOLDER = "luthier-run"


def trainer(
    function: Function[..., Any],
    *,
    num_workers: int | tuple[int, int] = 2,
    config: dict[str, Any] | None = None,
    storage_path: str | None = None,
    name: str | None = None,
    max_failures: int = 3,
    backend: str | None = None,
    resources_per_worker: dict[str, float] | None = None,
) -> Any:
    """Return a `ray.train.torch.TorchTrainer` for a function that calls `luthier.fit`; its `fit()` starts it.

    In the function, `luthier.fit(…, shards=…, run=luthier.ray.run_folder(), callbacks=[luthier.ray.Report()])` trains
    in all workers together. Where one dies, Ray starts them again, and the run goes on from its newest checkpoint: with
    any number of workers up to `shards` it comes to the same bits.

    Args:
        function: Called in each worker, with `config` where it is given.
        num_workers: How many workers; the least and the most of a cluster that changes, for which the most is `shards`.
        config: What the function gets.
        storage_path: Where Ray keeps what is reported: a folder or an address that all nodes reach.
        name: The run's name there; the same name again goes on with it.
        max_failures: How many times the workers are started again; -1 for any number.
        backend: Of torch.distributed; None as Ray chooses.
        resources_per_worker: Such as `{"CPU": 4, "GPU": 1}`.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    _ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        function,
        train_loop_config=config,
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=bool((resources_per_worker or {}).get("GPU")),
            resources_per_worker=resources_per_worker,
        ),
        run_config=RunConfig(
            name=name, storage_path=storage_path, failure_config=FailureConfig(max_failures=max_failures)
        ),
    )


def run_folder() -> Path:
    """Return the folder for this run's record and checkpoints, with what was last reported where it is a new one.

    It is on this node: `Report` carries it to Ray's storage, and a worker on another node finds it again.

    Raises:
        RunError: not called in a worker of Ray Train.
    """
    _ray()
    from ray import train

    try:
        context = train.get_context()
        place = Path(tempfile.gettempdir(), "luthier-ray", context.get_experiment_name(), _FOLDER)
        rank, reported = context.get_world_rank(), train.get_checkpoint()
    except Exception as error:
        raise RunError(
            f"run_folder is for workers of Ray Train: {error}",
            hint="call it in the function that luthier.ray.trainer starts", code="run-not-found",
        ) from error  # fmt: skip
    if rank == 0 and reported is None:  # a new run: what is there is of another of that name
        shutil.rmtree(place, ignore_errors=True)
    elif rank == 0:
        with tempfile.TemporaryDirectory() as beside:
            carried = Path(reported.to_directory(beside))
            if _newest(carried) > _newest(place):  # this node may have gone on since
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(carried, place)
    return place


def _newest(run: Path) -> int:
    """Return the step of a run's newest checkpoint, or -1."""
    return max(map(step_of, checkpoints(run / "checkpoints")), default=-1)


class Report(Callback):
    """Hand each epoch's figures to Ray, and the run's folder as the checkpoint to go on from."""

    in_all_processes = True  # Ray waits until every worker has reported

    def on_epoch_end(self, run: View) -> None:
        """Report the epoch."""
        from ray import train

        figures = {name: value for name, value in run.figures.items() if isinstance(value, int | float)}
        is_writer = (group := find_group()) is None or group.rank == 0
        if not is_writer or run.folder is None:
            train.report({**figures, "epoch": run.epoch})
            return
        with tempfile.TemporaryDirectory() as place:
            kept = Path(place, _FOLDER)
            shutil.copytree(run.folder, kept, ignore=shutil.ignore_patterns("*.part"))
            train.report({**figures, "epoch": run.epoch}, checkpoint=train.Checkpoint.from_directory(str(kept)))


def tune(
    source: Any,
    *,
    run: str | Path,
    target: str | int | Sequence[str | int] = (),
    num_workers: int = 2,
    resources_per_worker: dict[str, float] | None = None,
    **given: Any,
) -> "Study":
    """Search settings as `luthier.tune` does, with trials in several workers of the cluster, and return the study.

    The workers meet in the study's folder. Which worker does a trial, and what is known when it is suggested, depends
    on their speed, so that a study is not repeated by the bit; each trial is.

    Args:
        source: As in `luthier.tune`: a path or an address that each node reads, or a frame.
        run: The study's folder, on storage that all nodes share.
        target: As in `luthier.tune`.
        num_workers: Workers beside this process, which does trials too, and finishes the best one.
        resources_per_worker: Such as `{"CPU": 4}`; a CPU each without it.
        **given: As in `luthier.tune`.

    Raises:
        MissingPackageError: Ray is not installed.
        LuthierError: as `luthier.tune` does.
    """
    from luthier.pipeline.tune import tune as tune_here

    ray = _ray()
    wanted = dict(resources_per_worker or {"CPU": 1})
    options = {"num_cpus": wanted.pop("CPU", 1), "num_gpus": wanted.pop("GPU", 0), "resources": wanted}

    def work() -> int:
        from luthier.pipeline.tune import tune as tune_there

        return len(tune_there(source, target=target, run=run, is_worker=True, **given).trials)

    remote = ray.remote(max_retries=3, **options)(work)
    under_way = [remote.remote() for _ in range(num_workers)]
    try:
        return tune_here(source, target=target, run=run, **given)
    finally:
        for worker in under_way:
            ray.cancel(worker, force=True)


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "luthier.ray needs the package ray, which is not installed",
            hint="pip install 'luthier[ray]'", code="missing-package",
        ) from error  # fmt: skip
    return ray
