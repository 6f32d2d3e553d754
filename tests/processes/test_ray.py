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
