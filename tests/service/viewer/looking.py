"""What is seen on the screen: the slide's tumour and the map, found by their pixels."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from known_slides import TUMOUR
from PIL import Image

FEWEST_PIXELS = 24

Box = tuple[int, int, int, int]


def stage(page: Any) -> np.ndarray:
    """(height, width, 3) of the slide's part of the page, once it no longer changes."""
    before: np.ndarray | None = None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        picture = Image.open(io.BytesIO(page.locator("#stage").screenshot()))
        now = np.asarray(picture.convert("RGB")).astype(int)
        if before is not None and before.shape == now.shape and (before == now).all():
            return now
        before = now
        page.wait_for_timeout(250)
    raise AssertionError("the page does not come to rest")


def box_of(mask: np.ndarray) -> Box:
    """(left, top, right, bottom) of what is large in a mask; the thin lines of the page's own parts do not count."""
    columns = np.flatnonzero(mask.sum(axis=0) >= FEWEST_PIXELS)
    rows = np.flatnonzero(mask.sum(axis=1) >= FEWEST_PIXELS)
    assert len(columns)
    assert len(rows)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def without_navigator(pixels: np.ndarray) -> np.ndarray:
    """The small picture of the whole slide at the lower right shows the tumour a second time."""
    left = pixels.copy()
    left[-160:, -150:] = 255
    return left


def tumour_on_screen(pixels: np.ndarray) -> Box:
    """Where the slide shows the tumour."""
    return box_of(np.abs(without_navigator(pixels) - np.array(TUMOUR)).sum(axis=2) < 90)


def map_on_screen(without: np.ndarray, with_map: np.ndarray) -> Box:
    """Where the map changes the slide's pixels."""
    return box_of(np.abs(without_navigator(with_map) - without_navigator(without)).sum(axis=2) > 60)


def set_range(page: Any, name: str, value: float) -> None:
    """Move a slider as a person does: its value, and the event that tells of it."""
    move = "(field, value) => { field.value = value; field.dispatchEvent(new Event('input')) }"
    page.locator(f"#{name}").evaluate(move, value)


def tumour_and_map(page: Any) -> tuple[Box, Box, tuple[int, int]]:
    """Where the tumour and the map are on the screen, and the stage's (width, height); the map at its strongest."""
    set_range(page, "opacity", 1)
    if not page.locator("#hide-below").is_checked():
        page.locator("#hide-below").evaluate("(field) => field.click()")
    with_map = stage(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("m")
    without = stage(page)
    page.keyboard.press("m")
    return tumour_on_screen(without), map_on_screen(without, with_map), (without.shape[1], without.shape[0])
