"""predict.py: the files it writes, and that a second start does only what is missing."""

import numpy as np
from PIL import Image

from tests.train.helpers import folder_dataset, tiny_base
from train.predict import main


def test_masks_palette_and_overlay_per_image(tmp_path):
    folder_dataset(tmp_path / "data", count=2, size=(48, 64))
    checkpoint, out = tiny_base(tmp_path / "model.safetensors", in_channels=8), tmp_path / "out"
    line = ["--checkpoint", checkpoint, "--images", tmp_path / "data/images", "--output", out, "--steps", 1]
    line = [*map(str, line), "--prompts", "red box: crate", "disc", "--threshold", "0.4", "--device", "cpu"]
    main(line)
    masks = [np.asarray(Image.open(out / "masks" / name / "000.png")) for name in ("red_box", "disc")]
    assert all(mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 255} for mask in masks)
    semantic = Image.open(out / "semantic/000.png")
    assert semantic.mode == "P"
    ids = np.asarray(semantic)
    assert set(np.unique(ids)) <= {0, 1, 2}
    assert np.array_equal(ids > 0, (masks[0] > 0) | (masks[1] > 0))
    assert Image.open(out / "overlays/000.jpg").size == (64, 48)

    line[line.index(str(out))] = str(tmp_path / "both ways")
    main([*line, "--mirror"])
    both = np.asarray(Image.open(tmp_path / "both ways/masks/red_box/000.png"))
    assert both.shape == (48, 64) and not np.array_equal(both, masks[0])
    line[line.index(str(tmp_path / "both ways"))] = str(out)

    (out / "overlays/001.jpg").unlink()
    before = (out / "overlays/000.jpg").stat().st_mtime_ns
    main(line)
    assert (out / "overlays/001.jpg").is_file()
    assert (out / "overlays/000.jpg").stat().st_mtime_ns == before
