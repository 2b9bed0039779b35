"""Draw the rooms of the project and the imports between them as an SVG picture.

The picture in `docs/images/rooms.svg` comes from the code: each package is a room, each arrow an
import. `make lint` runs this script with `--check`, which fails if the picture is out of date, so
the picture cannot disagree with the code. Arrows that follow from two others are left out.

    python scripts/draw_rooms.py            # write docs/images/rooms.svg
    python scripts/draw_rooms.py --check    # compare only; exit status 1 if it differs
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
ROWS = (
    ("gradenc",),
    ("hpc",),
    ("jobs",),
    ("gradenc_core", "storage_schemas", "slurm_profiles"),
    ("gradenc_errors",),
)
"""The wings: each imports only those in the rows below it."""
WINGS = tuple(wing for row in ROWS for wing in row)
BOX, GAP, STEP, HEAD, MARGIN = (104, 26), 14, 62, 30, 18
"""Size of a room's box, space between boxes, height of a floor, of a wing's title, page margin."""

Arrows = dict[str, set[str]]


def main() -> None:
    """Write the picture, or compare it with the one on disk."""
    picture = draw(room_imports())
    if "--check" not in sys.argv:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
        sys.exit(f"{PICTURE.relative_to(ROOT)} is out of date: run python scripts/draw_rooms.py")


def room_imports() -> Arrows:
    """Return the rooms that each room imports; a module beside the rooms is a room of its own."""
    graph = grimp.build_graph(*WINGS, cache_dir=None)
    arrows: Arrows = {room_of(module): set() for module in graph.modules if "." in module}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            first, second = room_of(importer), room_of(imported)
            if first != second and first in arrows:
                arrows[first].add(second)
    return {room: arrows[room] & set(arrows) for room in sorted(arrows)}


def room_of(module: str) -> str:
    """Return `wing.room`; the modules directly in a wing without rooms are the wing itself."""
    return ".".join(module.split(".")[:2])


def floors(arrows: Arrows) -> dict[str, int]:
    """Return the floor of each room: 0 imports nothing, any other stands above all it imports."""
    found: dict[str, int] = {}
    try:
        for room in TopologicalSorter(arrows).static_order():
            found[room] = max((found[below] + 1 for below in arrows[room]), default=0)
    except CycleError as error:
        sys.exit(f"rooms import each other in a circle: {' -> '.join(error.args[1])}")
    return found


def reduced(arrows: Arrows) -> Arrows:
    """Return the arrows that do not follow from two or more others."""

    def reaches(start: str, end: str) -> bool:
        return end in arrows[start] or any(reaches(room, end) for room in arrows[start])

    return {
        room: {end for end in ends if not any(reaches(other, end) for other in ends - {end})}
        for room, ends in arrows.items()
    }


def draw(arrows: Arrows) -> str:
    """Return the picture as SVG; equal imports give equal text."""
    wings = {wing: inside(arrows, wing) for wing in WINGS}
    places: dict[str, tuple[float, float]] = {}
    shapes: list[str] = []
    width, top = 0.0, float(MARGIN)
    for row in ROWS:
        left, height = float(MARGIN), 0.0
        for wing in row:
            size = place(wings[wing], (left, top), places)
            shapes += panel(wing, (left, top), size)
            left, height = left + size[0] + MARGIN, max(height, size[1])
        width, top = max(width, left), top + height + MARGIN
    for wing in WINGS:
        shapes += lines(reduced(wings[wing]), places)
    for room, (x, y) in places.items():
        shapes += box(room.rpartition(".")[2], x, y)
    return page(shapes, width, top)


def inside(arrows: Arrows, wing: str) -> Arrows:
    """Return the rooms of a wing with the arrows between them."""
    rooms = {room for room in arrows if room.startswith(f"{wing}.")}
    return {room: arrows[room] & rooms for room in sorted(rooms)}


def place(
    arrows: Arrows, corner: tuple[float, float], places: dict[str, tuple[float, float]]
) -> tuple[float, float]:
    """Give each room of a wing its corner, the highest floor first; return the panel's size."""
    rows: dict[int, list[str]] = defaultdict(list)
    for room, floor in floors(arrows).items():
        rows[floor].append(room)
    widest = max((len(rooms) for rooms in rows.values()), default=0)
    width = max(widest, 1) * (BOX[0] + GAP) + GAP
    for floor, rooms in rows.items():
        y = corner[1] + HEAD + (max(rows) - floor) * STEP
        indent = (width - len(rooms) * (BOX[0] + GAP) + GAP) / 2
        for i, room in enumerate(sorted(rooms)):
            places[room] = (corner[0] + indent + i * (BOX[0] + GAP), y)
    return width, HEAD + max(len(rows) - 1, 0) * STEP + (BOX[1] + GAP if rows else 0)


def panel(wing: str, corner: tuple[float, float], size: tuple[float, float]) -> list[str]:
    """Return the frame and the title of a wing."""
    x, y = corner
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{size[0]:g}" height="{size[1]:g}" rx="6" class="wing"/>',
        f'<text x="{x + 10:g}" y="{y + 19:g}" class="title">{escape(wing)}/</text>',
    ]


def box(name: str, x: float, y: float) -> list[str]:
    """Return a room."""
    middle = (x + BOX[0] / 2, y + BOX[1] / 2 + 4)
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="4" class="room"/>',
        f'<text x="{middle[0]:g}" y="{middle[1]:g}" class="name">{escape(name)}</text>',
    ]


def lines(arrows: Arrows, places: dict[str, tuple[float, float]]) -> Iterable[str]:
    """Return an arrow for each import, from the importer down to the imported room."""
    for room, ends in arrows.items():
        for end in sorted(ends):
            (x1, y1), (x2, y2) = places[room], places[end]
            half = BOX[0] / 2
            yield (
                f'<line x1="{x1 + half:g}" y1="{y1 + BOX[1]:g}" x2="{x2 + half:g}" '
                f'y2="{y2 - 3:g}" class="import"/>'
            )


def page(shapes: list[str], width: float, height: float) -> str:
    """Return the whole SVG."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif">'
    )
    style = (
        "<style>.wing{fill:#f6f7f9;stroke:#c3c9d1}.title{font-size:14px;font-weight:bold;fill:#333}"
        ".room{fill:#fff;stroke:#4a6fa5}.name{font-size:12px;text-anchor:middle;fill:#222}"
        ".import{stroke:#8a95a5;stroke-width:1.1;marker-end:url(#tip)}</style>"
    )
    tip = (
        '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="5" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#8a95a5"/></marker></defs>'
    )
    return "\n".join([head, style, tip, *shapes, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
