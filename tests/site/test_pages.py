"""Every page asked by a browser, on a desk, on a phone, in the dark; the search."""

import functools
import http.server
import threading
from urllib.parse import quote

import pytest

# What is wider than the window, unless it scrolls in a box of its own.
WIDE = """() => {
  const width = document.documentElement.clientWidth, out = [];
  const scrolls = (each) => {
    for (let up = each.parentElement; up && up !== document.body; up = up.parentElement)
      if (/auto|scroll|hidden/.test(getComputedStyle(up).overflowX)
          && up.getBoundingClientRect().right <= width + 1) return true;
    return false;
  };
  for (const each of document.querySelectorAll("article *, .bd-header-article *")) {
    const box = each.getBoundingClientRect();
    if (box.width && box.right > width + 1 && !scrolls(each))
      out.push(`${each.tagName} reaches ${Math.round(box.right)} of ${width}`);
  }
  for (const each of document.images)
    if (each.complete && !each.naturalWidth) out.push(`${each.src} shows nothing`);
  return out;
}"""


@pytest.fixture(scope="module")
def served(built):
    """The address of the built site; a search needs a server."""
    handler = functools.partial(Quiet, directory=str(built[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A handler that writes no log."""

    def log_message(self, *args):
        """Say nothing."""


@pytest.mark.parametrize(
    "width,scheme", [(1280, "light"), (390, "light"), (390, "dark")]
)
def test_no_page_is_wider_than_its_window(site, served, browser, width, scheme):
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            asked.url.startswith((served, "data:"))
            or wrong.append(f"asks another host: {asked.url}")
        ),
    )
    for edition in site.editions():
        for name in edition.names:
            address = f"{served}/{edition.prefix}{name}.html"
            page.goto(address, wait_until="load")
            assert page.locator("html").get_attribute("data-theme") == scheme
            wrong += [f"{edition.prefix}{name}: {each}" for each in page.evaluate(WIDE)]
    page.close()
    assert wrong == []


WORDS = {"en": ("advantage", "gradient checkpointing"), "zh": ("奖励函数", "GRPO 奖励")}


def test_the_search_finds_words_of_each_language(site, served, browser):
    page = browser.new_page()
    for edition in site.editions():
        for words in WORDS[edition.language]:
            page.goto(f"{served}/{edition.prefix}search.html?q={quote(words)}")
            page.wait_for_selector("#search-results ul.search > li", timeout=20_000)
    page.close()


def test_a_search_cuts_chinese_into_pairs(site, served, browser, monkeypatch):
    """As the index does: conf.py has one function for each, in two languages."""
    pytest.importorskip("sphinx")
    facts = '{"language": "zh", "title": "", "extra": "", "static": "", "prefix": "",'
    facts += '"place": "", "repository": "https://github.com/o/n", "others": {}}'
    monkeypatch.setenv("COURSE_SITE", facts)
    names = {"__file__": str(site.SITE / "conf.py"), "__name__": "conf"}
    exec((site.SITE / "conf.py").read_text(encoding="utf-8"), names)
    search = names["SearchPairs"]({})
    page = browser.new_page()
    for text in ("奖励函数", "用 GRPO 训练LoRA 模型", "优势", "组", "fp16 与bf16"):
        code = f"{search.js_splitter_code}; return splitQuery({text!r})"
        asked = page.evaluate(f"() => {{ {code} }}")
        assert asked and set(asked) <= set(search.split(text))
    page.close()
