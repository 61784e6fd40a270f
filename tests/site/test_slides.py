"""The decks name cells that are there, a dozen slides each, and fit 1,280 by 720."""

import json

import pytest

from tests import ROOT

PATHS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# Asked of a slide in the page: what reaches out of it, and how far its text shrank.
OVERFLOW = """() => {
  const slide = Reveal.getCurrentSlide(), scale = Reveal.getScale();
  const box = slide.getBoundingClientRect(), out = [];
  const frame = document.querySelector(".reveal").getBoundingClientRect();
  if (frame.height < 700 || box.top < 0) out.push("the slide is not in sight");
  for (const each of slide.querySelectorAll("*")) {
    const its = each.getBoundingClientRect();
    if (!its.width || each.closest("aside, mjx-assistive-mml")) continue;
    const right = (its.right - box.left) / scale, low = (its.bottom - box.top) / scale;
    if (right > 1281 || low > 721 || its.left < box.left - 1)
      out.push(`${each.tagName} reaches ${Math.round(right)}, ${Math.round(low)}`);
  }
  const text = slide.innerText.trim() || slide.querySelector("img");
  return {out, text: !!text,
          size: Number(getComputedStyle(slide).getPropertyValue("--fit"))};
}"""


@pytest.fixture
def slides(scripts):
    """The module that makes the slides."""
    return pytest.importorskip("slides")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_each_slide_names_cells_that_are_there(slides, path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kinds = {cell["id"]: cell["cell_type"] for cell in cells}
    wanted = {"markdown": ("", "all", "list", "title"),
              "code": ("", "out", "figure", "code")}  # fmt: skip
    deck = slides.chosen()[path.name[:2]]
    assert 10 <= len(deck) <= 18
    for name, _, kind in (each.partition(":") for slide in deck for each in slide):
        assert name in kinds, f"no cell {name} in {path.name}: .github/site/slides.toml"
        assert kind in wanted[kinds[name]], name
    assert deck[0] == [cells[0]["id"]] and deck[-1][0] == f"{cells[-1]['id']}:all"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_deck_shows_what_its_cells_hold(slides, path):
    from pages import editions

    known = editions()
    nb = slides.deck(path, path, known[0], known)
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in nb.cells]
    assert kinds.count("slide") == len(slides.chosen()[path.name[:2]])
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            assert cell.source.strip() and "<details>" not in cell.source
        elif cell.metadata["transient"]["remove_source"]:
            assert cell.outputs, f"nothing is left of {cell.source[:60]!r}"


TEXT = """The end of what came before.

<details><summary>Question</summary>

Folded.
</details>

## 3.1 A title

One sentence. Here it is:

- a
- b

The rest."""


@pytest.mark.parametrize(
    "wanted,shown,noted",
    [
        ("", "## 3.1 A title\n\nOne sentence. Here it is:\n\n- a\n- b", "The rest."),
        ("title", "## 3.1 A title",
         "One sentence. Here it is:\n\n- a\n- b\n\nThe rest."),
        ("all", "## 3.1 A title\n\nOne sentence. Here it is:\n\n- a\n- b\n\nThe rest.",
         ""),
        ("list", "## 3.1 A title\n\nOne sentence. Here it is:\n\n- a\n- b",
         "The rest."),
    ],
)  # fmt: skip
def test_a_slide_shows_the_beginning_and_notes_hold_the_rest(
    slides, wanted, shown, noted
):
    assert slides.parts(TEXT, wanted) == (shown, noted)


@pytest.mark.parametrize(
    "text,cut",
    [
        ("One. Here it is:", "One."),
        ("一句话。代码如下：", "一句话。"),
        ("Look:", "Look:"),
    ],
)
def test_what_announces_a_cell_that_is_not_there_is_cut(slides, text, cut):
    assert slides.ANNOUNCED.sub("", text) == cut


def test_a_deck_says_its_language_and_its_title(site, built):
    out, _ = built
    for edition, language in zip(site.editions(), ("en", "zh-CN"), strict=True):
        for path in edition.numbered:
            deck = out / edition.prefix / "slides" / f"{path.stem}.html"
            text = deck.read_text(encoding="utf-8")
            assert f'<html lang="{language}">' in text
            assert f"<title>{path.name[:2]} · " in text


def test_no_slide_overflows(built, browser):
    out, _ = built
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    wrong, count = [], 0
    for path in sorted(out.glob("**/slides/*.html")):
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", state="attached", timeout=30_000)
        for number in range(page.evaluate("Reveal.getTotalSlides()")):
            page.evaluate(f"Reveal.slide({number})")
            page.wait_for_timeout(30)
            said, count = page.evaluate(OVERFLOW), count + 1
            where = f"{path.relative_to(out)} {number + 1}"
            wrong += [f"{where}: {each}" for each in said["out"]]
            wrong += [] if said["text"] else [f"{where}: nothing on it"]
            if said["size"] < 0.7:
                wrong.append(f"{where}: text at {said['size']:.0%}")
    page.close()
    assert wrong == [] and count >= 110
