"""report.html of a run: curves, scores per class and the last pictures in one file that needs nothing else."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 640, 200, 40
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1f2937}}
svg,img{{max-width:100%;height:auto}}td,th{{padding:.15rem .8rem;text-align:left}}td{{font-variant-numeric:tabular-nums}}
</style><h1>{title}</h1>{body}</html>
"""

Series = dict[str, list[tuple[float, float]]]


def write_report(run: Path, title: str) -> None:
    """Read log.jsonl and the newest picture of a run folder and write report.html beside them."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    parts = [f"<h2>Loss</h2>{chart({'loss': losses, 'smoothed': smoothed(losses)})}"]
    if validations:
        last = validations[-1]
        parts.append(f"<h2>Validation</h2>{chart(group_series(validations), 1.0)}<p>Step {last['step']}</p>")
        parts.append(group_table(last["validation"]["groups"]))
        parts.append(f"<h2>Classes</h2>{class_table(last['validation']['classes'])}")
    if pictures := sorted((run / "pictures").glob("*.png")):
        parts.append(f"<h2>Image, truth, prediction, soft mask</h2>{_image(pictures[-1])}")
    path = run / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(PAGE.format(title=html.escape(title), body="\n".join(parts)), encoding="utf-8")
    temporary.replace(path)


def write_evaluation(path: Path, report: dict, pictures: dict[str, Sequence[Path]]) -> None:
    """An evaluation as HTML: scores and threshold sweep per run; `pictures` are the grids of each run by its title."""
    parts = [f"<p>{html.escape(report['checkpoint'])} on {html.escape(report['data'])}, {report['images']} images</p>"]
    for run in report["runs"]:
        title = f"{run['steps']} steps x {run['ensemble']}"
        parts.append(f"<h2>{title}: mIoU {run['miou']}, {run['seconds']} s</h2>{group_table(run['groups'])}")
        if run.get("closed"):
            closed = run["closed"]
            parts.append(f"<p>Closed label set: mIoU {closed['miou']}, pixel accuracy {closed['pixel_accuracy']}</p>")
        sweep = run["sweep"]
        lines = {"mean": sweep["miou"], **dict(list(sweep["classes"].items())[:5])}
        series = {name: list(zip(sweep["thresholds"], values, strict=True)) for name, values in lines.items()}
        parts.append(f"<h3>IoU by threshold, best {sweep['best_threshold']}</h3>{chart(series, 1.0, 'threshold')}")
        parts += [f"<h3>{html.escape(file.stem)}</h3>{_image(file)}" for file in pictures[title]]
    path.write_text(PAGE.format(title="Evaluation", body="\n".join(parts)), encoding="utf-8")


def _image(path: Path) -> str:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{encoded}">'


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.9) -> list[tuple[float, float]]:
    """Exponential moving average without the bias of its start."""
    total = weight = 0.0
    out = []
    for step, value in points:
        total, weight = share * total + (1 - share) * value, share * weight + 1 - share
        out.append((step, total / weight))
    return out


def group_series(validations: list[dict]) -> Series:
    """mIoU of each group of present prompts, and the share of absent prompts that fired, by step."""
    series: Series = {}
    for line in validations:
        for group, scores in line["validation"]["groups"].items():
            name = f"{group} fired" if "fired" in scores else f"{group} mIoU"
            value = scores["fired"] if "fired" in scores else scores["miou"]
            series.setdefault(name, []).append((line["step"], value))
    return series


def chart(series: Series, top: float | None = None, unit: str = "steps") -> str:
    """Lines as inline SVG; the vertical axis runs from 0 to `top` or the largest value."""
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p>nothing yet</p>"
    right = max(step for step, _ in points) or 1
    top = top or max(value for _, value in points) or 1
    rows = []
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(step, right):.1f},{_y(value, top):.1f}" for step, value in line)
        rows.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        label = f"{html.escape(name)} {line[-1][1]:.3f}"
        rows.append(f'<text x="{WIDTH + 4}" y="{MARGIN + 18 * number}" fill="{colour}" font-size="13">{label}</text>')
    axis = f'<path d="M{MARGIN} 10V{HEIGHT - 20}H{WIDTH}" stroke="#9ca3af" fill="none"/>'
    ticks = f'<text x="2" y="18" font-size="12">{top:.3g}</text><text x="2" y="{HEIGHT - 20}" font-size="12">0</text>'
    ticks += f'<text x="{WIDTH - 40}" y="{HEIGHT - 4}" font-size="12">{right:g} {unit}</text>'
    return f'<svg viewBox="0 0 {WIDTH + 200} {HEIGHT}" role="img">{axis}{ticks}{"".join(rows)}</svg>'


def _x(step: float, right: float) -> float:
    return MARGIN + (WIDTH - MARGIN) * step / right


def _y(value: float, top: float) -> float:
    return 10 + (HEIGHT - 30) * (1 - min(value, top) / top)


def group_table(groups: dict[str, dict]) -> str:
    """Scores group by group."""
    columns = ("prompts", "miou", "mean_iou", "dice", "boundary_iou", "fired")
    rows = "".join(
        f"<tr><td>{html.escape(group)}" + "".join(f"<td>{scores.get(column, '')}" for column in columns)
        for group, scores in groups.items()
    )
    return f"<table><tr><th>group{''.join(f'<th>{column}' for column in columns)}{rows}</table>"


def class_table(classes: dict[str, float]) -> str:
    """IoU per class, the worst first."""
    ranked = sorted(classes.items(), key=lambda item: item[1])
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{value:.3f}" for name, value in ranked)
    return f"<table><tr><th>class<th>IoU{rows}</table>"
