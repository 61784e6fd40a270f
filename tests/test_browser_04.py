"""The memory widget of notebook 04 in JupyterLab, driven as a learner would."""

import base64
import os

import nbformat
from browser import CHROMIUM, QUIET, jupyterlab, playwright, pytestmark, run_all

from helpers.memory import GIB, memory_budget, peak
from helpers.profiles import PROFILES

__all__ = ["jupyterlab", "pytestmark"]  # pytest reads them from this module
NEEDED = ("colab.set_up()", "def what_helps", "explore_budgets(")


def shorten(path):
    """Keep of a notebook what the widget needs, without outputs."""
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if any(text in c.source for text in NEEDED)]
    nb.cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert len(nb.cells) == len(NEEDED)
    for cell in nb.cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)


def said(**changes):
    """What the widget must say of the profile t4 with changes."""
    moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
    return f"{most / GIB:.1f} GiB for {moment}"


def test_the_sliders_move_the_picture_and_the_verdict(jupyterlab, clone):
    path = clone / "notebooks" / "04_lora_and_fp16.ipynb"
    shorten(path)
    with playwright.sync_playwright() as driver:
        options = {"executable_path": CHROMIUM, "args": [*QUIET, "--no-first-run"]}
        browser = driver.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        run_all(page, jupyterlab, path.name, len(NEEDED))
        cell = page.locator(".jp-CodeCell").last
        picture, box = cell.locator("img"), cell.locator(".widget-vbox")
        expect = playwright.expect
        expect(box).to_contain_text(f"{said()}, fits on a T4")
        drawn = picture.get_attribute("src")

        def shot(name):
            if folder := os.environ.get("GRPO_SCREENSHOTS"):
                cell.scroll_into_view_if_needed()
                page.screenshot(path=f"{folder}/jupyterlab-04-{name}.png")

        def changed():
            """The picture, once it is another one than before."""
            expect(picture).not_to_have_attribute("src", drawn)
            assert picture.evaluate("image => image.naturalWidth") > 400
            return picture.get_attribute("src")

        shot("as-set")
        box.locator('input[type="checkbox"]').uncheck()
        expect(box).to_contain_text(said(gradient_checkpointing=False))
        drawn = changed()
        handles = box.locator(".noUi-handle")
        handles.nth(0).press("ArrowRight")
        now = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
        now |= {"gradient_checkpointing": False}
        expect(box).to_contain_text(said(**now))
        drawn = changed()
        box.locator("select").select_option("fp32")
        expect(box).to_contain_text(f"{said(**now, dtype='fp32')}, does not fit")
        drawn = changed()
        shot("too-large")
        handles.nth(1).press("ArrowRight")  # 16 generations, 64 completions a step
        expect(box).to_contain_text("64 completions a step, 8 at once")
        assert base64.b64decode(changed().partition(",")[2])[:4] == b"\x89PNG"
        errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
        assert errors.all_inner_texts() == []
        page.keyboard.press("Control+s")
        browser.close()
