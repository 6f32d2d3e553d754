"""What is saved is what is loaded: trees of values and tensors, settings, checkpoints, bundles."""

import json
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import luthier
from luthier.core.blueprint import Blueprint
from luthier.core.plain import from_plain, to_plain
from luthier.core.recipe import Recipe
from luthier.core.schema import COLUMN_KINDS, Column, ImageInput, Schema, Target
from luthier.core.settings import DataSettings
from luthier.core.tree import flatten, unflatten
from luthier.data.encode import feature_names, input_sizes
from luthier.data.formats import DATE_FORMATS
from luthier.pipeline.runfile import read_run_file, write_run_file
from luthier.store.bundle import load_bundle
from luthier.store.checkpoint import CheckpointWriter, load_checkpoint
from luthier.store.files import unpack, write_tensors
from luthier.training.progress import Progress


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


# --- trees ------------------------------------------------------------------------------------------------------------

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
)  # fmt: skip
texts = st.text(max_size=5)  # without surrogates: UTF-8 has none
shapes = st.lists(st.integers(0, 3), max_size=4)


def random_bits(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Return a tensor of any bits: NaN with a payload, infinities, -0.0 and denormal numbers among them."""
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).bool()
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    bits = bytearray(np.random.default_rng(seed).bytes(math.prod(shape) * dtype.itemsize))
    return torch.frombuffer(bits, dtype=dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
    tensor = random_bits(shape, dtype, draw(st.integers(0, 2**32)))
    look = draw(st.sampled_from(["plain", "transposed", "stepped", "shifted", "expanded", "permuted", "parameter"]))
    if look == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, 1)
    if look == "stepped" and tensor.ndim and tensor.numel() > 2:
        return tensor[::2]
    if look == "shifted" and tensor.ndim:
        return tensor[1:]
    if look == "expanded":
        return tensor.expand(2, *tensor.shape)
    if look == "permuted" and tensor.ndim:
        return tensor.permute(*draw(st.permutations(range(tensor.ndim))))
    if look == "parameter" and (dtype.is_floating_point or dtype.is_complex):
        return torch.nn.Parameter(tensor)
    if look == "plain" and tensor.ndim == 4 and draw(st.booleans()):
        return tensor.to(memory_format=torch.channels_last)
    return tensor


NUMPY = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">i4", ">f8")


def random_array(shape: list[int], kind: str, seed: int, order: Any = "C") -> np.ndarray[Any, Any]:
    bits = np.random.default_rng(seed).bytes(math.prod(shape) * np.dtype(kind).itemsize)
    found: np.ndarray[Any, Any] = np.ndarray(shape, kind, bits, order=order)
    return found.astype(bool) if seed % 9 == 0 else found.astype(complex) if seed % 9 == 1 else found


arrays = st.builds(
    random_array, shapes, st.sampled_from(NUMPY), st.integers(0, 2**32), st.sampled_from(["C", "F"])
)  # fmt: skip
array_texts = st.lists(texts.filter(lambda text: "\0" not in text), max_size=3).map(lambda items: np.array(items, "U"))
array_moments = st.lists(st.integers(-(10**9), 10**9), max_size=3).map(lambda items: np.array(items, "datetime64[s]"))
scalars = st.builds(lambda kind, seed: random_array([1], kind, 9 * seed + 2)[0], st.sampled_from(NUMPY), st.integers(0))

keys = st.recursive(
    texts | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False) | st.sampled_from(["$", b"", b"$"]),
    lambda inner: st.tuples(inner, inner) | st.frozensets(st.integers(), max_size=2),
    max_leaves=3,
)
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5) | st.complex_numbers()
    | tensors() | arrays | array_texts | array_moments | scalars | shapes.map(torch.Size) | st.sampled_from(DTYPES)
    | st.sampled_from(["cpu", "cuda:1", "meta"]).map(torch.device) | st.sets(keys, max_size=3)
    | st.frozensets(st.floats(allow_nan=False), max_size=3)
)  # fmt: skip


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(keys, inner, max_size=3)
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | named
        | st.dictionaries(st.sampled_from(["$", "v", "a", "a.b", "", "0"]), inner, max_size=4)
        | named.map(OrderedDict)
        | inner.map(lambda value: [value, {"again": value}])  # one tensor, twice
    )


trees = st.recursive(leaves, _nested, max_leaves=10)


def tensor_bytes(tensor: Tensor) -> bytes:
    kept = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
    return kept.view(torch.uint8).numpy().tobytes() if kept.numel() else b""


def is_dense(tensor: Tensor) -> bool:
    span = 1
    for step, size in sorted(
        (step, size) for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1
    ):
        if step != span:
            return False
        span *= size
    return tensor.numel() > 0


def check_same(ours: Any, theirs: Any, pairs: dict[int, Tensor], path: str = "") -> None:
    """Check that `theirs` is what `ours` was; `pairs` are tensors found so far: what was one tensor is one."""
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), path
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), path
        assert tensor_bytes(ours) == tensor_bytes(theirs), path
        if is_dense(theirs):  # the stride of a dimension of size 1 says nothing
            strides = [[s for s, size in zip(t.stride(), t.shape, strict=True) if size > 1] for t in (ours, theirs)]
            assert strides[0] == strides[1], path
        if theirs.numel():
            assert pairs.setdefault(id(theirs), ours) is ours, f"{path}: one tensor became two"
        return
    assert type(ours) is type(theirs), path
    if isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), path
    elif isinstance(theirs, np.generic):
        assert ours.dtype == theirs.dtype, path
        assert repr(ours) == repr(theirs), path
    elif isinstance(theirs, Mapping):
        assert [_shown(key) for key in ours] == [_shown(key) for key in theirs], path
        for mine, key in zip(ours, theirs, strict=True):
            check_same(ours[mine], theirs[key], pairs, f"{path}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), path
        for i, (mine, item) in enumerate(zip(ours, theirs, strict=True)):
            check_same(mine, item, pairs, f"{path}.{i}")
    elif isinstance(theirs, set | frozenset):
        assert sorted(map(_shown, ours)) == sorted(map(_shown, theirs)), path
    else:
        assert repr(ours) == repr(theirs), path  # -0.0 and NaN are what they are


def _shown(key: Any) -> str:
    """Return a key in words: the order inside a set is no part of it, -0.0 and 1 against True and 1.0 are."""
    if isinstance(key, tuple | frozenset):
        members = map(_shown, key)
        return f"{type(key).__name__} {list(members) if isinstance(key, tuple) else sorted(members)}"
    return repr(key)


@settings(max_examples=150)
@given(trees)
@example({"a": {"b": torch.zeros(2)}, "a.b": torch.ones(2), "a.": [{"b": torch.ones(3)}]})
def test_a_tree_comes_back_from_a_file(folder: Path, tree: Any) -> None:
    document, found = flatten(tree)
    write_tensors(folder / "tree.safetensors", found, {"tree": document}, "key")
    found, wrapped = unpack(folder / "tree.safetensors", "key")
    document = wrapped["tree"]
    check_same(unflatten(document, found), tree, {})


@settings(max_examples=40)
@given(trees, trees, st.integers(0, 10**9), st.integers(1, 4), st.integers(1, 3))
def test_the_newest_checkpoint_comes_back(folder: Path, before: Any, tree: Any, step: int, n: int, keep: int) -> None:
    place = folder / "checkpoints"
    shutil.rmtree(place, ignore_errors=True)
    assert load_checkpoint(place) is None
    writer = CheckpointWriter(place, keep=keep)
    for i in range(n):
        writer.save({"tree": before}, global_step=step + i)
    writer.save({"tree": tree}, global_step=step + n)
    writer.join()
    assert len(list(place.iterdir())) == min(keep, n + 1)
    found = load_checkpoint(place)
    assert found is not None
    check_same(found["tree"], tree, {})


def test_a_large_checkpoint_is_the_state_at_its_step(folder: Path) -> None:
    weight = torch.zeros(9 << 20)
    writer = CheckpointWriter(folder / "large")
    writer.save({"one": weight, "two": weight, "view": weight[:2]}, global_step=1)
    weight += 1  # training goes on
    writer.join()
    found = load_checkpoint(folder / "large")
    assert found is not None
    assert found["one"] is found["two"]
    assert not found["one"].any()
    assert not found["view"].any()
    shutil.rmtree(folder / "large")


ODD: dict[str, Any] = {
    "a complex number of NumPy": np.complex64(1 + 2j),
    "a moment of NumPy": np.datetime64("2024-05-01T08:30", "m"),
    "bytes of NumPy": np.bytes_(b"abc"),
    "records of NumPy": np.array([(1, 2.5)], dtype=[("a", np.int32), ("b", np.float64)]),
    "a tensor of complex128": torch.tensor([1 + 2j], dtype=torch.complex128),
    "a tensor and its conjugate": (lambda z: [z, z.conj()])(torch.tensor([1 + 2j])),
    "every other element of two": torch.ones(2)[::2],
    "a tensor called as safetensors calls its own": {"__metadata__": torch.ones(2)},
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_seldom_kept_comes_back_or_is_refused_by_name(folder: Path, what: str) -> None:
    try:
        document, found = flatten(ODD[what])
    except luthier.LuthierError as error:
        if error.code == "run-state-not-data":
            return
        raise
    write_tensors(folder / "odd.safetensors", found, {"tree": document}, "key")
    found, wrapped = unpack(folder / "odd.safetensors", "key")
    document = wrapped["tree"]
    check_same(unflatten(document, found), ODD[what], {})


# --- settings ---------------------------------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-9, 1e9)
plain_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
said = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)  # what comments repeat
numbers = st.lists(finite, max_size=3)
columns = st.builds(
    Column,
    name=names, kind=st.sampled_from(COLUMN_KINDS), why=said, missing=st.integers(0, 99),
    categories=st.lists(texts, max_size=3), parts=st.lists(texts, max_size=2), means=numbers, stds=numbers,
    quantiles=numbers, date_format=st.sampled_from(["", *DATE_FORMATS]),
)  # fmt: skip
targets = st.builds(
    Target,
    name=names, kind=st.sampled_from(["number", "category", "boolean"]), classes=st.lists(said, max_size=3),
    counts=st.lists(st.integers(0, 99), max_size=3), mean=finite, std=finite,
)  # fmt: skip
images = st.builds(
    ImageInput,
    channels=st.integers(1, 4), height=st.integers(1, 99), width=st.integers(1, 99), means=numbers, stds=numbers,
    value_scale=finite,
)  # fmt: skip
schemas = st.builds(
    Schema,
    task=st.sampled_from(["binary", "multiclass", "multilabel", "regression"]), targets=st.lists(targets, max_size=3),
    columns=st.lists(columns, max_size=4, unique_by=lambda column: column.name), image=st.none() | images,
    label_delimiter=st.none() | names, label_column=st.none() | names, num_rows=st.integers(0, 10**9),
)  # fmt: skip
families = names.filter(lambda name: ":" not in name)  # with one, it is a file and its class
blueprints = st.builds(Blueprint, family=families, arguments=st.dictionaries(names, plain_values, max_size=4))
maybe = st.none()
words = texts.filter(lambda text: text != "none")  # which stands for None in a file
recipes = st.builds(
    Recipe,
    criterion=maybe | words, criterion_args=st.dictionaries(names, plain_values, max_size=3),
    class_weights=maybe | st.just("balanced") | st.lists(positive, max_size=3), label_smoothing=st.floats(0, 0.99),
    optimizer=maybe | words, lr=maybe | positive, nesterov=maybe | st.booleans(),
    betas=maybe | st.tuples(finite, finite),
    optimizer_args=st.dictionaries(names, plain_values, max_size=3), scheduler=words,
    scheduler_args=st.dictionaries(names, plain_values, max_size=3),
    scheduler_interval=st.sampled_from([None, "step", "epoch"]), warmup_steps=st.integers(0, 99),
    epochs=st.integers(1, 10**6), batch_size=maybe | st.integers(1, 10**6), shuffle=st.booleans(),
    max_time_s=maybe | positive, clip_norm=maybe | positive, ema=maybe | st.floats(0.1, 0.99),
    augment=st.lists(st.sampled_from(["flip", "shift", "erase"]), max_size=3), monitor=words,
    min_delta=st.floats(0, 1e9), seed=maybe | st.integers(0, 2**63 - 1), device=maybe | words,
    precision=st.sampled_from(["float32", "bf16", "fp16"]), checkpoint_every_s=positive,
    memory_format=st.sampled_from(["contiguous", "channels_last"]),
)  # fmt: skip


@settings(max_examples=60)
@given(schemas | recipes | blueprints)
def test_settings_come_back_from_json(value: Schema | Recipe | Blueprint) -> None:
    again = from_plain(type(value), json.loads(json.dumps(to_plain(value))), where="the file")
    assert again == value
    assert repr(again) == repr(value)  # also the sign of a zero, and 1 is not 1.0


parts_of_paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=5)
paths = st.lists(parts_of_paths.filter(lambda part: part.strip(".")), min_size=1, max_size=3).map("/".join)
data_settings = st.builds(
    DataSettings,
    source=paths, target=st.lists(names, max_size=3), task=st.sampled_from([None, "binary", "regression"]),
    labels=maybe | names, weight=maybe | names, valid=maybe | paths, test=maybe | paths,
    valid_fraction=st.floats(0, 0.4), test_fraction=st.floats(0, 0.4), group=maybe | names, delimiter=maybe | names,
    encoding=maybe | names, image_size=maybe | st.integers(8, 1024), skip_unreadable=st.booleans(), start=maybe | paths,
)  # fmt: skip


def whole_paths(names: str) -> list[Path]:
    """Return the paths that a setting names: a line break parts those of several files."""
    return [Path(os.path.abspath(name)) for name in names.split("\n")]


@settings(max_examples=60)
@given(data_settings, schemas, blueprints, recipes, st.dictionaries(st.sampled_from(["lr", "family", "epochs"]), said))
def test_a_run_file_comes_back(
    folder: Path, data: DataSettings, schema: Schema, blueprint: Blueprint, recipe: Recipe, reasons: dict[str, str]
) -> None:
    run = folder / "deep" / "run.toml"
    run.parent.mkdir(exist_ok=True)
    text = write_run_file(data, schema, blueprint, recipe, reasons, relative_to=run.parent)
    run.write_bytes(text.encode())
    again = read_run_file(run)
    assert again.blueprint == blueprint
    assert from_plain(Recipe, again.recipe, where="the file") == recipe
    assert again.data.kind == {column.name: column.kind for column in schema.columns}
    plain, expected = to_plain(again.data), to_plain(data)
    for name in ("source", "valid", "test", "start"):
        given, found = expected.pop(name), plain.pop(name)
        assert (given and whole_paths(given)) == (found and whole_paths(found)), name
    del plain["kind"], expected["kind"]
    assert plain == expected


def test_a_class_with_a_line_break_in_its_name_leaves_the_run_file_readable(folder: Path) -> None:
    plan = luthier.design({"x": [i % 9 for i in range(60)], "y": ["one\nline", "other\x1f\rline"] * 30}, target="y")
    (folder / "run.toml").write_bytes(plan.toml().encode())
    assert read_run_file(folder / "run.toml").blueprint == plan.blueprint


def test_a_recipe_without_checkpoints_by_time_comes_back_without_them(folder: Path) -> None:
    plan = luthier.design({"x": [i % 9 for i in range(60)], "y": ["a", "b"] * 30}, target="y", checkpoint_every_s=None)
    (folder / "run.toml").write_bytes(plan.toml().encode())
    assert from_plain(Recipe, read_run_file(folder / "run.toml").recipe, where="the file") == plan.recipe


# --- bundles ----------------------------------------------------------------------------------------------------------


def _floats(rng: np.random.Generator, n: int, low: float = -10, high: float = 10) -> list[float]:
    return [float(value) for value in rng.uniform(low, high, n)]


_CELLS = {
    "number": ["1.5", "-7", "1e300", "x"],
    "boolean": ["yes", "NO", "2"],
    "date": ["2024-05-01 08:30", "1970-01-01"],
}


def _column(i: int, kind: Any, rng: np.random.Generator, draw: st.DrawFn) -> tuple[Column, list[Any]]:
    name, missing = f"{draw(names)} {i}".strip(), int(rng.integers(0, 2))
    if kind == "category":
        known = draw(st.lists(texts, max_size=4, unique=True))
        return Column(name=name, kind=kind, missing=missing, categories=tuple(known)), [None, "unseen", *known]
    parts = draw(st.lists(st.sampled_from(["seconds", "month_sin", "hour_cos"]), min_size=1, unique=True))
    n = len(parts) if kind == "date" else 1
    knots = sorted(set(_floats(rng, 5))) if kind == "number" and rng.integers(0, 2) else []
    column = Column(
        name=name, kind=kind, missing=missing, means=tuple(_floats(rng, n)), stds=tuple(_floats(rng, n, 0.1, 3)),
        parts=tuple(parts) if kind == "date" else (), quantiles=tuple(knots),
        categories=("no", "yes") if kind == "boolean" else (), date_format="YYYY-MM-DD" if kind == "date" else "",
    )  # fmt: skip
    cells = {
        "number": ["1.5", "-7", "1e300", "x"],
        "boolean": ["yes", "NO", "2"],
        "date": ["2024-05-01 08:30", "1970-01-01"],
    }
    return column, [None, *cells[kind]]


def _targets(task: str, draw: st.DrawFn, rng: np.random.Generator) -> tuple[Target, ...]:
    called = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    if task in ("binary", "multiclass"):
        size = 2 if task == "binary" else draw(st.integers(2, 4))
        classes = draw(st.lists(names, min_size=size, max_size=size, unique=True))
        return (Target(name=called[0], kind="category", classes=tuple(classes)),)
    if task == "multilabel":
        return tuple(Target(name=name, kind="boolean", classes=("no", "yes")) for name in called)
    return tuple(Target(name=name, kind="number", mean=_floats(rng, 1)[0], std=2.5) for name in called)


TASKS = st.sampled_from(["binary", "multiclass", "multilabel", "regression"])


@st.composite
def table_models(draw: st.DrawFn) -> tuple[luthier.Model, pl.DataFrame]:
    seed = draw(st.integers(0, 2**32))
    rng, task = np.random.default_rng(seed), draw(TASKS)
    kinds = draw(st.lists(st.sampled_from(["number", "category", "boolean", "date"]), min_size=1, max_size=4))
    made = [_column(i, kind, rng, draw) for i, kind in enumerate(kinds)]
    schema = Schema(
        task=task, targets=_targets(task, draw, rng), columns=tuple(column for column, _ in made),  # type: ignore[arg-type]
    )  # fmt: skip
    sizes = list(input_sizes(schema).category_sizes)
    arguments = {
        "num_numbers": len(feature_names(schema)), "num_outputs": schema.num_outputs, "category_sizes": sizes,
        "embedding_sizes": [2] * len(sizes), "widths": draw(st.lists(st.integers(1, 5), max_size=2)),
        "activation": draw(st.sampled_from(["relu", "gelu", "silu", "tanh"])), "batch_norm": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.5])),
    }  # fmt: skip
    rows = [
        pl.Series(column.name, [cells[at] for at in rng.integers(0, len(cells), 20)], pl.String)
        for column, cells in made
    ]
    return _model(schema, Blueprint(family="mlp", arguments=arguments), seed, draw), pl.DataFrame(rows)


@st.composite
def image_models(draw: st.DrawFn) -> tuple[luthier.Model, Any]:
    seed = draw(st.integers(0, 2**32))
    rng, task = np.random.default_rng(seed), draw(TASKS)
    channels, height, width = draw(st.sampled_from([1, 3])), draw(st.integers(6, 10)), draw(st.integers(6, 10))
    image = ImageInput(
        channels=channels, height=height, width=width, means=tuple(_floats(rng, channels, 0, 1)),
        stds=tuple(_floats(rng, channels, 0.1, 1)),
    )  # fmt: skip
    schema = Schema(task=task, targets=_targets(task, draw, rng), image=image)  # type: ignore[arg-type]
    family = draw(st.sampled_from(["convnet", "resnet"]))
    arguments = {"channels": channels, "num_outputs": schema.num_outputs, "widths": [4, 5]}
    pixels = rng.integers(0, 256, (5, channels, height, width), np.uint8)
    return _model(schema, Blueprint(family=family, arguments=arguments), seed, draw), pixels


def _model(schema: Schema, blueprint: Blueprint, seed: int, draw: st.DrawFn) -> luthier.Model:
    torch.manual_seed(seed)
    module = luthier.build(blueprint)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():  # a variance is above 0
                tensor.copy_(torch.rand_like(tensor) + 0.1)
            tensor += 0 if tensor.is_floating_point() else 3
    figures = draw(st.dictionaries(texts, st.dictionaries(texts, st.floats(), max_size=2), max_size=2))
    facts = draw(st.dictionaries(texts, plain_values, max_size=3))
    return luthier.Model(module, schema=schema, blueprint=blueprint, metrics=figures, facts=facts)


@settings(max_examples=30)
@given(table_models() | image_models(), st.booleans())
def test_a_loaded_bundle_predicts_the_same_bits(
    folder: Path, made: tuple[luthier.Model, Any], is_training: bool
) -> None:
    model, rows = made
    model.module.train(is_training)
    path = folder / "model.safetensors"
    model.save(path)
    again = luthier.load(path)
    assert (again.schema, again.blueprint, again.task) == (model.schema, model.blueprint, model.task)
    assert (repr(again.metrics), repr(again.facts)) == (repr(model.metrics), repr(model.facts))
    check_same(dict(again.module.state_dict()), dict(model.module.state_dict()), {})
    source = rows
    if not isinstance(rows, pl.DataFrame):
        source = folder / "images.npz"
        np.savez(source, x=rows)
    expected, found = model.predict(source), again.predict(source)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes() if expected.dtype != object else found.tolist() == expected.tolist()
    if model.task != "regression":
        assert again.predict_proba(source).tobytes() == model.predict_proba(source).tobytes()
    first = load_bundle(path)
    again.save(path)
    check_same(to_plain(load_bundle(path)), to_plain(first), {})


@settings(max_examples=10)
@given(image_models())
def test_a_loaded_bundle_of_channels_last_weights_predicts_the_same_bits(
    folder: Path, made: tuple[luthier.Model, Any]
) -> None:
    model, pixels = made
    model.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as luthier.train does
    model.save(folder / "model.safetensors")
    np.savez(folder / "images.npz", x=pixels)
    expected = model.predict(folder / "images.npz")
    assert luthier.load(folder / "model.safetensors").predict(folder / "images.npz").tolist() == expected.tolist()


def test_a_loaded_run_on_images_predicts_the_same_bits(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(folder / "train.npz", x=rng.integers(0, 256, (60, 16, 16, 3), np.uint8), y=np.arange(60) % 3)
    result = luthier.train(folder / "train.npz", epochs=1, run=folder / "run", callbacks=[Progress(quiet=True)])
    expected = result.model.predict_proba(folder / "train.npz")
    assert luthier.load(folder / "run").predict_proba(folder / "train.npz").tobytes() == expected.tobytes()
