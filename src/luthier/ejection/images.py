"""The facts and the settings of `data.py` for a run over images: a folder of them, or arrays."""

from dataclasses import dataclass
from typing import Any

from luthier.core.schema import ImageInput, Schema, Target
from luthier.ejection.shake import Assigned


@dataclass(frozen=True)
class ImageData:
    """What a project's reader needs.

    Attributes:
        schema: With the size and the statistics of the images.
        parts: Names of the parts, `train` and perhaps `valid`.
        files: For arrays: by part, the file as the project names it, and the SHA-256 of its bytes.
        paths: For folders: by part, the images as the project names them.
        digests: For folders: by part, the SHA-256 over all images, one after the other.
        codes: For arrays of classes: what each value of `y` means.
        pixels: For arrays: those of the training file.
        keys: For arrays: what inputs and targets are called in the file.
    """

    schema: Schema
    parts: list[str]
    files: dict[str, tuple[str, str]]
    paths: dict[str, list[str]]
    digests: dict[str, str]
    codes: dict[str, int]
    pixels: Any = None
    keys: tuple[str, str] = ("x", "y")

    @property
    def image(self) -> ImageInput:
        """Size and statistics."""
        assert self.schema.image is not None
        return self.schema.image


def image_facts(data: ImageData) -> dict[str, Any]:
    """Return statistics, vocabularies and file names as plain values: what `data.json` holds."""
    facts: dict[str, Any] = {"pixels": pixel_facts(data.image)}
    if data.paths:
        classes = list(data.schema.targets[0].classes)
        return {**facts, "images": data.paths, "sha256": data.digests, "classes": classes}
    facts["files"] = {part: list(file) for part, file in data.files.items()}
    if data.schema.task == "regression":
        return {**facts, "targets": [target_scale(target) for target in data.schema.targets]}
    return facts if data.schema.task == "multilabel" else {**facts, "codes": data.codes}


def image_values(data: ImageData) -> dict[str, Any]:
    """Return what the constants of `luthier/plain/project/data.py` are."""
    values = {"PARTS": tuple(data.parts), "TASK": data.schema.task, **pixel_values(data.image)}
    if data.paths:
        return {**values, "SOURCE": "folder"}
    x, y = data.keys
    return {
        **values,
        "SOURCE": "arrays",
        "INPUTS": x,
        "ANSWERS": y,
        "DTYPE": Assigned("np.uint8" if data.image.value_scale == 255.0 else "np.float32"),
        "HAS_OPACITY": data.image.channels == 3 and _channels(data.pixels) == 4,
    }


def _channels(pixels: Any) -> int:
    """Return the channels of arrays of images, which stand first or last."""
    return 1 if pixels.ndim == 3 else int(pixels.shape[1] if pixels.shape[1] in (1, 3, 4) else pixels.shape[3])


def pixel_facts(image: ImageInput) -> list[Any]:
    """Return the statistics of training images."""
    return [list(image.means), list(image.stds), image.value_scale]


def pixel_values(image: ImageInput) -> dict[str, Any]:
    """Return how images are read."""
    size = (image.channels, image.height, image.width)
    return {"SHAPE": size, "HAS_CODEC": image.decoder == "simplejpeg"}


def target_scale(target: Target) -> dict[str, Any]:
    """Return how a number to be predicted is scaled."""
    return {"transform": target.transform, "unit": target.unit, "mean": target.mean, "std": target.std}
