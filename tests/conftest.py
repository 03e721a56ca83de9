"""The option --golden DIR, and the last line of a run: golden families that have no card yet."""

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
