"""The widgets of notebook 06 in JupyterLab, driven as a learner would."""

import nbformat
import pandas as pd

from tests import RUN
from tests.browser.driving import assert_no_warning, keep_cells, run_all, shot

# The cells that the two widgets need, by a text of each; and a limit for the chat.
NEEDED = ("colab.set_up()", "KEEP_ON_DRIVE =", "finished_run(here")
NEEDED += ("load_trained(recipe, run", "def answer_all", "asked = questions")
NEEDED += ("evaluate_part(run",)
NEEDED += ("record = rows", "pairs = before")
WIDGETS = ("browse_completions(pairs)", "chat(model, tokenizer")


def shorten(path):
    """Keep of the notebook what the widgets need; a short limit for the chat."""
    keep_cells(path, (*NEEDED, *WIDGETS))
    nb = nbformat.read(path, as_version=4)
    nb.cells.insert(-1, nbformat.v4.new_code_cell("limit = 40"))
    nbformat.write(nb, path)
    return len(nb.cells)


def test_browser_and_chat_do_what_they_say(
    jupyterlab, page, expect, clone, embedded_model
):
    path = clone / "notebooks" / "06_evaluate_and_share.ipynb"
    count = shorten(path)
    rows = pd.read_parquet(RUN / "evaluation.parquet")
    rows = rows[rows["split"] == "test"].sort_values("index")
    before, after = (
        rows[rows["which"] == which].reset_index() for which in ("before", "after")
    )
    newly = after[after["strict"] & ~before["strict"]]
    worse = after[~after["lenient"] & before["lenient"]]
    assert len(newly) > len(worse) > 0
    run_all(page, jupyterlab, path.name, count)
    cells = page.locator(".jp-CodeCell")

    cell = cells.nth(count - 3)
    static = cell.locator(".jp-OutputArea-child").first
    expect(static.locator("tbody tr")).to_have_count(2)
    score, outcome = (cell.locator("select").nth(n) for n in range(2))
    controls = cell.locator(".widget-vbox")
    expect(controls).to_contain_text("200 of 200 problems")
    score.select_option("strict")
    outcome.select_option("newly right")
    expect(controls).to_contain_text(f"{len(newly)} of 200 problems")
    expect(controls).to_contain_text(newly["question"].iloc[0])
    shown = controls.locator("tbody td").nth(3)
    assert shown.inner_text().split() == newly["completion"].iloc[0].split()
    cell.scroll_into_view_if_needed()
    shot(page, "06-browser")
    score.select_option("lenient")
    outcome.select_option("newly wrong")
    expect(controls).to_contain_text(f"{len(worse)} of 200 problems")
    expect(controls).to_contain_text(worse["question"].iloc[0])
    handle = cell.locator(".widget-hslider").nth(1).locator(".noUi-handle")
    handle.press("ArrowRight")
    expect(controls).to_contain_text(worse["question"].iloc[1])
    outcome.select_option("all")
    expect(controls).to_contain_text("200 of 200 problems")

    cell = cells.nth(count - 1)
    static = cell.locator(".jp-OutputArea-child").first
    expect(static.locator("tbody tr")).to_have_count(2)
    talk = cell.locator(".widget-vbox")
    send = talk.get_by_role("button", name="send")
    send.click()
    expect(talk).to_contain_text("Write something first.")
    question = "A box holds 3 pens. How many pens do 4 boxes hold? <b>Now</b>"
    talk.locator("textarea").fill(question)
    send.click()
    expect(talk.locator("tbody tr")).to_have_count(4, timeout=120_000)
    expect(talk.locator("textarea")).to_have_value("")
    row = talk.locator("tbody tr").nth(3).locator("td")
    assert "<reasoning>" in row.nth(2).inner_text()  # the trained one, as text
    assert row.nth(1).inner_text() != row.nth(2).inner_text()
    expect(talk.locator("b")).to_have_count(0)
    cell.scroll_into_view_if_needed()
    shot(page, "06-chat")
    talk.get_by_role("button", name="new chat").click()
    expect(talk.locator("tbody tr")).to_have_count(0)
    assert_no_warning(page)
