"""Context of which each view of a picture is the mean over cuts, against transformers alone."""

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from ctx.crops import views
from tests import builder
from tests.running import run_script

SHAPES = {"landscape": (160, 97), "portrait": (61, 148), "square": (96, 96)} | {f"{i}": (40 + 9 * i, 60) for i in range(6)}
K = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key_views")
    builder.save_clip(folder / "model")
    builder.save_pictures(folder / "pictures", SHAPES)
    (folder / "pictures/broken.png").write_bytes(b"no picture")
    (folder / "phrases.txt").write_text("\n".join(builder.phrases(20)), encoding="utf-8")
    run_script("encode_captions", folder, "--model", "model", "--captions", "phrases.txt")
    for number in (1, 4):
        run_script("build_context", folder, *flags(number, f"{number}"))
    return folder


def flags(number: int, name: str) -> list[object]:
    more = ["--exp_name", name, "--batch_size", 6]  # which the 4 cuts of a view do not divide
    return ["--model", "model", "--images", "pictures", "--k", K, "--key_views", number, *more]


def cuts(picture: Image.Image) -> list[Image.Image]:
    """Pictures that the processor makes the cuts of."""
    (width, height), side = picture.size, min(picture.size)
    return [
        picture,
        picture.resize((side, side), Image.Resampling.BICUBIC),
        picture.crop((0, 0, side, side)),
        picture.crop((width - side, height - side, width, height)),
    ]


@torch.no_grad()
def test_files_hold_the_mean_over_cuts(work):
    model = AutoModel.from_pretrained(work / "model").eval()
    processor = AutoProcessor.from_pretrained(work / "model").image_processor
    with h5py.File(work / "outputs/captions_db/caption_db.hdf5") as file:
        phrases = np.concatenate([file[f"{i}/keys"][:] for i in range(len(file))])
    with h5py.File(work / "outputs/4/vis_ctx.hdf5") as vis, h5py.File(work / "outputs/4/txt_ctx.hdf5") as txt:
        assert set(vis) == set(txt) == set(SHAPES)
        for file in (vis, txt):
            assert file.attrs["key_views"] == json.loads(file.attrs["settings"])["key_views"] == 4
        for name in ("landscape", "portrait", "square"):
            picture = Image.open(work / f"pictures/{name}.png").convert("RGB")
            scores = []
            for number, view in enumerate(views(picture)):
                pixels = processor(images=cuts(view), return_tensors="pt")["pixel_values"]
                pooled = model.vision_model(pixel_values=pixels).pooler_output
                key = torch.nn.functional.normalize(model.visual_projection(pooled), dim=1).mean(0)
                scores.append(np.sort(phrases @ (key / key.norm()).numpy())[::-1][:K])
                if not number:
                    np.testing.assert_allclose(vis[name][:], pooled.mean(0), atol=1e-4)
            found = [txt[f"{name}/{part}/scores"][:].reshape(-1, K) for part in ("whole", "five", "nine")]
            np.testing.assert_allclose(np.concatenate(found), scores, atol=1e-4)


def test_one_view_is_the_file_without_the_flag(work):
    """As are its settings, so that files from before there was a choice are finished; another number is refused."""
    plain = [flag for flag in flags(1, "plain") if flag not in ("--key_views", 1)]
    run_script("build_context", work, *plain)
    for name in ("vis_ctx", "txt_ctx"):
        assert (work / f"outputs/plain/{name}.hdf5").read_bytes() == (work / f"outputs/1/{name}.hdf5").read_bytes()
    with h5py.File(work / "outputs/1/vis_ctx.hdf5") as file:
        assert "key_views" not in file.attrs and "key_views" not in file.attrs["settings"]
    assert "key_views: 1 then, 4 now" in run_script("encode_images", work, *plain[:4], "--exp_name", "1", "--key-views", 4, code=2)
    assert "key_views: 4 then, 1 now" in run_script("encode_images", work, *plain[:4], "--exp_name", "4", code=2)


def test_shares_give_the_bytes_of_one_run(work):
    for share in (1, 2):
        run_script("build_context", work, *flags(4, "shared"), "--part", share, "--parts", 2)
    for name in ("vis_ctx", "txt_ctx"):
        assert (work / f"outputs/shared/{name}.hdf5").read_bytes() == (work / f"outputs/4/{name}.hdf5").read_bytes()
        assert (work / f"outputs/shared/{name}.skipped.tsv").read_text().count("\n") == 1
