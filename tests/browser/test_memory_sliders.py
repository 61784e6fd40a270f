"""The memory widget of notebook 04 in JupyterLab, driven as a learner would."""

import base64

from helpers import GIB
from helpers.lab.budget import memory_budget, peak
from helpers.profiles import PROFILES
from tests.browser.driving import assert_no_warning, keep_cells, run_all, shot

NEEDED = ("colab.set_up()", "def what_helps", "explore_budgets(")


def said(**changes):
    """What the widget must say of the profile t4 with changes."""
    moment, most = peak(memory_budget(PROFILES["t4"], gpu=True, **changes))
    return f"{most / GIB:.1f} GiB for {moment}"


def test_the_sliders_move_the_picture_and_the_verdict(jupyterlab, page, expect, clone):
    path = clone / "notebooks" / "04_lora_and_fp16.ipynb"
    run_all(page, jupyterlab, path.name, keep_cells(path, NEEDED))
    cell = page.locator(".jp-CodeCell").last
    picture, box = cell.locator("img"), cell.locator(".widget-vbox")
    expect(box).to_contain_text(f"{said()}, fits on a T4")
    drawn = picture.get_attribute("src")

    def changed():
        """The picture, once it is another one than before."""
        expect(picture).not_to_have_attribute("src", drawn)
        assert picture.evaluate("image => image.naturalWidth") > 400
        return picture.get_attribute("src")

    cell.scroll_into_view_if_needed()
    shot(page, "04-as-set")
    box.locator('input[type="checkbox"]').uncheck()
    expect(box).to_contain_text(said(gradient_checkpointing=False))
    drawn = changed()
    handles = box.locator(".noUi-handle")
    for at_once in (16, 8):
        handles.nth(0).press("ArrowLeft")
        now = {"per_device_train_batch_size": at_once, "gradient_checkpointing": False}
        now["gradient_accumulation_steps"] = 32 // at_once
        expect(box).to_contain_text(said(**now))
        drawn = changed()
    box.locator("select").select_option("fp32")
    expect(box).to_contain_text(f"{said(**now, dtype='fp32')}, does not fit")
    drawn = changed()
    shot(page, "04-too-large")
    handles.nth(1).press("ArrowRight")  # 16 generations, 64 completions a step
    expect(box).to_contain_text("64 completions a step, 8 at once")
    assert base64.b64decode(changed().partition(",")[2])[:4] == b"\x89PNG"
    assert_no_warning(page)
