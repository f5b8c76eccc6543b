"""The pages as a person uses them, in one Chromium, opened from disk."""

import re
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.browser import required_chromium, violations
from tests.xvoken.pages import made
from xvoken.files.context import read_best
from xvoken.pages import document
from xvoken.pages.charts import Bar, bars, curve


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with required_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lines.html, one.html (one line, one picture) and context.html."""
    folder = tmp_path_factory.mktemp("pages")
    charts = curve("Loss", "of training", [(1, 2.0), (2, 1.0)], 2) + bars("R", "percent", [Bar("R@1", 20, 10, 30, 1)], 30)
    made.voken_page(folder / "lines", good=f"<h3>Charts</h3>{charts}").write(folder / "lines.html")
    made.voken_page(folder / "sentences", lines_of=[0, 0, 3]).write(folder / "sentences.html")
    one = made.voken_page(folder / "one", texts=made.LINES[:1], names=made.NAMES[:1])
    one.write(folder / "one.html")
    made.context_page(folder / "context").write(folder / "context.html")
    return folder


@pytest.fixture
def opened(browser, pages: Path):
    """Open a page; at the end nothing may have gone wrong in any, and nothing been asked of any other place."""
    wrong, contexts = [], []

    def visit(name: str, width: int = 1280, scheme: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"alert {dialog.message}"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto(f"{(pages / name.partition('#')[0]).as_uri()}#{name.partition('#')[2]}")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def eventually(page, script: str) -> None:
    """Wait until a script gives something true; the page's policy forbids Playwright's own way of waiting."""
    for _ in range(250):
        if page.evaluate(script):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{script} at {page.url}: {page.inner_text('main')[:300]}")


def count(page, text: str) -> None:
    eventually(page, f"document.getElementById('count').textContent === {text!r}")


def made_in(page) -> Path:
    """The folder of the page that is open."""
    return Path(page.url.partition("#")[0].removeprefix("file://")).parent


def first(page, text: str) -> None:
    """Wait until the first row of the list begins with a text."""
    eventually(page, f"document.querySelector('#list article[aria-posinset=\"1\"]')?.innerText.startsWith({text!r})")


def test_search_order_filter_and_back(opened):
    page = opened("lines.html")
    first(page, "line 1 ·")
    count(page, "200 lines")
    page.fill("#query", "NUMBER 1")
    count(page, "110 lines of 200")
    assert page.inner_text("mark >> nth=0") == "number 1"
    page.select_option("#sort", "low")
    rows, scores, _ = made.found()
    number_1 = [line for line, text in enumerate(made.LINES) if "number 1" in text]
    first(page, f"line {min(number_1, key=lambda line: scores[line, 0]) + 1} ·")
    page.fill("#query", "")
    count(page, "200 lines")
    lowest = sorted(set(range(200)) - {1, 7}, key=lambda line: scores[line, 0])
    first(page, f"line {lowest[0] + 1} ·")
    page.go_back()
    page.go_back()
    count(page, "110 lines of 200")
    assert page.input_value("#query") == "NUMBER 1" and page.input_value("#sort") == ""
    page.go_forward()
    assert "sort=low" in page.url
    page.goto(f"{page.url.partition('#')[0]}#view=pictures")
    page.click("#hubs button >> nth=0")
    most = max(range(5), key=lambda row: ((rows == row).sum(), -row))
    with_it = int((rows == most).any(1).sum())
    page.click(f"text=Show the {with_it} lines with it")
    count(page, f"{with_it} lines of 200")
    first(page, f"line {int((rows == most).any(1).argmax()) + 1} ·")
    page.select_option("#sort", "high")
    first(page, f"line {next(line + 1 for line in reversed(lowest) if most in rows[line])} ·")
    marked = page.eval_on_selector_all("#list article", "rows => rows.map(row => row.querySelectorAll('.wanted').length)")
    assert marked == [1] * len(marked)
    page.click("#unfilter")
    count(page, "200 lines")
    page.goto(f"{page.url.partition('#')[0]}#sort=other")  # by no order of its own
    first(page, "line 1 ·")


def test_by_keys_alone(opened):
    page = opened("lines.html")
    first(page, "line 1 ·")
    page.keyboard.press("Tab")
    assert page.inner_text(":focus") == "Skip to the list"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaPosInSet") == "1"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.ariaPosInSet") == "2"
    page.keyboard.press("k")
    stood = page.evaluate("scrollY")
    page.keyboard.press("Enter")
    eventually(page, "document.querySelector('dialog[open] dl')?.innerText.includes('1 of 3 for line 1')")
    told = page.inner_text("dialog")
    assert "0.9990" in told and "Ada <b>L</b>" in told and "CC BY 2.0" in told and "red circle.png" in told
    links = page.eval_on_selector_all("dialog a[target]", "links => links.map(link => [link.href, link.rel])")
    own = (made_in(page) / "lines/photos/red circle.png").as_uri()
    assert links.pop(0) == [own, "noopener noreferrer"]
    eventually(page, f"document.querySelector('dialog img').src === {own!r}")
    assert links == [[url, "noopener noreferrer"] for url in ("https://creativecommons.org/licenses/by/2.0/", "https://example.org/1")]
    page.keyboard.press("ArrowRight")
    eventually(page, "document.querySelector('dialog h2').textContent === 'a<b>&\"\\'$x'")
    page.click("text=Next →")
    eventually(page, "document.querySelector('dialog .grey')?.textContent === 'gone: missing'")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    for key in ("PageDown", "End"):
        page.keyboard.press(key)
    page.mouse.move(5, 500)
    page.mouse.wheel(0, 500)
    page.wait_for_timeout(100)
    page.keyboard.press("Escape")
    eventually(page, "!document.querySelector('dialog').open && document.activeElement.ariaPosInSet === '1'")
    assert page.evaluate("scrollY") == stood
    page.keyboard.press("g")
    page.keyboard.type("200")
    page.keyboard.press("Enter")
    eventually(page, "document.activeElement.ariaPosInSet === '200' && document.activeElement.innerText.includes('the last line')")
    page.keyboard.press("/")
    page.keyboard.type("🐕")
    count(page, "1 line of 200")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.ariaPosInSet") == "1"


def test_rows_in_their_order_and_tab_goes_on_from_the_one_clicked(opened):
    page = opened("lines.html")
    first(page, "line 1 ·")
    order = "[...document.querySelectorAll('#list article')].map(row => Number(row.ariaPosInSet))"
    for where in (20000, 19000, 19900, 0, 300):
        page.evaluate(f"scrollTo(0, {where})")
        page.wait_for_timeout(60)
        rows = page.evaluate(order)
        assert rows == list(range(rows[0], rows[0] + len(rows)))
    row = "#list article[aria-posinset='4']"
    page.click(f"{row} .text")
    page.keyboard.press("Tab")
    assert page.evaluate(f"document.querySelector({row!r}).contains(document.activeElement)")
    page.keyboard.press("Enter")
    eventually(page, "document.querySelector('dialog').open")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert page.evaluate(f"document.querySelector({row!r}).contains(document.activeElement)")


def test_what_is_typed_is_not_lost_by_another_change(opened):
    page = opened("lines.html")
    first(page, "line 1 ·")
    page.evaluate("""() => {
        const [query, sort] = ["query", "sort"].map((id) => document.getElementById(id));
        query.value = "number 1"; query.dispatchEvent(new Event("input"));
        sort.value = "low"; sort.dispatchEvent(new Event("change"));
    }""")
    count(page, "110 lines of 200")
    assert (page.input_value("#query"), page.input_value("#sort")) == ("number 1", "low")


def test_what_files_hold_is_only_text(opened):
    page = opened("lines.html#line=3")
    eventually(page, "document.activeElement.innerText?.includes('onerror')")
    assert made.EVIL in page.inner_text(":focus") and made.EVIL in page.inner_text("h1")
    text = page.inner_text("#list")
    assert text.count("empty line") == 1 and "left without a picture" in text and "U+2028:" in text
    assert page.eval_on_selector("text=שלום", "said => getComputedStyle(said).direction") == "rtl"
    assert page.locator("img[src='x']").count() == 0
    page.goto(f"{page.url.partition('#')[0]}#view=about")
    assert "1 picture" in page.inner_text("#told") and "5 of 6" in page.inner_text("#told")


def test_one_line_and_one_picture_at_a_time(opened):
    page = opened("one.html#q=nothing like it")
    count(page, "0 lines of 1")
    assert page.inner_text("#nothing-told") == "No line contains “nothing like it”"
    page.click("#clear")
    first(page, "line 1 ·")


def test_sentences_say_where_they_stand(opened):
    page = opened("sentences.html")
    first(page, "sentence 1 · line 1 of the text ·")
    count(page, "3 sentences")
    assert "sentence 3 · line 4 of the text" in page.inner_text("#list") and page.inner_text("text=שלום")
    page.click("#list .tile >> nth=0")
    assert "of 3 for sentence 1 · line 1 of the text" in page.inner_text(".enlarged")


def test_context(opened):
    page = opened("context.html")
    eventually(page, "document.querySelector('article h3')?.textContent === '1'")
    count(page, "4 pictures")
    page.hover("article .panel:nth-child(2) li >> nth=1")
    assert page.locator("article >> nth=0").locator(".crop.lit").count() == 1
    page.fill("#query", "GONE")
    count(page, "1 picture of 4")
    assert "not among the pictures given" in page.inner_text("#list")
    page.fill("#query", "onerror")
    eventually(page, "document.querySelector('mark')?.textContent === 'onerror'")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.click("dialog >> text=Nine crops")
    eventually(page, "document.querySelectorAll('dialog h3').length === 9")
    assert "of=nine" in page.url


def test_a_crop_shows_the_phrase_that_was_asked_for(opened):
    page = opened("context.html#q=red dog")
    eventually(page, "document.querySelector('mark')?.textContent === 'red dog'")
    for number, (_, phrases, _) in enumerate(read_best(made_in(page) / "context/txt_ctx.hdf5", 3)):
        row = page.locator(f"#list article[aria-posinset='{number + 1}']")
        if not row.count():
            break
        wanted = ["red dog" if "red dog" in crop else crop[0].replace("\t", " ").replace("\n", " ") for crop in phrases[1:]]
        assert row.locator("li[data-crop] .phrase").all_inner_texts() == wanted
        others = row.locator(".crop").evaluate_all("boxes => boxes.map(box => box.classList.contains('other'))")
        assert others == [text != "red dog" for text in wanted]
    assert number
    page.fill("#query", "dog blue")  # a match does not go from one phrase to the next
    count(page, "0 pictures of 4")
    assert page.inner_text("#nothing-told") == "No picture has a phrase with “dog blue”"


@pytest.fixture
def long(tmp_path: Path, pages: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page whose list is higher than the limit that is put on it, as that of a million lines is."""
    plain = document.asset
    short = ("CAP = 15e6, END = 1e6", "CAP = 12000, END = 3000")
    assert short[0] in plain("list.js")
    monkeypatch.setattr(document, "asset", lambda name: plain(name).replace(*short))
    made.voken_page(tmp_path / "long").write(pages / "long.html")
    return "long.html"


def test_a_list_that_is_higher_than_browsers_allow(long: str, opened):
    page = opened(long)
    first(page, "line 1 ·")
    assert page.evaluate("document.getElementById('list').offsetHeight") == 12000
    shown = """[...document.querySelectorAll("#list article")]
        .map(row => [Number(row.ariaPosInSet), row.getBoundingClientRect()])
        .filter(([, box]) => box.bottom > document.getElementById("tools").getBoundingClientRect().bottom && box.top < innerHeight)
        .map(([number, box]) => [number, Math.round(box.top)]).sort((a, b) => a[0] - b[0])"""

    def whole() -> list[int]:
        """The rows on the screen, each right below the other."""
        rows = page.evaluate(shown)
        assert [number for number, _ in rows] == list(range(rows[0][0], rows[0][0] + len(rows)))
        assert len({below - above for (_, above), (_, below) in pairwise(rows)}) == 1
        return [number for number, _ in rows]

    page.evaluate("scrollTo(0, 1e9)")
    eventually(page, f"({shown}).at(-1)?.[0] === 200")
    assert whole()[-1] == 200
    for _ in range(12):  # small moves are of the same length on the screen
        before = page.evaluate(shown)
        page.mouse.move(600, 500)
        page.mouse.wheel(0, -300)
        eventually(page, f"({shown})[0]?.[0] < {before[0][0]} || ({shown})[0]?.[1] > {before[0][1]}")
        after = dict(map(tuple, page.evaluate(shown)))
        both = [(number, top) for number, top in before if number in after]
        assert both and {after[number] - top for number, top in both} == {300}
    page.wait_for_timeout(250)
    at = whole()
    assert at[-1] < 200 - 12
    page.keyboard.press("g")
    page.keyboard.type("100")
    page.keyboard.press("Enter")
    eventually(page, "document.activeElement.ariaPosInSet === '100'")
    at = whole()
    assert 100 in at
    page.fill("#query", "last")
    count(page, "1 line of 200")
    page.go_back()
    count(page, "200 lines")
    page.wait_for_timeout(250)
    assert 100 in whole()
    page.evaluate("scrollTo(0, 0)")
    first(page, "line 1 ·")
    assert whole()[0] == 1


VIEWS = {
    "lines.html": {"": "article img", "view=pictures": "#hubs img", "view=good": "figure.chart", "view=about": "#told",
                   "show=0&of=1": "dialog img"},
    "context.html": {"": "article img", "q=red": "mark", "show=1&of=nine": "dialog img"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(VIEWS))
def test_accessible_and_no_wider_than_the_window(name: str, opened):
    page = opened(name)
    for view, wanted in VIEWS[name].items():
        page.goto(f"{page.url.partition('#')[0]}#{view}")
        for width, scheme in ((1280, "light"), (400, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            eventually(page, f"!!document.querySelector({wanted!r})?.offsetParent")
            assert violations(page) == [], (view, scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            assert all(page.eval_on_selector_all("img", "all => all.map(one => one.alt)"))
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
