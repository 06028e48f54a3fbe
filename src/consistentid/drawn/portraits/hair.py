"""Hair of the head, behind and in front of the face, and beards."""

from __future__ import annotations

import torch
from torch import Tensor

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.face import Frame, Traits, is_one_of, outline
from consistentid.drawn.portraits.people import BEARDS, FRINGES, HAIRSTYLES, HIDES_EARS
from consistentid.drawn.portraits.scenes import HATS


def _style(p: Traits, *names: str) -> Tensor:
    return is_one_of(p.hairstyle, HAIRSTYLES, *names)


def _strands(p: Traits, f: Frame) -> Tensor:
    """Colour of hair (B, 3, H, W): streaks along the strands, and light."""
    angle = torch.atan2(f.x, 1.4 - f.y)
    curl = _style(p, "curly") * torch.sin(f.y * 19 + 2 * torch.sin(f.x * 16)) * 0.1
    streak = 1 + 0.05 * torch.sin(angle * 60) + curl
    strands: Tensor = (p.hair_rgb + 0.03)[:, :, None, None] * (f.light * streak)[:, None]
    return strands


def _cap(p: Traits, f: Frame) -> Tensor:
    """Distance to the outer surface of the hair on the skull."""
    x, y = f.at(0.0, -0.2, -0.1)
    tight = _style(p, "buzz-cut", "bald")
    bulk = p.hair_volume * (1 + 0.9 * _style(p, "curly")) * (1 - tight) + 0.02
    cap = shapes.ellipse(x, y, p.face_width + bulk, p.face_height - 0.2 + bulk * 1.15)
    bumps = 0.045 * torch.sin(9 * torch.atan2(x, -y + 0.3) + 1.3) * _style(p, "curly")
    return cap + bumps


def paint_back(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Everything behind the head: long hair, bobs, curls and buns."""
    cap = _cap(p, f)
    x, _ = f.at(0.0, 0.0, -0.3)
    bulk = p.face_width + 0.06 + p.hair_volume * 0.8
    reach = (
        _style(p, "bobbed") * (0.5 + 0.3 * p.hair_length)
        + _style(p, "long", "wavy") * (1.0 + 0.7 * p.hair_length)
        + _style(p, "curly") * (0.25 + 0.4 * p.hair_length)
    )
    wave = 0.055 * torch.sin(f.y * 9 + torch.sign(x) * 1.0) * _style(p, "wavy", "curly")
    half = (reach + 0.25) / 2
    curtain = shapes.box(x + wave, f.y + 0.25 - half, bulk - 0.03 + 0.1 * (f.y - 0.2).clamp(0, 1), half, 0.18)
    back = torch.where(reach > 0, torch.minimum(cap, curtain), cap)
    back = torch.where(_style(p, "bald", "mohawk") > 0, 1.0, back)
    color = _strands(p, f)
    canvas.fill(back, color * 0.8, 17)
    bx, by = f.at(0.12 * torch.sign(p.parting), -p.face_height - 0.16, -0.25)
    bun = shapes.ellipse(bx, by, 0.26 + 0.1 * p.hair_length, 0.22 + 0.08 * p.hair_length)
    canvas.fill(torch.where(_style(p, "bun") > 0, bun, 1.0), color * 0.95, 17)


def paint_front(canvas: Canvas, p: Traits, s: Traits, f: Frame) -> None:
    """Hair over the forehead, temples and, for long styles, the ears."""
    cap = _cap(p, f)
    x, y = f.at(0.0, 0.0, 0.25)
    across = x / p.face_width
    temples = (0.55 + 0.35 * (1 - p.hair_length)) * _style(p, "short", "side-parted", "bun", "buzz-cut")
    line = p.hairline + 0.5 * across**2 * (0.4 + temples) + 1.6 * (across.abs() - 0.82).clamp(min=0)
    straight = -0.36 + 0.05 * torch.sin(x * 40) * 0.5 + 0.15 * across**2
    sweep = p.hairline + 0.12 + 0.28 * torch.where(p.parting > 0, 1 - across, 1 + across) * 0.5
    cropped = _style(p, "buzz-cut", "bald", "mohawk") > 0
    line = torch.where(is_one_of(p.fringe, FRINGES, "straight") * ~cropped > 0, torch.maximum(straight, line), line)
    line = torch.where(is_one_of(p.fringe, FRINGES, "swept") * ~cropped > 0, torch.maximum(sweep, line), line)
    parted = p.hairline - 0.04 + 0.5 * (across - p.parting).abs() ** 1.3
    line = torch.where(_style(p, "side-parted") > 0, parted + 0.9 * (across.abs() - 0.8).clamp(min=0), line)
    front = torch.maximum(cap, y - line)
    front = torch.where(_style(p, "bald", "mohawk") > 0, 1.0, front)

    hides = _style(p, *HIDES_EARS)
    side_x, _ = f.at(0.0, 0.0, 0.0)
    reach = 0.05 + 0.4 * p.hair_length + 0.5 * _style(p, "long", "wavy")
    wave = 0.04 * torch.sin(f.y * 9 + torch.sign(side_x)) * _style(p, "wavy", "curly")
    locks = shapes.box(
        side_x.abs() + wave - p.face_width - 0.02,
        f.y + 0.35 - reach / 2,
        0.13 + 0.25 * p.hair_volume,
        0.3 + reach / 2,
        0.1,
    )
    front = torch.where(hides > 0, torch.minimum(front, locks), front)
    crest_x, crest_y = f.at(0.0, -p.face_height + 0.06, 0.05)
    spikes = 0.04 * torch.sin(crest_y * 18)
    crest = shapes.ellipse(crest_x, crest_y, 0.21 + spikes, 0.36 + 0.12 * p.hair_length)
    front = torch.where(_style(p, "mohawk") > 0, crest, front)
    # Under a closed hat nothing of the top is seen; the hat is painted over it.
    low_hat = is_one_of(s.hat, HATS, "beanie", "cap", "hat") * _style(p, "mohawk", "bun")
    front = torch.where(low_hat > 0, torch.maximum(front, -0.75 - y), front)
    opacity = 1 - 0.45 * _style(p, "buzz-cut")
    canvas.fill(front, _strands(p, f), 17, alpha=opacity)


def paint_beard(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Stubble, moustache, goatee and full beard; labelled as skin, as parsers do."""

    def kind(*names: str) -> Tensor:
        return is_one_of(p.beard, BEARDS, *names)

    if not bool((p.beard > 0).any()):
        return
    mx, my, _ = f.mouth(p)
    x, y = f.x - mx, f.y - my
    edge = outline(p, f)
    hair = (p.hair_rgb * 0.85)[:, :, None, None] * f.light[:, None]
    across = (f.x / p.face_width).abs()
    cheek = torch.maximum(edge - 0.1 * p.beard_length, -(f.y - (my - 0.1 - 0.32 * (across - 0.25))))
    chin_x, chin_y = f.at(0.0, p.face_height - 0.08, 0.3)
    chin = shapes.ellipse(chin_x, chin_y, 0.2, 0.2 + 0.12 * p.beard_length)
    upper = shapes.arc(x, y + 0.1, 0.28, -0.035, 0.055 + 0.025 * p.beard_length)
    free = -shapes.ellipse(x, y, 0.24, 0.075)  # the lips stay free
    full = torch.minimum(torch.maximum(cheek, free), upper)
    canvas.fill(torch.where(kind("full beard") > 0, full, 1.0), hair, 1)
    canvas.fill(torch.where(kind("stubble") > 0, torch.maximum(full, edge), 1.0), hair, 1, alpha=0.4, outline=False)
    canvas.fill(torch.where(kind("moustache", "goatee") > 0, upper, 1.0), hair, 1, outline=False)
    canvas.fill(torch.where(kind("goatee") > 0, chin, 1.0), hair, 1, outline=False)
