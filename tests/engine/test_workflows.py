"""The workflows: read as GitHub would, as far as a machine without GitHub can."""

import copy
import re
import shutil
import subprocess
import sysconfig

import pytest
import yaml

from tests import ROOT
from tests.workflows import problems

PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sysconfig.get_path("scripts")
ZIZMOR = shutil.which("zizmor", path=SCRIPTS) or shutil.which("zizmor")
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in PATHS}
STEPS = [
    pytest.param(job, step, id=f"{name}-{job_name}-{place}")
    for name, workflow in WORKFLOWS.items()
    for job_name, job in workflow["jobs"].items()
    for place, step in enumerate(job["steps"])
    if "run" in step
]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_wrong_with_a_workflow(name):
    assert problems(name, WORKFLOWS[name]) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_pinned_action_says_its_version(path):
    pins = re.findall(r"uses: \S+@[0-9a-f]{40}(.*)", path.read_text())
    assert pins and all(re.fullmatch(r" # v\d+\.\d+\.\d+", pin) for pin in pins)


def test_an_action_has_one_version_everywhere():
    texts = "\n".join(path.read_text() for path in PATHS)
    pins = set(re.findall(r"uses: (\S+)@(\S+ # \S+)", texts))
    assert len(pins) == len({action for action, _ in pins})


@pytest.mark.parametrize("job,step", STEPS)
def test_a_step_is_bash_and_runs_what_is_there(job, step):
    script = step["run"]
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = re.findall(r"[\w./-]+\.(?:py|txt|sh)|\.ci/run", script)
    assert all((ROOT / name).exists() for name in named), named


def test_each_command_of_ours_knows_its_arguments():
    """Every `python .github/scripts/…` is one that the script's own help names."""
    texts = "\n".join(step.values[1]["run"] for step in STEPS)
    called = set(re.findall(r"python (\.github/scripts/\w+\.py) (\w+)", texts))
    assert {word for _, word in called} == {
        *("newest", "lowest", "colab", "audit", "links", "report", "stamp")
    }
    for script, word in called:
        text = (ROOT / script).read_text()
        assert re.search(rf"[\"']{word}[\"']", text), (script, word)


def test_the_weekly_workflow_asks_everything():
    drift = yaml.safe_load((ROOT / ".github/workflows/drift.yml").read_text())
    assert set(drift[True]) == {"schedule", "workflow_dispatch"}  # YAML reads `on` so
    report = drift["jobs"]["report"]
    assert set(report["needs"]) == drift["jobs"].keys() - {"report"}
    assert drift["permissions"] == {}
    writes = [n for n, job in drift["jobs"].items() if "issues" in job["permissions"]]
    assert writes == ["report"]


def test_zizmor_finds_nothing():
    if ZIZMOR is None:
        pytest.skip("wants zizmor: pip install -r tests/requirements.txt")
    command = [ZIZMOR, "--offline", "--no-progress", "--format", "plain"]
    folder = ROOT / ".github" / "workflows"
    done = subprocess.run([*command, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def broken(change) -> list[str]:
    """What is said of the weekly workflow after a change."""
    workflow = copy.deepcopy(WORKFLOWS["drift.yml"])
    change(workflow["jobs"])
    return problems("drift.yml", workflow)


@pytest.mark.parametrize(
    "change,says",
    [
        (
            lambda jobs: jobs["newest"]["outputs"].update(
                said="${{ steps.move.outputs.said }}"
            ),
            "newest: ${{ steps.move.outputs.said }}: no step with the id move",
        ),
        (
            lambda jobs: jobs["report"].update({"if": "${{ !canceled() }}"}),
            "report: ${{ !canceled() }}: no function canceled",
        ),
        (
            lambda jobs: jobs["report"].update({"if": "github.event_nam == push'"}),
            "report: ${{ github.event_nam == push' }}: no context push",
        ),
        (
            lambda jobs: jobs["report"].update({"if": "${{ always( }}"}),
            "report: ${{ always( }}: brackets that do not match",
        ),
        (
            lambda jobs: jobs["audit"].update(name="${{ matrix.os }}"),
            "audit: ${{ matrix.os }}: no matrix.os",
        ),
        (
            lambda jobs: jobs["report"].update(name="${{ needs.links.outputs.x }}"),
            "report: ${{ needs.links.outputs.x }}: links has no output x",
        ),
        (
            lambda jobs: jobs["report"].update(needs=["newest", "lowes"]),
            "report: needs lowes, which is no job",
        ),
        (
            lambda jobs: jobs["links"]["steps"][0].update(uses="actions/checkout@v5"),
            "links: actions/checkout@v5 is not pinned by a commit's hash",
        ),
        (
            lambda jobs: jobs["links"]["steps"][0].pop("with"),
            "links: checkout keeps its token in the folder",
        ),
        (
            lambda jobs: jobs["links"].update(permissions={"contents": "write"}),
            "links: permissions that no job here needs: {'contents': 'write'}",
        ),
        (
            lambda jobs: jobs["links"].pop("timeout-minutes"),
            "links: no timeout-minutes",
        ),
        (
            lambda jobs: jobs["links"]["steps"].append(
                {"run": "echo ${{ github.head_ref }}"}
            ),
            "links: a script with ${{ … }} runs what others write; pass it by env",
        ),
    ],
)
def test_a_wrong_workflow_is_said(change, says):
    assert f"drift.yml: {says}" in broken(change)
