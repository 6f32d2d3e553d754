"""What the user probably meant."""

from pathlib import Path

from luthier.core.names import did_you_mean, near_file


def test_names_that_contain_the_given_one_are_offered() -> None:
    known = ["StepLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts"]
    assert did_you_mean("cos", known) == "did you mean 'CosineAnnealingLR' or 'CosineAnnealingWarmRestarts'?"
    assert did_you_mean("zzz", known).startswith("known: StepLR")


def test_a_missing_file_is_met_by_what_its_folder_shows(tmp_path: Path) -> None:
    assert near_file(tmp_path / "a.csv") == f"{str(tmp_path)!r} is an empty folder"
    (tmp_path / ".out.csv.1.part").touch()
    assert near_file(tmp_path / "out.csv") == f"{str(tmp_path)!r} is an empty folder"
    (tmp_path / "data.csv").touch()
    assert near_file(tmp_path / "date.csv") == "did you mean 'data.csv'?"
    assert near_file(tmp_path / "no" / "a.csv") == f"there is no folder {str(tmp_path / 'no')!r}"
