"""`data.py` and its facts for a run over images: a folder of them, or arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.recipe import Recipe
from luthier.core.schema import ImageInput, Schema
from luthier.data.augment import NUM_DRAWS
from luthier.ejection.shake import source_of
from luthier.ejection.text import indented, literal, script
from luthier.plain import cells as plain


@dataclass(frozen=True)
class ImageData:
    """What `write_images` needs.

    Attributes:
        schema: With the size and the statistics of the images.
        recipe: What is done to training images.
        parts: Names of the parts, `train` and perhaps `valid`.
        files: For arrays: by part, the file as the project names it, and the SHA-256 of its bytes.
        paths: For folders: by part, the images as the project names them.
        digests: For folders: by part, the SHA-256 over all images, one after the other.
        codes: For arrays of classes: what each value of `y` means.
        pixels: For arrays: those of the training file.
        keys: For arrays: what inputs and targets are called in the file.
    """

    schema: Schema
    recipe: Recipe
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
    facts: dict[str, Any] = {"means": list(data.image.means), "stds": list(data.image.stds)}
    if data.paths:
        classes = list(data.schema.targets[0].classes)
        return {**facts, "images": data.paths, "sha256": data.digests, "classes": classes}
    facts["files"] = {part: list(file) for part, file in data.files.items()}
    if data.schema.task == "regression":
        targets = data.schema.targets
        return {**facts, "targets": [[target.transform, target.unit, target.mean, target.std] for target in targets]}
    if data.schema.task == "multilabel":
        return facts
    return {**facts, "codes": data.codes}


def write_images(data: ImageData) -> str:
    """Return the text of `data.py`."""
    imports = ["import hashlib", *([] if data.paths else ["import io"]), "import json", "from pathlib import Path"]
    imports += ["from typing import Any", ""] if data.schema.task == "regression" else [""]
    constants = [
        "HERE = Path(__file__).resolve().parent",
        'FACTS = json.loads((HERE / "data.json").read_text(encoding="utf-8"))',
        f'MEANS, STDS, SCALE = FACTS["means"], FACTS["stds"], {literal(data.image.value_scale)}',
    ]
    constants += draws_constant(data.recipe)
    return script(
        f"Read the {'image files' if data.paths else 'arrays'} as the run did, with statistics that lie beside.",
        [
            *imports,
            "import numpy as np",
            *jpeg_import(data.image),
            "import torch",
            *(["from PIL import Image, ImageOps"] if data.paths else []),
        ],
        constants,
        [
            *(_folder(data) if data.paths else _arrays(data)),
            *image_functions(data.image, data.recipe),
            source_of(plain, ["standardised"]) if data.schema.task == "regression" else None,
        ],
    )


def draws_constant(recipe: Recipe) -> list[str]:
    """Return the line that says how many random numbers an image takes, where it takes any."""
    number = sum(NUM_DRAWS[kind] for kind in recipe.augment)
    return [f"NUM_DRAWS = {number}  # random numbers an image"] if number else []


def image_functions(image: ImageInput, recipe: Recipe) -> list[str]:
    """Return the functions between pixels and what the network takes."""
    return [_NORMALISE, *_augment(image, recipe)]


_NORMALISE = '''
def normalise(pixels):
    """Return images (N, C, H, W) as (pixel / SCALE - mean) / std."""
    scale = torch.tensor([1 / (SCALE * std) for std in STDS], dtype=torch.float32).view(-1, 1, 1)
    shift = torch.tensor([-mean / std for mean, std in zip(MEANS, STDS)], dtype=torch.float32).view(-1, 1, 1)
    return pixels.float() * scale + shift
'''


def jpeg_import(image: ImageInput | None) -> list[str]:
    """Return the import of the decoder, where it is not Pillow."""
    return ["import simplejpeg"] if image is not None and image.decoder == "simplejpeg" else []


def decode_function(image: ImageInput) -> str:
    """Return the function that reads one image file."""
    size = f"({image.width}, {image.height})"
    grey = """        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # 16 bits
            image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
"""
    pixels = "np.asarray(image)[None]" if image.channels == 1 else "np.asarray(image).transpose(2, 0, 1)"
    jpeg = ""
    if image.decoder == "simplejpeg":
        colours = literal("GRAY" if image.channels == 1 else "RGB")
        jpeg = f"""    content = path.read_bytes()
    with Image.open(path) as opened:
        turned = opened.getexif().get(0x0112, 1) != 1
    is_jpeg = content.startswith(b"\\xff\\xd8\\xff")
    if is_jpeg and not turned and simplejpeg.decode_jpeg_header(content)[2] not in ("CMYK", "YCCK"):
        try:
            pixels = simplejpeg.decode_jpeg(content, {colours}, min_height={image.height}, min_width={image.width})
            if pixels.shape[:2] != ({image.height}, {image.width}):
                image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
                size = {(image.height, image.width)}
                return torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)[0].numpy()
            return pixels.transpose(2, 0, 1)
        except ValueError:
            pass  # four colours, or damaged: Pillow reads it, or says what is wrong
"""
    return f'''
def decode(path):
    """Return one image as uint8 (C, H, W): turned as its EXIF says, on white, resized."""
{jpeg}    with Image.open(path) as opened:
        opened.draft(None, {literal((max(image.height, image.width),) * 2)})
        image = ImageOps.exif_transpose(opened)
{grey}        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert({literal("L" if image.channels == 1 else "RGB")})
        if image.size != {size}:
            image = image.resize({size}, Image.Resampling.BILINEAR)
        return {pixels}
'''


def _folder(data: ImageData) -> list[str]:
    code = (
        "torch.tensor([[float(label)] for label in labels])" if data.schema.task == "binary" else "torch.tensor(labels)"
    )
    return [
        f'''
def read():
    """Return {" and ".join(data.parts)}, each a dict of tensors: pixels (N, C, H, W) and targets."""
    return [tensors(part) for part in {literal(tuple(data.parts))}]
''',
        f'''
def tensors(part):
    """Return one part of the data."""
    paths = [HERE / path for path in FACTS["images"][part]]
    sha256 = hashlib.sha256()
    for path in paths:
        sha256.update(path.read_bytes())
    if sha256.hexdigest() != FACTS["sha256"][part]:
        raise SystemExit(f"the {{part}} images are not those that the run read")
    labels = [FACTS["classes"].index(path.relative_to(HERE / FACTS["roots"][part]).parts[0]) for path in paths]
    pixels = torch.from_numpy(np.stack([decode(path) for path in paths]))
    return {{"pixels": pixels, "targets": {code}}}
''',
        decode_function(data.image),
    ]


def _arrays(data: ImageData) -> list[str]:
    x, y = data.keys
    return [
        f'''
def read():
    """Return {" and ".join(data.parts)}, each a dict of tensors: pixels (N, C, H, W) and targets."""
    rows = dict(np.load(HERE / "split.npz"))
    return [tensors(part, rows[part]) for part in {literal(tuple(data.parts))}]
''',
        f'''
def tensors(part, rows):
    """Return one part of the data."""
    path, sha256 = FACTS["files"][part]
    content = (HERE / path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{{path}} is not the file that the run read")
    arrays = np.load(io.BytesIO(content))
    x, y = arrays[{literal(x)}][rows], arrays[{literal(y)}][rows]
{indented(_shaped(data), 4)}
{indented(_array_targets(data), 4)}
    return {{"pixels": torch.from_numpy(np.ascontiguousarray(x)), "targets": targets}}
''',
    ]


def _shaped(data: ImageData) -> str:
    """Return the lines that make `(N, C, H, W)` of `x`, of uint8 or float32."""
    x = data.pixels
    lines, shape = [], x.shape
    if x.ndim == 3:
        lines.append("x = x[:, None]")
        shape = (shape[0], 1, *shape[1:])
    elif shape[1] not in (1, 3, 4):
        lines.append("x = x.transpose(0, 3, 1, 2)")
        shape = (shape[0], shape[3], shape[1], shape[2])
    if x.dtype == np.bool_:
        lines.append("x = x.astype(np.uint8) * np.uint8(255)")
    elif data.image.value_scale == 255.0 and x.dtype != np.uint8:
        lines.append("x = x.astype(np.uint8)")
    elif data.image.value_scale != 255.0:
        lines.append("x = x.astype(np.float32)")
    if shape[1] == 4 and data.image.channels == 3:
        lines += [
            "opacity = x[:, 3:].astype(np.uint32)  # on white",
            "x = ((x[:, :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)",
        ]
    return "\n".join(lines)


def _array_targets(data: ImageData) -> str:
    task = data.schema.task
    if task == "regression":
        return """y = y.astype(str).astype(np.float64).reshape(len(y), -1)  # a float32 0.1 is taken as 0.1
columns = [standardised(values, *scale) for values, scale in zip(y.T, FACTS["targets"])]
targets = torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))"""
    if task == "multilabel":
        return "targets = torch.from_numpy(y.astype(np.float32))"
    codes = 'codes = [FACTS["codes"][str(value)] for value in y.reshape(-1).tolist()]'
    made = "torch.tensor(codes, dtype=torch.float32).view(-1, 1)" if task == "binary" else "torch.tensor(codes)"
    return f"{codes}\ntargets = {made}"


def _augment(image: ImageInput, recipe: Recipe) -> list[str]:
    kinds = recipe.augment
    if not kinds:
        return []
    body, start = [], 0
    for kind in kinds:
        stop = start + NUM_DRAWS[kind]
        body.append(f"pixels = {kind}(pixels, draws[:, {start}:{stop}])")
        start = stop
    fill = "torch.tensor(MEANS) * SCALE"
    fill = f"({fill}).round()" if image.value_scale == 255.0 else fill
    functions = {
        "flip": '''
def flip(pixels, draws):
    """Swap left and right of half of the images."""
    return torch.where(draws[:, :, None, None] < 0.5, pixels.flip(3), pixels)
''',
        "shift": '''
def shift(pixels, draws):
    """Move each image by a few pixels, mirrored at its edge."""
    n, channels, height, width = pixels.shape
    rows, columns = moved(draws[:, :1], height), moved(draws[:, 1:], width)
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(n, 1, -1)
    return pixels.reshape(n, channels, -1).gather(2, places.expand(-1, channels, -1)).view_as(pixels)


def moved(draws, size):
    """Return where each of `size` pixels comes from."""
    reach = max(1, round(size / 14))
    places = torch.arange(size) + (draws * (2 * reach + 1)).long() - reach
    return (size - 1 - (size - 1 - places.abs()).abs()).clamp(min=0)
''',
        "erase": f'''
def erase(pixels, draws):
    """Fill a rectangle in half of the images."""
    height, width = pixels.shape[2:]
    side = (0.1 + 0.15 * draws[:, 1:2]).sqrt()
    rows, columns = span(draws[:, 2:3], side, height), span(draws[:, 3:4], side, width)
    inside = rows[:, None, :, None] & columns[:, None, None, :] & (draws[:, :1, None, None] < 0.5)
    fill = {fill}
    return torch.where(inside, fill.to(pixels.dtype).view(-1, 1, 1), pixels)


def span(draws, side, size):
    """Return which of `size` rows or columns a rectangle covers."""
    length = (side * size).round().clamp(min=1)
    first = (draws * (size - length + 1)).floor()
    places = torch.arange(size)
    return (places >= first) & (places < first + length)
''',
    }
    text = f'''
def augment(pixels, draws):
    """Return changed images; their rows of random numbers say how."""
{indented(chr(10).join(body), 4)}
    return pixels
'''
    return [text, *(functions[kind] for kind in dict.fromkeys(kinds))]
