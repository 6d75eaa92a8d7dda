"""What is seen on the screen: the slide's tumour and the map, found by their pixels."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from tests.service.viewer.known_slides import TISSUE, TUMOUR

Box = tuple[int, int, int, int]


def stage(page: Any) -> np.ndarray:
    """(height, width, 3) of the slide's part of the page, once it no longer changes."""
    before: np.ndarray | None = None
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        picture = Image.open(io.BytesIO(page.locator("#stage").screenshot()))
        now = np.asarray(picture.convert("RGB")).astype(int)
        if before is not None and before.shape == now.shape and (before == now).all():
            return now
        before = now
        page.wait_for_timeout(250)
    raise AssertionError("the page does not come to rest")


def box_of(mask: np.ndarray) -> Box:
    """(left, top, right, bottom) of the largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    assert count
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest - 1]
    return columns.start, rows.start, columns.stop, rows.stop


def tumour_on_screen(pixels: np.ndarray) -> Box:
    """Where the slide shows the tumour; its edge, blurred where it is enlarged, lies half way between the two colours."""
    half_way = np.abs(np.array(TISSUE) - TUMOUR).sum() / 2
    return box_of(np.abs(pixels - np.array(TUMOUR)).sum(axis=2) < half_way)


def map_on_screen(without: np.ndarray, with_map: np.ndarray) -> Box:
    """Where the map changes the slide's pixels."""
    return box_of(np.abs(with_map - without).sum(axis=2) > 60)


def until(page: Any, condition: str) -> None:
    """Wait until an expression of the page is true; Playwright's own waiting evaluates text, which the page forbids."""
    deadline = time.monotonic() + 600
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < deadline, f"never came true: {condition}"
        page.wait_for_timeout(100)


def set_range(page: Any, name: str, value: float) -> None:
    """Move a slider as a person does: its value, and the event that tells of it."""
    move = "(field, value) => { field.value = value; field.dispatchEvent(new Event('input')) }"
    page.locator(f"#{name}").evaluate(move, value)


def tumour_and_map(page: Any) -> tuple[Box, Box, tuple[int, int]]:
    """Where the tumour and the map are on the screen, and the stage's (width, height); the map at its strongest."""
    # What lies over the slide would hide edges, or change with the map.
    page.evaluate("document.querySelectorAll('#tools, #scale-bar, .navigator').forEach((one) => (one.style.display = 'none'))")
    set_range(page, "opacity", 1)
    if not page.locator("#hide-below").is_checked():
        page.locator("#hide-below").evaluate("(field) => field.click()")
    with_map = stage(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("m")
    without = stage(page)
    page.keyboard.press("m")
    return tumour_on_screen(without), map_on_screen(without, with_map), (without.shape[1], without.shape[0])
