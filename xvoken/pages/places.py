"""Where the pictures of an index are."""

from pathlib import Path

from xvoken.errors import UserError
from xvoken.files.ids import stand_for
from xvoken.files.image_sets import in_folder, named_file, sets_of
from xvoken.files.keys import companions
from xvoken.pictures.sources import ENDINGS, Member, is_shards, list_pictures


def picture_paths(ids: list[str], keys: Path, moved: dict[str, Path], again: str) -> list[Path | Member]:
    """The file of the picture of each row of an index, as the keys name it, or below the folder where it is now.

    ids: {IMAGE_SET}/{image id} of each row; keys: the folder of the keys; moved: folder or tar shards of image sets, by name;
    again: the command that makes the voken file again. Raises UserError if keys and ids do not belong together.
    """
    found: list[Path | Member] = []
    for image_set in sets_of(ids):
        mine = [i.partition("/")[2] for i in ids if i.startswith(f"{image_set}/")]
        found += (
            _moved([named_file(image_set, i) for i in mine], moved[image_set])
            if image_set in moved
            else _named(mine, keys, image_set, again)
        )
    return found


def _named(ids: list[str], keys: Path, image_set: str, again: str) -> list[Path]:
    ids_file, path_file = companions(keys, image_set)
    for path in (ids_file, path_file):
        if not path.is_file():
            raise UserError(f"{path} does not exist, which says where the pictures are; give their folder: --image-sets {image_set}=FOLDER")
    there, paths = (path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] for path in (ids_file, path_file))
    if not stand_for(there[: len(ids)], ids) or len(there) != len(paths):
        raise UserError(f"{ids_file}: not the pictures that were searched; make the voken file again: {again}")
    return [Path(path) for path in paths[: len(ids)]]


def _moved(files: list[str], source: Path) -> list[Path | Member]:
    members = list_pictures(source)[0] if is_shards(source) else None
    return [_found(file, source, members if isinstance(members, dict) else None) for file in files]


def _found(file: str, source: Path, members: dict[str, Member] | None) -> Path | Member:
    """A picture below a folder or in shards; ids of captioned sets lack the ending that the file may have."""
    if members is None:
        return in_folder(source, file)
    endings = ("",) if file.lower().endswith(ENDINGS) else ("", *ENDINGS)
    return next((members[name] for ending in endings if (name := f"{file}{ending}") in members), source / file)
