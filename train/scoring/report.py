"""report.html of a run: curves, scores per class and the last pictures in one file that needs nothing else."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from digseg_nodes.core.files import write_text
from train.learning.run_log import read_log

WIDTH, HEIGHT, MARGIN, FEW = 640, 200, 40, 25
TYPICAL = 20
"""Lines of the log whose median is told as the speed."""
MUCH_WAITING = 0.2
"""Share of a step's time spent waiting for data from which on the report says what to do."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1f2937}}
svg,img{{max-width:100%;height:auto}}td,th{{padding:.15rem .8rem;text-align:left}}td{{font-variant-numeric:tabular-nums}}
</style><h1>{title}</h1>{body}</html>
"""

DECODED_BY = {"vae": "VAE", "guided": "guided mask decoder"}

Series = dict[str, list[tuple[float, float]]]


def write_report(run: Path, title: str) -> None:
    """Read log.jsonl and the newest picture of a run folder and write report.html beside them."""
    lines = read_log(run / "log.jsonl")
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    parts = [f"<h2>Loss</h2>{_smoothed_chart('loss', steps)}"]
    if any(line.get("grad_norm") is not None for line in steps):
        parts.append(f"<h2>Norm of the gradients, before it is bounded</h2>{_smoothed_chart('grad_norm', steps)}")
    parts += speed_section(steps)
    if validations:
        last = validations[-1]
        parts.append(f"<h2>Validation</h2>{chart(group_series(validations), 1.0)}<p>Step {last['step']}</p>")
        parts.append(group_table(last["validation"]["groups"]))
        if vae := last.get("validation_vae"):
            parts.append(f"<h2>Decoded by the VAE instead</h2>{group_table(vae['groups'])}")
        parts.append(f"<h2>Classes</h2>{class_table(last['validation']['classes'])}")
    if pictures := sorted((run / "pictures").glob("*.png")):
        parts.append(f"<h2>Image, truth, prediction, soft mask</h2>{_image(pictures[-1])}")
    write_text(run / "report.html", PAGE.format(title=html.escape(title), body="\n".join(parts)))


def _smoothed_chart(key: str, lines: list[dict]) -> str:
    """A figure of the log by step, and its moving average."""
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return chart({key: points, "smoothed": smoothed(points)})


def speed_section(lines: list[dict]) -> list[str]:
    """The speed of a run as a curve and in words; nothing for logs without."""
    timed = [line for line in lines if "samples_per_second" in line]
    if not timed:
        return []
    recent = timed[-TYPICAL:]
    seconds, samples, wait = (
        median(line[key] for line in recent) for key in ("seconds_per_step", "samples_per_second", "data_wait")
    )
    words = f"{seconds:.3g} s a step, {samples:.3g} samples a second (median of the last {len(recent)} lines of the log), "
    words += f"{wait:.0%} of that time waiting for data, {max(line['peak_mib'] for line in timed):,.0f} MiB of memory at most. "
    if "padding" in timed[-1]:
        words += f"{timed[-1]['padding']:.1%} of the encoded pixels are padding. "
    words += f"First line {timed[0]['time']}, last {timed[-1]['time']}."
    if wait > MUCH_WAITING:
        words += " The device waits for its data: raise <code>workers</code>, or train with cached latents."
    points = [(line["step"], line["samples_per_second"]) for line in timed]
    return [f"<h2>Speed</h2>{chart({'samples/s': points})}<p>{words}</p>"]


def write_evaluation(path: Path, report: dict, pictures: dict[str, Sequence[Path]]) -> None:
    """An evaluation as HTML: scores and threshold sweep per run; `pictures` are the grids of each run by its title."""
    parts = [
        f"<p>{html.escape(report['checkpoint'])} on {html.escape(report['data'])}, {report['images']} images, "
        f"masks decoded by the {DECODED_BY[report['decoder']]}</p>"
    ]
    for run in report["runs"]:
        title = f"{run['steps']} steps x {run['ensemble']}"
        parts.append(f"<h2>{title}: mIoU {run['miou']}, {run['seconds']} s</h2>{group_table(run['groups'])}")
        if run.get("closed"):
            closed = run["closed"]
            parts.append(f"<p>Closed label set: mIoU {closed['miou']}, pixel accuracy {closed['pixel_accuracy']}</p>")
        parts += [sweep_section(run["sweep"])]
        for file, which in zip(pictures[title], ("Worst", "Best"), strict=True):
            parts.append(f"<h3>{which}: image, truth, prediction, soft mask</h3>{_image(file)}")
    write_text(path, PAGE.format(title="Evaluation", body="\n".join(parts)))


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
    """mIoU of each group of present prompts, and the false positive rate of each of absent ones, by step."""
    series: Series = {}
    for line in validations:
        for group, scores in line["validation"]["groups"].items():
            name = f"{group} false positives" if "fired" in scores else f"{group} mIoU"
            value = scores["fired"] if "fired" in scores else scores["miou"]
            series.setdefault(name, []).append((line["step"], value))
    return series


def sweep_section(sweep: dict) -> str:
    """IoU by threshold (paper, Fig. 2): the mean as a line, the classes as faint ones, and each class's own best."""
    best = sweep["best_threshold"]
    lines = {name: list(zip(sweep["thresholds"], values, strict=True)) for name, values in sweep["classes"].items()}
    mean = {"mean": list(zip(sweep["thresholds"], sweep["miou"], strict=True))}
    rows = []
    for name, line in lines.items():
        threshold, iou = max(line, key=lambda point: point[1])
        rows.append(f"<tr><td>{html.escape(name)}<td>{threshold:g}<td>{iou:.3f}<td>{dict(line)[best]:.3f}")
    head = f"<tr><th>class<th>best threshold<th>IoU there<th>IoU at {best:g}"
    plot = chart(mean, 1.0, "threshold", faint=lines, at=best)
    table = f"<details><summary>classes</summary><table>{head}{''.join(rows)}</table></details>"
    return f"<h3>IoU by threshold, best {best:g}</h3>{plot}{table}"


def chart(
    series: Series, top: float | None = None, unit: str = "steps", faint: Series | None = None, at: float | None = None
) -> str:
    """Lines as inline SVG; the vertical axis runs from 0 to `top` or the largest value.

    faint: lines behind the others, named by their tooltips. The legend gives each line's value at `at`, which is marked,
    or its last one.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p>nothing yet</p>"
    right = max(step for step, _ in points) or 1
    top = top or max(value for _, value in points) or 1
    rows = [_frame(top, right, unit)]
    if at is not None:
        rows.append(f'<path d="M{_x(at, right):.1f} 10V{HEIGHT - 20}" stroke="#9ca3af" stroke-dasharray="3"/>')
    for name, line in (faint or {}).items():
        rows.append(f"{_line(line, right, top, '#d1d5db', 1)}<title>{html.escape(name)}</title></polyline>")
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        rows.append(f"{_line(line, right, top, colour, 1.5)}</polyline>{_dots(line, right, top, colour)}")
        value = line[-1][1] if at is None else dict(line)[at]
        rows.append(f'<text x="{WIDTH + 4}" y="{MARGIN + 18 * number}" fill="{colour}" font-size="13">')
        rows.append(f"{html.escape(name)} {value:.3f}</text>")
    return f'<svg viewBox="0 0 {WIDTH + 200} {HEIGHT}" role="img">{"".join(rows)}</svg>'


def _frame(top: float, right: float, unit: str) -> str:
    """Quarter lines with their values, and the axes."""
    rows = [f'<path d="M{MARGIN} 10V{HEIGHT - 20}H{WIDTH}" stroke="#9ca3af" fill="none"/>']
    for quarter in range(5):
        y = _y(top * quarter / 4, top)
        rows.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH}" stroke="#f3f4f6"/>')
        rows.append(f'<text x="{MARGIN - 4}" y="{y + 4:.1f}" font-size="11" text-anchor="end">{top * quarter / 4:.2g}</text>')
    for half in (0, 1, 2):
        x, text = _x(right * half / 2, right), f"{right * half / 2:g}" + (f" {unit}" if half == 2 else "")
        anchor = "end" if half == 2 else "middle"
        rows.append(f'<text x="{x:.1f}" y="{HEIGHT - 4}" font-size="11" text-anchor="{anchor}">{text}</text>')
    return "".join(rows)


def _line(line: Sequence[tuple[float, float]], right: float, top: float, colour: str, width: float) -> str:
    path = " ".join(f"{_x(step, right):.1f},{_y(value, top):.1f}" for step, value in line)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{path}">'


def _dots(line: Sequence[tuple[float, float]], right: float, top: float, colour: str) -> str:
    """Dots on a line of few points, one of which would be invisible."""
    if len(line) > FEW:
        return ""
    places = [(_x(step, right), _y(value, top)) for step, value in line]
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places)


def _x(step: float, right: float) -> float:
    return MARGIN + (WIDTH - MARGIN) * step / right


def _y(value: float, top: float) -> float:
    return 10 + (HEIGHT - 30) * (1 - min(value, top) / top)


def group_table(groups: dict[str, dict]) -> str:
    """Scores group by group."""
    titles = {key: key for key in ("prompts", "miou", "mean_iou", "dice", "boundary_iou")} | {"fired": "false positive rate"}
    rows = "".join(
        f"<tr><td>{html.escape(group)}" + "".join(f"<td>{scores.get(key, '')}" for key in titles)
        for group, scores in groups.items()
    )
    return f"<table><tr><th>group{''.join(f'<th>{title}' for title in titles.values())}{rows}</table>"


def class_table(classes: dict[str, float]) -> str:
    """IoU per class, the worst first."""
    ranked = sorted(classes.items(), key=lambda item: item[1])
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{value:.3f}" for name, value in ranked)
    return f"<table><tr><th>class<th>IoU{rows}</table>"
