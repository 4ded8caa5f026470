"""What the nodes say about masks is true: saved label maps, own thresholds of classes, scores; long batches; seams of tiles."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tools import demo
from tools.api import Client, Run
from tools.graphs import AERIAL, SCENE, THINGS
from train.data.paired import IndexSource
from train.data.source_config import IndexConfig

from .conftest import PHOTO, PICK, SEGMENT, Graph, node
from .test_nodes_split import memory_of

MAP, SHOWN, SAVED, TABLE = "20", "21", "22", "23"
OTHER = "scene-4.png"
FRAMES = 40


def picture(client: Client, run: Run, which: str, number: int = 0) -> np.ndarray:
    """One picture that a node shows, [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(client.picture(run.outputs[which]["images"][number]))).convert("RGB"))


def mapped(**settings) -> dict:
    """Two scenes as one batch, their semantic map with its ids and table, and the scenes saved as photos."""
    graph = Graph(SCENE, "\n".join(THINGS)).change(SEGMENT, image=["11", 0])
    values = {"threshold": 0.0, "class_thresholds": "", "opacity": 0.6, "legend": True, "save_prefix": "", **settings}
    return graph.prompt | {
        "10": node("LoadImage", image=OTHER),
        "11": node("ImageBatch", image1=[PHOTO, 0], image2=["10", 0]),
        MAP: node("DiGSegSemanticMap", masks=[SEGMENT, 0], **values),
        SHOWN: node("PreviewImage", images=[MAP, 1]),
        TABLE: node("PreviewAny", source=[MAP, 2]),
        SAVED: node("SaveImage", images=["11", 0], filename_prefix="photos/scene"),
    }


def shares(run: Run) -> dict[str, float]:
    """Class name → percent of the pixels, from the node's table."""
    rows = [line.split("\t") for line in run.outputs[TABLE]["text"][0].splitlines()]
    return {name: float(share.split()[0]) for _, name, share in rows}


def test_saved_label_maps_are_a_data_set_for_training(client, host):
    run = client.run(mapped(save_prefix="labels/scene"))
    output = host.base / "output"
    background, *names = (output / "labels" / "scene_classes.txt").read_text(encoding="utf-8").splitlines()
    assert (background, tuple(names)) == ("background", THINGS)
    places = {"images": "photos/scene_*.png", "masks": "labels/scene_{1}.png"}
    source = IndexSource(IndexConfig(type="index", root=output, classes=names, first=1, **places))
    assert len(source) == 2
    for number, scene in enumerate((SCENE, OTHER)):
        sample, ids = source.sample(number), picture(client, run, SHOWN, number)[..., 0]
        assert np.array_equal(sample.image, np.asarray(Image.open(demo.SCENES / scene).convert("RGB")))
        found = {query.name: query.mask for query in sample.queries if query.mask is not None}
        assert set(found) == {THINGS[k - 1] for k in np.unique(ids) if k}
        assert all(np.array_equal(mask, ids == THINGS.index(name) + 1) for name, mask in found.items())


def test_a_list_of_classes_is_not_replaced_by_that_of_other_classes(client, host):
    folder = host.base / "output/kept"
    graph = mapped(save_prefix="kept/scene")
    client.run(graph)
    first = (folder / "scene_classes.txt").read_text(encoding="utf-8")
    graph[SEGMENT]["inputs"]["text"] = THINGS[0]
    client.run(graph)
    assert (folder / "scene_classes.txt").read_text(encoding="utf-8") == first
    assert (folder / "scene_00003_classes.txt").read_text(encoding="utf-8") == f"background\n{THINGS[0]}\n"
    graph[SEGMENT]["inputs"]["text"] = "\n".join(THINGS)
    client.run(graph)
    assert (folder / "scene_00005_classes.txt").read_text(encoding="utf-8") == first


def test_a_class_has_its_own_threshold(client):
    plain = shares(client.run(mapped()))
    raised = shares(client.run(mapped(class_thresholds=f"{THINGS[0]}: 1.0")))
    assert plain[THINGS[0]] > 1 and raised[THINGS[0]] == 0
    assert all(raised[name] >= plain[name] > 0 for name in THINGS[1:])


def test_scores_are_those_of_the_pixels(client, tmp_path):
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:25, 10:40], masks[1, 10:30, 20:50] = True, True
    prompt = {}
    for key, mask in zip("12", masks, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").save(tmp_path / f"compared{key}.png")
        prompt[key] = node("LoadImageMask", image=client.upload(tmp_path / f"compared{key}.png"), channel="red")
    prompt["3"] = node("DiGSegCompareMasks", prediction=["1", 0], truth=["2", 0], threshold=0.5, tolerance=2)
    prompt |= {f"4{slot}": node("PreviewAny", source=["3", slot]) for slot in range(5)}
    run = client.run(prompt)
    both, sizes = (masks[0] & masks[1]).sum(), masks.sum((1, 2))
    expected = [both / (masks[0] | masks[1]).sum(), 2 * both / sizes.sum(), both / sizes[0], both / sizes[1]]
    scores = [float(run.outputs[f"4{slot}"]["text"][0]) for slot in range(5)]
    assert scores[:4] == pytest.approx(expected, abs=1e-4) and 0 < scores[4] < 0.6
    shown = picture(client, run, "3")
    assert shown.shape == (40, 60, 3)
    white, orange, blue = shown[15, 30], shown[7, 15], shown[28, 45]
    assert white.min() > 200 and orange[0] > 200 > orange[2] and blue[2] > 200 > blue[0]


def test_long_batches_run_in_bounded_memory(client, host):
    graph = Graph(SCENE, THINGS[3])
    alone = picture(client, client.run(graph.prompt), PICK)
    graph.prompt["12"] = node("RepeatImageBatch", image=[PHOTO, 0], amount=FRAMES)
    before = memory_of(host)
    run = client.run(graph.change(SEGMENT, image=["12", 0]).prompt)
    each = 128 * 128 * 4 * (2 * 3 + 3)  # the photo twice, overlay, soft, hard and united mask in float32
    assert memory_of(host) - before < FRAMES * 2 * each + 150 * 2**20
    assert alone.any() and len(run.outputs[PICK]["images"]) == FRAMES
    assert all(np.array_equal(picture(client, run, PICK, frame), alone) for frame in (0, FRAMES // 2, FRAMES - 1))


def test_tiles_say_what_the_whole_says_and_leave_no_seam(client, tmp_path):
    """Two rows of the aerial picture, whole and in six tiles at the same sharpness."""
    with Image.open(demo.SCENES / AERIAL) as aerial:
        aerial.crop((0, 0, 256, 176)).save(tmp_path / "strip.png")
    graph = Graph(client.upload(tmp_path / "strip.png"), "red circle\nblue square\nyellow star").change(PICK, mode="soft")
    whole, tiled = (
        picture(client, client.run(graph.change(SEGMENT, **settings).prompt), PICK)[..., 0].astype(int)
        for settings in ({"resolution": 256}, {"resolution": 128, "tile": 128})
    )
    assert whole.shape == tiled.shape == (176, 256)
    inside = (whole > 127) | (tiled > 127)
    assert inside.sum() > 500 and ((whole > 127) & (tiled > 127)).sum() / inside.sum() > 0.8
    assert np.abs(tiled - whole)[inside].mean() < 40, "a soft mask that fades within a thing shows where the tiles lie"
