"""`fit` inside workers of Ray Train: the bits of one process, also where a worker dies and all are started again."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import luthier

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]


def work(config: dict[str, Any]) -> None:
    import luthier

    torch.set_num_threads(1)
    torch.manual_seed(3)
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    class Die(luthier.Callback):
        def on_epoch_end(self, run: Any) -> None:
            died = Path(config["run"] + ".died")
            if config["dies"] and run.epoch == 2 and not died.exists():
                died.touch()
                os._exit(1)

    luthier.fit(
        net, (x[:400], y[:400]), (x[400:], y[400:]), criterion="cross-entropy", optimizer="Adam", lr=0.01, epochs=6,
        run=config["run"], seed=1, shards=4, checkpoint_every_steps=3, check=False, verbose=False, callbacks=[Die()],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_ray_give_the_bits_of_one_process(tmp_path: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=3, include_dashboard=False, runtime_env={"env_vars": env})
    try:
        for name, dies in (("whole", False), ("killed", True)):
            TorchTrainer(
                work,
                train_loop_config={"run": str(tmp_path / name), "dies": dies},
                torch_config=TorchConfig(backend="gloo"),
                scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(
                    storage_path=str(tmp_path / "store"), name=name, failure_config=FailureConfig(max_failures=2)
                ),
            ).fit()
    finally:
        ray.shutdown()
    work({"run": str(tmp_path / "alone"), "dies": False})
    assert (tmp_path / "killed.died").exists()
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "whole", "killed")]
    assert len({hashlib.sha256(content).hexdigest() for content in files}) == 1
    assert luthier.load(tmp_path / "killed", module=nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))


def work_anywhere(config: dict[str, Any]) -> None:
    import luthier.ray

    torch.set_num_threads(1)
    torch.manual_seed(3)
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    class Die(luthier.Callback):
        in_all_processes = True

        def on_epoch_end(self, run: Any) -> None:
            rank = torch.distributed.get_rank()
            died = Path(f"{config['died']}-{rank}")
            if run.epoch == 2 + rank and not died.exists():
                died.touch()
                os._exit(1)

    result = luthier.fit(
        net, (x[:400], y[:400]), (x[400:], y[400:]), criterion="cross-entropy", optimizer="Adam", lr=0.01, epochs=6,
        run=luthier.ray.run_folder(), seed=1, shards=4, checkpoint_every_steps=3, check=False, verbose=False,
        callbacks=[luthier.ray.Report(), Die()],
    )  # fmt: skip
    if torch.distributed.get_rank() == 0:
        result.save(config["model"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_nodes_whose_workers_die_gives_the_same_bits(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    import luthier.ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    ray.init(address=cluster.address, runtime_env={"env_vars": env})
    try:
        found = luthier.ray.trainer(
            work_anywhere, num_workers=2, config={"died": str(tmp_path / "died"), "model": str(tmp_path / "model")},
            storage_path=str(tmp_path / "store"), name="pair", backend="gloo", resources_per_worker={"CPU": 1},
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert found.metrics["epoch"] == 5
    assert {path.name for path in tmp_path.glob("died-*")} == {"died-0", "died-1"}
    work({"run": str(tmp_path / "alone"), "dies": False})
    files = [(tmp_path / name).read_bytes() for name in ("alone/model.safetensors", "model")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trials_of_a_study_are_done_by_workers(tmp_path: Path) -> None:
    import polars as pl

    import luthier.ray

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=draw)
    frame = pl.DataFrame({f"x{i}": x[:, i].numpy() for i in range(3)}).with_columns(y=(x[:, 0] * x[:, 1]).numpy())
    frame.write_csv(tmp_path / "data.csv")
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=3, include_dashboard=False, runtime_env={"env_vars": env})
    try:
        study = luthier.ray.tune(
            str(tmp_path / "data.csv"), target="y", trials=6, run=tmp_path / "study", epochs=4, seed=0
        )
    finally:
        ray.shutdown()
    assert len(study.trials) == 6
    assert study.is_done
    assert study.best is not None
