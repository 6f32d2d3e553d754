"""The command from end to end, as a person or a program would use it."""

import gzip
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import PENGUINS, Command


def test_the_whole_path(command: Command, tmp_path: Path) -> None:
    status, out, err = command("train", PENGUINS, "--target", "species", "--epochs", "25")
    assert (status, err) == (0, "")
    for words in ("344 rows", "bill_length_mm", "number", "perceptrons that share", "valid loss", "test:", "accuracy",
                  "true \\ decided", "luthier predict runs/penguins"):  # fmt: skip
        assert words in out, words
    assert out.count("\n   2") >= 1

    status, out, _ = command("predict", "runs/penguins", PENGUINS, "-o", "answers.csv")
    assert status == 0
    answers = pl.read_csv(tmp_path / "answers.csv")
    assert answers.columns == ["prediction", "probability_Adelie", "probability_Chinstrap", "probability_Gentoo"]
    true = pl.read_csv(PENGUINS)["species"]
    assert (answers["prediction"] == true).mean() > 0.95  # type: ignore[operator]

    status, out, _ = command("evaluate", "runs/penguins", PENGUINS, "--json")
    figures = json.loads(out)
    assert figures["rows"] == 344
    assert figures["accuracy"] == pytest.approx((answers["prediction"] == true).mean())
    assert sum(map(sum, figures["confusion"])) == 344
    assert [row["class"] for row in figures["classes"]] == ["Adelie", "Chinstrap", "Gentoo"]


def test_json_for_programs(command: Command) -> None:
    status, out, _ = command("train", PENGUINS, "-t", "species", "--epochs", "1", "--json")
    outcome = json.loads(out)
    assert status == 0
    assert outcome["done"] is True
    assert Path(outcome["model"]).is_file()
    assert 0 <= outcome["test"]["accuracy"] <= 1


def test_quiet_is_quiet(command: Command) -> None:
    assert command("train", PENGUINS, "-t", "species", "--epochs", "1", "--quiet") == (0, "", "")


def test_a_design_is_a_run_file(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("design", PENGUINS, "-t", "species", "--kind", "year=category", "--lr", "0.01")
    assert status == 0
    assert 'year = "category"  # you said so' in out
    assert "lr = 0.01  # as asked for" in out
    (tmp_path / "run.toml").write_text(out)
    status, out, _ = command("train", "run.toml", "--epochs", "2")
    assert status == 0
    assert "test:" in out


def test_values_by_name_are_numbers_however_their_point_stands(command: Command) -> None:
    given = ("--lr-scale", "hidden=.5", "--optimizer-args", "eps=1e-7", "--kind", "year=category")
    status, out, _ = command("design", PENGUINS, "-t", "species", *given)
    assert status == 0
    assert "lr_scale = { hidden = 0.5 }" in out
    assert "optimizer_args = { eps = 1e-07 }" in out


def test_what_the_design_chooses_can_be_switched_off(command: Command) -> None:
    off = ("--scheduler", "none", "--clip-norm", "none", "--patience", "none", "--augment", "none")
    status, out, _ = command("design", PENGUINS, "-t", "species", *off)
    assert status == 0
    for name in ("scheduler", "scheduler_args", "clip_norm", "patience"):
        assert not any(line.startswith(f"{name} = ") and line != "scheduler_args = {}" for line in out.splitlines()), (
            name
        )


def test_the_same_call_gives_the_same_network(command: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert command("train", PENGUINS, "-t", "species", "--epochs", "2", "--run", name, "-q")[0] == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_forms_of_a_csv_give_the_same_answers(command: Command, models: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(PENGUINS, null_values="NA")
    frame.write_csv("semicolon.csv", separator=";", null_value="NA")
    frame.write_csv("tab.tsv", separator="\t", null_value="?")
    frame.write_parquet("typed.parquet")
    Path("quoted.csv").write_text(frame.write_csv(quote_style="always", null_value=""), encoding="utf-16")
    Path("packed.csv.gz").write_bytes(gzip.compress(PENGUINS.read_bytes()))
    expected = command("predict", models / "table", PENGUINS)[1]
    for name in ("semicolon.csv", "tab.tsv", "typed.parquet", "quoted.csv", "packed.csv.gz"):
        status, out, err = command("predict", models / "table", name)
        assert (status, err) == (0, ""), name
        assert out == expected, name


def test_output_formats_agree(command: Command, models: Path) -> None:
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        assert command("predict", models / "table", PENGUINS, "-o", name)[0] == 0
    expected = pl.read_csv("a.csv")
    for other in (pl.read_parquet("a.parquet"), pl.read_ndjson("a.jsonl")):
        assert other.columns == expected.columns
        assert other["prediction"].to_list() == expected["prediction"].to_list()


def test_tables_come_from_anywhere(command: Command, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.read_csv(PENGUINS, infer_schema_length=None, null_values="NA")
    frame.write_excel("p.xlsx", worksheet="rows")
    Path("parts").mkdir()
    for i in range(3):
        frame[i * 120 : (i + 1) * 120].write_csv(f"parts/{i}.csv")
    want = command("predict", models / "table", PENGUINS)
    assert command("predict", models / "table", "p.xlsx", "--sheet", "rows") == want
    assert command("predict", models / "table", "parts/*.csv") == want
    assert command("predict", models / "table", "parts") == want
    with PENGUINS.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert command("predict", models / "table", "-") == want
    status, _, said = command("predict", models / "table", "parts", "-o", "parts/1.csv")
    assert (status, "is also the input" in said) == (2, True)
    status, out, _ = command("evaluate", models / "table", "p.xlsx", "--json")
    assert (status, json.loads(out)["rows"]) == (0, 344)
    status, _, said = command("predict", models / "table", PENGUINS, "--query", "SELECT 1")
    assert (status, "[setting-ignored]" in said) == (2, True)


def test_unreadable_images_are_named_and_the_others_answered(command: Command, models: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in ("light", "dark"):
        (tmp_path / "new" / f"{name}.png").write_bytes((models / "images" / name / "0.png").read_bytes())
    (tmp_path / "new" / "empty.png").touch()
    status, _, _ = command("predict", models / "image", "new", "-o", "a.csv")
    answers = pl.read_csv("a.csv")
    assert status == 0
    assert answers["image"].to_list() == ["dark.png", "empty.png", "light.png"]
    assert answers["prediction"].is_null().to_list() == [False, True, False]
    assert "0 bytes" in answers["error"].to_list()[1]


def test_unreadable_images_are_left_out_on_request(command: Command, models: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(models / "images", tmp_path / "images")
    (tmp_path / "images" / "dark" / "empty.png").touch()
    (tmp_path / "images" / "dark" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    status, _, err = command("train", "images", "--epochs", "1")
    assert (status, "[data-image-unreadable]" in err) == (2, True)
    status, out, _ = command("train", "images", "--skip-unreadable", "--epochs", "1")
    assert status == 0
    assert "left out" in out
    assert "empty.png" in out


LUTHIER = [sys.executable, "-c", "from luthier.cli.main import run; run()"]
LONG = ["train", str(PENGUINS), "-t", "species", "--epochs", "200", "--patience", "400", "--batch-size", "16"]


def started(arguments: list[str], number: int, folder: Path) -> subprocess.Popen[str]:
    """Start the command with the usual answer to a signal, which below nohup would be none."""
    return subprocess.Popen(
        [*LUTHIER, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip


def signalled(process: subprocess.Popen[str], number: int, is_due: Callable[[], bool]) -> tuple[str, str]:
    """Send the signal when it is due; return what was printed. Nothing is left running."""
    deadline = time.monotonic() + 300
    try:
        while not is_due() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        return process.communicate(timeout=300)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that no signal reached."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run([*LUTHIER, *LONG, "--run", "whole", "-q"], cwd=folder, check=True)
    return load_file(folder / "whole" / "model.safetensors")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_run_resumes_to_the_same_bits(
    number: int, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    process = started([*LONG, "--run", "cut"], number, tmp_path)
    record = tmp_path / "cut" / "record.jsonl"
    out, err = signalled(process, number, lambda: record.exists() and record.read_text().count("\n") > 3)
    assert process.returncode == 128 + number, err
    assert "luthier resume cut" in out
    assert err == ""
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    done = subprocess.run([*LUTHIER, "resume", "cut", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    resumed = load_file(tmp_path / "cut" / "model.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_half_written_answers(number: int, models: Path, tmp_path: Path) -> None:
    header, *rows = PENGUINS.read_text().splitlines()
    (tmp_path / "many.csv").write_text("\n".join([header, *rows * 1500]))
    process = started(["predict", str(models / "table"), "many.csv", "-o", "a.csv"], number, tmp_path)
    _, err = signalled(process, number, lambda: bool(list(tmp_path.glob(".*.part"))))
    assert process.returncode == 128 + number, err
    assert "stopped by" in err
    assert [path.name for path in tmp_path.iterdir()] == ["many.csv"]


def test_cells_that_are_no_numbers_are_said_by_predict_and_evaluate(
    command: Command, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pl.read_csv(PENGUINS, infer_schema=False).with_row_index()
    odd = pl.when(pl.col("index") < 3).then(pl.lit("heavy")).otherwise(pl.col("body_mass_g")).alias("body_mass_g")
    frame.with_columns(odd).drop("index").write_csv(tmp_path / "odd.csv")
    for name in ("predict", "evaluate"):
        caplog.clear()
        assert command(name, models / "table", "odd.csv")[0] == 0
        assert "column 'body_mass_g': 3 cells are not numbers, and count as missing" in caplog.text
    caplog.clear()
    command("predict", models / "table", PENGUINS)
    assert "count as missing" not in caplog.text


def test_the_help_has_each_option_once_under_a_title_the_common_ones_first() -> None:
    from click.testing import CliRunner

    from luthier.cli.main import cli

    text = CliRunner().invoke(cli, ["train", "--help"], terminal_width=110).output
    titles = re.findall(r"^(\S.*):$", text, re.M)
    assert titles[0] == "Common options"
    assert titles[-1] == "Output"
    assert {"Data", "Network", "Stopping", "After training", "Checks", "Machine"} <= set(titles)
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)
    assert len(flags) == len(set(flags)) > 80
    assert text.index("--target ") < text.index("\nData:")
