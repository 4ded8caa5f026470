"""COCO JSON, instances, stuff or panoptic, read through pycocotools."""

import json
from contextlib import redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from train.data.base import DataError
from train.data.config import CocoConfig
from train.data.labelled import LabelledSource, Labels, Wording, file_digest, read_image, settings_digest


class CocoSource(LabelledSource):
    """One class mask per category and image: the union of its annotations. See CocoConfig."""

    def __init__(self, config: CocoConfig):
        self.config = config
        self.coco = _load(config.annotations)
        self.categories = {category["id"]: category["name"] for category in self.coco.cats.values()}
        names = config.classes or list(dict.fromkeys(self.categories.values()))
        unknown = sorted(set(names) - set(self.categories.values()))
        if unknown:
            raise DataError(f"{config.annotations} has no categories {unknown}; it has {sorted(self.categories.values())}.")
        self.wording = Wording(config, {name: [name] for name in names})
        self.images = sorted(self.coco.imgs)[: config.limit]
        if not self.images:
            raise DataError(f"{config.annotations} lists no images.")

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {number: name for number, name in self.categories.items() if name in self.class_names}

    def photo(self, index: int) -> Path:
        return self.config.images / self.coco.imgs[self.images[index]]["file_name"]

    def content(self, index: int) -> str:
        annotations = json.dumps(self.coco.imgToAnns[self.images[index]], sort_keys=True)
        files = [self.photo(index)] + ([self._panoptic_file(index)] if self.config.panoptic else [])
        return f"coco/{file_digest(*files)}/{settings_digest(annotations)}"

    def labels(self, index: int) -> Labels:
        masks, crowd = self._panoptic(index) if self.config.panoptic else self._segments(index)
        return Labels(masks, crowd if crowd.any() else None, self._label_file(index), crowd.shape)

    def _label_file(self, index: int) -> Path:
        return self._panoptic_file(index) if self.config.panoptic else self.config.annotations

    def _segments(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Class masks and crowd regions from polygons and run lengths."""
        entry = self.coco.imgs[self.images[index]]
        masks, crowd = {}, np.zeros((entry["height"], entry["width"]), bool)
        for annotation in self.coco.imgToAnns[self.images[index]]:
            mask = self._mask(annotation)
            if annotation.get("iscrowd"):
                crowd |= mask
            elif annotation["category_id"] in self._names:
                name = self._names[annotation["category_id"]]
                masks[name] = masks.get(name, False) | mask
        return masks, crowd

    def _mask(self, annotation: dict) -> np.ndarray:
        """[H,W] bool of one annotation."""
        try:
            return self.coco.annToMask(annotation).astype(bool)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.config.annotations}: annotation {annotation['id']} of image {annotation.get('image_id')} has no outline "
                f"that can be read ({error!r}); expected `segmentation` as polygons of at least three points or run lengths. "
                "Boxes alone hold no mask: take them out, or export with outlines."
            ) from error

    def _panoptic_entry(self, index: int) -> dict:
        found = self.coco.imgToAnns[self.images[index]]
        if not found or not {"file_name", "segments_info"} <= set(found[0]):
            raise DataError(
                f"{self.config.annotations} has no panoptic annotation (file_name, segments_info) for image "
                f"{self.images[index]}. Take the image out of `images`, or leave `panoptic:` out for a JSON with polygons or run "
                "lengths."
            )
        return found[0]

    def _panoptic_file(self, index: int) -> Path:
        return self.config.panoptic / self._panoptic_entry(index)["file_name"]

    def _panoptic(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Class masks and crowd regions from a panoptic PNG, whose pixels are segment ids R + 256 G + 65536 B."""
        path = self._panoptic_file(index)
        ids = read_image(path, "RGB").astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        masks, crowd = {}, ids == 0
        for segment in self._panoptic_entry(index)["segments_info"]:
            if segment.get("iscrowd"):
                crowd |= ids == segment["id"]
            elif segment["category_id"] in self._names:
                name = self._names[segment["category_id"]]
                masks[name] = masks.get(name, False) | (ids == segment["id"])
        return masks, crowd


def _load(path: Path) -> COCO:
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for number, annotation in enumerate(values["annotations"]):
            annotation.setdefault("id", number)  # panoptic annotations have neither
            annotation.setdefault("category_id", 0)
        for key, needed in (("images", {"id", "file_name"}), ("categories", {"id", "name"})):
            if short := [entry for entry in values[key] if not needed <= set(entry)]:
                raise KeyError(f"{', '.join(sorted(needed - set(short[0])))} in {key}: {short[0]}")
        coco = COCO()
        coco.dataset = values
        with redirect_stdout(StringIO()):
            coco.createIndex()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not COCO JSON ({error!r}); expected images, annotations and categories.") from error
    return coco
