"""Small inline SVG charts: lines and columns, coloured by the page's style sheet so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 12, 42
_MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line: its name and (x, y) points in order of x; points that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, log_y: bool = False) -> Markup:
    """Return an SVG of lines over one pair of axes; empty when no series has a finite point.

    Args:
        series: at most six lines get their own colour.
        x_label: text below; `y_label` stands beside the axis.
        log_y: a logarithmic axis; points with y <= 0 are left out.
    """
    kept = [Series(one.name, _thin(_finite(one.points, log_y))) for one in series]
    kept = [one for one in kept if one.points]
    if not kept:
        return Markup("")
    xs = [x for one in kept for x, _ in one.points]
    ys = [math.log10(y) if log_y else y for one in kept for _, y in one.points]
    x_ticks = _ticks(min(xs), max(xs))
    y_ticks = _log_ticks(min(ys), max(ys)) if log_y else _ticks(min(ys), max(ys))
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, min(xs) + 0.5)
    y_low, y_high = y_ticks[0], y_ticks[-1]  # the ticks cover the data

    def x_px(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y_px(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_frame(x_label, y_label)]
    for y in y_ticks:
        text = _number(10**y if log_y else y)
        parts.append(_y_tick(y_px(y), text))
    for x in x_ticks:
        if x_low <= x <= x_high:
            parts.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x_px(x), _HEIGHT - _BOTTOM + 16, _number(x)))  # fmt: skip
    for number, one in enumerate(kept):
        pixels = [(x_px(x), y_px(math.log10(y) if log_y else y)) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(number % 6, path))
        x, y = pixels[-1]
        parts.append(Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(number % 6, x, y))
    svg = _svg(parts, f"{y_label} over {x_label}")
    return svg if len(kept) == 1 else svg + _legend([one.name for one in kept])


def column_chart(heights: Sequence[float], *, names: Sequence[str], x_label: str, y_label: str) -> Markup:
    """Return an SVG of columns, each with its name and height as a tooltip; names are printed where they fit.

    Args:
        heights: one number a column; those below 0 hang down from it.
        names: one a column.
        x_label: text below; `y_label` stands beside the axis.
    """
    if not heights:
        return Markup("")
    low, high = min(0.0, *heights), max(0.0, *heights)
    ticks = _ticks(low, high if low < high else 1)
    low, high = ticks[0], ticks[-1]
    room = (_WIDTH - _LEFT - _RIGHT) / len(heights)
    parts = [_frame(x_label, y_label)]

    def y_px(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts += [_y_tick(y_px(y), _number(y)) for y in ticks]
    for i, (height, name) in enumerate(zip(heights, names, strict=True)):
        x, y = _LEFT + i * room, y_px(max(height, 0))
        parts.append(Markup(
            '<rect class="column" x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}"><title>{}: {}</title></rect>'
        ).format(x + room * 0.1, y, room * 0.8, y_px(min(height, 0)) - y, name, _number(height)))  # fmt: skip
        if max(map(len, names)) * 7 <= room:
            parts.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x + room / 2, _HEIGHT - _BOTTOM + 16, name))  # fmt: skip
    return _svg(parts, f"{y_label} by {x_label}")


def _svg(parts: Sequence[Markup], title: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _frame(x_label: str, y_label: str) -> Markup:
    bottom, middle = _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
    return Markup(
        '<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>'
        '<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="name" x="12" y="{}" text-anchor="middle" transform="rotate(-90 12 {})">{}</text>'
    ).format(
        *(_LEFT, bottom, _WIDTH - _RIGHT, bottom, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label),
        *(middle, middle, y_label),
    )


def _y_tick(y: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>'
        '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(_LEFT, y, _WIDTH - _RIGHT, y, _LEFT - 6, y + 4, text)


def _legend(names: Sequence[str]) -> Markup:
    items = [Markup('<span><i class="s{}"></i>{}</span>').format(i % 6, escape(name)) for i, name in enumerate(names)]
    return Markup('<div class="legend">{}</div>').format(Markup("").join(items))


def _finite(points: Sequence[tuple[float, float]], positive: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `_MAX_POINTS` points, each the mean of a run of neighbours."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _ticks(low: float, high: float) -> list[float]:
    """Return 3 to 7 round numbers, spaced by 1, 2 or 5 times a power of ten, that cover [low, high]."""
    if high <= low:
        low, high = (low - 0.5, high + 0.5) if low else (0.0, 1.0)
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return exponents of ten that cover [low, high], at least two, at most about six."""
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    step = max(1, math.ceil((last - first) / 6))
    return [float(i) for i in range(first, last + step, step)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"
