"""From the results of train/experiments/run.py to the tables of docs/experiments.md and the curves beside it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from digseg_nodes.core.files import write_text
from train.experiments import registry
from train.experiments.registry import Variant, on_images

COLOURS = {"full": "#2563eb", "lora": "#d97706", "random": "#6b7280", "pretrained": "#2563eb"}

Results = dict[str, dict]
NOT_RUN = "Not run."


def write_tables(output: Path, docs: Path) -> None:
    """Replace what stands between `<!-- table: NAME -->` and `<!-- end -->` in docs/experiments.md; draw the curves. The table of
    a family without a run in `output` stays as it is."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*.json"))}
    page = docs / "experiments.md"
    text = re.sub(
        r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)",
        lambda match: match[0] if (new := TABLES[match[2]](results)) == NOT_RUN else f"{match[1]}{new}\n{match[3]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    write_text(page, text)
    draw_curves(results, docs / "img/experiments")
    copy_pictures(output, docs / "img/experiments")
    print(f"wrote {page}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown of a table; NOT_RUN when there are no rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    if not lines:
        return NOT_RUN
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines])


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean of several seeds with the lowest and highest, or the single value."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def group(result: dict, name: str, key: str = "miou") -> float | None:
    """A score of one group of prompts of a trained run."""
    return result["scores"][0]["groups"].get(name, {}).get(key)


def seeds_of(results: Results, stem: str) -> list[dict]:
    """The finished seeds of a run."""
    return [results[name] for name in registry.seeds_of(results, stem)]


def scored(stem_results: Sequence[dict], name: str, key: str = "miou") -> str:
    """A score over the seeds."""
    return spread([value for one in stem_results if (value := group(one, name, key)) is not None])


def demo_rows(results: Results, runs: Sequence[Variant]) -> list[list[object]]:
    """Rows of demo-world runs: label, seeds, seen, held-out, absent prompts that light up."""
    rows = []
    for run in runs:
        if found := seeds_of(results, run.stem):
            scores = [scored(found, "seen"), scored(found, "held_out")]
            fired = [scored(found, f"absent_{kind}", "fired") for kind in ("hard", "random")]
            rows.append([run.label, found[0]["settings"]["steps"], len(found), *scores, *fired])
    return rows


DEMO_HEAD = ("run", "steps", "seeds", "seen mIoU", "held-out mIoU", "false positives, hard", "false positives, random")


def pretrained_table(results: Results) -> str:
    """The generative base against random weights."""
    return table(DEMO_HEAD, demo_rows(results, registry.PRETRAINED))


def longer_table(results: Results) -> str:
    """The same and the specialist, five times as long."""
    rows = demo_rows(results, [replace(run, stem=registry.longer(run.stem)) for run in registry.PRETRAINED])
    return table(DEMO_HEAD, rows + specialist_rows(results, registry.longer(registry.SPECIALIST)))


def noise_table(results: Results) -> str:
    """Variants of the noise and of the prediction type."""
    return table(DEMO_HEAD, demo_rows(results, registry.NOISE))


def absent_table(results: Results) -> str:
    """With and without absent prompts."""
    return table(DEMO_HEAD, demo_rows(results, registry.ABSENT))


def target_table(results: Results) -> str:
    """Binary and overlay targets."""
    return table(DEMO_HEAD, demo_rows(results, registry.TARGET))


def domain_table(results: Results) -> str:
    """mIoU before and after, by number of training images."""
    rows = []
    for world in registry.WORLD_NAMES:
        before = results.get(registry.before(world))
        if before:
            rows.append([world, "before", *[f"{before['report']['runs'][0]['miou']:.3f}"] * 3, "-"])
        for how in registry.DOMAIN:
            found = {n: seeds_of(results, on_images(world, how, n)) for n in sorted(registry.DOMAIN_IMAGES)}
            if any(found.values()):
                size = next(one["bytes"] for runs in found.values() for one in runs)
                scores = [spread([one["scores"][0]["miou"] for one in runs]) for runs in found.values()]
                rows.append([world, how.label, *scores, f"{size / 1e6:.2f} MB"])
    return table(("world", "run", "20 images", "50 images", "200 images", "file"), rows)


def shapes_table(results: Results) -> str:
    """mIoU on pictures that are not square, by what training and asking do with their shape."""
    rows = []
    for how in (*registry.PHOTO_SHAPES, registry.ASKED_WHOLE):
        found = {world: _runs(seeds_of(results, registry.in_shape(world, how))) for world in registry.WORLD_NAMES}
        if any(found.values()):
            seeds = max(map(len, found.values()))
            lit = [one["groups"]["absent_random"]["fired"] for runs in found.values() for one in runs]
            rows.append(
                [
                    how.label,
                    seeds,
                    *[spread([one["miou"] for one in runs]) for runs in found.values()],
                    f"{sum(lit) / len(lit):.3f}",
                ]
            )
    return table(("photos that are not square", "seeds", *registry.WORLD_NAMES, "false positives"), rows)


def mask_loss_table(results: Results) -> str:
    """The loss on the mask against the latent's: mIoU by both decoders, the smallest things apart."""
    rows = []
    for world in (*registry.WORLD_NAMES, "demo"):
        for how in (*registry.LOSS, *registry.SMALL_THINGS):
            stem = registry.by_loss(world, how)
            again = registry.decoded(stem, registry.VAE_DECODER)
            pairs = [(name, name.replace(stem, again, 1)) for name in registry.seeds_of(results, stem)]
            whole = [[results[one] for one in pair] for pair in pairs if pair[1] in results]
            if whole:
                guided, plain = map(_runs, zip(*whole, strict=True))
                rows.append([world, how.label, len(whole), *_by_both(guided, plain, registry.SMALLEST.get(world))])
    smallest = ("smallest class, guided", "smallest class, VAE")
    return table(("world", "loss", "seeds", "guided", "VAE", "guided - VAE", *smallest, "false positives"), rows)


def _by_both(guided: Sequence[dict], plain: Sequence[dict], smallest: str | None) -> list[str]:
    """Cells of one row: mIoU by the guided decoder and by the VAE, run by run the difference, IoU of the smallest class, absent
    prompts that light up."""
    scores = [[one["miou"] for one in runs] for runs in (guided, plain)]
    gains = [one - other for one, other in zip(*scores, strict=True)]
    small = [spread([one["classes"].get(smallest, 0.0) for one in runs]) if smallest else "-" for runs in (guided, plain)]
    lit = spread([one["groups"]["absent_random"]["fired"] for one in guided])
    return [*map(spread, scores), spread(gains), *small, lit]


def _runs(results: Sequence[dict]) -> list[dict]:
    """The scores of trials or probes."""
    return [(one["report"]["runs"] if "report" in one else one["scores"])[0] for one in results]


def domain_classes_table(results: Results) -> str:
    """IoU per class after 200 images, and the threshold that is best for each class."""
    rows = []
    for world in registry.WORLD_NAMES:
        runs = {how.stem: next(iter(seeds_of(results, on_images(world, how, 200))), None) for how in registry.DOMAIN}
        if not runs["full"]:
            continue
        sweep = runs["full"]["scores"][0]["sweep"]
        for name, ious in sweep["classes"].items():
            scores = [f"{run['scores'][0]['classes'].get(name, 0):.3f}" if run else "-" for run in runs.values()]
            rows.append([world, name, *scores, *best_of(sweep["thresholds"], ious)])
    return table(("world", "class", *[how.label for how in registry.DOMAIN], "best tau (full)", "gain over 0.5"), rows)


def best_of(thresholds: Sequence[float], ious: Sequence[float]) -> tuple[str, str]:
    """The threshold of the highest IoU, and how much higher that is than at 0.5."""
    best = max(range(1, len(ious)), key=lambda k: ious[k])
    return f"{thresholds[best]:.2f}", f"{ious[best] - ious[thresholds.index(0.5)]:+.3f}"


def vocabulary_table(results: Results) -> str:
    """IoU by wording."""
    if "vocabulary" not in results:
        return NOT_RUN
    report = results["vocabulary"]["report"]
    rows = [
        [name, *[f"{pairs[one]['miou']:.3f} ({pairs[one]['prompts']})" if one in pairs else "-" for one in ("seen", "held_out")]]
        for name, pairs in report["wordings"].items()
    ]
    return table(("wording", "seen pairs mIoU (prompts)", "held-out pairs mIoU (prompts)"), rows) + _model(results, "vocabulary")


def _model(results: Results, name: str) -> str:
    found = results[name]
    return f"\n\n{found['model']['file']}, SHA-256 {found['model']['sha256']}..., {found['report']['images']} test scenes."


def threshold_table(results: Results) -> str:
    """The best tau by size of the object, for both objectives."""
    rows = []
    sources = []
    if "vocabulary" in results:
        sources.append(("end-to-end, 1 step", results["vocabulary"]["report"]))
    for key, report in results.get("sampling", {"report": {"thresholds": {}}})["report"]["thresholds"].items():
        if key in ("1x1", "10x1", "10x10"):
            sources.append((f"diffusion, {key.replace('x', ' steps x ')}", report))
    for label, report in sources:
        sweep = report["by_size"]
        for name, ious in sorted(sweep["classes"].items(), key=lambda item: int(item[0].split("%")[0])):
            at_half = ious[sweep["thresholds"].index(0.5)]
            rows.append([label, name, f"{at_half:.3f}", *best_of(sweep["thresholds"], ious)])
    return table(("model", "share of the image", "IoU at 0.5", "best tau", "gain"), rows)


def sampling_table(results: Results) -> str:
    """Steps by ensemble: seen / held-out mIoU, false positive rate of hard absent prompts."""
    if "sampling" not in results:
        return NOT_RUN
    scores, rows = results["sampling"]["report"]["scores"], []
    by_steps: dict[int, dict[str, dict]] = defaultdict(dict)
    for key, values in scores.items():
        steps, _, members = key.partition("x")
        by_steps[int(steps)][members] = values["groups"]
    columns = ("1", "5", "10", "5-pixels")
    for steps, found in sorted(by_steps.items()):
        rows.append([steps, *[_pair(found.get(column)) for column in columns]])
    head = ("steps", "1 noise", "5 noises", "10 noises", "5 noises, masks averaged as pixels")
    return table(head, rows) + _model(results, "sampling")


def _pair(groups: dict | None) -> str:
    if groups is None:
        return "-"
    return f"{groups['seen']['miou']:.3f} / {groups['held_out']['miou']:.3f} / {groups['absent_hard']['fired']:.2f}"


def objectives_table(results: Results) -> str:
    """One end-to-end step against DDIM."""
    rows = []
    for name, label in (("one-step", "end-to-end"), ("ddim", "diffusion")):
        for run in results.get(name, {"report": {"runs": []}})["report"]["runs"]:
            groups = run["groups"]
            scores = [f"{groups[one]['miou']:.3f}" for one in ("seen", "held_out")]
            fired = [f"{groups[f'absent_{kind}']['fired']:.3f}" for kind in ("hard", "random")]
            rows.append([label, run["steps"], run["unet_calls"], *scores, *fired])
    head = ("model", "steps", "U-Net calls", "seen mIoU", "held-out mIoU", "false positives, hard", "false positives, random")
    return table(head, rows)


def specialist_table(results: Results) -> str:
    """The specialist beside the end-to-end runs of equal steps."""
    labels = ("DiGSeg, from the base", "DiGSeg, random weights")
    rows = demo_rows(results, [replace(run, label=label) for run, label in zip(registry.PRETRAINED[:2], labels, strict=True)])
    return table(DEMO_HEAD, rows + specialist_rows(results, registry.SPECIALIST))


def specialist_rows(results: Results, stem: str) -> list[list[object]]:
    """The row of a specialist's runs, none when there are none."""
    found = [one["report"] for one in seeds_of(results, stem)]
    if not found:
        return []
    scores = [spread([one["groups"][name]["miou"] for one in found]) for name in ("seen", "held_out")]
    fired = [spread([one["groups"][f"absent_{kind}"]["fired"] for one in found]) for kind in ("hard", "random")]
    label = f"specialist U-Net, {found[0]['parameters'] / 1e6:.1f} M weights"
    return [[label, found[0]["steps"], len(found), *scores, *fired]]


TABLES: dict[str, Callable[[Results], str]] = {
    "domain": domain_table,
    "domain-classes": domain_classes_table,
    "shapes": shapes_table,
    "mask-loss": mask_loss_table,
    "pretrained": pretrained_table,
    "vocabulary": vocabulary_table,
    "threshold": threshold_table,
    "sampling": sampling_table,
    "objectives": objectives_table,
    "noise": noise_table,
    "absent": absent_table,
    "target": target_table,
    "specialist": specialist_table,
    "longer": longer_table,
}


def draw_curves(results: Results, folder: Path) -> None:
    """domain.png: validation mIoU of the domain runs; pretrained.png: smoothed training loss from the base and from random."""
    folder.mkdir(parents=True, exist_ok=True)
    if trained_worlds(results):
        draw_domain(results, folder / "domain.png")
    if seeds_of(results, registry.PRETRAINED[0].stem):
        draw_losses(results, folder / "pretrained.png")


def trained_worlds(results: Results) -> list[str]:
    """The worlds that something was fine-tuned on."""
    runs = {
        world: [on_images(world, how, n) for how in registry.DOMAIN for n in registry.DOMAIN_IMAGES]
        for world in registry.WORLD_NAMES
    }
    return [world for world, stems in runs.items() if any(seeds_of(results, stem) for stem in stems)]


def copy_pictures(output: Path, folder: Path) -> None:
    """The last validation pictures of the runs with 200 images: image, truth, prediction, soft mask of four prompts."""
    from PIL import Image

    from train.scoring.grids import CAPTION, CELL

    for world in registry.WORLD_NAMES:
        run = output / registry.named(on_images(world, registry.DOMAIN[0], 200), 0)
        if pictures := sorted((run / "pictures").glob("*.png")):
            picture = Image.open(pictures[-1])
            picture.crop((0, 0, picture.width, 4 * (CELL + CAPTION))).save(folder / f"{world}-predictions.jpg", quality=88)


def draw_domain(results: Results, path: Path) -> None:
    """One panel per world: validation mIoU by step, solid for 200 images, dashed for 20."""
    plt = pyplot()
    worlds = trained_worlds(results)
    figure, axes = plt.subplots(1, len(worlds), figsize=(5.2 * len(worlds), 3.6), sharey=True, squeeze=False)
    for world, axis in zip(worlds, axes[0], strict=True):
        before = results.get(registry.before(world))
        for images, style in ((200, "-"), (20, "--")):
            for how in registry.DOMAIN:
                for number, run in enumerate(seeds_of(results, on_images(world, how, images))):
                    known = before is not None and how.stem != "random"
                    start = [(0, before["report"]["runs"][0]["miou"])] if known else []
                    steps, scores = zip(*start, *run["curve"], strict=True)
                    name = f"{how.label}, {images}" if number == 0 else None
                    axis.plot(steps, scores, style, color=COLOURS[how.stem], marker="o", markersize=3, label=name)
        axis.set(title=world, xlabel="steps of 8", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("validation mIoU")
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path)


def draw_losses(results: Results, path: Path) -> None:
    """Training loss of the end-to-end runs, all seeds."""
    from train.scoring.report import smoothed

    figure, axis = pyplot().subplots(figsize=(6, 3.6))
    for init in ("pretrained", "random"):
        for number, run in enumerate(seeds_of(results, f"end_to_end-{init}")):
            steps, losses = zip(*smoothed(run["losses"]), strict=True)
            axis.plot(steps, losses, color=COLOURS[init], label=f"{init} weights" if number == 0 else None)
    axis.set(xlabel="steps of 8", ylabel="loss (mask latent), smoothed", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    save_figure(figure, path)


def pyplot():
    """Matplotlib without a window."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
