"""Tar shards as image sets: what comes out is what a folder gives that they were unpacked to."""

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import run_here
from tests.worlds import World
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import image_ids, keys
from xvoken.files.image_sets import Roots
from xvoken.pages.document import embedded
from xvoken.pictures.decode import BrokenPicture, load_picture
from xvoken.pictures.sources import Member, expand, find, folder_ids, is_shards, shard_ids, size_of

ROOTS = Roots(Path("a"), Path("b"), Path("c"))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


@pytest.fixture
def shards(world: World, tmp_path: Path) -> Path:
    """Three shards as img2dataset writes them, with broken pictures; their pattern."""
    pictures = sorted((world.folder / "images").glob("*.png"))[:12]
    (tmp_path / "tars").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / f"tars/0000{number}.tar", "w") as tar:
            for place, picture in enumerate(pictures[4 * number : 4 * number + 4]):
                key = f"{number:05}{place:04}"
                add(tar, f"{key}.png", picture.read_bytes())
                add(tar, f"{key}.txt", b"a caption")
                add(tar, f"{key}.json", b"{}")
            add(tar, f"{number:05}0004.jpg", (b"", b"no picture", pictures[0].read_bytes()[:300])[number])
    return tmp_path / "tars/{00000..00002}.tar"


# Python before 3.11.4 knows no filters; these tars are our own.
UNPACK = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def unpack(pattern: Path, folder: Path) -> Path:
    for tar in expand(pattern):
        with tarfile.open(tar) as file:
            file.extractall(folder, **UNPACK)
    return folder


@pytest.mark.slow
def test_shards_give_the_bytes_of_a_folder(keyed: Path, shards: Path, tmp_path: Path, script: Callable[..., str], monkeypatch):
    monkeypatch.setattr("xvoken.cache.images.IMAGE_CHUNK", 4)  # parts enough for two processes
    for kind, source in (("tars", shards), ("folder", unpack(shards, tmp_path / "unpacked"))):
        flags = ["--ids-root", tmp_path / kind / "ids"]
        printed = script("vokenization.create_image_ids", "--image-sets", f"mine={source}", *flags)
        assert "mine: 24 other files in" in printed
        assert "wrote the order of 15 pictures" in printed
        flags += ["--cache", tmp_path / kind / "cache", "--output", tmp_path / kind / "keys", "--load-dir", keyed, "--num-workers", 2]
        assert "3 left out" in script("vokenization.extract_vision_keys", "--image-sets", "mine", *flags)
    tars, folder = tmp_path / "tars", tmp_path / "folder"
    for name in ("ids/mine.ids", "keys/mine.hdf5", "keys/mine.ids"):
        assert (tars / name).read_bytes() == (folder / name).read_bytes(), name
    for path in (tars / "cache").glob("mine-*"):
        if not path.name.endswith(".report.json"):  # which says how long it took
            assert path.read_bytes() == (folder / "cache" / path.name).read_bytes(), path.name
    paths = (tars / "keys/mine.path").read_text().splitlines()
    assert paths[0] == f"{tars}/00000.tar/000000000.png"
    unpacked = (folder / "keys/mine.path").read_text().splitlines()
    assert [Path(path).name for path in paths] == [Path(path).name for path in unpacked]
    skipped = [line.split("\t") for line in (tars / "keys/mine.skipped.tsv").read_text().splitlines()]
    assert [(row[0], row[2].split(":")[0]) for row in skipped] == [
        ("000000004.jpg", "empty file"), ("000010004.jpg", "not a picture"), ("000020004.jpg", "can't be decoded"),
    ]  # fmt: skip
    assert check(tars / "ids/mine.ids").startswith("order of 15 pictures")
    assert check(tars / "keys/mine.hdf5").startswith("12 keys")
    # As the demo's page opens them; a name that is in no shard is a missing picture.
    assert embedded(Path(paths[7]), 32) == embedded(Path(unpacked[7]), 32)
    assert find(Path(unpacked[0])) == Path(unpacked[0])
    with pytest.raises(UserError, match="none.png: missing"):
        embedded(tars / "00000.tar/none.png", 32)


def test_moved_shards_are_found_and_others_refused(keyed: Path, shards: Path, tmp_path: Path, script: Callable[..., str]):
    ids = ["--ids-root", tmp_path / "ids"]
    create = ["vokenization.create_image_ids", *ids, "--image-sets"]
    script(*create, f"mine={shards}", "--num-images", 5)
    order = image_ids.read(tmp_path / "ids", "mine")
    assert len(order) == 5
    shutil.move(tmp_path / "tars", tmp_path / "moved")
    with pytest.raises(UserError, match=r"tars/00000.tar: no such shard; .*'mine=FOLDER/\*.tar'"):
        image_ids.paths(tmp_path / "ids", "mine", order, None, ROOTS)
    flags = [*ids, "--cache", tmp_path / "cache", "--output", tmp_path / "keys", "--load-dir", keyed, "--num-workers", 1]
    script("vokenization.extract_vision_keys", "--image-sets", f"mine={tmp_path}/moved/*.tar", *flags)
    assert keys.read(tmp_path / "keys", "mine").paths[0].startswith(f"{tmp_path}/moved/0000")
    moved = tmp_path / "moved/{00000..00002}.tar"
    found = image_ids.paths(tmp_path / "ids", "mine", order, moved, ROOTS)
    with pytest.raises(UserError, match="not the 3 shards that"):
        image_ids.paths(tmp_path / "ids", "mine", order, tmp_path / "moved/{00000..00001}.tar", ROOTS)
    # A shard made again, with another layout: refused until its headers are read again, which keeps the order.
    again = unpack(moved, tmp_path / "again")
    with tarfile.open(tmp_path / "moved/00001.tar", "w") as tar:
        for path in sorted(again.glob("00001*"), reverse=True):
            add(tar, path.name, path.read_bytes())
        add(tar, "more.json", bytes(20_000))
    with pytest.raises(UserError, match=r"00001.tar: has \d+ bytes, had \d+ when .*--image-sets 'mine=.*moved/{00000..00002}.tar'"):
        image_ids.paths(tmp_path / "ids", "mine", order, moved, ROOTS)
    assert "skipped" in script(*create, f"mine={moved}", "--num-images", 5)
    after = image_ids.paths(tmp_path / "ids", "mine", order, None, ROOTS)
    assert [m.name for m in after] == order == [m.name for m in found]
    assert [m.open().read() for m in after] == [(again / name).read_bytes() for name in order]
    (tmp_path / "ids/mine.members").write_text("0\t512\n")
    for read in (lambda: image_ids.paths(tmp_path / "ids", "mine", order, None, ROOTS), lambda: check(tmp_path / "ids/mine.ids")):
        with pytest.raises(UserError, match="mine.members: not the places of 5 pictures"):
            read()
    assert image_ids.paths(tmp_path / "ids", "mine", order, again, ROOTS) == [again / name for name in order]


def test_names_are_those_of_unpacked_files(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (
            "./b/2.jpg",
            "b//1.JPG",
            "a.webp",
            ".hidden.jpg",
            "b/.h.jpg",
            " space.jpg",
            "bell\a.jpg",
            "n.txt",
            "l" * 300 + ".png",
            "ü.gif",
        ):
            add(tar, name, name.encode())
        add(tar, "a.webp", b"the later one wins")
        for kind, name in ((tarfile.DIRTYPE, "folder.jpg"), (tarfile.FIFOTYPE, "fifo.jpg"), (tarfile.SYMTYPE, "link.jpg")):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/hostname"
            tar.addfile(header)
        members = [member for member in tar.getmembers() if member.isreg() and len(member.name) < 255]
        add(tar, "/absolute/c.jpg", b"c")
        add(tar, "../above.jpg", b"d")
        add(tar, "b/../../above.jpg", b"d")
    with tarfile.open(tmp_path / "x.tar") as tar:
        tar.extractall(tmp_path / "out", members=members, **UNPACK)
    (tmp_path / "out/absolute").mkdir()
    (tmp_path / "out/absolute/c.jpg").write_bytes(b"c")
    found, others = shard_ids(tmp_path / "x.tar")
    long = "l" * 300 + ".png"
    assert [name for name in found if name != long] == folder_ids(tmp_path / "out")[0]
    assert list(found) == ["a.webp", "absolute/c.jpg", "b/1.JPG", "b/2.jpg", long, "ü.gif"]
    assert others == 9  # hidden, space, bell, text, pipe, link, and those that lead out
    assert found["a.webp"].open().read() == b"the later one wins"
    assert found["b/1.JPG"].open().read() == b"b//1.JPG"
    assert pickle.loads(pickle.dumps(found[long])) == found[long]


def test_patterns(tmp_path: Path):
    for name in ("08", "09", "10", "8"):
        (tmp_path / f"{name}.tar").touch()
    names = [tmp_path / f"{number}.tar" for number in ("08", "09", "10")]
    assert expand(tmp_path / "{08..10}.tar") == list(map(str, names))
    assert expand(tmp_path / "8.tar") == [str(tmp_path / "8.tar")]
    assert expand(tmp_path / "{0..1}*.tar") == list(map(str, names))
    assert expand(tmp_path / "*{0..1}*.tar") == list(map(str, names))  # which name 10.tar twice
    assert expand(tmp_path / "*.tar") == [*map(str, names), str(tmp_path / "8.tar")]
    with pytest.raises(UserError, match=r"11.tar: no such tar file \(2 of 4 are missing\); to use the existing ones give '.*/\*.tar'"):
        expand(tmp_path / "{09..12}.tar")
    for wrong in ("{10..08}.tar", "nowhere/*.tar", "11.tar"):
        with pytest.raises(UserError, match="no such tar file$"):
            expand(tmp_path / wrong)
    (tmp_path / "folder.tar").mkdir()
    assert is_shards(tmp_path / "x.tar.gz")
    assert not is_shards(tmp_path / "folder.tar")
    assert not is_shards(tmp_path / "tars")


def test_wrong_shards(shards: Path, tmp_path: Path, script: Callable[..., str]):
    create = ["vokenization.create_image_ids", "--ids-root", tmp_path / "ids", "--image-sets"]
    first = expand(shards)[0]
    with pytest.raises(UserError, match=r"tars: no pictures in it \(.*\); its tar shards are given as '.*/tars/\*.tar'"):
        script(*create, f"mine={tmp_path / 'tars'}")
    shutil.copy(first, tmp_path / "tars/copy.tar")
    with pytest.raises(UserError, match=r"000000000.png is in .*00000.tar and in .*copy.tar: give them as two image sets"):
        script(*create, f"mine={tmp_path}/tars/*.tar")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        add(tar, "a.jpg", b"x")
    with pytest.raises(UserError, match=r"x.tar.gz: can't be read as a tar file \(.*\); decompress it"):
        script(*create, f"mine={tmp_path}/x.tar.gz")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        add(tar, "a.txt", b"x")
    with pytest.raises(UserError, match=r"none.tar: no pictures in it"):
        script(*create, f"mine={tmp_path}/none.tar")
    assert not (tmp_path / "ids").exists()
    # The shell takes a range without quotes apart.
    done = run_here("vokenization/create_image_ids.py", "--image-sets", f"mine={first}", f"mine={first}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: image set mine is given 2 times; put a range of shards in quotes")


def test_cut_and_damaged_shards(shards: Path, tmp_path: Path, script: Callable[..., str]):
    create = ["vokenization.create_image_ids", "--ids-root", tmp_path / "ids", "--image-sets"]
    last = expand(shards)[2]
    whole = Path(last).read_bytes()
    with tarfile.open(last) as tar:
        places = {member.name: member for member in tar.getmembers()}
    third = places["000020002.png"]
    cuts = {"data": third.offset_data + 100, "border": third.offset, "header": third.offset + 300}
    for name, size in cuts.items():
        Path(last).write_bytes(whole[:size])
        printed = script(*create, f"{name}={shards}")
        assert "warning: " in printed
        assert "00002.tar is cut off or damaged after 6 members; only these are used" in printed
        assert image_ids.read(tmp_path / "ids", name)[-1] == "000020001.png"
    Path(last).write_bytes(whole[: third.offset] + b"\xff" * 512 + whole[third.offset + 512 :])
    assert "damaged after 6 members" in script(*create, f"damaged={shards}")
    Path(last).write_bytes(b"")
    assert "00002.tar is cut off or damaged after 0 members" in script(*create, f"empty={shards}")
    # Once it is whole, the order that the cut one gave is not taken for that of the whole set.
    Path(last).write_bytes(whole)
    with pytest.raises(UserError, match=r"00002.tar: has \d+ bytes, had 0 when its headers were read"):
        image_ids.paths(tmp_path / "ids", "empty", image_ids.read(tmp_path / "ids", "empty"), None, ROOTS)
    with pytest.raises(UserError, match="fixes 10 pictures, there are 15 now, first difference at line 11"):
        script(*create, f"empty={shards}")
    assert json.loads((tmp_path / "ids/empty.json").read_text())["shards"][last] == 0


def test_members_are_read_by_many_threads(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    contents = [os.urandom(100 + i) for i in range(300)]
    members = []
    for number in range(6):  # more shards than are kept open
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for i in range(number, 300, 6):
                add(tar, f"{i}.jpg", contents[i])
        found, _ = shard_ids(tmp_path / f"{number}.tar")
        members += found.values()
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda member: member.open().read(), members * 5))
    assert read == [contents[int(Path(member.name).stem)] for member in members] * 5
    assert size_of(members[0]) == len(contents[0])
    assert size_of(tmp_path / "none.jpg") == -1
    with pytest.raises(BrokenPicture, match="missing"):
        load_picture(Member(str(tmp_path / "gone.tar"), "x.jpg", 512, 10))
    with pytest.raises(BrokenPicture, match="not a picture"):
        load_picture(members[0])
