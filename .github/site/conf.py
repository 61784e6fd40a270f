"""Sphinx's configuration of the course's site; .github/scripts/site.py calls it."""

import itertools
import json
import os
import re
from pathlib import Path

from sphinx.search.en import SearchEnglish

# What site.py says of the edition that is built.
SITE = json.loads(os.environ["COURSE_SITE"])
CHINESE = SITE["language"] == "zh"
COLAB = "https://colab.research.google.com"
# For each language its name, and what the links in a page's head say and explain.
WORDS = {
    "en": ("English", "Open in Colab", "Slides", "The slides of this notebook"),
    "zh": ("中文", "在 Colab 中打开", "幻灯片", "这个 notebook 的幻灯片"),
}

project = SITE["title"]
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
templates_path = ["templates"]
html_static_path = [SITE["static"], str(Path(__file__).parent / "static")]
html_css_files = ["course.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}
mathjax_path = "mathjax.js"
pygments_style = "a11y-light"
html_theme_options = {
    "repository_url": SITE["repository"],
    "repository_branch": "main",
    "path_to_docs": SITE["place"],
    "launch_buttons": {"colab_url": COLAB},
    "article_header_end": ["course-links.html", "article-header-buttons.html"],
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
    language_name = "English"  # whose stemmer Latin words take
    js_splitter_code = r"""
var splitQuery = (query) =>
  (query.match(/[\u3400-\u9fff]+|(?:(?![\u3400-\u9fff])[\p{L}\p{N}_])+/gu) || [])
    .flatMap((part) => /[\u3400-\u9fff]{3}/.test(part)
      ? [...part.slice(1)].map((sign, i) => part[i] + sign) : [part]);
"""

    def split(self, input: str) -> list[str]:
        """Return the words of a text: Latin ones whole, Chinese ones as pairs."""
        found = []
        for part in re.findall(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+", input):
            if "\u3400" <= part[0] <= "\u9fff":
                found += [a + b for a, b in itertools.pairwise(part)]
                found += list(part)
            else:
                found.append(part)
        return found

    def word_filter(self, word: str) -> bool:
        """Keep single signs too."""
        return bool(word) and super().word_filter(word)


def links(app, pagename, templatename, context, doctree):
    """Put words into a page's head: open in Colab, slides, the other language.

    The theme's launch button is a menu of one entry, on notebooks alone; this takes
    its address. A page that is no notebook opens the first one.
    """
    _, colab, slides, about = WORDS[SITE["language"]]
    buttons = context["header_buttons"]
    there = [each for each in buttons if each.get("label") == "launch-buttons"]
    buttons[:] = [each for each in buttons if each not in there]
    owner_and_name = SITE["repository"].removeprefix("https://github.com/")
    first = f"blob/main/{SITE['place']}/{SITE['first']}.ipynb"
    url = f"{COLAB}/github/{owner_and_name}/{first}"
    if there:
        url = there[0]["buttons"][0]["url"]
    logo = "_static/images/logo_colab.png"
    found = [{"url": url, "text": "Colab", "title": colab, "icon": logo, "away": True}]
    if there and SITE["slides"]:
        address = f"slides/{pagename}.html"
        found.append({"url": address, "text": slides, "title": about, "away": True})
    up = "../" * SITE["prefix"].count("/")
    for other, (prefix, pages) in SITE["others"].items():
        name = pagename if pagename in pages else "index"
        url, text = f"{up}{prefix}{name}.html", WORDS[other][0]
        found.append({"url": url, "text": text, "title": text})
    context["course_links"] = found


def setup(app):
    """Connect what is above."""
    if CHINESE:
        app.add_search_language(SearchPairs)
    app.connect("html-page-context", links, priority=900)
