import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from luthier.data.arrays import as_frame, as_pixels, layout, read_npz, target_frame
from luthier.errors import DataError

NUMBERS = np.arange(12, dtype=np.float32).reshape(4, 3)


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_x_and_y_come_back(tmp_path: Path) -> None:
    found = read_npz(save(tmp_path / "a.npz", X=NUMBERS, y=np.array(["a", "b", "a", "b"]), extra=NUMBERS))
    assert np.array_equal(found.x, NUMBERS)
    assert found.y is not None
    assert found.y.tolist() == ["a", "b", "a", "b"]
    assert found.notes == ("extra in a.npz: left out, only x and y are read",)
    assert read_npz(save(tmp_path / "b.npz", x=NUMBERS)).y is None


def test_numbers_come_in_the_machines_byte_order(tmp_path: Path) -> None:
    found = read_npz(save(tmp_path / "a.npz", x=NUMBERS.astype(">f8"), y=np.arange(4, dtype=">i2")))
    assert found.y is not None
    assert found.x.dtype.isnative
    assert found.y.dtype.isnative
    assert np.array_equal(found.x, NUMBERS)


@pytest.mark.parametrize(
    ("arrays", "code", "says"),
    [
        ({"images": NUMBERS, "labels": NUMBERS}, "data-npz-keys", "images, labels"),
        ({"x": NUMBERS, "X": NUMBERS}, "data-npz-keys", "x, X"),
        ({}, "data-npz-keys", "nothing"),
        ({"x": np.array([{}, []], dtype=object)}, "data-npz-pickle", "^x in"),
        ({"x": NUMBERS, "y": np.array([None] * 4)}, "data-npz-pickle", "^y in"),
        ({"x": NUMBERS, "y": np.arange(3)}, "data-length-mismatch", "4 rows and y has 3"),
        ({"x": NUMBERS[:0], "y": NUMBERS[:0]}, "data-no-rows", "no rows"),
        ({"x": np.float32(3)}, "data-no-rows", "no rows"),
        ({"x": NUMBERS, "y": np.zeros((4, 2, 2))}, "data-npz-shape", r"\(4, 2, 2\)"),
        ({"x": np.array(["a", "b"])}, "data-not-numeric", "<U1"),
        ({"x": np.array([1j])}, "data-not-numeric", "complex"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        read_npz(save(tmp_path / "a.npz", **arrays))
    assert error.value.code == code


def test_wrong_files_are_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", x=np.random.default_rng(0).normal(size=(50, 9))).read_bytes()
    single = io.BytesIO()
    np.save(single, NUMBERS)
    files = {
        "cut": (whole[:-40], "data-file-damaged"),
        "changed": (whole[:300] + bytes(50) + whole[350:], "data-file-damaged"),
        "text": (b"a,b\n1,2\n", "data-file-damaged"),
        "pickle": (b"\x80\x04N.", "data-file-damaged"),
        "empty": (b"", "data-file-empty"),
        "single": (single.getvalue(), "data-npz-keys"),
    }
    for name, (data, code) in files.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(DataError, match=name) as error:
            read_npz(tmp_path / f"{name}.npz")
        assert error.value.code == code, name
    with pytest.raises(DataError, match="there is no file") as error:
        read_npz(tmp_path / "hole.npz")
    assert "'whole.npz'" in error.value.hint
    with pytest.raises(DataError, match="is a folder"):
        read_npz(tmp_path)


def test_a_header_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz")
    assert error.value.code == "data-file-damaged"


def test_the_layout_follows_the_dimensions() -> None:
    shapes = {(4,): "table", (4, 3): "table", (4, 5, 5): "images", (4, 3, 5, 5): "images", (4, 5, 5, 3): "images"}
    assert {shape: layout(np.zeros(shape)) for shape in shapes} == shapes
    for shape in ((), (2, 3, 4, 5, 6)):
        with pytest.raises(DataError, match="x has shape"):
            layout(np.zeros(shape))


def test_channels_are_found(tmp_path: Path) -> None:
    shapes = {
        (2, 8, 9): (2, 1, 8, 9),
        (2, 3, 8, 9): (2, 3, 8, 9),
        (2, 8, 9, 3): (2, 3, 8, 9),
        (2, 3, 8, 4): (2, 3, 8, 4),
    }
    for shape, expected in shapes.items():
        x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        got = as_pixels(x)
        assert got.shape == expected
        assert got.flags.c_contiguous
        assert got[1, 0, 2, 3] == (x[1, 2, 3, 0] if shape[-1] == 3 else x.reshape(expected)[1, 0, 2, 3])
    assert read_npz(save(tmp_path / "a.npz", x=np.zeros((2, 3, 8, 4)))).notes == (
        "x of shape (2, 3, 8, 4) is taken as (N, C, H, W), channels first",
    )
    for shape in ((2, 8, 9, 5), (4, 3), (2, 0, 5)):
        with pytest.raises(DataError) as error:
            as_pixels(np.zeros(shape))
        assert error.value.code == "data-npz-shape"


def test_types_of_pixels() -> None:
    x = np.array([[[0, 1], [200, 255]]])
    assert as_pixels(x).dtype == np.uint8
    assert as_pixels(x - 1).dtype == np.float32
    assert as_pixels(x, value_scale=1.0).dtype == np.float32
    assert as_pixels(x.astype(bool)).ravel().tolist() == [0, 255, 255, 255]
    assert as_pixels(x / 255).ravel()[2] == np.float32(200 / 255)
    rgba = np.array([10, 20, 30, 0, 10, 20, 30, 255, 0, 0, 0, 128], dtype=np.uint8).reshape(1, 1, 3, 4)
    assert as_pixels(rgba.repeat(2, axis=1))[0, :, 0].T.tolist() == [[255] * 3, [10, 20, 30], [127] * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.zeros((5, 4, 4))
    x[3, 1, 1] = bad
    with pytest.raises(DataError, match="the first in row 4") as error:
        as_pixels(x)
    assert error.value.code == "data-not-finite"


def test_frames() -> None:
    frame = as_frame(np.array([[0.1, np.nan], [3, 4]], dtype=np.float32))
    assert frame.columns == ["x0", "x1"]
    assert frame["x0"].to_list() == [0.1, 3.0]  # as it is written, not the float64 nearest to the float32
    assert as_frame(np.arange(3, dtype=np.float16))["x0"].to_list() == [0, 1, 2]
    assert target_frame(np.array([b"a", b"b"]), ["y"])["y"].dtype == pl.String
    assert target_frame(np.zeros((2, 2), dtype=bool), ["a", "b"]).dtypes == [pl.Boolean] * 2
    with pytest.raises(DataError, match="1 target"):
        target_frame(np.zeros((2, 2)), ["y"])
