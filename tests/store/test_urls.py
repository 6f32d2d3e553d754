"""Bundles at addresses: file, memory, and S3 of a server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

import luthier
from luthier.errors import BundleError, MissingPackageError, RunError

TABLE = {"x": [float(i % 7) for i in range(60)], "y": ["a", "b"] * 30}


@pytest.fixture(scope="module")
def model() -> luthier.Model:
    return luthier.train(TABLE, target="y", epochs=1, seed=0, check=False, verbose=False).model


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", address)):
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="models")
    yield "s3://models"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    running.stop()


def predicts_alike(one: luthier.Model, other: luthier.Model) -> bool:
    return bool((one.predict_proba(TABLE) == other.predict_proba(TABLE)).all())


def test_a_file_and_memory(model: luthier.Model, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    model.save(f"file://{tmp_path}/a%20b/model.safetensors")
    assert predicts_alike(luthier.load(tmp_path / "a b"), model)
    assert predicts_alike(luthier.load(f"file://{tmp_path}/a%20b"), model)
    model.save("memory://models/model.safetensors")
    for url in ("memory://models/model.safetensors", "memory://models", "memory://models/"):
        assert predicts_alike(luthier.load(url), model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bucket(model: luthier.Model, bucket: str) -> None:
    model.save(f"{bucket}/churn/model.safetensors")
    assert predicts_alike(luthier.load(f"{bucket}/churn"), model)
    with pytest.raises(BundleError, match=r"s3://models/other/model\.safetensors cannot be fetched"):
        luthier.load(f"{bucket}/other")
    with pytest.raises(RunError, match=r"cannot write s3://none/model\.safetensors"):
        model.save("s3://none/model.safetensors")


def test_errors_name_the_address() -> None:
    with pytest.raises(BundleError, match=r"memory://none/model\.safetensors cannot be fetched: FileNotFoundError"):
        luthier.load("memory://none")
    fsspec.filesystem("memory").pipe_file("/bad.safetensors", b"no bundle")
    with pytest.raises(BundleError, match=r"^memory://bad\.safetensors cannot be read"):
        luthier.load("memory://bad.safetensors")
    with pytest.raises(BundleError, match="Protocol not known: nothing"):
        luthier.load("nothing://x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingPackageError, match="Install s3fs") as found:
        luthier.load("s3://bucket/model.safetensors")
    assert found.value.hint == "pip install 'luthier[s3]'"
