"""`luthier explain` without a code."""

from click.testing import CliRunner

from luthier.cli.main import cli
from luthier.core.pages import codes


def test_all_codes_are_listed_with_what_they_are() -> None:
    lines = CliRunner().invoke(cli, ["explain"]).output.splitlines()
    assert len(lines) == len(codes()) > 100
    assert "check-double-softmax  Cross-entropy applies log-softmax itself" in "\n".join(lines)
    assert all(name and said for name, said in codes().items())
