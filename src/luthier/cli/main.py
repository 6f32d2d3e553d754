"""The command: parse, call one public function, print. Nothing here imports torch or numpy before it is needed."""

import errno
import io
import logging
import os
import shlex
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from luthier.cli.options import GroupedCommand, given_settings, rows_options, settings_options
from luthier.cli.output import say, say_json
from luthier.cli.signals import heeded, interrupt, stop_signals
from luthier.core.names import did_you_mean
from luthier.core.version import VERSION
from luthier.errors import LuthierError

_STATUS = """\b
Exit status: 0 done; 1 a finding of severity error; 2 the input is wrong;
3 an internal fault; 129, 130 and 143 stopped by SIGHUP, Ctrl-C and SIGTERM,
with the run saved; 141 the reader of the output has ended."""


_CLOSED = 128 + 13  # as of a program that SIGPIPE ends
_SYSTEM = "system-error"


class _OutputClosed(Exception):
    """What reads the output is gone."""


class Group(click.Group):
    """A group that offers the near name of an unknown command, and tells a closed output from a mistake."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # which click would take for a usual end
            raise _OutputClosed from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(f"there is no command {name!r}: {did_you_mean(name, self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_STATUS
)
@click.version_option(VERSION, prog_name="luthier")
def cli() -> None:
    """Design, train and reuse neural networks in PyTorch."""


def _output_options(command: Any) -> Any:
    command = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON, for programs.")(command)
    return click.option("--quiet", "-q", is_flag=True, help="Print only errors.")(command)


def _network_option(command: Any) -> Any:
    return click.option("--network", help="File and class of your own network: FILE.py:CLASS.")(command)


def _trust_options(command: Any) -> Any:
    words = "Trust RUN: run the code of the network that it names."
    return _network_option(click.option("--trust-code", is_flag=True, help=words)(command))


def _process_options(command: Any) -> Any:
    words = "Processes on this machine that train together: any number up to --shards gives the same bits."
    again = "Restart them from the newest checkpoint, at most this often, if one is killed."
    command = click.option("--restarts", type=click.IntRange(0), default=0, help=again)(command)
    return click.option("--processes", type=click.IntRange(1), default=1, help=words)(command)


@cli.command(cls=GroupedCommand, short_help="Design a network for data, train it, test it and save it.")
@click.argument("source")
@settings_options
@click.option("--run", help="The run's folder; a new one under runs/ by default.")
@click.option("--continue", "go_on", is_flag=True, help="Continue the run in --run if there is one.")
@_process_options
@click.option(
    "--track",
    type=click.Choice(["tensorboard", "mlflow", "wandb", "trackio", "aim", "csv"]),
    multiple=True,
    help="Send settings, losses and figures to a tracker as well; several times for several.",
)
@click.option("--reasons", is_flag=True, help="Show each column with the reason for its kind, also beyond twenty.")
@_output_options
def train(
    source: str,
    run: str | None,
    go_on: bool,
    processes: int,
    restarts: int,
    track: tuple[str, ...],
    reasons: bool,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Design a network for SOURCE, train it, test it and save it.

    SOURCE is a table: a CSV, Parquet, Excel, JSON or Arrow file, a folder or a pattern of them ('data/part-*.csv'), `-`
    for a CSV from standard input, or the URL of a database with --query. Or it is a folder of images (one folder a
    class), an .npz with x and y, or a run file (.toml) that `luthier design` wrote.
    """
    from luthier.cli.launch import launch, run_folder_file

    if processes > 1:
        _refuse_stdin(source)
        return launch(click.get_current_context().find_root().obj, processes, restarts)
    from luthier.cli import show
    from luthier.cli.stopping import Stopping
    from luthier.pipeline.train import train as train_source

    def report(plan: Any, folder: Any) -> None:
        if (told := run_folder_file()) is not None:
            told.write_text(str(folder), encoding="utf-8")
        if not silent:
            show.plan(plan, folder, all_reasons=reasons)

    silent = quiet or as_json
    stopping = Stopping()
    with stopping.armed():
        result = train_source(
            source,
            run=run or True,
            verbose=False,
            callbacks=[stopping, show.progress(quiet=silent)],
            trackers=track,
            report=report,
            go_on=go_on,
            asked=_asked(),
            **given_settings(values),
        )
    show.result(result, as_json=as_json, quiet=quiet)
    return stopping.status if not result.is_done else 0


def _refuse_stdin(source: str) -> None:
    if source == "-":
        raise click.UsageError("standard input can be read by one process: write it to a file for --processes")


def _asked() -> str | None:
    """Return the command as it was typed, without a password in it."""
    from luthier.data.files import without_password

    arguments = click.get_current_context().find_root().obj
    return None if arguments is None else shlex.join(["luthier", *map(without_password, arguments)])


@cli.command(cls=GroupedCommand, short_help="Search for better settings by trials, and keep the best run.")
@click.argument("source")
@settings_options
@click.option("--trials", type=click.IntRange(1), help="Trials in all; 30 unless --max-time-s is given.")
@click.option("--metric", help="Validation figure to search by: loss by default, or accuracy, f1, auc, rmse, mae, r2.")
@click.option("--search", help="TOML file with the search space; by default it follows from the design.")
@click.option("--print-search", is_flag=True, help="Print the search space as TOML, and do nothing else.")
@click.option("--run", help="The study's folder; the same call continues it. A new one under runs/ by default.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, help="Processes that share the trials; the result then varies."
)
@_output_options
def tune(
    source: str,
    trials: int | None,
    metric: str | None,
    search: str | None,
    print_search: bool,
    run: str | None,
    jobs: int,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Search settings for SOURCE by trials, choose by validation, and test the best run once.

    SOURCE is what `luthier train` takes. --max-time-s limits the whole study. Its folder has a run for each trial; use
    the best one like any other run. To continue a stopped study, repeat the call with the same --run.
    """
    given = given_settings(values)
    max_time_s = given.pop("max_time_s", None)
    if print_search:
        from luthier.pipeline.tune import print_space

        print(print_space(source, **given), end="")
        return 0
    from luthier.cli import show
    from luthier.cli.launch import helpers, is_worker
    from luthier.cli.stopping import Stopping
    from luthier.pipeline.tune import tune as tune_source

    if jobs > 1:
        _refuse_stdin(source)
        if run is None:
            raise click.UsageError("--jobs needs --run: the processes meet in that folder")
    silent = quiet or as_json
    stopping, line = Stopping(), show.trial_lines(silent=silent)
    with stopping.armed(), helpers(click.get_current_context().find_root().obj, jobs - 1):
        study = tune_source(
            source, trials=trials, max_time_s=max_time_s, metric=metric, search=search, run=run, callbacks=[stopping],
            on_trial=line, is_worker=is_worker(), **given,
        )  # fmt: skip
    show.study(study, as_json=as_json, quiet=quiet)
    return stopping.status if not study.is_done else 0


@cli.command(cls=GroupedCommand, short_help="Encode data that is larger than memory, for train to read from disk.")
@click.argument("sources", nargs=-1, required=True)
@rows_options
@click.option("--output", "-o", required=True, help="The store's folder, which is made.")
@_output_options
def rows(sources: tuple[str, ...], output: str, quiet: bool, as_json: bool, **values: Any) -> int:
    """Encode the rows of SOURCES into a folder that `luthier train` takes: a table in Parquet or text files, or images.

    The rows are read piece by piece. `luthier train` does this automatically if the data does not fit into memory.
    """
    from luthier.pipeline.rows import write_rows

    store = write_rows(list(sources), output, **given_settings(values))
    if as_json:
        say_json({"folder": output, "rows": {part: found.count for part, found in store.parts.items()}})
    elif not quiet:
        left_out = [
            f"left out: {column.name!r}, {column.why}" for column in store.schema.columns if not column.is_input
        ]
        say("\n".join([store.words(), *left_out, f"train on them: luthier train {shlex.quote(output)}"]))
    return 0


@cli.command(short_help="Continue a run that was stopped, or give a finished one more epochs.")
@click.argument("run")
@click.option("--epochs", type=int, help="Epochs in all, more than were planned.")
@click.option("--device", help="Device to train on.")
@click.option("--max-time-s", type=float, help="Stop after this many seconds, at the end of an epoch.")
@_trust_options
@_process_options
@_output_options
def resume(
    run: str, epochs: int | None, processes: int, restarts: int, quiet: bool, as_json: bool, **values: Any
) -> int:
    """Continue RUN, a run's folder, from its newest checkpoint, with the same bits as if it had never stopped."""
    if processes > 1:
        from luthier.cli.launch import launch

        return launch(click.get_current_context().find_root().obj, processes, restarts)
    from luthier.cli import show
    from luthier.cli.stopping import Stopping
    from luthier.pipeline.train import resume as resume_run

    stopping = Stopping()
    with stopping.armed():
        result = resume_run(
            run,
            epochs=epochs,
            callbacks=[stopping, show.progress(quiet=quiet or as_json)],
            verbose=False,
            **given_settings(values),
        )
    show.result(result, as_json=as_json, quiet=quiet)
    return stopping.status if not result.is_done else 0


@cli.command(short_help="Repeat steps of a run from a checkpoint, and compare the bits.")
@click.argument("run")
@click.option("--from", "start", type=int, help="First step to show, counted from 0.")
@click.option("--to", "stop", type=int, help="Step to stop before.")
@_trust_options
@_output_options
def replay(run: str, start: int | None, stop: int | None, quiet: bool, as_json: bool, **trusted: Any) -> int:
    """Repeat steps of RUN and compare them with its checkpoints and its record; nothing is written.

    If the run ended in a loss that is not finite, name the operation, layer and samples that caused it. Exit status 1:
    something differs.
    """
    from luthier.cli import show
    from luthier.pipeline.replay import replay as replay_run

    done = replay_run(run, start=start, stop=stop, **trusted)
    show.replay(done, as_json=as_json, quiet=quiet)
    return 0 if done.is_equal else 1


@cli.command(short_help="Write a run as a plain PyTorch project, without Luthier, that gives the same weights.")
@click.argument("run")
@click.argument("folder")
@_trust_options
@_output_options
def eject(run: str, folder: str, quiet: bool, as_json: bool, **trusted: Any) -> int:
    """Write RUN, a finished run of `luthier train`, into FOLDER as a plain PyTorch project.

    `python train.py` in it trains again and writes model.safetensors, with the run's weights bit for bit.
    """
    from luthier.pipeline.eject import eject as eject_run

    files = eject_run(run, folder, **trusted)
    if as_json:
        say_json({"folder": folder, "files": files})
    elif not quiet:
        say(f"{folder}: {', '.join(files)}\ntrain again: cd {folder} && python train.py")
    return 0


@cli.command(cls=GroupedCommand, short_help="Print the design for data as a run file, with the reasons.")
@click.argument("source")
@settings_options
def design(source: str, **values: Any) -> int:
    """Print what `train` would do with SOURCE, as TOML with the reasons; `luthier train run.toml` does it."""
    from luthier.pipeline.plan import design as design_source

    print(design_source(source, **given_settings(values)).toml(), end="")
    return 0


def _reading_options(command: Any) -> Any:
    decimals = "Decimal mark of a CSV; by default a comma if semicolons separate the cells, else a point."
    command = click.option("--decimal", type=click.Choice([",", "."]), help=decimals)(command)
    command = click.option("--encoding", help="Encoding of a CSV; detected by default.")(command)
    command = click.option("--delimiter", help="Delimiter of a CSV; detected by default.")(command)
    command = click.option("--sheet", help="Sheet of a workbook, by name or counted from 1.")(command)
    command = click.option("--query", help="SQL query (SELECT …), if SOURCE is the URL of a database.")(command)
    return _network_option(command)


_device_option = click.option("--device", help="Device to compute on; the CPU by default.")


@cli.command(short_help="Measure a model on data with targets.")
@click.argument("model")
@click.argument("source")
@_reading_options
@_device_option
@_output_options
def evaluate(
    model: str, source: str, quiet: bool, as_json: bool, device: str | None, network: str | None, **reading: Any
) -> int:
    """Measure MODEL, a model.safetensors or a run's folder, on SOURCE, which must have the targets."""
    from luthier.cli import show
    from luthier.data.textfile import ReadOptions
    from luthier.serving.model import load

    figures = load(model, network=network, device=device).evaluate(source, options=ReadOptions(**reading))
    if as_json:
        say_json(figures)
    elif not quiet:
        show.figures(figures)
    return 0


@cli.command(short_help="Predict with a model, row by row, in the order of the rows.")
@click.argument("model")
@click.argument("source")
@click.option("--output", "-o", help="File to write: .csv, .parquet or .jsonl; by default CSV to standard output.")
@click.option(
    "--output-folder",
    help="Write a file of answers for each file of SOURCE; the same call again does only what is missing.",
)
@click.option(
    "--output-format",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    help="Format of the files in --output-folder; parquet by default.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes for --output-folder; 1 by default.")
@_reading_options
@_device_option
@_output_options
def predict(
    model: str,
    source: str,
    output: str | None,
    output_folder: str | None,
    output_format: str | None,
    workers: int | None,
    quiet: bool,
    as_json: bool,
    device: str | None,
    network: str | None,
    **reading: Any,
) -> int:
    """Predict with MODEL, a model.safetensors or a run's folder, for each row of SOURCE, in its order.

    Columns: `prediction` (or `prediction_TARGET` for several targets) and `probability_CLASS`; `image` for images, and
    `error` for those that cannot be read. SOURCE may be larger than memory.
    """
    from luthier.data.files import source_files
    from luthier.data.textfile import ReadOptions
    from luthier.serving.files import write_answers
    from luthier.serving.model import load

    if output_folder is not None:
        if output is not None:
            raise click.UsageError("--output and --output-folder are two places: give one of them")
        from luthier.serving.many import predict_files

        found = predict_files(
            model,
            source_files(source),
            output_folder,
            suffix=f".{output_format or 'parquet'}",
            workers=workers or 1,
            options=ReadOptions(**reading),
            report=None if quiet or as_json else lambda line: say(line, is_error=True),
            network=network,
            device=device,
        )
        counts = {"rows": found.rows, "files": found.files, "kept": found.kept}
        errors = {path: str(error) for path, error in found.errors.items()}
        if as_json:
            say_json({**counts, "errors": errors})
        elif not quiet:
            say(
                f"{found.rows:,} predictions in {found.files} files in {output_folder}; {found.kept} were there already"
            )
        for path, words in errors.items():
            _complain(f"{path}: {words}")
        return 2 if errors else 0
    if output_format or workers:
        raise click.UsageError("--output-format and --workers need --output-folder")
    output = None if output == "-" else output
    rows = write_answers(
        load(model, network=network, device=device).stream(source, options=ReadOptions(**reading)),
        output,
        sources=(*map(str, source_files(source)), model),
        as_json=as_json,
    )
    if output and not quiet:
        say(f"{rows:,} predictions in {output}", is_error=True)
    return 0


@cli.command(short_help="Answer over HTTP with one model or several.")
@click.argument("models", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all of them.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 finds a free one."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that answer.")
@click.option("--max-body-mb", type=click.FloatRange(0), default=16, show_default=True, help="Largest body, in MB.")
@click.option("--max-rows", type=click.IntRange(1), default=10_000, show_default=True, help="Most rows in a request.")
@click.option("--max-megapixels", type=click.FloatRange(0), default=32, show_default=True, help="Largest image.")
@click.option(
    "--timeout-s", type=click.FloatRange(0), default=30, show_default=True, help="Seconds to wait for a body."
)
@click.option(
    "--gather-ms", type=click.FloatRange(0), help="Wait this long to compute rows of several requests together."
)
@click.option("--token-file", help="File with the token that clients must send; by default the variable LUTHIER_TOKEN.")
@click.option("--log-requests", is_flag=True, help="Print a line for each request, without its data.")
@_network_option
@click.option("--quiet", "-q", is_flag=True, help="Print only errors.")
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    max_body_mb: float,
    max_rows: int,
    max_megapixels: float,
    timeout_s: float,
    gather_ms: float | None,
    token_file: str | None,
    log_requests: bool,
    network: str | None,
    quiet: bool,
) -> int:
    """Answer over HTTP with MODELS, each a model.safetensors or a run's folder, until SIGTERM or Ctrl-C.

    POST rows to /predict. The page at / has a form to try a model, and /openapi.json describes the server. If the file
    of a model changes, it is read again. Only this machine can connect, unless you set --host.
    """
    from luthier.http.limits import Limits
    from luthier.http.serve import read_token
    from luthier.http.serve import serve as serve_models

    limits = Limits(
        max_body_bytes=int(max_body_mb * 2**20),
        max_rows=max_rows,
        max_pixels=int(max_megapixels * 1e6),
        timeout_s=timeout_s,
        gather_s=None if gather_ms is None else gather_ms / 1000,
    )
    report = None if quiet else lambda line: say(f"{line}  ({', '.join(models)}); Ctrl-C stops it")
    serve_models(
        models,
        host=host,
        port=port,
        workers=workers,
        limits=limits,
        token=read_token(token_file),
        logs_requests=log_requests,
        network=network,
        report=report,
    )
    return 0


@cli.command("explain-row", short_help="Say which columns moved a model's answer for one row.")
@click.argument("model")
@click.argument("row", nargs=-1, required=True)
@click.option("--background", help="File of rows to compare with; by default a run's training rows.")
@click.option("--of", help="Class, label or target to explain; by default the most probable class or the first target.")
@_reading_options
@_output_options
def explain_row(
    model: str,
    row: tuple[str, ...],
    background: str | None,
    of: str | None,
    quiet: bool,
    as_json: bool,
    network: str | None,
    **reading: Any,
) -> int:
    """Say which columns moved the answer of MODEL, a run's folder or a model.safetensors, for one ROW.

    ROW is a file of one row, or values such as age=41 city=Bonn. The values of the columns sum to the answer minus the
    mean answer of the background rows.
    """
    from dataclasses import asdict

    from luthier.cli import show
    from luthier.data.textfile import ReadOptions
    from luthier.pipeline.explain import explain_row as explain

    source: Any = row[0]
    if len(row) > 1 or ("=" in row[0] and not os.path.exists(row[0])):
        pairs = [pair.partition("=") for pair in row]
        if not all(equals for _, equals, _ in pairs):
            raise click.UsageError("ROW is one file, or values such as age=41 city=Bonn")
        source = {name: value for name, _, value in pairs}
    found = explain(model, source, background=background, of=of, network=network, options=ReadOptions(**reading))
    if as_json:
        say_json(asdict(found))
    elif not quiet:
        show.explanation(found)
    return 0


@cli.command(short_help="Export a model as ONNX or for torch.export, and prove that its answers are the same.")
@click.argument("model")
@click.option("--output", "-o", required=True, help="File (.onnx, .pt2), or a new folder, with a card and a web page.")
@click.option(
    "--format",
    type=click.Choice(["onnx", "pt2", "aoti"]),
    help="By default the suffix decides, and a folder gets onnx; aoti is compiled for this kind of machine.",
)
@click.option("--rows", help="File of rows for the proof; by default a run's test rows.")
@_trust_options
@_output_options
def export(
    model: str, output: str, format: str | None, rows: str | None, quiet: bool, as_json: bool, **trusted: Any
) -> int:
    """Export MODEL, a model.safetensors or a run's folder, to use it without Luthier.

    The export takes raw cells and gives the answers of `predict`. They are compared before it is kept; exit status 1:
    they differ.
    """
    from luthier.cli import show
    from luthier.pipeline.export import export as export_model

    made = export_model(model, output, format=format, rows=rows, **trusted)
    show.export(made, as_json=as_json, quiet=quiet)
    return 0


@cli.command(short_help="Show a model's layers: shapes, parameters, multiply-adds; and draw it.")
@click.argument("model")
@click.option("--svg", help="SVG file for a drawing of the network.")
@_network_option
@_output_options
def summary(model: str, svg: str | None, network: str | None, quiet: bool, as_json: bool) -> int:
    """Show the layers of MODEL, a model.safetensors or a run's folder, in the order in which they act.

    Multiply-adds are those of matrix products, convolutions, recurrent layers and attention, for one row of data.
    """
    from dataclasses import asdict
    from pathlib import Path

    from luthier.pipeline.runfile import read_reasons
    from luthier.serving.model import load
    from luthier.serving.summary import summary as summarise
    from luthier.store.files import check_output, write_whole

    drawing = None if svg is None else check_output(svg, (".svg",), flag="--svg", sources=(model,))
    found = summarise(load(model, network=network))
    reasons = read_reasons(Path(model) / "run.toml")
    if drawing is not None:
        write_whole(drawing, found.svg().encode())
    if as_json:
        say_json({**asdict(found), "why": reasons})
    elif not quiet:
        say(found)
        for name, why in reasons.items():
            say(f"{name}: {why}")
    return 0


@cli.command(short_help="Write what happened in runs as one HTML file.")
@click.argument("runs", nargs=-1, required=True)
@click.option("--output", "-o", default="report.html", show_default=True, help="File to write: .html.")
@click.option("--rows/--no-rows", default=True, help="Show values of cells; --no-rows writes only figures.")
@_trust_options
@_output_options
def report(runs: tuple[str, ...], output: str, rows: bool, quiet: bool, as_json: bool, **trusted: Any) -> int:
    """Write RUNS, folders of runs, as one HTML file: curves, figures, slices, columns, rows. It needs no server.

    The data is read again. If it is gone or has changed, the report says so and shows what the runs saved.
    """
    from luthier.pipeline.report import report as report_runs

    path = report_runs(runs, output, rows=rows, **{name: value for name, value in trusted.items() if value})
    if as_json:
        say_json({"output": str(path), "bytes": path.stat().st_size})
    elif not quiet:
        say(f"{path}: {path.stat().st_size:,} bytes; open it in a browser")
    return 0


@cli.command(short_help="List the runs in a folder.")
@click.argument("folder", default="runs")
@click.option("--sort", default="when", show_default=True, help="Column to sort by; value puts the best first.")
@click.option("--match", default="", help="Only runs with this text in a column: data, network, state.")
@_output_options
def runs(folder: str, sort: str, match: str, quiet: bool, as_json: bool) -> int:
    """List the runs in FOLDER (runs/): data, target, network, main test figure, seconds, state, when it last wrote."""
    from luthier.cli import show
    from luthier.pipeline.runs import list_runs

    found = list_runs(folder, sort=sort, match=match)
    if as_json:
        say_json(found)
    elif not quiet:
        show.runs(found)
    return 0


@cli.command(short_help="Compare runs: what differs, and their figures on the same test rows.")
@click.argument("runs", nargs=-1, required=True)
@_trust_options
@_output_options
def compare(runs: tuple[str, ...], quiet: bool, as_json: bool, **trusted: Any) -> int:
    """Compare RUNS: what differs in settings and data, and their figures on the same test rows.

    Intervals of differences come from the paired bootstrap. Exit status 2: the test rows are not the same or cannot be
    read, so figures are not compared.
    """
    from dataclasses import asdict

    from luthier.cli import show
    from luthier.pipeline.compare import compare as compare_runs

    found = compare_runs(runs, **{name: value for name, value in trusted.items() if value})
    if as_json:
        say_json(asdict(found))
    elif not quiet:
        show.comparison(found)
    if found.refused:
        _complain(f"the figures are not compared: {found.refused} [run-not-comparable]")
    return 2 if found.refused else 0


@cli.command(cls=GroupedCommand, short_help="Find mistakes that raise no error, in a program, a run or data.")
@click.argument("source")
@settings_options
@click.option(
    "--output-format", type=click.Choice(["text", "json", "github", "sarif"]), default="text",
    help="How to print the findings: github for annotations, sarif for code scanning.",
)  # fmt: skip
@click.option(
    "--fail-on", type=click.Choice(["error", "warning", "never"]), default="error",
    help="Lowest severity that gives exit status 1.",
)  # fmt: skip
@click.option("--baseline", help="File of known findings, which are not shown.")
@click.option("--write-baseline", help="Write the findings to this file as known, and exit with status 0.")
@_output_options
def check(
    source: str,
    output_format: str,
    fail_on: str,
    baseline: str | None,
    write_baseline: str | None,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Look for silent mistakes in SOURCE: a program FILE.py:FUNCTION, a run's folder, a run file, or data.

    The function has no arguments and returns a dict of arguments of `luthier.check`: module, train, valid, criterion,
    optimizer. Exit status 1: there is a finding of at least the severity of --fail-on.
    """
    from pathlib import Path

    from luthier.cli import formats, show
    from luthier.pipeline.check import check_source

    findings = check_source(source, **given_settings(values))
    if baseline is not None:
        findings = formats.without_known(findings, Path(baseline))
    if write_baseline is not None:
        formats.write_baseline(findings, Path(write_baseline))
        if not quiet:
            say(f"{len(findings)} findings are saved as known: --baseline {write_baseline}", is_error=True)
        return 0
    if output_format == "github":
        print("\n".join(formats.github(findings, source)))
    elif output_format == "sarif":
        say_json(formats.sarif(findings, source))
    else:
        show.findings(findings, as_json=as_json or output_format == "json", quiet=quiet)
    failing = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on]
    return int(any(finding.severity in failing for finding in findings))


@cli.command(short_help="Explain the code of a finding or an error.")
@click.argument("code", required=False)
def explain(code: str | None) -> int:
    """Print what CODE means, why it is bad, and what to do; without CODE, all codes."""
    from luthier.core.pages import codes
    from luthier.core.pages import explain as page

    say(page(code) if code is not None else "\n".join(f"{name}  {said}" for name, said in codes().items()))
    return 0


@cli.command(short_help="Show what is installed, train a small table, and say what to do if something is missing.")
@_output_options
def doctor(quiet: bool, as_json: bool) -> int:
    """Show versions, extras, devices and threads, and train a small table to prove that they work.

    Exit status 2: a package is missing or too old, or the training failed.
    """
    from luthier.cli.doctor import examine, in_words

    found = examine()
    if as_json:
        say_json(found)
    elif not quiet:
        say(in_words(found))
    for problem in found["problems"]:
        _complain(f"{problem} [{_SYSTEM}]")
    return 2 if found["problems"] else 0


def run() -> None:
    """Run the command and leave with its status."""
    # Idle threads that spin at a barrier make two slower than one on a busy machine; this acts only before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("RANK", "0") != "0" and {"LUTHIER_GROUP", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # process 0 speaks for all, until the end
    else:
        logging.getLogger("luthier").addHandler(_Warnings(logging.WARNING))
    for number in (signal.SIGINT, *stop_signals()):
        signal.signal(number, interrupt)  # so that what is half-written is taken away, as after Ctrl-C
    status = _run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # said already; the interpreter would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), is_error=True)


def _run(arguments: list[str]) -> int:
    try:
        status = cli.main(arguments, prog_name="luthier", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
        return status or 0
    except LuthierError as error:
        _complain(str(error))
        return error.exit_status
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f"\n  luthier {error.ctx.info_name} --help lists what it takes".replace("luthier luthier", "luthier")
        _complain(error.format_message() + " [usage]" + hint)
        return 2
    except (KeyboardInterrupt, click.Abort) as error:
        causes = (*error.args, *getattr(error.__cause__, "args", ()))  # click wraps it
        return _stopped(next((cause for cause in causes if isinstance(cause, int)), signal.SIGINT), error)
    except (_OutputClosed, BrokenPipeError) as error:
        if arguments[:1] != ["predict"]:  # whose answers are for another program, which has enough of them
            _complain(f"the program that read the output has ended, so the command stopped [{_SYSTEM}]", error)
        return _CLOSED
    except (OSError, MemoryError) as error:
        _complain(_system_error(error), error)
        return 2
    except BaseException as error:
        if heeded:
            return _stopped(heeded[-1], error)
        if not isinstance(error, Exception):
            raise
        import traceback

        traceback.print_exc()
        _complain("this is a fault in Luthier and not in your input; please report it with the lines above [internal]")
        return 3


def _stopped(number: int, error: BaseException) -> int:
    _complain(f"stopped by {'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name}", error)
    return 128 + number


def _system_error(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return f"no memory is left [{_SYSTEM}]\n  free some, or give less data or a smaller network"
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    if not where and error.errno == errno.ENOSPC:  # files that the command writes have names
        where = "standard output: "
    hint = {
        errno.EACCES: "check the permissions of it and of the folders above it",
        errno.ENOSPC: "free disk space",
    }.get(error.errno or 0)
    return f"the system reports: {where}{error.strerror or error} [{_SYSTEM}]" + (f"\n  {hint}" if hint else "")


def _complain(text: str, error: BaseException | None = None) -> None:
    """Print what went wrong, and what was noted on the error: the line to go on with."""
    notes = [note for cause in (error, getattr(error, "__cause__", None)) for note in getattr(cause, "__notes__", ())]
    with suppress(OSError):
        say("\n  ".join([f"luthier: {text}", *notes]), is_error=True)
