import sys
import threading
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from luthier.core.schema import Decoder
from luthier.data.images import (
    choose_input,
    decode,
    decode_all,
    image_statistics,
    list_images,
    pixel_hashes,
    read_image_folder,
)
from luthier.errors import DataError, MissingPackageError

DECODERS: tuple[Decoder, ...] = get_args(Decoder)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def code_of(error: pytest.ExceptionInfo[DataError]) -> str:
    return error.value.code


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_a_class(tmp_path: Path) -> None:
    for name in ("dog/b.PNG", "cat/deep/2.png", "cat/1.png", "cat/.hidden.png", ".git/x.png", "loose.png"):
        save(tmp_path / name, noise(4, 4))
    (tmp_path / "cat" / "notes.txt").write_text("x")
    folder = read_image_folder(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in folder.paths]
    assert names == ["cat/1.png", "cat/deep/2.png", "dog/b.PNG"]
    assert folder.labels == ("cat", "cat", "dog")
    assert folder.notes == (
        "1 images lie beside the class folders and are left out",
        "1 files that are not images are left out",
    )
    assert list_images(tmp_path / "cat") == folder.paths[:2]
    assert list_images(tmp_path / "loose.png") == (tmp_path / "loose.png",)


@pytest.mark.parametrize(
    ("files", "where", "code", "says"),
    [
        ([], "nowhere", "data-no-file", "nowhere"),
        (["1.png", "2.png"], "", "data-no-images", "2 images lie directly in it"),
        (["cat/1.png"], "", "data-one-class", "'cat'"),
        (["cat/1.png", "dog/x.txt"], "", "data-no-images", "'dog'"),
        (["train/a/1.png", "val/a/1.png"], "", "data-image-parts", "train, val"),
        (["cat/1.png"], "cat/1.png", "data-not-folder", "1.png"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path: Path, files: list[str], where: str, code: str, says: str) -> None:
    for name in files:
        save(tmp_path / name, noise(4, 4)) if name.endswith("png") else save(
            tmp_path / (name + ".png"), noise(4, 4)
        ).rename(tmp_path / name)
    with pytest.raises(DataError, match=says) as error:
        read_image_folder(tmp_path / where)
    assert code_of(error) == code


def test_one_class_is_enough_to_evaluate_on(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", noise(4, 4))
    assert read_image_folder(tmp_path, min_classes=1).labels == ("cat",)


# --- the size ---------------------------------------------------------------------------------------------------------


def test_one_size_is_kept_and_others_meet_at_the_median(tmp_path: Path) -> None:
    same = [save(tmp_path / f"{i}.png", noise(5, 7, seed=i)) for i in range(3)]
    assert choose_input(same) == (1, 5, 7)
    large = [save(tmp_path / f"l{i}.png", noise(100 * i, 200 * i, 3)) for i in (1, 2, 3)]
    assert choose_input(large) == (3, 64, 128)
    turned = Image.Exif()
    turned[0x0112] = 6
    assert choose_input([save(tmp_path / "t.jpg", noise(20, 30, 3), exif=turned)]) == (3, 30, 20)


def test_headers_that_cannot_be_read_are_passed_over_unless_all_are(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    assert choose_input([tmp_path / "bad.png", save(tmp_path / "a.png", noise(6, 6))]) == (1, 6, 6)
    with pytest.raises(DataError, match=r"bad\.png") as error:
        choose_input([tmp_path / "bad.png"])
    assert code_of(error) == "data-image-unreadable"


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_pixels_come_back_as_they_were_saved(tmp_path: Path) -> None:
    grey, colour = noise(6, 5), noise(6, 5, 3)
    assert np.array_equal(decode(save(tmp_path / "g.png", grey), channels=1, height=6, width=5), grey[None])
    got = decode(save(tmp_path / "c.png", colour), channels=3, height=6, width=5)
    assert got.dtype == np.uint8
    assert np.array_equal(got, colour.transpose(2, 0, 1))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (0, 0, 0, 128)
    got = decode(save(tmp_path / "a.png", rgba), channels=3, height=2, width=2)
    assert got[:, 0, 0].tolist() == [10, 20, 30]
    assert got[:, 0, 1].tolist() == [127, 127, 127]
    assert got[:, 1].min() == 255
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    path = save(tmp_path / "p.png", palette, transparency=1)
    assert decode(path, channels=3, height=2, width=2).min() == 255
    key = Image.new("L", (2, 2), 7)
    assert decode(save(tmp_path / "k.png", key, transparency=7), channels=1, height=2, width=2).min() == 255


def test_16_bit_grey_is_divided_by_257_whatever_its_range(tmp_path: Path) -> None:
    for top in (200, 65535):
        deep = np.linspace(0, top, 16).astype(np.uint16).reshape(4, 4)
        for name in ("d.png", "d.tif"):
            got = decode(save(tmp_path / name, deep), channels=1, height=4, width=4)[0]
            assert np.array_equal(got, np.rint(deep / 257).astype(np.uint8)), (name, top)


def test_exif_turns_cmyk_and_frames_are_read(tmp_path: Path) -> None:
    left_dark = np.repeat(np.array([[0, 255]], dtype=np.uint8), 8, axis=0).repeat(8, axis=1)  # (8, 16)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees, clockwise: left goes up
    got = decode(save(tmp_path / "t.jpg", left_dark, exif=turned, quality=100), channels=1, height=16, width=8)[0]
    assert got[:6].max() < 20
    assert got[10:].min() > 235
    cmyk = save(tmp_path / "c.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 255)))
    assert decode(cmyk, channels=3, height=8, width=8).max() < 10
    first, second = Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 255)
    gif = save(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert decode(gif, channels=1, height=4, width=4).max() == 0


def test_shrinking_averages(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    got = decode(save(tmp_path / "b.png", board), channels=1, height=8, width=8)
    assert np.abs(got.astype(int) - 127).max() <= 10
    photo = np.asarray(Image.fromarray(noise(8, 8, 3)).resize((1600, 1200), Image.Resampling.BICUBIC))
    path = save(tmp_path / "large.jpg", photo, quality=95)
    exact = np.asarray(Image.open(path).resize((64, 48), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    got = decode(path, channels=3, height=48, width=64)  # by way of the codec's own shrinking
    assert np.abs(got.astype(int) - exact).max() <= 6


def broken(folder: Path) -> dict[str, Path]:
    whole = save(folder / "whole.png", noise(64, 64, 3)).read_bytes()
    jpeg = save(folder / "whole.jpg", noise(64, 64, 3)).read_bytes()
    files = {
        "empty": b"",
        "text": b"hello, world, this is no image",
        "cut": whole[: len(whole) // 2],
        "cutjpeg": jpeg[: len(jpeg) // 2],
        "flipped": whole[:200] + bytes(100) + whole[300:],
        "bomb": b"P5 12000 12000 255 ",  # above the limit, below twice the limit: Pillow only warns
    }
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)
    save(folder / "float.tif", np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    return {**{name: folder / f"{name}.png" for name in files}, "float": folder / "float.tif"}


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    files = {**broken(tmp_path), "gone": tmp_path / "gone.png", "folder": tmp_path}
    says = {"empty": "0 bytes", "text": "not an image", "bomb": "safe", "float": "8 or 16 bits", "gone": "No such file"}
    for name, path in files.items():
        with pytest.raises(DataError, match=says.get(name)) as error:
            decode(path, channels=3, height=8, width=8)
        assert code_of(error) == "data-image-unreadable"
        assert str(path) in error.value.message


def test_decode_all_keeps_order_and_counts_what_is_broken(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i:03}.png", noise(8, 8, seed=i)) for i in range(70)]
    pixels, errors = decode_all(paths, channels=1, height=8, width=8, workers=4)
    assert not errors
    assert all(np.array_equal(pixels[i, 0], noise(8, 8, seed=i)) for i in range(70))
    paths[3].write_bytes(b"")
    paths[60].write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 of 70 images cannot be read; the first: .*003\.png"):
        decode_all(paths, channels=1, height=8, width=8)
    pixels, errors = decode_all(paths, channels=1, height=8, width=8, on_error="keep")
    assert [place for place, _ in errors] == [3, 60]
    assert not pixels[[3, 60]].any()
    assert decode_all([], channels=1, height=8, width=8)[0].shape == (0, 1, 8, 8)


def test_threads_leave_the_warning_filters_as_found(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i:03}.png", noise(8, 8, seed=i)) for i in range(200)]
    before, running = warnings.filters[:], threading.active_count()
    for _ in range(5):
        decode_all(paths, channels=1, height=8, width=8, workers=8)
    assert warnings.filters == before
    assert threading.active_count() == running


# --- another decoder ----------------------------------------------------------------------------------------------


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / (9 + c) + columns / (13 - c)) for c in range(channels)]
    return np.stack(waves, axis=2).squeeze().astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (64, 32), (160, 121), (200, 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_simplejpeg_reads_nearly_what_pillow_reads(tmp_path: Path, height: int, width: int, channels: int) -> None:
    path = save(tmp_path / "a.jpg", smooth(height, width, channels), quality=92)
    ours = decode(path, channels=channels, height=24, width=24, decoder="simplejpeg").astype(int)
    theirs = decode(path, channels=channels, height=24, width=24).astype(int)
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).mean() < 4


def test_what_is_no_plain_jpeg_is_left_to_pillow(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth(60, 40))
    turned = picture.getexif()
    turned[0x0112] = 6
    paths = [
        save(tmp_path / "a.png", picture),
        save(tmp_path / "b.jpg", picture, exif=turned),
        save(tmp_path / "c.jpg", picture.convert("CMYK")),
    ]
    for path in paths:
        ours = decode(path, channels=3, height=16, width=16, decoder="simplejpeg")
        assert (ours == decode(path, channels=3, height=16, width=16)).all(), path
    straight = picture.getexif()
    straight[0x0112] = 1
    path = save(tmp_path / "d.jpg", picture, exif=straight)
    assert decode(path, channels=3, height=16, width=16, decoder="simplejpeg").shape == (3, 16, 16)


def test_a_cut_jpeg_is_an_error_by_either_decoder(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(80, 80, 3))
    path.write_bytes(path.read_bytes()[:900])
    for decoder in DECODERS:
        with pytest.raises(DataError, match="cannot be read") as error:
            decode(path, channels=3, height=16, width=16, decoder=decoder)
        assert code_of(error) == "data-image-unreadable"


def test_a_decoder_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    path = save(tmp_path / "a.jpg", noise(8, 8, 3))
    with pytest.raises(MissingPackageError, match="simplejpeg"):
        decode_all([path], channels=3, height=8, width=8, decoder="simplejpeg")


# --- hashes and statistics --------------------------------------------------------------------------------------------


def test_equal_images_have_equal_hashes() -> None:
    pixels = noise(50, 3, 4, 5)
    pixels[7] = pixels[31]
    hashes = pixel_hashes(pixels)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 49
    assert hashes[7] == hashes[31]
    strided = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(pixel_hashes(strided), hashes)
    assert not np.array_equal(pixel_hashes(pixels.reshape(50, 3, 5, 4)), hashes)


def test_statistics_are_of_the_training_rows() -> None:
    pixels = noise(300, 3, 40, 41)
    pixels[:, 2] = 9
    rows = np.arange(0, 300, 2)
    means, stds = image_statistics(pixels, rows)
    chosen = pixels[rows].astype(np.float64) / 255
    assert means == pytest.approx(chosen.mean(axis=(0, 2, 3)), rel=1e-12)
    assert stds == pytest.approx([*chosen.std(axis=(0, 2, 3))[:2], 1.0], rel=1e-12)
    far = pixels.astype(np.float32) + 1e6  # a mean of squares less a squared mean would lose all digits here
    assert image_statistics(far, rows)[1][0] == pytest.approx(far[rows][:, 0].astype(np.float64).std(), rel=1e-9)
