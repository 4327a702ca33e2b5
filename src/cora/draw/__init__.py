"""All drawing on images: boxes with names, contact sheets, the colour of a class."""

from cora.draw.boxes import draw_boxes
from cora.draw.colours import Colour, class_colour, class_colours, colours_together, numbered_colour, text_colour
from cora.draw.sheet import contact_sheet

__all__ = [
    "Colour",
    "class_colour",
    "class_colours",
    "colours_together",
    "contact_sheet",
    "draw_boxes",
    "numbered_colour",
    "text_colour",
]
