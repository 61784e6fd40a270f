""".github/lock.txt: the tested versions, inside what requirements.txt admits."""

import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

LOCK = ROOT / ".github" / "lock.txt"
FILES = ("requirements.txt", "tests/requirements.txt")


def lines(path) -> list[Requirement]:
    """The requirements of a file."""
    rows = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(row) for row in rows if re.match(r"\w", row)]


def unlocked(locked: list[Requirement], wanted: list[Requirement]) -> list[str]:
    """What the lock lacks of a file of requirements, or has at a version it refuses."""
    pins = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in locked}
    return [
        f"lock.txt has {each.name} {pins.get(each.name)}, and {each} is wanted: "
        "python .github/scripts/drift.py lock"
        for each in wanted
        if not each.specifier.contains(pins.get(each.name, "0"), prereleases=True)
    ]


def test_the_lock_satisfies_the_requirements():
    locked = lines(LOCK)
    assert all(str(pin.specifier).startswith("==") for pin in locked)
    for name in FILES:
        assert unlocked(locked, lines(ROOT / name)) == []


def test_the_lock_has_what_the_locked_packages_need():
    """As far as they are installed here, on this system."""
    names = {canonicalize_name(pin.name) for pin in lines(LOCK)}
    missing = set()
    for name in names:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            of_torch = re.match(r"(nvidia|cuda)-|triton$|setuptools$", need.name)
            if wanted and not of_torch and canonicalize_name(need.name) not in names:
                missing.add(f"{name} needs {need}")
    assert missing == set()


def test_the_lock_names_no_address_and_no_build():
    text = LOCK.read_text()
    assert "://" not in text and "+cpu" not in text and "nvidia" not in text
    assert "--index" not in text and "--find-links" not in text


def test_a_lock_that_is_behind_is_said():
    locked = [Requirement("trl==1.15.0")]
    wanted = [Requirement("trl>=1.16,<1.17"), Requirement("peft>=0.20,<1")]
    first, second = unlocked(locked, wanted)
    assert first.startswith("lock.txt has trl 1.15.0, and trl<1.17,>=1.16 is wanted: p")
    assert second.startswith("lock.txt has peft None, and peft<1,>=0.20 is wanted")
