"""The contact sheet of the demo: one card a photo, with all masks over it and each prompt cut out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, MARGIN, GAP, PAD, RADIUS = 1600, 48, 20, 24, 18
LARGE, SMALL, TILE, CAPTION, COLUMNS = 528, 254, 208, 46, 4
PAGE, CARD, TEXT, FAINT = (16, 18, 24), (27, 30, 39), (238, 240, 246), (146, 152, 168)
GOOD, BAD, NEW = (112, 214, 140), (240, 120, 110), (255, 196, 92)


@dataclass(frozen=True)
class Cut:
    """One prompt of a photo: its hard mask (bool [H, W]), colour, IoU with the truth, share of the photo in [0, 1]."""

    prompt: str
    mask: np.ndarray
    colour: tuple[int, int, int]
    iou: float
    coverage: float
    held_out: bool
    present: bool


@dataclass(frozen=True)
class Card:
    """A photo and what was asked of it."""

    name: str
    photo: Image.Image
    cuts: list[Cut]


def contact_sheet(title: str, subtitle: str, cards: list[Card]) -> Image.Image:
    """Lay the cards out below a title, RGB, 1600 pixels wide."""
    heights = [_card_height(card) for card in cards]
    top = MARGIN + 110
    sheet = Image.new("RGB", (WIDTH, top + sum(heights) + GAP * (len(cards) - 1) + MARGIN), PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, TEXT, _font(46))
    draw.text((MARGIN, MARGIN + 56), subtitle, FAINT, _font(22))
    for card, height in zip(cards, heights, strict=True):
        _draw_card(sheet, card, top, height)
        top += height + GAP
    return sheet


def _rows(card: Card) -> int:
    """Rows of tiles: the photo and one a prompt, five beside a small overlay or else four a row beside a large one."""
    tiles = len(card.cuts) + 1
    return 1 if tiles <= COLUMNS + 1 else -(-tiles // COLUMNS)


def _side(card: Card) -> int:
    return LARGE if _rows(card) > 1 else SMALL


def _card_height(card: Card) -> int:
    return 2 * PAD + _rows(card) * (TILE + CAPTION) + (_rows(card) - 1) * GAP


def _draw_card(sheet: Image.Image, card: Card, top: int, height: int) -> None:
    ImageDraw.Draw(sheet).rounded_rectangle((MARGIN, top, WIDTH - MARGIN, top + height), RADIUS, CARD)
    x, y, columns = MARGIN + PAD, top + PAD, COLUMNS + (_rows(card) == 1)
    _paste(sheet, _overlay(card, _side(card)), x, y)
    left = x + _side(card) + GAP
    step = (WIDTH - MARGIN - PAD - left + GAP) // columns
    places = [(left + column * step, y + row * (TILE + CAPTION + GAP)) for row in range(_rows(card)) for column in range(columns)]
    _paste(sheet, _cover(card.photo, TILE), *places[0])
    ImageDraw.Draw(sheet).text((places[0][0], places[0][1] + TILE + 3), card.name, FAINT, _font(20))
    for cut, place in zip(card.cuts, places[1:], strict=False):
        _draw_cut(sheet, card.photo, cut, *place)


def _draw_cut(sheet: Image.Image, photo: Image.Image, cut: Cut, x: int, y: int) -> None:
    """A prompt's tile: the photo outside its mask is dimmed, below it the prompt and its figures."""
    dimmed = Image.blend(_cover(photo, TILE).convert("L").convert("RGB"), Image.new("RGB", (TILE, TILE), PAGE), 0.78)
    tile = Image.composite(_cover(photo, TILE), dimmed, _smooth(cut.mask, TILE))
    _paste(sheet, _outlined(tile, cut.mask, cut.colour), x, y)
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((x, y + TILE + 9, x + 12, y + TILE + 21), cut.colour)
    draw.text((x + 20, y + TILE + 3), _fitting(cut.prompt, TILE - 20, _font(20)), TEXT, _font(20))
    draw.text((x + 20, y + TILE + 27), *_figure(cut), _font(17))
    if cut.held_out:
        draw.text((x + TILE, y + TILE + 27), "never trained", NEW, _font(17), anchor="ra")


def _figure(cut: Cut) -> tuple[str, tuple[int, int, int]]:
    """The figure below a tile and its colour: green where the mask is right."""
    if cut.present:
        return f"IoU {cut.iou:.2f}", GOOD if cut.iou >= 0.5 else BAD
    return ("not there: empty", GOOD) if cut.coverage == 0 else (f"false positive: {cut.coverage:.1%}", BAD)


def _overlay(card: Card, size: int) -> Image.Image:
    picture = _cover(card.photo, size)
    for cut in card.cuts:
        tint = Image.blend(picture, Image.new("RGB", picture.size, cut.colour), 0.45)
        picture = _outlined(Image.composite(tint, picture, _smooth(cut.mask, size)), cut.mask, cut.colour)
    return picture


def _outlined(picture: Image.Image, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Draw the contour of a mask, two to three pixels wide."""
    shape = _smooth(mask, 2 * picture.width)
    ring = Image.fromarray(np.asarray(shape.filter(ImageFilter.MaxFilter(9))) - np.asarray(shape))
    line = ring.resize(picture.size, Image.Resampling.LANCZOS)
    return Image.composite(Image.new("RGB", picture.size, _light(colour)), picture, line)


def _light(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(round(c + (255 - c) * 0.35) for c in colour)


def _smooth(mask: np.ndarray, size: int) -> Image.Image:
    """Upscale a hard mask to a square of `size` pixels with a clean, anti-aliased edge; L in 0..255."""
    soft = _cover(Image.fromarray(mask.astype(np.uint8) * 255), 2 * size)
    soft = soft.filter(ImageFilter.GaussianBlur(0.9 * 2 * size / min(mask.shape)))
    return soft.point(lambda v: 255 if v > 127 else 0).resize((size, size), Image.Resampling.LANCZOS)


def _cover(picture: Image.Image, size: int) -> Image.Image:
    """The largest centred square of a picture, resampled to `size` pixels."""
    side = min(picture.size)
    x, y = (picture.width - side) / 2, (picture.height - side) / 2
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))


def _paste(sheet: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    """Paste with rounded corners."""
    corners = Image.new("L", (4 * picture.width, 4 * picture.height))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, *corners.size), 40, 255)
    sheet.paste(picture, (x, y), corners.resize(picture.size, Image.Resampling.LANCZOS))


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(text: str, width: int, font: ImageFont.ImageFont) -> str:
    """The text, cut short with dots where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
