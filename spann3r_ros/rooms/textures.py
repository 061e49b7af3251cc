# SPDX-License-Identifier: Apache-2.0
"""Bank of procedural, tileable textures with mip levels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


@dataclass(frozen=True)
class TextureBank:
    """Square textures with all their mip levels, stored as one list of texels.

    `texels` int32 [T] hold 0xRRGGBB, texture after texture, level after level, row after row,
    from `size` x `size` texels down to one. The size is a power of two.
    """

    texels: Tensor
    size: int

    @property
    def stride(self) -> int:
        """Return the number of texels of one texture on all levels."""
        return (4 * self.size**2 - 1) // 3

    def __len__(self) -> int:
        return len(self.texels) // self.stride

    def sample(self, texture: Tensor, u: Tensor, v: Tensor, level: Tensor) -> list[Tensor]:
        """Return red, green and blue in 0..1, bilinear at the nearest mip level, periodic.

        `texture` int32, `u` and `v` in tiles and `level` have one shape, which is that of each
        channel. `level` is overwritten.
        """
        levels = self.size.bit_length() - 1
        size = level.round_().clamp_(0, levels).sub_(levels).neg_().exp2_()
        start = (self.size**2 - size.square()).mul_(4 / 3).round_().int()
        start.add_(texture, alpha=self.stride)
        x, y = u.mul(size).sub_(0.5), v.mul(size).sub_(0.5)
        left, top = x.floor(), y.floor()
        x, y = x.sub_(left), y.sub_(top)
        size, left, top = size.int(), left.int(), top.int()
        mask = size - 1
        columns = (left & mask, left.add_(1).bitwise_and_(mask))
        rows = [(side & mask).mul_(size).add_(start) for side in (top, top + 1)]
        # Weights of the four texels in 256ths, rounded down so that none is negative.
        both, right, below = ((w * 256).int() for w in (x * y, x, y))
        right, below = right.sub_(both), below.sub_(both)
        weights = (256 - both - right - below, right, below, both)
        # Red and blue are accumulated in one integer, 16 bits each.
        red_blue = green = 0
        places = [row + column for row in rows for column in columns]
        for place, weight in zip(places, weights, strict=True):
            texel = self.texels.index_select(0, place.view(-1)).view(place.shape)
            red_blue = (texel & 0xFF00FF).mul_(weight).add_(red_blue)
            green = (texel >> 8).bitwise_and_(0xFF).mul_(weight).add_(green)
        parts = ((red_blue >> 16).bitwise_and_(0xFFFF), green, red_blue.bitwise_and_(0xFFFF))
        return [part.float().mul_(1 / (255 * 256)) for part in parts]


def make_texture_bank(
    count: int, size: int, seed: int, device: str | torch.device = 'cpu'
) -> TextureBank:
    """Draw `count` textures of `size` x `size` texels; the same seed gives the same bank.

    Raises ValueError if `size` is not a power of two of at least 16 or `count` is not positive.
    """
    return build_bank(draw_textures(count, size, seed), device)


def draw_textures(count: int, size: int, seed: int) -> Tensor:
    """Draw textures [count, 3, size, size] in 0..1; ValueError as for a bank."""
    if size < 16 or size & (size - 1):
        raise ValueError(f'size: expected a power of two of at least 16, got {size}')
    if count < 1:
        raise ValueError(f'count: expected a positive number of textures, got {count}')
    canvas = _Canvas(size, torch.Generator().manual_seed(seed))
    return torch.stack([canvas.draw(_FAMILIES[i % len(_FAMILIES)]) for i in range(count)])


def build_bank(images: Tensor, device: str | torch.device = 'cpu') -> TextureBank:
    """Return the bank of textures [count, 3, size, size] in 0..1; a size is a power of two."""
    size = images.shape[-1]
    levels = []
    while True:
        red, green, blue = (images * 255).round().int().flatten(2).unbind(1)
        levels.append((red << 16) | (green << 8) | blue)
        if images.shape[-1] == 1:
            return TextureBank(torch.cat(levels, 1).flatten().to(device), size)
        images = avg_pool2d(images, 2)


class _Canvas:
    """Random drawing tools on a periodic square; patterns are float32 [size, size] in 0..1."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator
        axis = (torch.arange(size) + 0.5) / size
        self.y, self.x = torch.meshgrid(axis, axis, indexing='ij')
        frequency = torch.fft.fftfreq(size, 1 / size)
        radius = torch.hypot(frequency[:, None], frequency[None, : size // 2 + 1])
        self.radius = radius.clamp_min(1.0)

    def draw(self, family: Callable[['_Canvas'], Tensor]) -> Tensor:
        """Return a texture [3, size, size]: the pattern of a family with shade and grain."""
        image = family(self)
        shade = 1 + self.uniform(0.1, 0.55) * (self.noise(self.uniform(1.6, 2.6)) - 0.5)
        grain = self.uniform(0.0, 0.12) * (self.noise(self.uniform(0.0, 1.0)) - 0.5)
        return (image * shade + grain).clamp(0.0, 1.0)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def colors(self, count: int) -> Tensor:
        """Return colours [count, 3]: related hues with probability 1/2, else any colours."""
        colors = torch.rand(count, 3, generator=self.generator)
        if self.uniform(0, 1) < 0.5:
            base = torch.rand(3, generator=self.generator)
            value = torch.rand(count, 1, generator=self.generator) * 0.9 + 0.1
            colors = (0.25 * colors + 0.75 * base) * value
        return 0.06 + 0.9 * colors

    def noise(self, exponent: float) -> Tensor:
        """Return noise of a power-law spectrum, standard deviation 1/4, clipped to 0..1."""
        white = torch.randn(self.size, self.size, generator=self.generator)
        spectrum = torch.fft.rfft2(white) * self.radius ** -exponent
        spectrum[0, 0] = 0
        field = torch.fft.irfft2(spectrum, s=(self.size, self.size))
        return (0.5 + 0.25 * field / field.std().clamp_min(1e-9)).clamp(0, 1)

    def warped(self, amount: float) -> tuple[Tensor, Tensor]:
        """Return coordinates in tiles, displaced by smooth noise; they stay periodic."""
        dx, dy = self.noise(2.4) - 0.5, self.noise(2.4) - 0.5
        return self.x + amount * dx, self.y + amount * dy

    def mix(self, pattern: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the blend of two colours [3] by a pattern."""
        return first[:, None, None] + (second - first)[:, None, None] * pattern

    def palette(self, pattern: Tensor, count: int) -> Tensor:
        """Return the pattern mapped to a smooth ramp of random colours."""
        colors = self.colors(count)
        position = pattern * (count - 1)
        index = position.long().clamp(0, count - 2)
        fraction = (position - index)[..., None]
        return torch.lerp(colors[index], colors[index + 1], fraction).permute(2, 0, 1)

    def cells(self, column: Tensor, row: Tensor, columns: int, rows: int, count: int) -> Tensor:
        """Return a random colour, one of `count`, for each cell of a periodic grid."""
        choice = torch.randint(count, (rows, columns), generator=self.generator)
        index = choice[row.long() % rows, column.long() % columns]
        return self.colors(count)[index].permute(2, 0, 1)


def _fractal(canvas: _Canvas) -> Tensor:
    return canvas.palette(canvas.noise(canvas.uniform(1.0, 2.0)), canvas.integer(2, 6))


def _marble(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(canvas.uniform(0.1, 0.7))
    phase = canvas.integer(-4, 4) * x + canvas.integer(1, 6) * y
    pattern = 0.5 + 0.5 * torch.sin(2 * math.pi * phase)
    return canvas.palette(pattern ** canvas.uniform(0.5, 3), canvas.integer(2, 4))


def _checkers(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(canvas.uniform(0.0, 0.05))
    columns, rows = 2 * canvas.integer(1, 5), 2 * canvas.integer(1, 5)
    column, row = (x * columns).floor(), (y * rows).floor()
    if canvas.uniform(0, 1) < 0.5:
        return canvas.cells(column, row, columns, rows, canvas.integer(2, 7))
    return canvas.mix((column + row) % 2, *canvas.colors(2))


def _stripes(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(canvas.uniform(0.0, 0.15))
    phase = canvas.integer(1, 7) * x + canvas.integer(-3, 3) * y
    bands = canvas.integer(2, 5)
    widths = torch.rand(bands, generator=canvas.generator) + 0.2
    edges = torch.cumsum(widths / widths.sum(), 0)
    index = torch.bucketize((phase % 1).contiguous(), edges).clamp_max(bands - 1)
    return canvas.colors(bands)[index].permute(2, 0, 1)


def _plaid(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(0.0)
    image = canvas.mix(torch.zeros_like(x), *canvas.colors(2))
    for coordinate in (x, y, x, y):
        band = ((coordinate * canvas.integer(1, 6) + canvas.uniform(0, 1)) % 1) < 0.35
        image = torch.lerp(image, canvas.colors(1)[0][:, None, None], 0.55 * band)
    return image


def _bricks(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(canvas.uniform(0.0, 0.03))
    columns, rows = canvas.integer(2, 5), 2 * canvas.integer(2, 6)
    row = (y * rows).floor()
    shifted = x * columns + 0.5 * (row % 2)
    image = canvas.cells(shifted.floor(), row, columns, rows, canvas.integer(2, 8))
    gap = canvas.uniform(0.04, 0.12)
    across, along = (shifted % 1 - 0.5).abs(), (y * rows % 1 - 0.5).abs()
    mortar = (across > 0.5 - gap * columns / rows) | (along > 0.5 - gap)
    return torch.lerp(image, canvas.colors(1)[0][:, None, None], mortar.float())


def _planks(canvas: _Canvas) -> Tensor:
    columns = canvas.integer(3, 7)
    column = (canvas.x * columns).floor()
    x, _ = canvas.warped(canvas.uniform(0.02, 0.1))
    offset = torch.rand(columns, generator=canvas.generator)[column.long()]
    grain = 0.5 + 0.5 * torch.sin(2 * math.pi * (canvas.integer(6, 16) * x + offset))
    image = canvas.palette(0.6 * grain + 0.4 * canvas.noise(1.4), 3)
    tone = 0.6 + 0.6 * torch.rand(columns, generator=canvas.generator)[column.long()]
    gap = ((canvas.x * columns % 1 - 0.5).abs() > 0.47) | ((canvas.y + offset) % 1 < 0.02)
    return image * tone * (1 - 0.7 * gap)


def _blobs(canvas: _Canvas) -> Tensor:
    field = canvas.noise(canvas.uniform(1.8, 3.0))
    levels = canvas.integer(2, 6)
    return canvas.colors(levels)[(field * levels).long().clamp_max(levels - 1)].permute(2, 0, 1)


def _stones(canvas: _Canvas) -> Tensor:
    count = canvas.integer(6, 40)
    x, y = canvas.warped(canvas.uniform(0.0, 0.08))
    seeds = torch.rand(count, 2, generator=canvas.generator)
    dx = (x[..., None] - seeds[:, 0] + 0.5) % 1 - 0.5
    dy = (y[..., None] - seeds[:, 1] + 0.5) % 1 - 0.5
    nearest, index = torch.hypot(dx, dy).topk(2, largest=False)
    image = canvas.colors(count)[index[..., 0]].permute(2, 0, 1)
    joint = (nearest[..., 1] - nearest[..., 0]) * math.sqrt(count) < canvas.uniform(0.0, 0.2)
    return torch.lerp(image, canvas.colors(1)[0][:, None, None], joint.float())


def _poster(canvas: _Canvas) -> Tensor:
    image = canvas.palette(canvas.noise(2.0), 2)
    for _ in range(canvas.integer(5, 18)):
        centre_x, centre_y = canvas.uniform(0, 1), canvas.uniform(0, 1)
        width, height = canvas.uniform(0.04, 0.3), canvas.uniform(0.04, 0.3)
        dx = (canvas.x - centre_x + 0.5) % 1 - 0.5
        dy = (canvas.y - centre_y + 0.5) % 1 - 0.5
        if canvas.uniform(0, 1) < 0.5:
            inside = torch.hypot(dx / width, dy / height) < 1
        else:
            angle = canvas.uniform(0, math.pi) if canvas.uniform(0, 1) < 0.3 else 0.0
            along = dx * math.cos(angle) + dy * math.sin(angle)
            across = dy * math.cos(angle) - dx * math.sin(angle)
            inside = (along.abs() < width) & (across.abs() < height)
        image = torch.where(inside, canvas.palette(canvas.noise(1.5), 2), image)
    return image


def _print(canvas: _Canvas) -> Tensor:
    rows, columns = canvas.integer(6, 12), canvas.integer(12, 32)
    ink = torch.rand(rows, columns, generator=canvas.generator) < canvas.uniform(0.3, 0.8)
    cell = ink[(canvas.y * rows).long(), (canvas.x * columns).long()]
    line = (canvas.y * rows % 1 - 0.5).abs() < canvas.uniform(0.2, 0.4)
    return canvas.mix((cell & line).float(), *canvas.colors(2))


def _dots(canvas: _Canvas) -> Tensor:
    x, y = canvas.warped(canvas.uniform(0.0, 0.08))
    count = canvas.integer(2, 7)
    dx, dy = (x * count) % 1 - 0.5, (y * count) % 1 - 0.5
    inside = torch.hypot(dx, dy) < canvas.uniform(0.15, 0.45)
    dots = canvas.cells((x * count).floor(), (y * count).floor(), count, count, 5)
    return torch.where(inside, dots, canvas.palette(canvas.noise(1.8), 2))


_FAMILIES = (
    _fractal, _marble, _checkers, _stripes, _plaid, _bricks,
    _planks, _blobs, _stones, _poster, _print, _dots, _poster, _fractal,
)  # fmt: skip
