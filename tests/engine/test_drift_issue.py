"""The script behind the weekly workflow: what it asks for, and the one issue."""

import http.server
import importlib.util
import json
import subprocess
import threading
from types import SimpleNamespace

import pytest

from tests import ROOT

SCRIPT = ROOT / ".github" / "scripts" / "drift.py"
spec = importlib.util.spec_from_file_location("drift", SCRIPT)
drift = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drift)
REPORT = """<testsuites><testsuite><testcase classname="tests.engine.test_drift"
name="test_every_keyword_that_is_passed_is_taken"><failure message="AssertionError:
assert ['helpers/profiles.py: GRPOConfig of trl 2.0.0 takes no num_generations'] == []"
/></testcase><testcase classname="a" name="b"/></testsuite></testsuites>"""


def test_newest_lifts_the_bounds_of_what_moves_and_of_nothing_else():
    text = drift.widened((ROOT / "requirements.txt").read_text())
    for name in drift.WATCHED:
        assert f"\n{name}>=" in text and f"\n{name}>=1.16,<" not in text
    assert "\ntrl>=1.16\n" in text and "\ntorch>=2.11,<2.14\n" in text
    assert drift.locked().keys() >= {*drift.WATCHED, "torch"}


def test_a_failed_test_is_a_line(tmp_path):
    path = tmp_path / "report.xml"
    assert list(drift.failures(path)) == ["pytest wrote no report; see the log"]
    path.write_text(REPORT)
    (line,) = drift.failures(path)
    assert line == (
        "tests.engine.test_drift::test_every_keyword_that_is_passed_is_taken: "
        "AssertionError: assert ['helpers/profiles.py: GRPOConfig of trl 2.0.0 takes "
        "no num_generations'] == []"
    )


def test_a_vulnerability_is_a_line():
    flaw = {"id": "CVE-2026-1", "fix_versions": ["5.24.1"]}
    answer = {"dependencies": [
        {"name": "transformers", "version": "5.24.0", "vulns": [flaw]},
        {"name": "trl", "version": "1.16.0", "vulns": []},
    ]}  # fmt: skip
    assert list(drift.vulnerable(answer)) == [
        "transformers 5.24.0: CVE-2026-1, fixed in 5.24.1"
    ]


def test_links_are_found_and_those_of_a_fork_left_out():
    text = '[a](https://a.org/x#y) <img src=\\"https://b.org/z.png\\"> [c](d.md) '
    text += "[e](https://github.com/OWNER/grpo-step-by-step)"
    assert drift.addresses(text) == {"https://a.org/x", "https://b.org/z.png"}


def test_a_page_that_is_gone_is_said_and_one_that_is_refused_is_not():
    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        said = [drift.answer(f"{place}/{code}") for code in (200, 403, 404, 410, 500)]
        server.shutdown()
    assert said == [None, None, "status 404", "status 410", None]


def test_the_title_says_what_moved():
    said = {"newest": "versions: trl 1.16.0 → 1.17.0\ntests::a: TypeError", "audit": ""}
    title, text = drift.issue(said, {"newest": "success", "audit": "success"})
    assert title == "DRIFT: trl 1.16.0 → 1.17.0"
    assert text == (
        "## newest\n- versions: trl 1.16.0 → 1.17.0\n- tests::a: TypeError\n"
    )
    title, text = drift.issue({"links": "https://a.org: status 404"}, {})
    assert title == "DRIFT: links" and "- https://a.org: status 404" in text
    title, text = drift.issue({}, {"colab": "failure"})
    assert title == "DRIFT: colab" and "the job ended with failure; see its" in text
    assert drift.issue({"newest": ""}, {"newest": "success"}) is None


@pytest.fixture
def gh(monkeypatch):
    """`gh` with some open issues; what it is called with."""
    calls, opened = [], []

    def run(*command, **options):
        calls.append(command[2:])
        return SimpleNamespace(stdout=json.dumps(opened))

    monkeypatch.setattr(drift, "run", run)
    return SimpleNamespace(calls=calls, opened=opened)


def needs(**said) -> str:
    """The workflow's `needs` with what some jobs said."""
    jobs = {job: said.get(job, "") for job in drift.JOBS}
    return json.dumps(
        {job: {"result": "success", "outputs": {"said": s}} for job, s in jobs.items()}
    )


def test_one_issue_is_opened_then_updated_then_closed(gh, monkeypatch):
    monkeypatch.setenv("NEEDS", needs(audit="torch 2.13.0: CVE-1, fixed in 2.14.1"))
    assert drift.report() == 1
    text = "## audit\n- torch 2.13.0: CVE-1, fixed in 2.14.1\n"
    words = ("--title", "DRIFT: audit", "--body", text)
    assert gh.calls[-1] == ("create", *words)
    gh.opened += [{"number": 3, "title": "A question"}]
    gh.opened += [{"number": 7, "title": "DRIFT: links"}]
    assert drift.report() == 1 and gh.calls[-1] == ("edit", "7", *words)
    monkeypatch.setenv("NEEDS", needs())
    assert drift.report() == 0 and gh.calls[-1][:2] == ("close", "7")
    gh.opened.clear()
    assert drift.report() == 0 and gh.calls[-1][0] == "list"


def test_what_a_job_found_is_the_output_of_its_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    drift.hand_on("audit", ["one", "two"])
    assert capsys.readouterr().out == "\naudit: one\ntwo\n"
    text = (tmp_path / "output").read_text()
    assert text == "said<<END_OF_DRIFT\none\ntwo\nEND_OF_DRIFT\n"


def test_what_fails_with_other_releases_is_said_with_their_versions(monkeypatch):
    known = drift.locked()
    frozen = "\n".join(f"{n}=={known[n]}" for n in drift.WATCHED)
    frozen = frozen.replace(f"trl=={known['trl']}", "trl==9.0.0")
    done = subprocess.CompletedProcess([], 0, frozen, "")
    monkeypatch.setattr(drift, "run", lambda *command, **options: done)
    monkeypatch.setattr(drift, "widened", lambda text: text)
    monkeypatch.setattr(drift, "tests", lambda *args, **kwargs: ["test_a: moved"])
    assert drift.in_releases("newest") == [
        f"versions: trl {known['trl']} → 9.0.0",
        "test_a: moved",
    ]
    done.returncode, done.stderr = 1, "no solution:\n  because trl"
    assert drift.in_releases("newest") == [
        "the newest releases do not install: no solution: because trl"
    ]
