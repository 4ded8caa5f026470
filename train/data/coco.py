"""COCO JSON, instances, stuff or panoptic."""

import json
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np

from train.data.base import DataError, Finding
from train.data.by_others import short
from train.data.coco_json import Id, Photo, PhotoFiles, crowds, is_crowd, read_coco, same_id
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest
from train.data.names import images_below, is_foreign
from train.data.outlines import OutlineError, outline_mask
from train.data.pixels import read_colours
from train.data.source_config import CocoConfig


class CocoSource(LabelledSource):
    """One class mask per category and image: the union of its annotations. See CocoConfig."""

    def __init__(self, config: CocoConfig):
        self.config = config
        self.file = read_coco(config.annotations)
        self.names = self._class_names()
        self.wording = Wording(config, {name: [name] for name in self.names})
        self.photos = chosen(self.file.photos, lambda photo: photo.file_name, config)
        self.paths = self._find_photos()
        self._check_crowds()

    def _class_names(self) -> list[str]:
        """The classes asked for; a root that only gathers the others (Roboflow's) is none."""
        every = list(dict.fromkeys(self.file.categories.values()))
        if self.config.classes is not None:
            if unknown := sorted(set(self.config.classes) - set(every)):
                raise DataError(f"{self.config.annotations} has no categories {unknown}; it has {sorted(every)}.")
            return self.config.classes
        return [name for name in every if name not in self._empty_roots] or every

    @cached_property
    def _empty_roots(self) -> set[str]:
        """Categories that others name as their super-category and that no annotation has."""
        return self.file.roots - {name for photo in self.file.photos for name in self._labelled(photo)}

    def _labelled(self, photo: Photo) -> set[str]:
        """Names of the categories that annotations of a photo have."""
        parts = [part for one in photo.annotations for part in one.get("segments_info", [one])]
        numbers = (same_id(part.get("category_id")) for part in parts if self.config.crowd == "mask" or not is_crowd(part))
        return {self.file.categories[number] for number in numbers if number in self.file.categories}

    def _find_photos(self) -> list[Path]:
        files = PhotoFiles(self.config.images)
        found = [files.find(photo.file_name) for photo in self.photos]
        missing = [photo.file_name for photo, path in zip(self.photos, found, strict=True) if path is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(found)} photos that {self.config.annotations} lists are not in {self.config.images}, "
                f"e.g. {short(missing[0])!r}. Check `images:`, or take them out of the JSON."
            )
        return found

    def _check_crowds(self) -> None:
        """DataError for a class with more crowd annotations than others, unless `crowd:` says what they are."""
        if self.config.crowd is not None or self.config.panoptic:
            return
        crowd, other = crowds(self.file.photos)
        for number, count in crowd.items():
            if count > other[number] and self.file.categories[number] in self.names:
                raise DataError(
                    f"{self.config.annotations}: {count} of {count + other[number]} annotations of "
                    f'"{self.file.categories[number]}" have iscrowd 1. COCO means regions without labels by '
                    "it, CVAT and SAM write it for every brushed mask. Say "
                    "`crowd: mask` or `crowd: ignore` in the data YAML."
                )

    def __len__(self) -> int:
        return len(self.photos)

    def photo(self, index: int) -> Path:
        return self.paths[index]

    def content(self, index: int) -> str:
        annotations = json.dumps(self.photos[index].annotations, sort_keys=True)
        files = [self.photo(index)] + ([self._panoptic_file(index)] if self.config.panoptic else [])
        return f"coco/{file_digest(*files)}/{settings_digest(annotations, self.file.categories, self.config.crowd)}"

    @cached_property
    def unseen(self) -> frozenset[str]:
        seen = {name for photo in self.photos for name in self._labelled(photo)}
        return frozenset(set(self.class_names) - seen - set(self.config.absent))

    def labels(self, index: int) -> Labels:
        if self.config.panoptic:
            return self._panoptic(index)
        size = self.photos[index].size or self.size_of(self.photo(index))
        masks, crowd, empty = {}, np.zeros(size, bool), 0
        for annotation in self.photos[index].annotations:
            name = self.file.categories[annotation["category_id"]]
            if name not in self.names and not is_crowd(annotation):
                continue
            mask = self._mask(annotation, index, size)
            empty += not mask.any()
            if is_crowd(annotation) and self.config.crowd != "mask":
                crowd |= mask
            elif name in self.names:
                masks[name] = masks.get(name, False) | mask
        return Labels(masks, crowd if crowd.any() else None, self.config.annotations, size, empty=empty)

    def _mask(self, annotation: dict, index: int, size: tuple[int, int]) -> np.ndarray:
        """Bool [H,W] of one annotation."""
        try:
            if _within_one(annotation) and self._all_within_one:
                raise OutlineError("all corners lie between 0 and 1, as shares of the width and height; COCO has pixels")
            return outline_mask(annotation.get("segmentation"), *size)
        except OutlineError as error:
            raise DataError(
                f"{self.config.annotations}: annotation {annotation['id']} of image {self.photos[index].number} has no outline "
                f"that can be read: {error}. Take the annotation out, or mend it."
            ) from error

    @cached_property
    def _all_within_one(self) -> bool:
        return all(_within_one(annotation) for photo in self.file.photos for annotation in photo.annotations)

    def photo_files(self) -> tuple[set[Path], set[Path]]:
        files = PhotoFiles(self.config.images)
        used = {path for photo in self.file.photos if (path := files.find(photo.file_name)) is not None}
        return {path for path in images_below(self.config.images) if not is_foreign(path.name)} | used, used

    def findings(self) -> list[Finding]:
        out = [*super().findings(), *self.file.findings]
        roots = sorted(self._empty_roots - set(self.names))
        if roots:
            out.append(Finding(f"{', '.join(roots)}: only gathers the other categories and is not asked for", left_over=False))
        crowd, _ = crowds(self.file.photos)
        if crowd and self.config.crowd != "mask" and not self.config.panoptic:
            out.append(
                Finding(f"{crowd.total()} crowd annotations are unlabelled regions (`crowd:` can change it)", left_over=False)
            )
        parts = (part for photo in self.file.photos for one in photo.annotations for part in one.get("segments_info", []))
        strangers = Counter(
            short(part.get("category_id")) for part in parts if same_id(part.get("category_id")) not in self.file.categories
        )
        if strangers:
            listed = ", ".join(f"{name} ({count})" for name, count in strangers.most_common(5))
            out.append(Finding(f"{strangers.total()} segments have a category_id that the JSON does not list: {listed}"))
        left = {name for photo in self.file.photos for name in self._labelled(photo)} - set(self.names)
        if left:
            out.append(
                Finding(f"{len(left)} categories with annotations are not among `classes`: {_some(left)}", left_over=False)
            )
        return [*out, *self.wording.nearly(left)]

    def _panoptic_entry(self, index: int) -> dict:
        found = self.photos[index].annotations
        if not found or not {"file_name", "segments_info"} <= set(found[0]):
            raise DataError(
                f"{self.config.annotations} has no panoptic annotation (file_name, segments_info) for image "
                f"{self.photos[index].number}. Take the image out of `images`, or leave `panoptic:` out for a JSON with "
                "polygons or run lengths."
            )
        return found[0]

    def _panoptic_file(self, index: int) -> Path:
        return self.config.panoptic / self._panoptic_entry(index)["file_name"]

    def _panoptic(self, index: int) -> Labels:
        """Class masks and crowd regions from a panoptic PNG, whose pixels are segment ids R + 256 G + 65536 B."""
        path = self._panoptic_file(index)
        ids = read_colours(path)[0].astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        masks, crowd, named = {}, ids == 0, {0}
        for segment in self._panoptic_entry(index)["segments_info"]:
            number = same_id(segment.get("id"))
            named.add(number)
            name = self.file.categories.get(same_id(segment.get("category_id")))
            if is_crowd(segment) and self.config.crowd != "mask":
                crowd |= ids == number
            elif name in self.names:
                masks[name] = masks.get(name, False) | (ids == number)
        return Labels(masks, crowd if crowd.any() else None, path, ids.shape, lambda: _unnamed(ids, named))


def _within_one(annotation: dict) -> bool:
    """Whether a polygon has corners from 0 to 1 only."""
    parts = annotation.get("segmentation")
    numbers = (
        [value for part in parts for value in (part if isinstance(part, list) else [part])] if isinstance(parts, list) else []
    )
    return bool(numbers) and all(isinstance(value, int | float) and 0 <= value <= 1 for value in numbers)


def _unnamed(ids: np.ndarray, named: set[Id | None]) -> dict[str, int]:
    """Pixels of the segments that the JSON does not name."""
    found, counts = np.unique(ids, return_counts=True)
    total = sum(int(count) for one, count in zip(found, counts, strict=True) if int(one) not in named)
    return {"segments that the JSON does not name": total} if total else {}


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (" ..." if len(listed) > 8 else "")
