"""The reward playground of notebook 02 in JupyterLab, driven as a learner would."""

from tests.browser.driving import assert_no_warning, keep_cells, run_all, shot

# The cells that the playground needs, by a text of each.
NEEDED = ("colab.set_up()", "def completion_text(", "rows = truth_table()")
NEEDED += ("print(XML_TAGS)",)
NEEDED += ("def differences(", "def common_points(", "import show\n", "def points_of")
NEEDED += ("asked = load_questions", "written = [", "reward_playground(samples)")


def test_bars_move_as_one_types(jupyterlab, page, expect, clone, embedded_model):
    path = clone / "notebooks" / "02_reward_functions.ipynb"
    count = keep_cells(path, NEEDED)
    run_all(page, jupyterlab, path.name, count)
    cell = page.locator(".jp-CodeCell").nth(count - 1)
    assert cell.locator(".jp-OutputArea-output img").count() == 1
    controls = cell.locator(".widget-vbox")
    box, menu = controls.locator("textarea"), controls.locator("select")
    bars = controls.locator(".bar")

    expect(bars).to_have_count(5)
    point = bars.first.bounding_box()["width"] / 2  # the first sample earns 2 there

    def widths() -> list[float]:
        lengths = [bars.nth(n).bounding_box()["width"] for n in range(5)]
        return [round(8 * length / point) / 8 for length in lengths]

    cell.scroll_into_view_if_needed()
    assert widths() == [2, 0.5, 0.5, 0.5, 0.5]
    expect(controls.locator("span.answer")).to_contain_text("18")
    shot(page, "02-good")
    menu.select_option("empty")
    expect(controls.locator("tr").last).to_contain_text("total0")
    box.press_sequentially("<answer>17</answer>")  # no other key: it moves by itself
    expect(controls.locator("tr").last).to_contain_text("total0.75")
    assert widths() == [0, 0.5, 0, 0, 0.25]
    box.press("Control+a")
    box.press_sequentially("<answer>18</answer>")
    expect(controls.locator("tr").last).to_contain_text("total2.75")
    assert widths() == [2, 0.5, 0, 0, 0.25]
    box.fill("<b>bold</b><reasoning>a</reasoning>")
    expect(controls.locator("span.reasoning")).to_have_text("a")
    expect(controls.locator("b")).to_have_count(0)
    assert "<b>bold</b>" in controls.inner_text()
    for name in ("sloppy", "hacked", "Chinese", "model, best", "model, first"):
        menu.select_option(name)
        expect(bars).to_have_count(5)
    menu.select_option("hacked")
    expect(controls.locator("tr").last).to_contain_text("total2")
    shot(page, "02-hacked")
    assert_no_warning(page)
