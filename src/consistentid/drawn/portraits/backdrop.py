"""What stands behind the people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.head import Traits
from consistentid.drawn.portraits.scenes import BACKGROUNDS
from consistentid.drawn.portraits.shapes import Array


@dataclass(frozen=True)
class _Wall:
    """The picture that a painter fills, and how its scene varies it."""

    u: Array  # (1, W) and (H, 1), picture coordinates
    v: Array
    px: float  # width of a pixel
    phase: float  # in [0, 1): which of the many forests, cities, ... it is
    color: Array  # (3,)


def _rgb(r: int, g: int, b: int) -> Array:
    return np.array([r, g, b], np.float32)[:, None, None] / 255


def _mix(a: Array, b: Array, t: Array) -> Array:
    """Blend two colours (3, ...) by t, which broadcasts to (H, W)."""
    mixed: Array = a + np.clip(t, 0, 1) * (b - a)
    return mixed


def _edge(distance: Array, px: float) -> Array:
    return np.clip(0.5 - distance / px, 0, 1)


def _hash(value: Array) -> Array:
    """Pseudo-random numbers in [0, 1) of integers."""
    return np.mod(value * np.float32(0.6180340) + np.mod(value * value * np.float32(0.2548776), 1), 1)


def _dots(w: _Wall, cells: float, radius: float) -> Array:
    """One dot at a random place in every cell of a grid."""
    x, y = (w.u + 1) * (cells / 2), (w.v + 1) * (cells / 2)
    ix, iy = np.floor(x), np.floor(y)
    seed = ix * 7 + iy * 31 + np.floor(w.phase * 97)
    seed = seed - 10 * np.minimum(seed.min(), 0)  # the hash wants no negative numbers
    dx, dy = x - ix - 0.2 - 0.6 * _hash(seed), y - iy - 0.2 - 0.6 * _hash(seed + 5)
    return _edge(np.sqrt(dx * dx + dy * dy) * (2 / cells) - radius * (0.5 + _hash(seed + 11)), w.px)


def _plain(w: _Wall) -> Array:
    return w.color[:, None, None] * 0.8 + 0.15


def _studio(w: _Wall) -> Array:
    color = w.color[:, None, None]
    glow = 1 - np.sqrt(w.u * w.u + (w.v - 0.1) ** 2) * 0.75
    return _mix(color * 0.3, color * 0.6 + 0.35, glow)


def _forest(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    base = _mix(_rgb(150, 200, 120), _rgb(40, 92, 48), v * 0.5 + 0.5)
    far = np.mod((u + phase * 3) * 4.1, 1)
    base = _mix(base, _rgb(96, 128, 84), _edge((np.abs(far - 0.5) - 0.1) / 4.1, px) * 0.7)
    base = _mix(base, _rgb(96, 142, 70), _edge(-(v - 0.5 - 0.05 * np.sin(u * 6 + phase * 5)), px))
    x = (u + phase) * 2.2
    trunk = np.abs(np.mod(x, 1) - 0.5) - 0.13 - 0.04 * np.clip(v - 0.2, 0, 1)
    bark = _rgb(86, 60, 40) * (1 + 0.12 * np.sin(x * 70))
    base = _mix(base, bark, _edge(trunk / 2.2, px) * (v < 0.72))
    leaves = v + 0.6 + 0.12 * np.sin(u * 9 + phase * 6) - 0.07 * np.abs(np.sin(u * 23 + phase))
    base = _mix(base, _rgb(28, 104, 46), _edge(leaves, px))
    return _mix(base, _rgb(48, 134, 62), _edge(leaves + 0.17 + 0.05 * np.sin(u * 17), px))


def _beach(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(96, 178, 240), _rgb(200, 232, 250), v + 1)
    for k in (0, 1):
        cx, cy = np.mod(phase * 3.7 + 0.9 * k, 2.6) - 1.3, -0.72 + 0.2 * k
        puff = np.minimum(
            np.hypot(u - cx, (v - cy) * 1.5) - 0.13, np.hypot(u - cx - 0.17, (v - cy - 0.03) * 1.7) - 0.11
        )
        sky = _mix(sky, _rgb(250, 252, 255), _edge(puff, px) * 0.85)
    sea = _mix(sky, _mix(_rgb(24, 104, 170), _rgb(70, 176, 206), v * 2.4), _edge(-(v + 0.05), px))
    waves = np.sin(v * 60 + 2 * np.sin(u * 5 + phase * 9)) > 0.93
    sea = _mix(sea, _rgb(220, 240, 246), waves * (v > 0.0) * 0.6)
    shore = v - 0.42 - 0.04 * np.sin(u * 5 + phase * 6)
    sand = _mix(sea, _rgb(250, 250, 244), _edge(-(shore + 0.035), px))
    sand = _mix(sand, _rgb(240, 214, 150), _edge(-shore, px))
    sun = np.hypot(u - 0.75 + 1.5 * (phase > 0.5), v + 0.72) - 0.17
    return _mix(sand, _rgb(255, 236, 120), _edge(sun, px))


def _mountains(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(140, 190, 240), _rgb(226, 238, 250), v + 1)
    behind = -0.3 + 0.8 * np.abs(np.mod(u * 0.9 + phase * 2.3 + 0.4, 1) - 0.5)
    far = _mix(sky, _rgb(158, 172, 200), _edge(behind - v, px))
    ridge = -0.62 + 1.44 * np.abs(np.mod(u * 0.75 + phase, 1) - 0.5)
    side = np.mod(u * 0.75 + phase, 1) > 0.5
    rock = _mix(far, _rgb(112, 116, 138) * (1 - 0.16 * side), _edge(ridge - v, px))
    snow = _edge(ridge - v, px) * _edge(v - ridge - 0.2 - 0.05 * np.sin(u * 30), px) * (ridge < -0.05)
    peaks = _mix(rock, _rgb(248, 250, 255) * (1 - 0.07 * side), snow)
    return _mix(peaks, _rgb(86, 140, 76), _edge(-(v - 0.45 - 0.06 * np.sin(u * 4)), px))


def _city(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(20, 22, 58), _rgb(90, 60, 110), v * 0.5 + 0.5)
    x = (u + 3) * 3.2 + phase
    tower = np.floor(x)
    top = -0.75 + 0.8 * _hash(tower + np.floor(phase * 50))
    wall = _edge(top - v, px)
    city = _mix(sky, _rgb(44, 46, 72) * (0.7 + 0.5 * _hash(tower * 3 + 1)), wall)
    wx, wy = np.mod(x * 3, 1), np.mod(v * 6, 1)
    lit = _hash(np.floor(x * 3) * 13 + np.floor(v * 6 + 12) * 29 + 200) > 0.45
    window = wall * (lit & (wx > 0.25) & (wx < 0.75) & (wy > 0.25) & (wy < 0.75) & (v > top + 0.05) & (v < 0.72))
    city = _mix(city, _rgb(255, 214, 110), window)
    return _mix(city, _rgb(52, 52, 62), _edge(-(v - 0.74), px))


def _stars(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(8, 10, 36), _rgb(30, 34, 84), v * 0.5 + 0.5)
    sky = _mix(sky, _rgb(255, 255, 235), _dots(w, 7, 0.028))
    mx, my = u - 0.7 + 1.4 * (phase > 0.5), v + 0.65
    moon = np.maximum(np.hypot(mx, my) - 0.2, 0.19 - np.hypot(mx - 0.09, my + 0.03))
    sky = _mix(sky, _rgb(250, 244, 200), _edge(moon, px))
    return _mix(sky, _rgb(14, 20, 34), _edge(-(v - 0.66 - 0.06 * np.sin(u * 3 + phase * 6)), px))


def _snow(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    air = _mix(_rgb(150, 172, 198), _rgb(206, 218, 232), v * 0.5 + 0.5)
    for k in (0, 1, 2):
        cx = np.mod(phase * 5.3 + 1.1 * k, 3.2) - 1.6
        fir = np.maximum(np.abs(u - cx) - 0.24 * np.mod((v + 0.5) * 2.2, 1) * np.clip(v + 0.9, 0.3, 1.1), -(v + 0.45))
        air = _mix(air, _rgb(78, 110, 104), _edge(fir, px) * 0.8)
    ground = _mix(air, _rgb(244, 247, 252), _edge(-(v - 0.3 - 0.07 * np.sin(u * 3 + phase * 6)), px))
    return _mix(ground, _rgb(255, 255, 255), _dots(w, 6, 0.06))


def _sunset(w: _Wall) -> Array:
    u, v, px, phase = w.u, w.v, w.px, w.phase
    sky = _mix(_rgb(110, 50, 120), _rgb(252, 140, 60), v + 1)
    sky = _mix(sky, _rgb(255, 210, 110), (v + 0.2) * 1.2)
    bands = np.abs(v + 0.45 + 0.1 * np.sin(u * 1.6 + phase * 9)) - 0.03 - 0.02 * np.sin(u * 5 + phase * 4)
    sky = _mix(sky, _rgb(250, 150, 120), _edge(bands, px) * 0.6)
    sun = np.hypot(u - 0.72 + 1.44 * (phase > 0.5), v - 0.1) - 0.24
    sky = _mix(sky, _rgb(255, 240, 170), _edge(sun, px))
    return _mix(sky, _rgb(70, 34, 60), _edge(-(v - 0.36 - 0.05 * np.sin(u * 4 + phase * 6)), px))


def _wallpaper(w: _Wall) -> Array:
    color = w.color[:, None, None]
    stripe = _edge((np.abs(np.mod((w.u + w.phase) * 2.5, 1) - 0.5) - 0.25) / 2.5, w.px)
    return _mix(color * 0.45 + 0.5, color * 0.75 + 0.1, stripe)


_PAINTERS: dict[str, Callable[[_Wall], Array]] = {
    "plain": _plain,
    "studio": _studio,
    "forest": _forest,
    "beach": _beach,
    "mountains": _mountains,
    "city at night": _city,
    "starry night": _stars,
    "snow": _snow,
    "sunset": _sunset,
    "wallpaper": _wallpaper,
}
assert tuple(_PAINTERS) == BACKGROUNDS


def paint_background(canvas: Canvas, s: Traits) -> None:
    """Fill a picture with the background of its scene."""
    wall = _Wall(canvas.u, canvas.v, canvas.unit, s.background_phase, s.background_rgb)
    canvas.rgb[:] = _PAINTERS[s.background](wall)
