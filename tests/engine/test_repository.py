"""What README, CI and requirements promise each other."""

import re

from tests import ROOT


def test_ci_and_workflow_run_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = "pip install -r requirements.txt -r tests/requirements.txt && pytest"
    assert command in readme
    assert command in (ROOT / ".ci" / "run").read_text()
    assert "pip install -r requirements.txt && python -m helpers train" in readme
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert "bash .ci/run" in workflow


def test_requirements_are_ranges_with_an_upper_bound():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", line), line
    assert "trl>=1.16,<1.17" in (ROOT / "requirements.txt").read_text()
