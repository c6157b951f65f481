"""What a figure must look like, measured; and pictures of it for eyes.

python tests/looks.py RESULTS FOLDER [AWKWARD] [FIGURE ...] draws figures of the results of a study,
such as results/quick, prints every fault of their looks, and writes each one to FOLDER as it is, in
grey and as a deuteranope sees it, with its caption and its table. AWKWARD (crowded, extreme or
empty) puts names and numbers that could break a figure in place of those of the files.
"""

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
import yaml
from colorspacious import cspace_convert
from matplotlib import pyplot as plt
from matplotlib.collections import Collection, LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "workflow/scripts"))

from tripartite import declarations, job, plan  # noqa: E402
from tripartite.figures import captions, palette, panels  # noqa: E402

MM = 25.4
LEAST_POINTS, LEAST_EXPONENT, LEAST_LINE = 6, 5, 0.5  # pt
CONTRAST = 4.5  # of text
OVERLAP = 1.0  # pt that boxes of texts may share in both directions


def load(results: Path, figure: str) -> dict[str, xr.Dataset]:
    """The files that a figure of a study shows; results: the folder results/STUDY."""
    study = yaml.safe_load((ROOT / f"config/studies/{results.name}.yaml").read_text())
    if declarations.figures()[figure].kinds == ("claims",):
        return {"claims": job.load(results / plan.CLAIMS)}
    shown = study["figures"][figure].get("experiments", [])
    kinds = [*declarations.experiments()]
    found = {}
    for name in shown:
        (kind,) = {*study["experiments"][name]} & {*kinds}
        found[name] = job.load(results / name / f"{[*declarations.kinds()[kind].files][-1]}.nc")
    return found


def drawn(figure: str, fits: dict[str, xr.Dataset]) -> Figure:
    """A figure as the stage draws it, with its layout fixed."""
    declared = declarations.figures()[figure]
    module = importlib.import_module(declared.module.replace("/", "."))
    picture = getattr(module, figure)(fits)
    panels.finish(picture)
    job._settle(picture)
    picture.canvas.draw()
    return picture


def crowded(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The same with 32 x 32 heads, and with names that are long, not Latin or look as formulas."""
    made = {}
    for place, (experiment, fit) in enumerate(fits.items()):
        fit = fit.assign_attrs(data=f"模型 $^{{{place}}}$ " + "of-a-very-long-name " * 4)
        for dim in ("layer", "head"):
            if dim in fit.sizes:
                fit = fit.isel({dim: np.arange(32) % fit.sizes[dim]})
                fit = fit.assign_coords({dim: np.arange(32)})
        if "claim" in fit.sizes:
            fit = many_claims(fit)
        names = {
            dim: [f"model.$blocks.{i}.слой.self_attention" for i in range(32)]
            for dim in ("layer", "head")
        }
        if "input" in fit.coords:
            n = fit.sizes["input"]
            fit = fit.assign_coords(input=[f"$x^ 入力 {i} " + "long " * 8 for i in range(n)])
        made[experiment] = fit.assign_attrs(labels=json.dumps(names))
    return made


def many_claims(found: xr.Dataset) -> xr.Dataset:
    """A file of claims with a hundred of them, in ten parts, with names of forty letters."""
    copies = -(-100 // found.sizes["claim"])
    parts = []
    for i in range(copies):
        names = {name: f"{name}-{i}-".ljust(40, "x") for name in found["claim"].values}
        one = found.assign_coords(claim=[*names.values()])
        parts.append(one.assign(of_claim=("quantity", [names[x] for x in one["of_claim"].values])))
    many = xr.merge(
        [
            xr.concat([one.drop_dims("quantity") for one in parts], "claim"),
            xr.concat([one.drop_dims("claim") for one in parts], "quantity"),
        ]
    )
    part = [f"模型 $^{{{i % 10}}}$ " + "long " * 20 for i in range(many.sizes["claim"])]
    return many.assign(part=("claim", part)).assign_attrs(found.attrs)


def extreme(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The same with values of 1e170, zeros and NaN among the numbers."""
    rng = np.random.default_rng(0)
    made = {}
    for experiment, fit in fits.items():
        fit = fit.copy()
        for name in map(str, fit.data_vars):
            if fit[name].dtype.kind != "f" or name.endswith(("_low", "_high")):
                continue
            large = 170.0 if name.startswith("log") else 1e170
            kind = rng.choice(4, fit[name].shape, p=[0.4, 0.2, 0.2, 0.2])
            for end in ("", "_low", "_high"):
                if name + end in fit and fit[name + end].shape == kind.shape:
                    values = fit[name + end].values
                    fit[name + end] = fit[name].dims, np.choose(kind, [values, large, 0.0, np.nan])
        made[experiment] = fit
    return made


def empty(fits: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The same without any finite number."""
    return {
        experiment: fit.assign(
            {name: fit[name] * np.nan for name in fit.data_vars if fit[name].dtype.kind == "f"}
        )
        for experiment, fit in fits.items()
    }


AWKWARD = {"crowded": crowded, "extreme": extreme, "empty": empty}


def faults(figure: Figure) -> list[str]:
    """Every fault of a drawn figure, a line each; none if it looks as it must."""
    checks = (sizes, letters, texts, overlaps, lines, colours, legends)
    return [fault for check in checks for fault in check(figure)]


def sizes(figure: Figure) -> Iterator[str]:
    width, height = figure.get_size_inches() * MM
    if min(abs(width - 85), abs(width - 178)) > 0.1:
        yield f"is {width:.1f} mm wide: 85 or 178"
    if height > 200.1:
        yield f"is {height:.0f} mm high: at most 200"
    if (n := len([*panels.lettered(figure)])) > palette.MAX_PANELS:
        yield f"has {n} panels: at most {palette.MAX_PANELS}"


def letters(figure: Figure) -> Iterator[str]:
    written = [t.get_text() for t in figure.findobj(Text) if t.get_gid() == "letter"]
    n = len([*panels.lettered(figure)])
    if written != [*"abcdefghijklmnopqrstuvwxyz"[: n if n > 1 else 0]]:
        yield f"has the letters {written} at {n} panels"


def shown_texts(figure: Figure) -> list[Text]:
    """Texts that are drawn: not those of hidden axes, nor labels of ticks beyond the axes."""
    hidden: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = {
                id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)
            }
            every = {
                id(label)
                for tick in (*axis.majorTicks, *axis.minorTicks)
                for label in (tick.label1, tick.label2)
            }
            hidden |= every - ticks if axes.axison else every
            if not axes.axison:
                hidden |= {id(axis.label), id(axis.offsetText)}
        if not axes.get_visible():
            hidden |= {id(text) for text in axes.findobj(Text)}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]


def texts(figure: Figure) -> Iterator[str]:
    page = figure.bbox
    for text in shown_texts(figure):
        words, size = _cut(text), text.get_fontsize()
        box = text.get_window_extent()
        if (
            box.x0 < page.x0 - 1
            or box.y0 < page.y0 - 1
            or box.x1 > page.x1 + 1
            or box.y1 > page.y1 + 1
        ):
            yield f"{words} leaves the canvas"
        if size < LEAST_POINTS - 0.01:
            yield f"{words} has {size:.1f} pt: at least {LEAST_POINTS}"
        raised = "$" in text.get_text().replace(r"\$", "") and any(
            c in text.get_text() for c in "^_"
        )
        if raised and 0.7 * size < LEAST_EXPONENT:
            yield f"{words} has an exponent of {0.7 * size:.1f} pt: at least {LEAST_EXPONENT}"
        on_white = contrast(text.get_color(), "white")
        if on_white < CONTRAST and not _in_map(text):
            yield f"{words} has a contrast of {on_white:.1f} on white: at least {CONTRAST}"
        if text.get_rotation() % 90:
            yield f"{words} is turned by {text.get_rotation():.0f} degrees: 0 or 90"
        if "nan" in text.get_text().lower().split():
            yield f"{words} says nan"


def _in_map(text: Text) -> bool:
    """Whether a text may stand on a coloured cell or a patch."""
    axes = text.axes
    return axes is not None and any(
        isinstance(part, QuadMesh | Patch | AxesImage)
        for part in (*axes.collections, *axes.images, *axes.patches)
    )


def overlaps(figure: Figure) -> Iterator[str]:
    allowed = OVERLAP * figure.dpi / 72
    boxes = []
    for text in shown_texts(figure):
        box = text.get_window_extent()
        cut = 0.1 * text.get_fontsize() * figure.dpi / 72  # room above and below the letters
        x0, y0, x1, y1 = box.extents
        boxes.append(
            (text, x0, y0 + cut, x1, y1 - cut)
            if not text.get_rotation()
            else (text, x0 + cut, y0, x1 - cut, y1)
        )
    for a, b in itertools.combinations(boxes, 2):
        wide = min(a[3], b[3]) - max(a[1], b[1])
        high = min(a[4], b[4]) - max(a[2], b[2])
        if wide > allowed and high > allowed:
            yield f"{_cut(a[0])} and {_cut(b[0])} overlap"


def lines(figure: Figure) -> Iterator[str]:
    for line in figure.findobj(Line2D):
        drawn = line.get_linestyle() not in ("None", "") and len(line.get_xdata())
        if drawn and line.get_visible() and line.get_linewidth() < LEAST_LINE - 1e-9:
            width = line.get_linewidth()
            yield f"a line ({line.get_label()}) has {width} pt: at least {LEAST_LINE}"
    for part in figure.findobj(LineCollection):
        widths = [width for width in np.atleast_1d(part.get_linewidths())]
        shown = part.get_visible() and part.get_segments()
        if shown and widths and 0 < min(widths) < LEAST_LINE - 1e-9:
            yield f"lines ({part.get_label()}) have {min(widths)} pt: at least {LEAST_LINE}"


def known_colours() -> set[str]:
    """Every colour that palette.py gives a meaning, as #rrggbb, and those of its maps."""
    looks = (*palette.MODELS.values(), *palette.OTHERS, *palette.RECIPES.values())
    known = {colour for look in looks for colour in (look.fill, look.line)}
    known |= {*palette.PARTS.values(), *palette.CATEGORIES}
    for name in (palette.SIZES_MAP, palette.BAD_MAP):
        known |= {to_hex(x) for x in np.round(matplotlib.colormaps[name](np.arange(256)), 3)}
    return {to_hex(colour) for colour in known}


def colours(figure: Figure) -> Iterator[str]:
    known = known_colours()
    wrong = set()
    for part in figure.findobj(lambda x: isinstance(x, Line2D | Patch | Collection | Text)):
        if not part.get_visible():
            continue
        if isinstance(part, Line2D):
            given = [part.get_color(), part.get_markerfacecolor(), part.get_markeredgecolor()]
        elif isinstance(part, Text):
            given = [part.get_color()]
        elif isinstance(part, Patch):
            given = [part.get_facecolor(), part.get_edgecolor()]
        elif part.get_array() is not None:
            if part.get_cmap().name not in (palette.SIZES_MAP, palette.BAD_MAP):
                wrong.add(f"the map {part.get_cmap().name}")
            continue
        else:
            given = [*part.get_facecolor(), *part.get_edgecolor()]
        for colour in given:
            if isinstance(colour, str) and colour.lower() == "none":
                continue
            rgb = np.round(np.array(to_rgb(colour)), 3)
            if np.ptp(rgb) > 0.01 and to_hex(rgb) not in known:
                wrong.add(to_hex(rgb))
    for axes in figure.axes:
        for image in axes.images:
            if image.get_cmap().name not in (palette.SIZES_MAP, palette.BAD_MAP):
                wrong.add(f"the map {image.get_cmap().name}")
    if wrong:
        yield f"has colours that are not in the palette: {', '.join(sorted(wrong))}"


def legends(figure: Figure) -> Iterator[str]:
    """Entries of legends of which the panels show nothing."""
    marks = [*_visible_marks(figure)]
    for legend in figure.findobj(Legend):
        for handle, text in zip(legend.legend_handles, legend.get_texts()):
            if text.get_text().strip() and not any(_like(mark, handle) for mark in marks):
                yield f"the legend has {_cut(text)}, the panels show nothing like it"


def _visible_marks(figure: Figure) -> Iterator[object]:
    """Marks with a finite point inside their panel."""
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        box = axes.bbox.padded(2)
        for line in axes.lines:
            xy = np.ma.filled(np.ma.asarray(line.get_xydata(), float), np.nan)
            pixels = line.get_transform().transform(xy[np.isfinite(xy).all(1)])
            crosses = len(pixels) > 1 and line.get_linestyle() not in ("None", "")
            if len(pixels) and (crosses or any(box.contains(*point) for point in pixels)):
                yield line
        for part in axes.collections:
            if isinstance(part, PathCollection):
                offsets = np.ma.filled(np.ma.asarray(part.get_offsets(), float), np.nan)
                pixels = part.get_offset_transform().transform(offsets[np.isfinite(offsets).all(1)])
                if any(box.contains(*point) for point in pixels):
                    yield part
            elif len(part.get_paths()):
                yield part
        yield from axes.patches


def _like(mark: object, handle: object) -> bool:
    """Whether a mark looks as an entry of a legend says; dark grey stands for any colour."""
    if isinstance(handle, Container):
        handle = handle[0]
    if isinstance(handle, Patch):
        faces = (
            [np.atleast_2d(mark.get_facecolor())] if isinstance(mark, Patch | Collection) else []
        )
        if isinstance(mark, Line2D) and mark.get_marker() not in ("None", "", None):
            faces = [np.atleast_2d(to_rgb(mark.get_markerfacecolor()))]  # a swatch for any symbol
        return any(_same(face, handle.get_facecolor()) for rows in faces for face in rows) or (
            to_hex(handle.get_facecolor()) == palette.KEY and bool(faces)
        )
    if isinstance(handle, LineCollection):  # an interval
        return isinstance(mark, LineCollection) and _same(
            handle.get_color()[0], mark.get_color()[0]
        )
    if isinstance(handle, PathCollection):
        handle_face = handle.get_facecolor()
        return isinstance(mark, PathCollection) and (
            not len(handle_face)
            or any(_same(face, handle_face[0]) for face in mark.get_facecolor())
            or mark.get_array() is not None
        )
    if not isinstance(handle, Line2D):
        return True
    any_colour = to_hex(handle.get_color()) == palette.KEY
    with_marker = handle.get_marker() not in ("None", "", None)
    if isinstance(mark, Line2D):
        if with_marker:
            hollow = [_is_white(part.get_markerfacecolor()) for part in (mark, handle)]
            return (
                mark.get_marker() == handle.get_marker()
                and (
                    any_colour
                    or _same(mark.get_color(), handle.get_color())
                    or _same(mark.get_markerfacecolor(), handle.get_markerfacecolor())
                )
                and (any_colour or hollow[0] == hollow[1])
            )
        drawn = mark.get_linestyle() == handle.get_linestyle()
        return drawn and (any_colour or _same(mark.get_color(), handle.get_color()))
    if isinstance(mark, LineCollection) and not with_marker:
        return any_colour or any(_same(colour, handle.get_color()) for colour in mark.get_color())
    if isinstance(mark, PathCollection) and with_marker:
        return any_colour or any(
            _same(face, handle.get_markerfacecolor())
            for face in (*mark.get_facecolor(), *mark.get_edgecolor())
        )
    return False


def _same(a: object, b: object) -> bool:
    if any(isinstance(x, str) and x.lower() == "none" for x in (a, b)):
        return False
    return bool(np.allclose(to_rgb(a), to_rgb(b), atol=0.01))


def _is_white(colour: object) -> bool:
    return isinstance(colour, str) and colour.lower() == "none" or to_hex(colour) == "#ffffff"


def contrast(a: object, b: object) -> float:
    """Contrast of two colours by WCAG, from 1 to 21."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: object) -> float:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def seen(rgb: np.ndarray, kind: str) -> np.ndarray:
    """Colours [..., 3] in 0 to 1 as they are seen: "grey", or a kind of colour blindness."""
    if kind == "grey":
        lab = cspace_convert(rgb, "sRGB1", "CIELab")
        lab[..., 1:] = 0
        return np.clip(cspace_convert(lab, "CIELab", "sRGB1"), 0, 1)
    space = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
    return np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)


def difference(a: str, b: str, kind: str) -> float:
    """Difference of two colours (CIELab) as they are seen."""
    one, other = (
        cspace_convert(seen(np.array(to_rgb(colour)), kind), "sRGB1", "CIELab") for colour in (a, b)
    )
    return float(np.linalg.norm(one - other))


def _cut(text: Text) -> str:
    words = " ".join(text.get_text().split())
    return repr(words if len(words) <= 50 else f"{words[:49]}…")


def main() -> None:
    results, folder, *names = sys.argv[1:]
    awkward = names.pop(0) if names and names[0] in AWKWARD else ""
    study = yaml.safe_load((ROOT / f"config/studies/{Path(results).name}.yaml").read_text())
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or study["figures"]:
        fits = load(Path(results), name)
        fits = AWKWARD[awkward](fits) if awkward else fits
        figure = drawn(name, fits)
        for fault in faults(figure):
            print(f"{name}: {fault}")
        declared = declarations.figures()[name]
        module = importlib.import_module(declared.module.replace("/", "."))
        path = Path(folder) / f"{name}.png"
        figure.savefig(path, dpi=200)
        picture = plt.imread(path)[..., :3]
        for kind in ("grey", "deuteranomaly"):
            plt.imsave(path.with_name(f"{name}-{kind}.png"), seen(picture, kind))
        if hasattr(module, "answer"):
            path.with_suffix(".txt").write_text(
                captions.caption(declared.question, module.answer(fits), declared.caption, fits)
            )
        if hasattr(module, "table"):
            module.table(fits).to_csv(path.with_suffix(".csv"), index=False, float_format="%.6g")
        plt.close("all")


if __name__ == "__main__":
    main()
