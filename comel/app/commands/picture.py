"""A small picture in a terminal: two pixels in each character, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console
    from rich.text import Text

__all__ = ["can_show", "picture_text"]

_MOST_COLUMNS, _MOST_LINES = 100, 40


def can_show(console: Console) -> bool:
    """Whether a stream can show pictures: it is a terminal, has at least 256 colours, and can write the character ``▀``."""
    return console.is_terminal and console.color_system in ("256", "truecolor") and console.encoding.startswith("utf")


def picture_text(picture: Image, columns: int, lines: int) -> Text:
    """A picture as coloured characters, at most ``columns`` wide and ``lines`` high (and 100 x 40), in proportion.

    Args:
        picture: RGB.
        columns, lines: the terminal's size.
    """
    import numpy as np
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    room = min(columns, _MOST_COLUMNS), 2 * min(lines, _MOST_LINES)
    scale = min(room[0] / picture.width, room[1] / picture.height, 1.0)
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale / 2)) * 2
    pixels = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BOX)).tolist()
    text = Text(no_wrap=True)
    for row in range(0, height, 2):
        for column in range(width):
            upper, lower = (Color.from_rgb(*pixels[row + half][column]) for half in (0, 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    return text
