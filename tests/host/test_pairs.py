"""Pairs saved from a graph lie where training finds them, and names cannot leave the folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tools.api import Client, RunError
from tools.graphs import SCENE, THINGS

from .conftest import PHOTO, PICK, SEGMENT, Graph, node

SAVE, FILE, IDS = "40", "41", "42"


def saving(client: Client, graph: Graph, **inputs) -> tuple[str, list[str]]:
    """The path of the data file and the ids, after the graph with Save Training Pair has run."""
    given = {"image": [PHOTO, 0], "class_name": "", "threshold": 0.0, **inputs}
    shown = {FILE: node("PreviewAny", source=[SAVE, 0]), IDS: node("PreviewAny", source=[SAVE, 1])}
    run = client.run(graph.prompt | {SAVE: node("DiGSegSavePair", **given), **shown})
    assert run.outputs[SAVE]["images"]
    return run.outputs[FILE]["text"][0], run.outputs[IDS]["text"][0].splitlines()


def test_every_prompt_of_a_batch_is_saved_under_its_name(client, host):
    graph = Graph(SCENE, f"{THINGS[0]}\n{THINGS[3]}\nblue heart")
    graph.prompt |= {"10": node("LoadImage", image="scene-4.png"), "11": node("ImageBatch", image1=[PHOTO, 0], image2=["10", 0])}
    graph = graph.change(SEGMENT, image=["11", 0])
    path, ids = saving(client, graph, image=["11", 0], masks=[SEGMENT, 0], data_set="of prompts")
    folder = host.base / "output" / "digseg-data" / "of prompts"
    assert path == str(folder / "data.yaml") and len(ids) == 2
    masks = {name: np.asarray(Image.open(folder / "masks" / name / f"{ids[0]}.png")) for name in (THINGS[0], "blue heart")}
    assert set(np.unique(masks[THINGS[0]])) == {0, 255} and not masks["blue heart"].any()
    again, more = saving(client, graph.change(SEGMENT, seed=5), image=["11", 0], masks=[SEGMENT, 0], data_set="of prompts")
    assert (again, more) == (path, ids)


@pytest.mark.parametrize("name", ["../../../outside", "/etc/outside", "a\\..\\b", "C:\\x"])
def test_names_stay_inside_the_output_folder(client, host, name):
    before = set((host.base / "output" / "digseg-data").glob("*"))
    given = {"mask": [PICK, 0], "class_name": name, "data_set": name, "pair_id": name}
    path, [made] = saving(client, Graph(SCENE, THINGS[0]), **given)
    [folder] = set((host.base / "output" / "digseg-data").glob("*")) - before
    assert path == str(folder / "data.yaml")
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert len(files) == 3 and f"images/{made}.png" in files and len(list((folder / "masks").iterdir())) == 1


def test_another_mask_needs_the_pairs_id(client):
    graph, settings = Graph(SCENE, "\n".join(THINGS)), {"mask": [PICK, 0], "class_name": "thing", "data_set": "again"}
    _, [first] = saving(client, graph.change(PICK, names=THINGS[0]), **settings)
    other = graph.change(PICK, names=THINGS[1])
    with pytest.raises(RunError, match=f"already saved with another mask of 'thing'.*Write {first} into pair_id"):
        saving(client, other, **settings)
    assert saving(client, other, **settings, pair_id=first)[1] == [first]


def test_what_cannot_be_a_pair_is_told(client):
    graph, settings = Graph(SCENE, THINGS[0]), {"mask": [PICK, 0], "data_set": "wrong"}
    for inputs, words in (
        ({}, "class_name is empty"),
        ({"class_name": "red circle: scarlet\n-blue star"}, "class_name has 2 lines"),
        ({"class_name": "x", "data_set": " "}, "data_set is empty"),
        ({"class_name": "x", "mask": [PHOTO, 1]}, "mask looks like the MASK of Load Image"),
        ({"class_name": THINGS[0], "masks": [SEGMENT, 0]}, "Both masks and mask are connected"),
    ):
        with pytest.raises(RunError, match=words):
            saving(client, graph, **{**settings, **inputs})
