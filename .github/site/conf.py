"""Sphinx's configuration of the course's site; .github/scripts/site.py calls it."""

import json
import os
import re
from pathlib import Path

from sphinx.search.en import SearchEnglish

# What site.py says of the edition that is built.
SITE = json.loads(os.environ["COURSE_SITE"])
CHINESE = SITE["language"] == "zh"
COLAB = "https://colab.research.google.com"
WORDS = {
    "en": ("English", "Open in Colab", "Read this page in English"),
    "zh": ("中文", "在 Colab 中打开", "阅读本页的中文版"),
}

project = "GRPO, step by step"
language = "zh_CN" if CHINESE else "en"
extensions = ["myst_nb", "sphinx_book_theme"]
exclude_patterns = ["extra"]
html_extra_path = [SITE["extra"]]

# The saved outputs are shown; nothing is run.
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "attrs_inline", "dollarmath", "html_image"]
myst_heading_anchors = 4
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "site": "{{path}}",  # of another edition, or as it is
    "site-at": "{{path}}#{{fragment}}",
}
# Indented blocks of shell commands, folded answers between sections.
highlight_language = "none"
suppress_warnings = ["myst.header"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [SITE["static"], str(Path(__file__).parent / "static")]
html_css_files = ["course.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
mathjax_path = "mathjax.js"
pygments_style = "a11y-light"
html_theme_options = {
    "repository_url": SITE["repository"],
    "repository_branch": "main",
    "path_to_docs": SITE["place"],
    "launch_buttons": {"colab_url": COLAB},
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_content_items": [],
    "navbar_persistent": [],
}


class SearchPairs(SearchEnglish):
    """Search for Chinese without a dictionary: each two signs that stand together.

    A query is cut in the same way, so that it finds the pages with all of its pairs.
    """

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = """
var splitQuery = (query) => (query.match(/[\\p{Script=Han}]+|[^\\P{L}\\p{Script=Han}]
[\\p{N}_]*|[\\p{N}_]+/gu) || []).flatMap((part) => {
  if (!/\\p{Script=Han}/u.test(part) || part.length < 3) return [part];
  return [...part].slice(1).map((sign, i) => [...part][i] + sign);
});
"""

    def split(self, input: str) -> list[str]:
        """Return the words of a text: Latin ones whole, Chinese ones as pairs."""
        found = []
        for part in re.findall(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+", input):
            if "\u3400" <= part[0] <= "\u9fff":
                found += [a + b for a, b in zip(part, part[1:], strict=False)]
                found += list(part)
            else:
                found.append(part)
        return found

    def word_filter(self, word: str) -> bool:
        """Keep single signs too."""
        return bool(word) and super().word_filter(word)


def buttons(app, pagename, templatename, context, doctree):
    """Put two words into a page's head: open in Colab, and the other language."""
    mine, there = context["header_buttons"], []
    for button in mine:
        if button.get("label") == "launch-buttons":
            there += button["buttons"]
    mine[:] = [each for each in mine if each.get("label") != "launch-buttons"]
    text = WORDS[SITE["language"]][1]
    if there:
        url = there[0]["url"]
    else:  # a page that is no notebook opens the first
        path = f"blob/main/{SITE['place']}/{SITE['first']}.ipynb"
        url = f"{SITE['repository']}/{path}".replace(
            "https://github.com", f"{COLAB}/github"
        )
    colab = {"type": "link", "url": url, "text": "Colab", "tooltip": text}
    mine.insert(0, colab | {"icon": "_static/images/logo_colab.png", "label": "colab"})
    up = "../" * SITE["prefix"].count("/")
    for other, (prefix, pages) in SITE["others"].items():
        name = pagename if pagename in pages else "index"
        shown, _, tooltip = WORDS[other]
        link = {"type": "link", "url": f"{up}{prefix}{name}.html", "text": shown}
        mine.insert(1, link | {"tooltip": tooltip, "label": "language"})


def setup(app):
    """Connect what is above."""
    if CHINESE:
        app.add_search_language(SearchPairs)
    app.connect("html-page-context", buttons, priority=900)
