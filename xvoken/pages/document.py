"""A page's HTML, put together from the files in assets/; the page carries the fingerprint of what it was made of."""

import base64
import hashlib
import html
import re
import shutil
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, ClassVar, Protocol

from xvoken.errors import UserError
from xvoken.files.safe import write_text
from xvoken.pictures.sources import Member, find
from xvoken.work.product import Product

ASSETS = ("theme.css", "page.css", "data.js", "list.js", "app.js", "vokens.js", "context.js", "head.html", "data.html", "plain.html")
DATA = re.compile("[0-9a-f]{12}")  # names of the folders with a page's data: fingerprints


@cache
def asset(name: str) -> str:
    """The text of a file in assets/."""
    return files("xvoken.pages").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def assets_hash() -> str:
    """Stands for the layout of all pages: a page of another layout is made again."""
    return hashlib.sha256("\0".join(map(asset, ASSETS)).encode()).hexdigest()[:12]


def read_made_of(path: Path) -> dict[str, Any]:
    """The fingerprint in a page's head, as settings of a Product; {} for other files."""
    with open(path, encoding="utf-8", errors="replace") as file:
        found = re.search(r'<meta name="made-of" content="([0-9a-f]+)">', file.read(1000))
    return {"made_of": found[1]} if found else {}


class Page(Protocol):
    """A page; made_of: the fingerprint of all that it depends on; holds: what is on it, in words; data: whether a folder belongs to it."""

    data: ClassVar[bool]

    @property
    def made_of(self) -> str:
        """As above."""
        ...

    @property
    def holds(self) -> str:
        """As above."""
        ...

    def write(self, output: Path) -> None:
        """Write data, thumbnails and the page."""


def make(page: Page, output: Path) -> bool:
    """Write a page, unless it is there and of the same files; returns whether it was written.

    Raises UserError if the folder of its data holds files that no page has put there.
    """
    folder = data_folder(output)
    if page.data and (strange := _strange(folder)):
        raise UserError(f"{folder}: the page's data go there, and it holds other files, such as {strange}; give another name as --output")

    def read() -> dict[str, Any]:
        found = read_made_of(output)
        return found if not page.data or (folder / found.get("made_of", "-")).is_dir() else {}

    product = Product(output, {"made_of": page.made_of}, read, page.holds, replaced=True)
    if product.finished():
        return False
    with product.alone() as todo:
        if todo:
            page.write(output)
    return todo


def made(page: Page, output: Path, what: str = "") -> str:
    """Make a page; returns the command's last line: what was written where (what, else `holds`), and how it is opened."""
    written = f"wrote {what or page.holds} to {output}: " if make(page, output) else ""
    return f"{written}open {output.resolve().as_uri()}"


def data_folder(output: Path) -> Path:
    """The folder with the data of a page, beside it; raises UserError if the page is not to be an HTML file."""
    if output.suffix != ".html":
        raise UserError(f"{output}: the name of an HTML file was expected, such as {output}.html")
    return output.with_suffix("")


def _strange(folder: Path) -> str:
    """The name of something in a folder that is neither thumbnails nor data of a page, "" if there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return next((name for name in names if name != "thumbs" and not name.startswith(".") and not DATA.fullmatch(name)), "")


def emptied(chunks: Path) -> Path:
    """The folder of a page's data, made, without what a killed run has left there."""
    if chunks.is_dir():
        shutil.rmtree(chunks)
    chunks.mkdir(parents=True)
    return chunks


def remove_others(folder: Path, made_of: str) -> None:
    """Remove the data of pages that stood here before; made_of: the fingerprint of the present one."""
    for other in folder.iterdir():
        if other.name != made_of and DATA.fullmatch(other.name) and other.is_dir():
            shutil.rmtree(other)


def write_page(path: Path, template: str, made_of: str, title: str, scripts: tuple[str, ...] = (), **parts: str) -> None:
    """Write a page; template, scripts: files in assets/, of its body and those that it runs; parts: more places of the template, as HTML.

    title: text, escaped here. The page may load what lies beside it on the same disk or server, and nothing else.
    """
    script = f'"use strict";\n(() => {{\n{"".join(map(asset, scripts))}}})();' if scripts else ""
    runs = f"script-src 'self' file: 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else ""
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; {runs}"
    style = asset("theme.css") + asset("page.css")
    head = {"made_of": made_of, "policy": policy, "title": html.escape(title), "style": style, "script": script}
    write_text(path, Template(asset("head.html") + asset(template)).substitute(head | parts))


def section(key: str, heading: str, content: str) -> str:
    """HTML of a section; key: its name in addresses, letters and dashes; heading: text; content: HTML."""
    headed = f'<h2 id="{key}-heading">{html.escape(heading)}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-heading">\n{headed}\n{content}\n</section>'


def jumps(sections: dict[str, str]) -> str:
    """HTML of links to sections, as list items; sections: their keys and headings."""
    return "".join(f'<li><a href="#{key}">{html.escape(heading)}</a></li>' for key, heading in sections.items())


def figure(source: str, alt: str, caption: str) -> str:
    """HTML of a picture with its caption; source: its address; alt: text; caption: HTML."""
    shown = f'<img src="{html.escape(source)}" alt="{html.escape(alt)}" loading="lazy">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def embedded(path: Path | Member, side: int) -> str:
    """A picture's thumbnail as the address of an image inside the page; raises UserError for a picture that is gone or broken."""
    from xvoken.pictures.decode import BrokenPicture  # Pillow takes a while, of which --help has no use
    from xvoken.pictures.thumbnails import MIME, thumbnail

    try:
        data = thumbnail(path if isinstance(path, Member) else find(path), side)
    except BrokenPicture as error:
        raise UserError(f"{path}: {error}; the page shows this picture: bring it back") from None
    return f"data:{MIME};base64,{base64.b64encode(data).decode()}"
