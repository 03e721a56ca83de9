"""The option --golden DIR, the last line of a run (golden families that have no card yet), the typed command."""

import sys

import pytest
from golden_case import find_cases

from cinelora.families.registry import FAMILIES


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        metavar="DIR",
        help="run the golden cases of this folder (DIR/FAMILY/CASE) instead of tests/golden and ../shared/golden",
    )


def pytest_unconfigure(config):
    """Told by the process that the person sees, which under -n collects nothing itself."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    left_out = sorted({case.family for case in find_cases(config.getoption("--golden"))} - FAMILIES.keys())
    if left_out:
        reporter.write_line(f"golden families left out, not in the registry yet: {', '.join(left_out)}")


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Run `cinelora WORDS` in the test's folder, in this process; gives back exit code and all that was said."""
    from cinelora.cli.app import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cinelora", *words])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return run
