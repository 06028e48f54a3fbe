"""What stands behind the person."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.face import Traits
from consistentid.drawn.portraits.scenes import BACKGROUNDS


@dataclass(frozen=True)
class _Wall:
    """The pictures that one painter fills, by coordinates (B, H, W) in [-1, 1], and how their scenes vary it."""

    u: Tensor
    v: Tensor
    px: float  # width of a pixel
    phase: Tensor  # (B, 1, 1) in [0, 1): which of the many forests, cities, ... it is
    color: Tensor  # (B, 3, 1, 1)


def _rgb(r: int, g: int, b: int, like: Tensor) -> Tensor:
    return torch.tensor([r, g, b], dtype=torch.float32, device=like.device).view(1, 3, 1, 1) / 255


def _mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Blend two colours (.., 3, ..) by t (B, H, W)."""
    return a + t.clamp(0, 1)[:, None] * (b - a)


def _edge(distance: Tensor, px: float) -> Tensor:
    return (0.5 - distance / px).clamp(0, 1)


def _hash(value: Tensor) -> Tensor:
    """Pseudo-random numbers in [0, 1) of integers, the same on every device."""
    return torch.remainder(value * 0.6180340 + torch.remainder(value * value * 0.2548776, 1.0), 1.0)


def _dots(u: Tensor, v: Tensor, cells: float, radius: float, phase: Tensor, px: float) -> Tensor:
    """One dot at a random place in every cell of a grid."""
    x, y = (u + 1) * cells / 2, (v + 1) * cells / 2
    ix, iy = torch.floor(x), torch.floor(y)
    seed = ix * 7 + iy * 31 + torch.floor(phase * 97)
    dx, dy = x - ix - 0.2 - 0.6 * _hash(seed), y - iy - 0.2 - 0.6 * _hash(seed + 5)
    return _edge(torch.sqrt(dx * dx + dy * dy) * 2 / cells - radius * (0.5 + _hash(seed + 11)), px)


def _plain(w: _Wall) -> Tensor:
    return (w.color * 0.8 + 0.15).expand(-1, -1, *w.u.shape[1:])


def _studio(w: _Wall) -> Tensor:
    u, v, color = w.u, w.v, w.color
    glow = 1 - torch.sqrt(u * u + (v - 0.1) ** 2) * 0.75
    return _mix(color * 0.3, color * 0.6 + 0.35, glow)


def _forest(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    base = _mix(_rgb(150, 200, 120, u), _rgb(40, 92, 48, u), v * 0.5 + 0.5)
    x = (u + phase) * 2.6
    trunk = _edge(((torch.frac(x) - 0.5).abs() - 0.14) / 2.6, px)
    base = _mix(base, _rgb(86, 60, 40, u), trunk)
    leaves = _edge(v + 0.62 + 0.14 * torch.sin(u * 9 + phase * 6) + 0.05 * torch.sin(u * 23), px)
    return _mix(base, _rgb(28, 104, 46, u), leaves)


def _beach(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(96, 178, 240, u), _rgb(200, 232, 250, u), v + 1)
    sea = _mix(sky, _rgb(32, 124, 180, u), _edge(-(v + 0.05), px))
    sand = _mix(sea, _rgb(240, 214, 150, u), _edge(-(v - 0.42 - 0.04 * torch.sin(u * 5 + phase * 6)), px))
    sun = torch.sqrt((u - 0.75 + 1.5 * (phase > 0.5)) ** 2 + (v + 0.72) ** 2) - 0.17
    return _mix(sand, _rgb(255, 236, 120, u), _edge(sun, px))


def _mountains(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(140, 190, 240, u), _rgb(226, 238, 250, u), v + 1)
    ridge = -0.62 + 0.9 * (torch.remainder(u * 0.75 + phase, 1.0) - 0.5).abs() * 1.6
    rock = _mix(sky, _rgb(112, 116, 138, u), _edge(ridge - v, px))
    snow = _edge(ridge - v, px) * _edge(v - ridge - 0.2 - 0.05 * torch.sin(u * 30), px) * (ridge < -0.05)
    peaks = _mix(rock, _rgb(248, 250, 255, u), snow)
    return _mix(peaks, _rgb(86, 140, 76, u), _edge(-(v - 0.45 - 0.06 * torch.sin(u * 4)), px))


def _city(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(20, 22, 58, u), _rgb(90, 60, 110, u), v * 0.5 + 0.5)
    x = (u + 1) * 3.2 + phase
    tower = torch.floor(x)
    top = -0.75 + 0.8 * _hash(tower + torch.floor(phase * 50))
    wall = _edge(top - v, px)
    shade = 0.7 + 0.5 * _hash(tower * 3 + 1)
    city = _mix(sky, _rgb(44, 46, 72, u) * shade[:, None], wall)
    wx, wy = torch.frac(x * 3), torch.frac(v * 6)
    lit = _hash(torch.floor(x * 3) * 13 + torch.floor(v * 6) * 29 + 200) > 0.45
    window = wall * lit * (wx > 0.25) * (wx < 0.75) * (wy > 0.25) * (wy < 0.75) * (v > top + 0.05)
    return _mix(city, _rgb(255, 214, 110, u), window)


def _stars(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(8, 10, 36, u), _rgb(30, 34, 84, u), v * 0.5 + 0.5)
    sky = _mix(sky, _rgb(255, 255, 235, u), _dots(u, v, 7, 0.028, phase, px))
    mx, my = u - 0.7 + 1.4 * (phase > 0.5), v + 0.65
    moon = torch.maximum(torch.sqrt(mx**2 + my**2) - 0.2, 0.19 - torch.sqrt((mx - 0.09) ** 2 + (my + 0.03) ** 2))
    return _mix(sky, _rgb(250, 244, 200, u), _edge(moon, px))


def _snow(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    air = _mix(_rgb(150, 172, 198, u), _rgb(206, 218, 232, u), v * 0.5 + 0.5)
    ground = _mix(air, _rgb(244, 247, 252, u), _edge(-(v - 0.3 - 0.07 * torch.sin(u * 3 + phase * 6)), px))
    return _mix(ground, _rgb(255, 255, 255, u), _dots(u, v, 6, 0.06, phase, px))


def _sunset(w: _Wall) -> Tensor:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(110, 50, 120, u), _rgb(252, 140, 60, u), v + 1)
    sky = _mix(sky, _rgb(255, 210, 110, u), (v + 0.2) * 1.2)
    sun = torch.sqrt((u - 0.72 + 1.44 * (phase > 0.5)) ** 2 + (v - 0.1) ** 2) - 0.24
    sky = _mix(sky, _rgb(255, 240, 170, u), _edge(sun, px))
    return _mix(sky, _rgb(70, 34, 60, u), _edge(-(v - 0.36 - 0.05 * torch.sin(u * 4 + phase * 6)), px))


def _wallpaper(w: _Wall) -> Tensor:
    u, px, phase, color = w.u, w.px, w.phase, w.color
    stripe = _edge(((torch.frac((u + phase) * 2.5) - 0.5).abs() - 0.25) / 2.5, px)
    return _mix(color * 0.45 + 0.5, color * 0.75 + 0.1, stripe)


_PAINTERS = (_plain, _studio, _forest, _beach, _mountains, _city, _stars, _snow, _sunset, _wallpaper)
assert len(_PAINTERS) == len(BACKGROUNDS)


def paint_background(canvas: Canvas, s: Traits, u: Tensor, v: Tensor) -> None:
    """Fill every picture with the background of its scene; u, v (B, H, W) in [-1, 1]."""
    px = 2 / u.shape[-1]
    for index, painter in enumerate(_PAINTERS):
        rows = torch.nonzero(s.background == index).flatten()
        if len(rows):
            color = s.background_rgb[rows][:, :, None, None]
            canvas.rgb[rows] = painter(_Wall(u[rows], v[rows], px, s.background_phase[rows], color))
