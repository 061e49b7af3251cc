# SPDX-License-Identifier: Apache-2.0
"""The plan of a building: a corridor with rooms on both sides, their doors, walls and furniture.

The corridor runs along x. Rooms are numbered from low x; each has a door to the corridor and one
to the next room of its side. World: metres, z up, floor at 0, outer corner at the origin.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FREE, OCCUPIED, UNKNOWN = 0, 100, -1  # of nav_msgs/OccupancyGrid
WALL = 0.2  # thickness
DOOR_WIDTH, DOOR_HEIGHT = 1.0, 2.05
SIDES = ('south', 'north')


@dataclass(frozen=True)
class BuildingConfig:
    """The size of a building: rooms on each side of the corridor; metres, ranges (low, high)."""

    rooms: int = 3
    room_width: tuple[float, float] = (3.8, 4.8)
    room_depth: tuple[float, float] = (3.6, 4.4)
    corridor_width: float = 2.0
    height: float = 2.6
    furniture: tuple[int, int] = (4, 7)

    def __post_init__(self) -> None:
        if not 1 <= self.rooms <= 1000:
            raise ValueError(f'BuildingConfig.rooms: expected 1 to 1000, got {self.rooms}')
        if not 2 * WALL + DOOR_WIDTH + 1.0 <= self.room_width[0] <= self.room_width[1]:
            raise ValueError('BuildingConfig.room_width: expected a rising range from '
                             f'{2 * WALL + DOOR_WIDTH + 1.0:g} m on, got {self.room_width}')


@dataclass(frozen=True)
class Door:
    """An opening in a wall: its middle [2], and whether the wall runs along x."""

    middle: np.ndarray
    along_x: bool

    def floor(self) -> np.ndarray:
        """Return the floor of the opening, low and high corner [2, 2]."""
        half = np.array((DOOR_WIDTH, WALL) if self.along_x else (WALL, DOOR_WIDTH)) / 2 + 1e-6
        return np.array((self.middle - half, self.middle + half))


@dataclass(frozen=True)
class FloorPlan:
    """Walls and furniture as upright boxes [n, 2, 3] (low and high corner), rooms as rectangles.

    `spaces` [k, 2, 2] are the insides of corridor, southern and northern rooms, in this order.
    `doors` are those from rooms to the corridor by (side, room), `passages` those from a room to
    the next one. The walls contain the parts above the doors.
    """

    size: np.ndarray
    walls: np.ndarray
    furniture: np.ndarray
    spaces: np.ndarray
    doors: dict[tuple[str, int], Door]
    passages: dict[tuple[str, int], Door]

    @property
    def rooms(self) -> int:
        """Return the number of rooms on each side."""
        return (len(self.spaces) - 1) // 2

    def room(self, side: str, number: int) -> np.ndarray:
        """Return the inside of a room, low and high corner [2, 2]."""
        return self.spaces[1 + SIDES.index(side) * self.rooms + number]

    def boxes(self, low: float, high: float) -> np.ndarray:
        """Return the walls and furniture [n, 2, 3] that reach into a band of heights."""
        boxes = np.concatenate((self.walls, self.furniture))
        return boxes[(boxes[:, 0, 2] < high) & (boxes[:, 1, 2] > low)]

    def grid(self, resolution: float, low: float = 0.1, high: float = 1.5) -> np.ndarray:
        """Return the plan as an occupancy grid, int8 [rows along y, columns along x].

        Cell (0, 0) has its lower corner at the origin. A cell is judged by its middle; the band
        of heights from `low` to `high` counts. Inner cells of walls and furniture are unknown,
        because nothing can see them, and so is what is outside.
        """
        columns, rows = np.ceil(self.size[:2] / resolution).astype(int)
        x, y = ((np.arange(count) + 0.5) * resolution for count in (columns, rows))
        free = np.zeros((rows, columns), bool)
        openings = [door.floor() for door in (*self.doors.values(), *self.passages.values())]
        for lower, upper in (*self.spaces, *openings):
            free |= _inside(y, lower[1], upper[1])[:, None] & _inside(x, lower[0], upper[0])
        solid = np.zeros_like(free)
        for lower, upper in self.boxes(low, high):
            solid |= _inside(y, lower[1], upper[1])[:, None] & _inside(x, lower[0], upper[0])
        free &= ~solid
        near = np.pad(free, 1)
        beside = np.zeros_like(free)
        for row in range(3):
            for column in range(3):
                beside |= near[row:row + rows, column:column + columns]
        return np.where(free, FREE, np.where(beside, OCCUPIED, UNKNOWN)).astype(np.int8)


def draw_shell(config: BuildingConfig, rng: np.random.Generator) -> FloorPlan:
    """Draw a building without furniture."""
    widths = {side: rng.uniform(*config.room_width, config.rooms) for side in SIDES}
    inner = np.mean([sum(widths[side]) for side in SIDES])
    length = inner + (config.rooms + 1) * WALL
    depths = {side: rng.uniform(*config.room_depth) for side in SIDES}
    south_wall = 2 * WALL + depths['south']
    north_wall = south_wall + config.corridor_width + WALL
    size = np.array((length, north_wall + depths['north'] + WALL, config.height))
    corridor = np.array(((WALL, south_wall), (length - WALL, south_wall + config.corridor_width)))
    bounds = {'south': (WALL, south_wall - WALL), 'north': (north_wall, size[1] - WALL)}
    spaces, doors, passages, walls = [corridor], {}, {}, []
    for side in SIDES:
        low_y, high_y = bounds[side]
        left = WALL
        for number, width in enumerate(widths[side] * inner / sum(widths[side])):
            spaces.append(np.array(((left, low_y), (left + width, high_y))))
            middle = left + width * rng.uniform(0.4, 0.6)
            wall_y = high_y + WALL / 2 if side == 'south' else low_y - WALL / 2
            doors[side, number] = Door(np.array((middle, wall_y)), along_x=True)
            if number + 1 < config.rooms:
                place = low_y + (high_y - low_y) * rng.uniform(0.45, 0.55)
                passage = Door(np.array((left + width + WALL / 2, place)), along_x=False)
                passages[side, number] = passage
                walls += _wall(left + width, left + width + WALL, low_y, high_y, config.height,
                               [passage])
            left += width + WALL
        wall_y = doors[side, 0].middle[1]
        walls += _wall(0.0, length, wall_y - WALL / 2, wall_y + WALL / 2, config.height,
                       [doors[side, number] for number in range(config.rooms)])
    for low, high in (((0.0, 0.0), (length, WALL)), ((0.0, size[1] - WALL), (length, size[1])),
                      ((0.0, WALL), (WALL, size[1] - WALL)),
                      ((length - WALL, WALL), (length, size[1] - WALL))):
        walls.append(((*low, 0.0), (*high, config.height)))
    return FloorPlan(size, np.array(walls), np.zeros((0, 2, 3)), np.array(spaces), doors, passages)


def _wall(low_x: float, high_x: float, low_y: float, high_y: float, height: float,
          doors: list[Door]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return the boxes of a wall with doors: the parts between them, and those above them."""
    along_x = doors[0].along_x
    axis = 0 if along_x else 1
    start, end = (low_x, high_x) if along_x else (low_y, high_y)
    parts = []
    for door in doors:
        low, high = door.middle[axis] - DOOR_WIDTH / 2, door.middle[axis] + DOOR_WIDTH / 2
        parts += [(start, low, 0.0), (low, high, DOOR_HEIGHT)]
        start = high
    parts.append((start, end, 0.0))
    return [((low, low_y, bottom), (high, high_y, height)) if along_x
            else ((low_x, low, bottom), (high_x, high, height)) for low, high, bottom in parts]


def _inside(places: np.ndarray, low: float, high: float) -> np.ndarray:
    return (places > low) & (places < high)
