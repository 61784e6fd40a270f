"""What moved around the course: python .github/scripts/drift.py WHAT.

`newest` and `lowest` make an environment with the newest releases, or the lowest ones
of requirements.txt, and run the drift tests, the unit tier and the notebooks there.
`colab` compares Colab's published list with ours and runs each notebook in a replica;
`audit` asks for known vulnerabilities of the locked versions; `links` follows every
link. Each prints what moved, a line each, and hands it on as a step's output. `report`
opens or updates the one issue that starts with DRIFT. `lock` writes .github/lock.txt
from the versions that are installed here.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / ".github" / "lock.txt"
TITLE = "DRIFT: "
WATCHED = ("trl", "transformers", "peft", "accelerate", "datasets")
JOBS = ("newest", "lowest", "colab", "audit", "links")
COLABS_LIST = (
    "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.gpu.txt"
)
LONGEST = 20_000  # characters that a job hands on
# Tests that compare with the versions of the lock: what moved is no news to them.
LEFT_OUT = "not upper_bound and not stamp and not lock"


def run(*command, **options) -> subprocess.CompletedProcess:
    """Run a command in the repository's folder and let it print."""
    print("$", " ".join(map(str, command)), flush=True)
    return subprocess.run([*map(str, command)], cwd=ROOT, text=True, **options)


def locked() -> dict[str, str]:
    """Return the versions that were tested, by name."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE)
    return dict(found)


def widened(requirements: str) -> str:
    """Return requirements without the upper bounds of the packages that we watch."""
    names = "|".join(WATCHED)
    return re.sub(rf"^({names})(>=[\d.]+),<.*$", r"\1\2", requirements, flags=re.M)


def failures(report: Path) -> Iterator[str]:
    """Yield a line for each test that failed, from pytest's JUnit file."""
    if not report.exists():
        yield "pytest wrote no report; see the log"
        return
    for case in xml.parse(report).iter("testcase"):
        for kind in ("failure", "error"):
            for found in case.findall(kind):
                name = f"{case.get('classname')}::{case.get('name')}"
                text = found.get("message", "").strip()
                lines = text.splitlines() or ["no message"]
                shown = [line for line in lines[:6] if line.strip()]
                yield f"{name}: {' '.join(' '.join(shown).split())[:500]}"


def tests(python: Path | str, *arguments, **variables) -> list[str]:
    """Run pytest with an environment's Python; return what failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", f"--junitxml={report}", *arguments]
        run(*command, env=os.environ | variables)
        return list(failures(report))


def in_releases(which: str) -> list[str]:
    """Return what fails with the newest or the lowest releases."""
    environment = ROOT / ".venv-drift"
    python = environment / "bin" / "python"
    path = ROOT / "requirements.txt"
    run("uv", "venv", "--quiet", environment, check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", python]
    install += ["--torch-backend", "cpu"]
    if which == "newest":
        path.write_text(widened(path.read_text()))
        wanted = ["-r", path]
    else:
        command = ["uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct"]
        lowest = environment / "lowest.txt"
        run(*command, "--python", python, "-o", lowest, path, check=True)
        pins = [line for line in lowest.read_text().splitlines() if "==" in line]
        theirs = [pin for pin in pins if not re.match(r"(nvidia|cuda)-|triton=", pin)]
        lowest.write_text("\n".join(theirs))
        wanted = ["-r", lowest]
    done = run(*install, *wanted, "-r", "tests/requirements.txt", capture_output=True)
    if done.returncode:
        reason = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return [f"the {which} releases do not install: {' '.join(reason)[:500]}"]
    listed = run("uv", "pip", "freeze", "--python", python, capture_output=True).stdout
    there = dict(re.findall(r"^([\w.-]+)==([^\s+]+)", listed, re.MULTILINE))
    print(listed)
    found = tests(python, "tests/engine/test_drift.py")
    found += tests(python, "-m", "not slow", "tests", "-k", f"{LEFT_OUT} and not drift")
    # A cell that calls what is deprecated fails as well.
    warn = "error::FutureWarning:__main__"
    found += tests(python, "notebooks", PYTHONWARNINGS=warn)
    if not found:
        return []
    known = locked()
    moved = [f"{n} {known[n]} → {there[n]}" for n in WATCHED if there[n] != known[n]]
    return [f"versions: {', '.join(moved) or 'as tested'}", *dict.fromkeys(found)]


def on_colab() -> list[str]:
    """Return how Colab's image is another than the replica, and what fails there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pip-freeze.gpu.txt"
        with urllib.request.urlopen(COLABS_LIST, timeout=60) as answer:
            path.write_bytes(answer.read())
        wanted = {"GRPO_TEST_COLAB": "1", "GRPO_COLAB_LIST": str(path)}
        listed = ["tests/lab/test_colab_list.py", "tests/endtoend/test_resolves.py"]
        found = tests(sys.executable, *listed, **wanted)
        return found + tests(sys.executable, "-m", "colab", "tests", **wanted)


def audit() -> list[str]:
    """Return the known vulnerabilities of the locked versions."""
    command = ["pip-audit", "--requirement", str(LOCK), "--no-deps", "--disable-pip"]
    done = run(*command, "--format", "json", capture_output=True)
    if not done.stdout.strip().startswith("{"):
        reason = " ".join(done.stderr.split())
        return [f"pip-audit gave no answer: {reason[:300]}"]
    return list(vulnerable(json.loads(done.stdout)))


def vulnerable(answer: dict) -> Iterator[str]:
    """Yield a line for each vulnerability in pip-audit's answer."""
    for package in answer["dependencies"]:
        for each in package.get("vulns", []):
            fixed = ", ".join(each.get("fix_versions", [])) or "no release yet"
            what = f"{package['name']} {package['version']}"
            yield f"{what}: {each['id']}, fixed in {fixed}"


def links() -> list[str]:
    """Return the links of Markdown and notebooks that lead nowhere."""
    found: dict[str, set[str]] = {}
    listed = run("git", "ls-files", "*.md", "*.ipynb", capture_output=True).stdout
    for name in listed.splitlines():
        for link in addresses((ROOT / name).read_text(encoding="utf-8")):
            found.setdefault(link, set()).add(name)
    said = {link: answer(link) for link in sorted(found)}
    return [
        f"{link} in {', '.join(sorted(found[link]))}: {reason}"
        for link, reason in said.items()
        if reason
    ]


def addresses(text: str) -> set[str]:
    """Return the addresses that a text links to; a fork's own are its own matter."""
    found = re.findall(r"\]\((https?://[^)\s\"]+)\)", text)
    found += re.findall(r"(?:src|href)=\\?\"(https?://[^\"\\]+)", text)
    return {link.partition("#")[0] for link in found if "/OWNER/" not in link}


def answer(link: str) -> str | None:
    """Return why a link leads nowhere; None where it leads somewhere, or may.

    A server that refuses a program (403, 429) or is down for a while says nothing.
    """
    asked = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(asked, timeout=30):
            return None
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code in (404, 410) else None
    except urllib.error.URLError as error:
        return "no such server" if "not known" in str(error.reason) else None
    except (OSError, ValueError):
        return None


def hand_on(what: str, found: list[str]) -> None:
    """Print what was found, and make it the output `said` of this step."""
    text = "\n".join(found)[:LONGEST]
    print(f"\n{what}: {text or 'nothing moved'}")
    if "GITHUB_OUTPUT" in os.environ:
        with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
            file.write(f"said<<END_OF_DRIFT\n{text}\nEND_OF_DRIFT\n")


def issue(said: dict[str, str], results: dict[str, str]) -> tuple[str, str] | None:
    """Return title and text of the issue; None where nothing moved."""
    parts, heads = [], []
    for job in JOBS:
        lines = said.get(job, "").strip().splitlines()
        if results.get(job) not in ("success", None):
            lines.append(f"the job ended with {results[job]}; see its log")
        if lines:
            heads.append(job)
            parts += [f"## {job}", *(f"- {line}" for line in lines), ""]
    if not heads:
        return None
    moved = re.search(r"^versions: (.*→.*)$", said.get("newest", ""), re.MULTILINE)
    what = moved[1] if moved else ", ".join(heads)
    return f"{TITLE}{what}"[:200], "\n".join(parts)


def report() -> int:
    """Open, update or close the issue with what the jobs handed on; 1 where it stays.

    Reads `NEEDS`, the workflow's `needs` as JSON, and calls `gh`.
    """
    needs = json.loads(os.environ["NEEDS"])
    said = {job: each["outputs"].get("said", "") for job, each in needs.items()}
    wanted = issue(said, {job: each["result"] for job, each in needs.items()})
    fields = ["--state", "open", "--limit", "200", "--json", "number,title"]
    listed = run("gh", "issue", "list", *fields, capture_output=True, check=True).stdout
    found = [str(i["number"]) for i in json.loads(listed) if TITLE in i["title"]]
    if wanted is None:
        for number in found[:1]:
            text = "Nothing moved any more."
            run("gh", "issue", "close", number, "--comment", text, check=True)
        return 0
    title, body = wanted
    command = ["edit", found[0]] if found else ["create"]
    run("gh", "issue", *command, "--title", title, "--body", body, check=True)
    return 1


def lock() -> None:
    """Write the lock: what is installed here, with what that needs elsewhere.

    PyTorch's own packages for NVIDIA GPUs are left out: its CPU build has none.
    """
    names = {each.name for each in metadata.distributions() if each.name}
    names -= {"pip", "setuptools", "wheel"}
    pins = [f"{n}=={metadata.version(n).partition('+')[0]}" for n in sorted(names)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "here.txt"
        path.write_text("\n".join(pins))
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--no-header"]
        command += ["--no-annotate", "--constraint", path, "--python-version"]
        command += [".".join(map(str, sys.version_info[:3]))]
        files = ["requirements.txt", "tests/requirements.txt"]
        done = run(*command, *files, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr)
    lines = [
        line for line in done.stdout.splitlines()
        if not re.match(r"(nvidia|cuda)-|triton=", line)
    ]  # fmt: skip
    head = [
        "# The versions that the tests ran with: python .github/scripts/drift.py lock.",
        "# pip install -r .github/lock.txt gives exactly these. Where there is no GPU,",
        "# install PyTorch's CPU build of this version first.",
    ]
    LOCK.write_text("\n".join([*head, *lines]) + "\n")


def main() -> int:
    """Do one thing."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("what", choices=[*JOBS, "report", "lock"])
    what = p.parse_args().what
    if what == "report":
        return report()
    if what == "lock":
        lock()
        return 0
    jobs = {"colab": on_colab, "audit": audit, "links": links}
    hand_on(what, jobs[what]() if what in jobs else in_releases(what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
