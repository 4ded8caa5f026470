"""Masks on disk as COCO annotations with run lengths."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from digseg_nodes.core.files import written_atomically
from train.predicting.results import Results

NAME = "predictions.coco.json"


def write_coco(results: Results, names: list[str]) -> Path:
    """predictions.coco.json: every image, category and mask that is not empty (RLE, area, box, score), image by image."""
    path = results.folder / NAME
    with written_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write('{"images": [')
        _write_all(out, (_image(number, line) for number, line in enumerate(results.lines(), 1)))
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        out.write(f'],\n"categories": {json.dumps(categories)},\n"annotations": [')
        _write_all(out, _annotations(results))
        out.write("]}\n")
    return path


def _write_all(out, entries: Iterator[dict]) -> None:
    for number, entry in enumerate(entries):
        out.write((",\n" if number else "\n") + json.dumps(entry))


def _image(number: int, line: dict) -> dict:
    return {"id": number, "file_name": line["image"], "height": line["height"], "width": line["width"]}


def _annotations(results: Results) -> Iterator[dict]:
    from pycocotools import mask as coco_masks

    count = 0
    for number, line in enumerate(results.lines(), 1):
        for category, found in enumerate(line["classes"], 1):
            if not found["area"]:
                continue
            count += 1
            mask = np.asarray(Image.open(results.folder / "masks" / found["mask"] / f"{line['file']}.png")) > 127
            rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            yield {
                "id": count,
                "image_id": number,
                "category_id": category,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "area": found["area"],
                "bbox": found["box"],
                "score": found["score"],
                "iscrowd": 0,
            }
