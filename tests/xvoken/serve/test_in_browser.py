"""The page as people use it, in Chromium, on a gallery whose names and pictures come from strangers."""

import contextlib
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route, expect

import xvoken
from tests import builder
from tests.browser import required_chromium, violations
from tests.serving import Served, gallery, served, shapes
from xvoken.encoders.encoder import Encoder

MARKUP = "<img src=x onerror=alert(1)>&amp;\"'.png"
STRANGE = ["שלום עולם.png", "🐈 café.png", MARKUP, "x" * 200 + ".png"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with required_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return xvoken.load_encoder(builder.save_clip(tmp_path_factory.mktemp("clip") / "model"), device="cpu")


@pytest.fixture(scope="module")
def server(clip: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    pictures = {
        **shapes(),
        **dict(zip(STRANGE, list(shapes(10).values())[6:], strict=True)),
        "again.png": builder.png("red", "circle", 64, 56),
    }
    with served(gallery(tmp_path_factory.mktemp("shapes"), pictures, clip, ["a red circle", "<b>bold</b>", "the sky"])) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Generator[BrowserContext]:
    """A window of its own, in which nothing may be wrong: no error on the console, no request to elsewhere."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        told: list[str] = []
        context.on("console", lambda message: told.append(message.text))
        context.on("weberror", lambda error: told.append(str(error.error)))
        context.on("dialog", lambda dialog: told.append(dialog.message) or dialog.dismiss())
        context.on("request", lambda request: None if request.url.startswith(("http://127.0.0.1:", "blob:")) else told.append(request.url))
        yield context
        assert not told


def opened(context: BrowserContext, server: Served, behind: str = "") -> Page:
    page = context.new_page()
    page.goto(server.url + behind)
    expect(page.locator("#gallery")).to_contain_text("pictures")
    return page


def search(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")
    expect(page.locator("#parts li")).to_have_count(1)
    expect(page.locator("#said")).to_contain_text("best first")


def shown(page: Page) -> list[str]:
    return page.locator("#results .name").all_inner_texts()


def parts(page: Page) -> list[str]:
    return [text.replace("\n", "") for text in page.locator("#parts li").all_inner_texts()]


def test_search_add_subtract_back_and_forward(context: BrowserContext, server: Served):
    page = opened(context, server)
    search(page, "a red dog")
    assert shown(page) == [hit["id"] for hit in server.ask({"text": "a red dog"})["results"]]
    first = shown(page)
    assert MARKUP in "".join(first) and page.locator("#results li img").count() == len(first)
    page.locator("#results li", has_text="blue.png").get_by_role("button", name="− Subtract").click()
    expect(page.locator("#parts li")).to_have_count(2)
    assert parts(page) == ["+a red dog×", "−shapes/blue.png×"]
    expected = server.ask({"text": "a red dog"}, {"row": 2, "weight": -1})["results"]
    expect(page.locator("#results .name").first).to_have_text(expected[0]["id"])
    page.fill("#text", "the sky")
    page.click("#plus")
    expect(page.locator("#parts li")).to_have_count(3)
    page.get_by_role("button", name="Take out: shapes/blue.png").click()
    expect(page.locator("#parts li")).to_have_count(2)
    page.get_by_role("button", name="Added: the sky").click()
    expect(page.locator("#parts li").last).to_contain_text("−the sky")
    for _ in range(4):
        page.go_back()
    expect(page.locator("#parts li")).to_have_count(1)
    expect(page.locator("#said")).to_contain_text("best first")
    assert shown(page) == first
    page.go_forward()
    expect(page.locator("#parts li")).to_have_count(2)
    page.reload()
    expect(page.locator("#parts li").last).to_contain_text("shapes/blue.png")
    page.check("#alike")
    expect(page.locator("#results .copies:visible").first).to_contain_text("near-duplicates")


def test_pictures_sent_dropped_pasted_and_gone(context: BrowserContext, server: Served):
    page = opened(context, server)
    assert server.service.searcher.gallery
    path = server.service.searcher.gallery.paths[1]
    page.set_input_files("#file", path)
    expect(page.locator("#results .name").first).to_have_text("shapes/green.png")
    expect(page.locator("#phrases ol li")).to_have_count(3)
    assert "<b>bold</b>" in page.locator("#phrases ol").inner_text()
    make = """([kind, bytes, name]) => {
      const carried = new DataTransfer();
      carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true });
      document.body.dispatchEvent(event);
    }"""
    for kind, row, name in (("drop", 2, "blue"), ("paste", 3, "yellow")):
        data = Path(server.service.searcher.gallery.paths[row]).read_bytes()
        page.evaluate(make, [kind, list(data), f"<i>{name}.png"])
        expect(page.locator("#parts .name")).to_have_text(f"<i>{name}.png")
        expect(page.locator("#results .name").first).to_have_text(f"shapes/{name}.png")
    page.go_back()
    expect(page.locator("#parts .name")).to_have_text("<i>blue.png")
    expect(page.locator("#results .name").first).to_have_text("shapes/blue.png")


def test_what_goes_wrong_is_said(browser: Browser, server: Served):
    page = browser.new_page()  # the browser itself tells the console of answers that are errors
    page.goto(f"{server.url}#plus=p:AAAA:old.png")
    expect(page.locator("#wrong")).to_contain_text("choose it again")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
    expect(page.locator("#wrong")).to_contain_text("not a picture")
    page.fill("#text", "long " * 3000)
    page.keyboard.press("Enter")
    expect(page.locator("#wrong")).to_contain_text("at most 10,000")
    search(page, "long " * 1900)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    search(page, "كلب أحمر 🐕 <script>alert(1)</script>")
    expect(page.locator("#parts .name")).to_have_text("كلب أحمر 🐕 <script>alert(1)</script>")
    page.close()


def test_by_the_keyboard_alone(context: BrowserContext, server: Served):
    page = opened(context, server)
    page.keyboard.type("a red dog")
    page.keyboard.press("Enter")
    expect(page.locator("#results li").first).to_be_visible()
    first = shown(page)
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className"))
        if reached[-1] == "picture":
            break
    assert reached[-1] == "picture" and page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#large h2")).to_have_text(first[0])
    page.keyboard.press("ArrowRight")
    expect(page.locator("#large h2")).to_have_text(first[1])
    expect(page.locator("#large .phrases li")).to_have_count(3)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "picture"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Similar
    expect(page.locator("#parts .name")).to_have_text(first[0])
    assert page.evaluate("document.activeElement.id") == "results"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 400)])
def test_looks(browser: Browser, server: Served, theme: str, width: int):
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion="reduce") as context:
        page = opened(context, server)
        search(page, "a red dog")
        page.locator("#results li").first.get_by_role("button", name="+ Add").click()
        expect(page.locator("#parts li")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert violations(page) == []
        page.locator(".picture").first.click()
        expect(page.locator("#large")).to_be_visible()
        assert violations(page) == [] and page.evaluate("document.querySelector('dialog').scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground.removeprefix("rgb(")[:-1].split(","))) > 382) == (theme == "light")


def test_an_empty_gallery_one_picture_and_a_token(browser: Browser, context: BrowserContext, clip: Encoder, tmp_path: Path):
    with served(gallery(tmp_path / "none", {}, clip)) as running:
        page = opened(context, running)
        page.fill("#text", "a dog")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text("There are no pictures in this gallery.")
        page.close()
    with served(gallery(tmp_path / "one", shapes(1), clip), token="a-token-of-some-length") as running:
        page = opened(context, running)
        assert "token" not in page.url
        search(page, "a dog")
        assert shown(page) == ["shapes/red.png"] and page.locator("#results img").first.evaluate("image => image.decode().then(() => true)")
        page.reload()
        expect(page.locator("#results li")).to_have_count(1)
        page.close()
        other = browser.new_page()
        other.goto(running.url.split("#")[0])
        other.fill("#token", "a-token-of-some-length")
        other.keyboard.press("Enter")
        expect(other.locator("#gallery")).to_contain_text("1 picture")
        other.close()


def test_what_is_asked_last_wins(context: BrowserContext, server: Served):
    page = opened(context, server)
    held: list[Route] = []
    page.route("**/api/pictures?*", lambda route: held.append(route))
    page.set_input_files("#file", {"name": "red.png", "mimeType": "image/png", "buffer": shapes()["red.png"]})
    expect(page.locator("#said")).to_have_text("Sending the picture…")
    search(page, "the sky")
    assert held
    with contextlib.suppress(Error):  # the page has given it up
        held[0].continue_()
    page.locator("#results .picture").first.click()
    page.go_back()
    expect(page.locator("#large")).to_be_hidden()  # what stands behind it are others
    page.go_forward()
    expect(page.locator("#said")).to_contain_text("best first")
    assert parts(page) == ["+the sky×"]
