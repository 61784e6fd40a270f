"""What can be said of the workflows without GitHub."""

import re
from collections.abc import Iterator

# What some job needs: the report of drift.yml, the deployment of pages.yml.
ALLOWED = {("contents", "read"), ("issues", "write")}
ALLOWED |= {("pages", "write"), ("id-token", "write")}
CONTEXTS = {"github", "matrix", "needs", "env", "steps", "secrets", "inputs", "runner"}
CONTEXTS |= {"job", "strategy", "vars", "true", "false", "null"}
FUNCTIONS = {"always", "cancelled", "success", "failure", "contains", "startsWith"}
FUNCTIONS |= {"endsWith", "format", "join", "toJSON", "fromJSON", "hashFiles"}
PINNED = r"[\w.-]+/[\w./-]+@[0-9a-f]{40}"


def texts(node) -> Iterator[str]:
    """Yield every text of a parsed workflow."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "if" and isinstance(value, str) and "${{" not in value:
                value = f"${{{{ {value} }}}}"  # an `if` is an expression anyway
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def expressions(node) -> list[str]:
    """Return the inside of each ${{ … }}."""
    return [e.strip() for t in texts(node) for e in re.findall(r"\$\{\{(.*?)\}\}", t)]


def wrong_in(expression: str, job: dict, workflow: dict, ids: set[str]) -> list[str]:
    """Say what an expression of a job names that is not there."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", expression)
    problems = []
    if bare.count("(") != bare.count(")"):
        problems.append("brackets that do not match")
    if re.search(r"[^\w.()'!=<>&|,*\[\] -]|(?<!&)&(?!&)|(?<!\|)\|(?!\|)", bare):
        problems.append("a sign that no expression has")
    for name, after in re.findall(r"(?<![\w.'-])([A-Za-z_][\w-]*)\s*([(.]?)", bare):
        if after == "(":
            problems += [f"no function {name}"] if name not in FUNCTIONS else []
        elif name not in CONTEXTS:
            problems.append(f"no context {name}")
    matrix = job.get("strategy", {}).get("matrix", {})
    needs = job.get("needs", [])
    needs = [needs] if isinstance(needs, str) else needs
    for name in re.findall(r"\bmatrix\.([\w-]+)", bare):
        problems += [f"no matrix.{name}"] if name not in matrix else []
    for name in re.findall(r"\bsteps\.([\w-]+)", bare):
        problems += [f"no step with the id {name}"] if name not in ids else []
    for name, output in re.findall(r"\bneeds\.([\w-]+)(?:\.outputs\.([\w-]+))?", bare):
        if name not in needs:
            problems.append(f"needs does not name {name}")
        elif output and output not in workflow["jobs"][name].get("outputs", {}):
            problems.append(f"{name} has no output {output}")
    return [f"${{{{ {expression} }}}}: {problem}" for problem in problems]


def problems(name: str, workflow: dict) -> list[str]:
    """Say what is wrong with a parsed workflow, a line each."""
    lines = []
    if "permissions" not in workflow:
        lines.append("no permissions: what a token may do is not said")
    for job_name, job in workflow["jobs"].items():
        steps = job["steps"]
        said = job.get("permissions", workflow.get("permissions", {}))
        if said == "write-all" or (
            isinstance(said, dict) and set(said.items()) - ALLOWED
        ):
            lines.append(f"{job_name}: permissions that no job here needs: {said}")
        if "timeout-minutes" not in job:
            lines.append(f"{job_name}: no timeout-minutes")
        needs = job.get("needs", [])
        for other in [needs] if isinstance(needs, str) else needs:
            if other not in workflow["jobs"]:
                lines.append(f"{job_name}: needs {other}, which is no job")
        ids = {step["id"] for step in steps if "id" in step}
        for expression in expressions(job):
            found = wrong_in(expression, job, workflow, ids)
            lines += [f"{job_name}: {line}" for line in found]
        for step in steps:
            uses = step.get("uses", "")
            if uses and not re.fullmatch(PINNED, uses):
                lines.append(f"{job_name}: {uses} is not pinned by a commit's hash")
            if "checkout@" in uses and (
                step.get("with", {}).get("persist-credentials") is not False
            ):
                lines.append(f"{job_name}: checkout keeps its token in the folder")
            if "${{" in step.get("run", ""):
                lines.append(
                    f"{job_name}: a script with ${{{{ … }}}} runs what others write; "
                    "pass it by env"
                )
    return [f"{name}: {line}" for line in lines]
