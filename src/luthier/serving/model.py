"""A trained module with what is known of its inputs and answers: raw data in, answers in the user's terms out.

What reads tables and images is imported where raw data is met, so that `fit` over tensors starts without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from luthier.core.answering import Answering
from luthier.core.batch import Batch, split_batch
from luthier.core.blueprint import Blueprint
from luthier.core.failure import explaining
from luthier.core.html import concat, table, tag
from luthier.core.leaves import joined, map_leaves, move
from luthier.core.machine import find_device
from luthier.core.rng import kept_rng, seed_all
from luthier.core.schema import Schema, Task
from luthier.core.units import class_sets, interval_ends
from luthier.data.sources import to_tensor
from luthier.errors import BundleError, DataError, printable
from luthier.metrics.criteria import Criterion, QuantileLoss
from luthier.metrics.evaluation import evaluate_batches, evaluating
from luthier.metrics.metrics import decide
from luthier.metrics.named import as_metrics
from luthier.metrics.objective import Objective
from luthier.metrics.outputs import OutputKey, answer_of
from luthier.networks.build import build
from luthier.networks.foreign import is_own_file
from luthier.networks.one_row import RowForward, row_forward
from luthier.serving.fitting import check_fit
from luthier.store.bundle import Bundle, load_bundle, load_weights, module_weights, save_bundle, without_wrapper
from luthier.store.urls import fetched, is_url, sent

if TYPE_CHECKING:
    import polars as pl

    from luthier.data.one_row import RowEncoder
    from luthier.data.textfile import ReadOptions
    from luthier.serving.explaining import Explanation
    from luthier.serving.exporting.export import Export, Format
    from luthier.serving.inputs import Piece

_log = logging.getLogger("luthier")
_ROWS = 1024  # that the network sees at a time; an answer depends on it by rounding alone


def _is_channels_last(weight: Any) -> bool:
    """Whether a weight was kept in that layout: another one rounds otherwise."""
    if not isinstance(weight, Tensor) or weight.ndim != 4 or weight.is_contiguous():
        return False
    return weight.is_contiguous(memory_format=torch.channels_last)


def task_of(criterion: Any) -> Task | None:
    """Return the task that a loss of torch.nn implies, or None where it does not say."""
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss):
        return "multiclass"
    if isinstance(criterion, nn.BCEWithLogitsLoss | nn.MultiLabelSoftMarginLoss):
        return "multilabel"
    if isinstance(criterion, nn.MSELoss | nn.L1Loss | nn.HuberLoss | nn.SmoothL1Loss | QuantileLoss):
        return "regression"
    return None


class Model:
    """A trained module, with the methods to use it.

    With a Schema (a run of `luthier.train` or the command) it takes raw data, as files, frames or rows, and answers
    with class names and numbers in their units. Without one (a run of `luthier.fit`) it takes what the module takes.

    Attributes:
        module: The network.
        schema: Inputs and targets, or None.
        task: What kind of answer it gives, or None where that is not known.
        blueprint: How the network was designed, or None for a custom module.
        metrics: Figures of the run that made it, by split.
        facts: Versions and the like, as data.
        output_key: Which part of the outputs of a custom module is its answer; None finds it.
        answering: Temperature, thresholds and intervals that validation rows gave.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        schema: Schema | None = None,
        task: Task | None = None,
        blueprint: Blueprint | None = None,
        metrics: dict[str, dict[str, float]] | None = None,
        facts: dict[str, Any] | None = None,
        criterion: Criterion | None = None,
        output_key: OutputKey | None = None,
        answering: Answering | None = None,
    ) -> None:
        self.module = module
        self.answering = answering or Answering()
        self.output_key = output_key
        self.schema = schema
        self.task = schema.task if schema else task
        self.blueprint = blueprint
        self.metrics = metrics or {}
        self.facts = facts or {}
        self.criterion = criterion
        self._row: tuple[Schema, nn.Module, RowEncoder | None, RowForward | None] | None = None

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        lines = [f"Model of {type(self.module).__name__}, {parameters:,} parameters, on {self.device}"]
        if self.schema is not None:
            columns = [column.name for column in self.schema.inputs]
            more = f" and {len(columns) - 8} more" if len(columns) > 8 else ""
            takes = f"{', '.join(columns[:8])}{more}" if columns else ", ".join(self.schema.blocks)
            answers = ", ".join(target.name for target in self.schema.targets[:8])
            lines.append(f"{self.task}: {takes} -> {answers}")
        elif self.task is not None:
            lines.append(f"{self.task}, a custom module")
        for part, figures in self.metrics.items():
            shown = [f"{name} {value:.4g}" for name, value in figures.items()]
            lines += [f"{part}: {', '.join(shown)}"] if shown else []
        return "\n".join(printable(line) for line in lines)

    def _repr_html_(self) -> str:
        """Return what `repr` says, and the figures, for a notebook."""
        figures = [(part, name, value) for part, found in self.metrics.items() for name, value in found.items()]
        words, *more = repr(self).split("\n")
        parts = [tag("p", tag("b", words)), *(tag("p", line) for line in more[:1] if self.task is not None)]
        return concat([*parts, *([table(("rows", "figure", "value"), figures)] if figures else [])])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_row": None}  # what answers one row is made anew

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def to(self, device: str | torch.device) -> Model:
        """Move the module to a device; return the model."""
        self.module.to(find_device(device))
        return self

    def predict(self, source: Any, *, options: ReadOptions | None = None, as_frame: bool = False) -> Any:
        """Return the answer for each row of `source`, in order.

        Args:
            source: With a Schema: a path, a frame, a dict of columns, a list of dicts, or an array of images. A dict of
                values is one row, which a table's network answers in some tens of microseconds, up to two hundred.
                Without one: what the module takes, as a tensor, an array, a tuple or dict of them, or a DataLoader.
            options: How to read a CSV.
            as_frame: Return a Series, or a DataFrame of several targets: pandas' with the index of `source` where that
                is pandas', else polars'.

        Returns:
            With a Schema a NumPy array: classes `(N,)` in the type that the target had (whole numbers, yes/no, text),
            numbers `(N,)` or `(N, K)`, 0 and 1 for labels `(N, L)`.
            Without one a tensor: decided classes `(N,)` where the criterion says that outputs are logits of classes,
            0 and 1 for labels, else the outputs, in the form that the module gives them (a dict, a tuple).

        Raises:
            DataError: the source cannot be read, lacks a column, or holds an image that cannot be read.
        """
        if as_frame:
            self._need_schema()
        if self.schema is None:
            outputs = self._outputs(source)
            return decide(outputs, self.task) if self.task in ("multiclass", "multilabel") else outputs
        from luthier.serving.answers import framed, row_values, values

        if type(source) is dict and (lone := self._one_row(source)) is not None:
            answers = row_values(lone, self.schema, self.answering.cuts)
            return framed(answers, self.schema, source, None) if as_frame else answers
        outputs, names = self._whole(source, options)
        answers = values(outputs, self.schema, self.answering.cuts)
        return framed(answers, self.schema, source, names) if as_frame else answers

    def predict_proba(self, source: Any, *, options: ReadOptions | None = None, as_frame: bool = False) -> Any:
        """Return probabilities: `(N, C)` of the classes in order, or `(N, L)` of the labels.

        With `as_frame`, as a DataFrame with a column for each: pandas' with the index of `source` where that is
        pandas', else polars'.

        Raises:
            DataError: as `predict`; or the task has no probabilities.
        """
        if self.task not in ("binary", "multiclass", "multilabel"):
            raise DataError(
                f"a {self.task or 'model of an unknown task'} has no probabilities",
                hint="use predict",
                code="data-no-probabilities",
            )
        if as_frame:
            self._need_schema()
        if self.schema is None:
            outputs = self._outputs(source)
            return outputs.softmax(dim=1) if self.task == "multiclass" else outputs.sigmoid()
        from luthier.serving.answers import framed_proba, probabilities, row_probabilities

        names = None
        chances: NDArray[Any]
        if type(source) is dict and (lone := self._one_row(source)) is not None:
            chances = np.array([row_probabilities(lone, self.schema)])
        else:
            outputs, names = self._whole(source, options)
            chances = probabilities(outputs, self.schema).numpy()
        return framed_proba(chances, self.schema, source, names) if as_frame else chances

    def predict_interval(self, source: Any, *, options: ReadOptions | None = None) -> Any:
        """Return what holds the true answer for the share of new rows that training was asked for (`interval=0.9`).

        Returns:
            Of numbers the least and the greatest, `(N, 2)`, of several targets `(N, K, 2)`. Of classes which are in
            each row's set, bool `(N, C)`.

        Raises:
            DataError: as `predict`; or no intervals were measured.
        """
        if self.schema is None or self.answering.level is None:
            raise DataError(
                "this model has no intervals: none were measured after its training",
                hint="train with interval=0.9",
                code="data-no-probabilities",
            )
        from luthier.serving.answers import probabilities

        outputs, _ = self._whole(source, options)
        if self.answering.least_probability is not None:
            return class_sets(probabilities(outputs, self.schema), self.answering.least_probability).numpy()
        ends = interval_ends(outputs, self.schema.targets, self.answering.margins)
        both: NDArray[Any] = torch.stack(ends, dim=-1).numpy()  # (N, K, 2)
        return both[:, 0] if len(self.schema.targets) == 1 else both

    def stream(
        self, source: Any, *, options: ReadOptions | None = None, warn: Callable[[str], Any] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield answers as frames, piece by piece, so that a source larger than memory is no problem.

        Columns: `image` for images, the column of the series where a row is a step; `prediction`, or
        `prediction_<target>` of several; `probability_<class>`. An image that cannot be read has null for an answer
        and the reason in the column `error`.

        Args:
            source: As in `predict`.
            options: How to read a CSV.
            warn: Called with each line on cells that are not like those of training rows; the log gets them without it.

        Raises:
            DataError: as `predict`.
        """
        import polars as pl

        from luthier.serving.answers import answer_frame

        schema = self._need_schema()
        rows = unread = 0
        for outputs, piece in self._answers(source, options, strict=False, warn=warn):
            rows, unread = rows + len(piece), unread + len(piece.errors or ())
            frame = answer_frame(outputs, schema, self.answering)
            errors = piece.errors
            if errors is not None:
                bad = pl.Series([i in errors for i in range(len(piece))])
                reasons = [errors[i].message if i in errors else None for i in range(len(piece))]
                frame = frame.with_columns(pl.when(bad).then(None).otherwise(pl.all()).name.keep())
                frame = frame.with_columns(pl.Series("error", reasons, dtype=pl.String))
            if piece.names is not None:
                name = piece.names.name
                frame = frame.insert_column(0, piece.names.alias(f"{name} (given)" if name in frame.columns else name))
            yield frame
        if unread == rows and piece.errors:
            raise next(iter(piece.errors.values()))
        if unread:
            (warn or _log.warning)(f"{unread} of {rows} images could not be read; the column error says why")

    def evaluate(
        self,
        source: Any,
        *,
        metrics: Any = (),
        criterion: Criterion | None = None,
        options: ReadOptions | None = None,
    ) -> dict[str, Any]:
        """Return figures on data with targets.

        With a Schema: the task's metrics (of several numbers also each one's, as `rmse_<target>`), `rows`, and for
        classes `confusion` (true class by decided class), `classes` (precision, recall, f1 and rows of each) and
        `positive`, which of two `f1` is of. Rows of a class that training rows do not have count as wrong, and are
        listed in `unseen`; `auc` leaves them out. A figure that means nothing on these rows is NaN. Without one: the
        loss and the metrics passed in, over `(inputs, …, targets)` or a DataLoader.

        Raises:
            DataError: as `predict`; or a target is missing.
        """
        if self.schema is None:
            batches = self._batches(source, with_targets=True)
            aim = Objective(criterion or self.criterion, None, self.output_key)
            own = as_metrics(metrics, aim.criterion)
            with explaining(self.module, metrics=own):
                return evaluate_batches(self.module, batches, objective=aim, metrics=own, device=self.device)
        from luthier.serving.inputs import pieces
        from luthier.serving.measuring import measured_figures

        unseen: dict[str, int] = {}
        found = pieces(source, self.schema, with_targets=True, options=options, unseen=unseen)
        pairs = ((self._forward(piece.inputs), piece.targets) for piece in found)
        return measured_figures(pairs, self.schema, self.answering, unseen, metrics=as_metrics(metrics))

    def explain(
        self, row: Any, background: Any, *, of: str | None = None, options: ReadOptions | None = None
    ) -> Explanation:
        """Return which columns moved the answer for one row, beside the mean answer of background rows.

        The values are Shapley values by sampled orders, with standard errors; they sum to the answer less the mean
        answer. A column that the network does not use has 0. Columns that say the same share what they say. It is what
        the network does, and no cause in the world.

        Args:
            row: One row: a dict of values, a frame, or a file.
            background: What to hold it against, such as training rows: what `predict` takes. Up to 100 rows are used.
            of: The class, label or target whose probability or value is explained; the most probable class, or the
                first target, without it.
            options: How to read a CSV.

        Returns:
            The explanation: `frame()`, and a table and a chart in a notebook.

        Raises:
            DataError: as `predict`; or more than one row, or a network of one input alone.
            SettingError: there is no answer of that name.
        """
        from luthier.serving.explaining import explain

        return explain(self, row, background, of=of, options=options)

    def export(
        self,
        path: str | Path,
        *,
        format: Format | None = None,
        rows: Any = (),
        example: Any = None,
    ) -> Export:
        """Write the model for elsewhere: as ONNX, or as a program of torch.

        Raw cells go in and answers come out, all in one graph: see the page "Export" of the documentation. What was
        written answers drawn rows, and those given, before it is kept.

        Args:
            path: A file, `.onnx` or `.pt2`; or a folder, which gets the model, its card, readers for Python and
                JavaScript, and a web page.
            format: `onnx`, `pt2` (`torch.export`) or `aoti` (an AOTInductor package, compiled for this kind of
                machine); by default what the suffix says, of a folder `onnx`.
            rows: Rows of the user's to answer as well: a list of dicts.
            example: For a custom module without a Schema, what its forward takes, as a tensor, a tuple or a dict, with
                two rows or more; the first dimension is that of the rows.

        Returns:
            What was written, and the greatest difference that was seen.

        Raises:
            CheckError: what was written does not answer as the model does; nothing is kept.
            MissingPackageError: a package or a compiler is not there.
            NetworkError: torch cannot export the network.
            RunError: it cannot be written, or the folder is there already.
            SettingError: an unknown format or suffix, or no example where one is needed.
        """
        from luthier.serving.exporting.export import export

        return export(self, path, format=format, rows=list(rows), example=example)

    def save(self, path: str | Path) -> None:
        """Write the model as one safetensors file, a bundle; `luthier.load` reads it.

        Args:
            path: A file, or an address that fsspec knows, such as `s3://bucket/model.safetensors`.

        Raises:
            RunError: it cannot be written.
            MissingPackageError: the address needs a package that is not installed.
        """
        if is_url(path):
            with sent(str(path)) as file:
                self.save(file)
            return
        bundle = Bundle(
            weights=module_weights(self.module),
            module_name=type(without_wrapper(self.module)).__name__,
            task=self.task,
            blueprint=self.blueprint,
            schema=self.schema,
            metrics=self.metrics,
            facts=self.facts,
            output_key=self.output_key,
            answering=self.answering,
        )
        save_bundle(bundle, Path(path))

    def _need_schema(self) -> Schema:
        if self.schema is None:
            raise DataError(
                "this model is a custom module without a Schema, so it has no columns or class names",
                hint="use model.predict with tensors",
                code="data-no-schema",
            )
        return self.schema

    def _one_row(self, source: dict[Any, Any], warn: Callable[[str], Any] = _log.warning) -> NDArray[np.float32] | None:
        """Return the outputs for a dict of one row's values, `(K,)`, or None where it is more than that.

        `warn` is called with each line on cells that are not like those of training rows.
        """
        schema, module = self.schema, self.module
        if self._row is None or self._row[0] is not schema or self._row[1] is not module:
            from luthier.data.one_row import row_encoder

            assert schema is not None
            self._row = (schema, module, row_encoder(schema), row_forward(module))
        known, _, encoder, forward = self._row
        encoded = None if encoder is None else encoder(source)
        if encoded is None:
            return None
        numbers, codes, lines = encoded
        for line in lines:
            warn(line)
        outputs = None if forward is None else forward(numbers, codes)
        if outputs is None:
            inputs = torch.from_numpy(numbers)[None], torch.tensor([codes], dtype=torch.int64)
            outputs = self._forward(inputs)[0].numpy()
        total = sum(outputs.tolist())
        if total != total or outputs.size != known.num_outputs:  # NaN, or infinities of both signs
            self._check_outputs(outputs[None], 1)
        if self.answering.temperature != 1:
            outputs = (outputs / self.answering.temperature).astype(np.float32)
        return outputs

    def _whole(self, source: Any, options: ReadOptions | None) -> tuple[Tensor, pl.Series | None]:
        """Return all outputs, and the names of the series where a row of them is one."""
        import polars as pl

        by_series = self._need_schema().series is not None
        found, names = [], []
        for outputs, piece in self._answers(source, options, strict=True):
            found.append(outputs)
            names += [piece.names] if by_series and piece.names is not None else []
        return torch.cat(found), pl.concat(names) if names else None

    def _answers(
        self, source: Any, options: ReadOptions | None, *, strict: bool, warn: Callable[[str], Any] | None = None
    ) -> Iterator[tuple[Tensor, Piece]]:
        from luthier.serving.inputs import pieces

        for piece in pieces(source, self._need_schema(), options=options, warn=warn):
            if strict and piece.errors:
                raise next(iter(piece.errors.values()))
            yield self._forward(piece.inputs), piece

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the outputs, on the CPU, a bounded number of rows at a time."""
        n = len(inputs[0])
        kinds = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        dtype = next(kinds, torch.float32)  # of a module that was made smaller
        inputs = tuple(value.to(dtype) if value.dtype == torch.float32 else value for value in inputs)
        parts = [tuple(value[start : start + _ROWS] for value in inputs) for start in range(0, n, _ROWS)]
        # Here, and not around a generator's yield: there `no_grad` would rule the caller's code between two pieces.
        with evaluating(self.module):
            outputs = torch.cat([self.module(*move(part, self.device)).float().cpu() for part in parts])
        self._check_outputs(outputs.numpy(), n)
        return outputs if self.answering.temperature == 1 else outputs / self.answering.temperature

    def _check_outputs(self, outputs: NDArray[Any], n: int) -> None:
        """Refuse outputs that are no answers.

        Raises:
            BundleError: they are not as many as the Schema has, or NaN.
        """
        wanted = self._need_schema().num_outputs
        if outputs.size != n * wanted or (n and outputs.shape[0] != n):
            raise BundleError(
                f"the network gives outputs of shape {outputs.shape} for {n} rows, and the Schema has {wanted} a row",
                hint="load the weights into the network that they were trained in",
                code="bundle-does-not-fit",
            )
        if np.isnan(outputs).any():
            rows = int(np.isnan(outputs.reshape(n, -1)).any(axis=1).sum())
            raise BundleError(
                f"the network answers NaN for {rows:,} of {n:,} rows",
                hint="its weights are damaged, or training ended in NaN: train it again",
                code="bundle-answers-nan",
            )

    def _outputs(self, source: Any) -> Any:
        found = []
        with explaining(self.module), evaluating(self.module):
            for batch in self._batches(source, with_targets=False):
                outputs = batch.to(self.device).forward(self.module)
                if self.output_key is not None or self.task is not None:
                    outputs = answer_of(outputs, self.output_key)
                found.append(map_leaves(Tensor.cpu, outputs, inside=True))
        outputs = joined(found)
        if self.task == "multiclass" and outputs.ndim < 2:
            raise DataError(
                f"the module gives outputs of shape {tuple(outputs.shape)}, and classes take a row a sample",
                hint="give a batch, also of one sample: x.unsqueeze(0)",
                code="data-not-understood",
            )
        return outputs

    def _batches(self, source: Any, *, with_targets: bool) -> Iterator[Batch]:
        if isinstance(source, DataLoader):
            for raw in source:
                lone = isinstance(raw, Tensor)
                yield Batch((raw,), None) if lone else split_batch(raw)
            return
        if with_targets:
            split = split_batch(source)
            inputs, targets = split.inputs, to_tensor(split.targets, "the targets")
        else:
            inputs, targets = source if isinstance(source, dict | tuple) else (source,), None
        if isinstance(source, str | Path):
            raise DataError(
                f"{str(source)!r} is a path, and a custom module takes the inputs of its forward",
                hint="give tensors or arrays, or a DataLoader",
                code="data-not-understood",
            )
        named = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
        tensors = {key: to_tensor(value, f"input {key!r}") for key, value in named}
        n = len(next(iter(tensors.values())))
        for start in range(0, n, _ROWS):
            part = {key: value[start : start + _ROWS] for key, value in tensors.items()}
            some = None if targets is None else targets[start : start + _ROWS]
            yield Batch(part if isinstance(inputs, dict) else tuple(part.values()), some)  # type: ignore[arg-type]


def load(
    path: str | Path,
    module: nn.Module | None = None,
    *,
    network: str | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load a model from a bundle: the file, or the folder of the run that wrote it. No code in it is run.

    Args:
        path: A `model.safetensors`, or a run's folder; or the address of one that fsspec knows, such as
            `s3://bucket/model.safetensors`.
        module: For a custom module, an instance to load the weights into.
        network: For a network from your own file, that file and class, `my_nets.py:Net`.
        device: Where to put it; the CPU by default.

    Raises:
        BundleError: no such file, a pickle, a damaged file, or weights that do not fit.
        MissingPackageError: the address needs a package that is not installed.
    """
    if is_url(path):
        with fetched(str(path)) as file:
            try:
                return load(file, module, network=network, device=device)
            except BundleError as error:
                message, hint = (text.replace(str(file), str(path)) for text in (error.message, error.hint))
                raise BundleError(message, hint=hint, code=error.code) from error
    bundle = load_bundle(Path(path))
    blueprint = bundle.blueprint
    own = blueprint is not None and is_own_file(blueprint.family)
    if network is not None and not own:
        raise BundleError(
            f"{path} holds no network from a Python file of yours, so {network} would be ignored",
            hint="leave network= out",
            code="bundle-module-given",
        )
    if blueprint is not None and own and network is not None:
        blueprint = replace(blueprint, family=network)
    if blueprint is not None and own and network is None and module is None:
        raise BundleError(
            f"{path} holds the weights of {blueprint.family}, and Luthier runs no code that only a file names",
            hint=f"name it with network={blueprint.family!r}, or pass an instance as module=",
            code="bundle-module-needed",
        )
    if blueprint is not None and module is not None and not own:
        raise BundleError(
            f"{path} holds a network that Luthier designed and builds itself",
            hint="leave module= out",
            code="bundle-module-given",
        )
    if module is None:
        if blueprint is None:
            raise BundleError(
                f"{path} holds the weights of your module {bundle.module_name}, and not its code",
                hint=f"pass an instance: luthier.load({str(path)!r}, module={bundle.module_name}(…))",
                code="bundle-module-needed",
            )
        check_fit(replace(bundle, blueprint=blueprint), str(path))
        with kept_rng():  # by the run's seed: a custom class may hold what it drew and does not save
            if isinstance(seed := bundle.facts.get("seed"), int):
                seed_all(seed)
            module = build(blueprint)
    if any(_is_channels_last(weight) for weight in bundle.weights["state"].values()):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    load_weights(module, bundle.weights, where=str(path))
    model = Model(
        module,
        schema=bundle.schema,
        task=bundle.task,
        blueprint=blueprint,
        metrics=bundle.metrics,
        facts=bundle.facts,
        output_key=bundle.output_key,
        answering=bundle.answering,
    )
    module.eval()
    return model if device is None else model.to(device)
