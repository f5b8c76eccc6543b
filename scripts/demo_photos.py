"""The demo's photos, those that scikit-image ships, and sentences about them for which anyone can judge what is found.

`write` makes  data/demo/photos/: the photos; data/demo/sentences/everyday.txt: the sentences, in the order of `PHOTOS`
"""

import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

from xvoken.errors import UserError
from xvoken.files.safe import replacing, write_lines

INSTALL = "pip install --no-deps -r requirements-demo.txt"


class Photo(NamedTuple):
    """A sentence of ours that a person would show this photo for, and whom scikit-image's documentation names for it."""

    sentence: str
    credit: str


# All of scikit-image's pictures that one would call a photo, and can tell what is on it; the motorcycle once, of two views of it.
PHOTOS = {
    "chelsea.png": Photo("My cat sleeps on the sofa all day long.", "Stefan van der Walt, CC0"),
    "coffee.png": Photo("I can't start the day without a cup of coffee.", "Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0"),
    "rocket.jpg": Photo("The rocket lifted off into the night sky.", "SpaceX, public domain"),
    "astronaut.png": Photo("She wants to become an astronaut one day.", "NASA, public domain"),
    "motorcycle_left.png": Photo("He repairs his motorcycle in the garage.", "Middlebury 2014 stereo benchmark, Scharstein et al."),
    "moon.png": Photo("The moon is full tonight.", "no author named"),
    "camera.png": Photo("He stood in the field and took a photograph.", "Lav Varshney, CC0"),
    "coins.png": Photo("The old coins are worth a fortune.", "Brooklyn Museum, no known copyright restrictions"),
    "hubble_deep_field.jpg": Photo("There are more stars than anyone can count.", "NASA, public domain"),
    "grass.png": Photo("The lawn has to be mown again.", "linolafett, CC0"),
    "retina.jpg": Photo("The doctor looked into my eye.", "Mikael Häggström, CC0"),
    "brick.png": Photo("We built a house of red bricks.", "CC0Textures, CC0"),
    "gravel.png": Photo("The path is covered with small stones.", "CC0Textures, CC0"),
}


def folder_of(demo: Path) -> Path:
    """The folder of the photos in the demo's data."""
    return demo / "photos"


def sentences_file(demo: Path) -> Path:
    """The file with the sentences about the photos."""
    return demo / "sentences/everyday.txt"


def shipped() -> Path:
    """The folder in which scikit-image has its photos; the package is not imported, since what it depends on is not installed."""
    spec = importlib.util.find_spec("skimage")
    if not spec or not spec.submodule_search_locations:
        raise UserError(f"the demo's package skimage is missing; run: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data"


def write(demo: Path) -> None:
    """Copy the photos, then write the sentences; raises UserError if the installed scikit-image lacks one of them."""
    source = shipped()
    missing = [name for name in PHOTOS if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}: another scikit-image than the demo takes; run: {INSTALL}")
    for name in PHOTOS:
        with replacing(folder_of(demo) / name) as temporary:
            shutil.copyfile(source / name, temporary)
    write_lines(sentences_file(demo), [photo.sentence for photo in PHOTOS.values()])


def credits_text() -> str:
    """Whom the photos are from, in a sentence."""
    return "; ".join(f"{Path(name).stem.replace('_', ' ')}: {photo.credit}" for name, photo in PHOTOS.items())
