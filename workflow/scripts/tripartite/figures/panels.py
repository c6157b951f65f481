"""Parts that figures share: tables of what is drawn, heads, intervals, legends, letters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

from tripartite.figures import palette
from tripartite.figures.palette import MM

PART = "part"  # label of axes that belong to the panel before them: no letter of their own


# Tables.


def frame(fits: dict[str, xr.Dataset], *names: str, **chosen: Any) -> pd.DataFrame:
    """Variables of experiments as a tidy table: a row for each number that is drawn.

    Its columns are the experiment, its data, recipe (unless it is an axis) and network, the axes of
    the variables, and the variables with the ends of their intervals, where they have any. Rows
    without any finite number of `names` are left out. chosen: labels of axes, as for Dataset.sel.
    """
    parts = []
    for experiment, fit in fits.items():
        ends = [f"{name}{end}" for name in names for end in ("_low", "_high")]
        part = fit[[*names, *(end for end in ends if end in fit)]]
        part = part.sel({dim: label for dim, label in chosen.items() if dim in part.dims})
        table = part.to_dataframe() if part.dims else part.expand_dims("one").to_dataframe()
        table = table.reset_index().drop(columns="one", errors="ignore")
        number = table[[*names]].select_dtypes("number")
        table = table[np.isfinite(number).any(axis=1)] if number.shape[1] else table
        about = {
            "experiment": experiment,
            "data": fit.attrs["data"],
            "recipe": palette.recipe_of(fit),
            "network": palette.network_words(fit),
        }
        about = {name: words for name, words in about.items() if name not in table}
        parts.append(pd.concat([pd.DataFrame(about, table.index), table], axis=1))
    return pd.concat(parts, ignore_index=True)


# Heads.


def spread(things: Sequence, n: int) -> list:
    """At most n of ordered things, evenly spread, with the first and the last."""
    if len(things) <= n:
        return list(things)
    return [things[i] for i in np.linspace(0, len(things) - 1, n).round().astype(int)]


def heads_by(values: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Indices (layer, head) of at most n heads, sorted by values [layer, head], without NaN."""
    run = [(int(a), int(b)) for a, b in np.argwhere(np.isfinite(values))]
    return spread(sorted(run, key=lambda pair: (values[pair], pair)), n)


def heads_run(values: xr.DataArray) -> list[dict[str, int]]:
    """Labels of heads of which a value is known, in order: {"layer": 0, "head": 2} selects one."""
    others = [dim for dim in values.dims if dim not in ("layer", "head")]
    known = values.notnull().any(others).transpose("layer", "head")
    return [
        {"layer": int(known["layer"][a]), "head": int(known["head"][b])}
        for a, b in np.argwhere(known.values)
    ]


def head_words(fit: xr.Dataset, place: tuple[int, int]) -> str:
    """The name of the head with indices (layer, head)."""
    return palette.head_name(fit, int(fit["layer"][place[0]]), int(fit["head"][place[1]]))


# Marks.


def interval(fit: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a variable, lower ends and upper ends of their intervals."""
    return fit[name].values, fit[f"{name}_low"].values, fit[f"{name}_high"].values


def estimates(
    x: str,
    y: str,
    *,
    data: pd.DataFrame,
    axis: Axes | None = None,
    across: bool = False,
    **look: Any,
) -> None:
    """Estimates with their 95 % intervals, from columns of a table; the one mark for intervals.

    The estimated column (y, or x if across) has its ends beside it, name_low and name_high, where
    it has an interval. An axes-level function like those of seaborn, which FacetGrid.map_dataframe
    can call; look: options of Axes.errorbar, such as those of palette.marks.
    """
    axis = plt.gca() if axis is None else axis
    name, place = (x, y) if across else (y, x)
    none = np.full(len(data), np.nan)
    triple = (data[name], data.get(f"{name}_low", none), data.get(f"{name}_high", none))
    points(axis, data[place], triple, across=across, **look)


def points(
    axis: Axes,
    place: ArrayLike,
    triple: tuple,
    color: Any = palette.KEY,
    marker: str = "o",
    across: bool = False,
    **look: Any,
) -> None:
    """Draw finite values with their intervals (triple: from `interval`); NaN ends have no bar."""
    middle, low, high = (np.asarray(values, dtype=float) for values in triple)
    middle = np.where(np.isfinite(middle), middle, np.nan)
    sizes = np.nan_to_num([middle - low, high - middle], posinf=np.inf).clip(0)
    look = dict[str, Any](elinewidth=0.8, linestyle="") | look
    if across:
        axis.errorbar(middle, place, xerr=sizes, marker=marker, color=color, **look)
    else:
        axis.errorbar(place, middle, yerr=sizes, marker=marker, color=color, **look)


def beyond(axis: Axes, n: int, of: int, corner: str = "upper right", what: str = "") -> None:
    """Say how many of the things of a panel lie beyond its axes; nothing if none does."""
    if n:
        y, x = corner.split()
        words = f"{n} of {of} {what}".rstrip() + " beyond"
        place = (0.02 if x == "left" else 0.98, 0.97 if y == "upper" else 0.03)
        axis.annotate(
            words,
            place,
            xycoords="axes fraction",
            ha=x,
            va="top" if y == "upper" else "bottom",
            fontsize=6.5,
            color=palette.KEY,
        )


class HeadMarks(NamedTuple):
    """A head in a figure: where it is, its name, and how its marks look."""

    experiment: str
    layer: int
    head: int
    label: str
    look: dict[str, Any]

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table from `frame` that belong to this head."""
        own = (table["layer"] == self.layer) & (table["head"] == self.head)
        return table[own & (table["experiment"] == self.experiment)]


def marked_heads(
    fits: dict[str, xr.Dataset], difficulty: dict[str, xr.DataArray], n: int
) -> list[HeadMarks]:
    """At most n heads, those of each experiment easy before hard: the first filled, others hollow.

    difficulty: values over layer and head by experiment, NaN where a head was not run.
    """
    fits = dict([*fits.items()][:n])
    data = [fit.attrs["data"] for fit in fits.values()]
    names = [palette.short_name(name) for name in data]
    found = []
    for (experiment, fit), name in zip(fits.items(), names):
        if names.count(name) > 1:
            name = f"{name} ({palette.plain_text(palette.shown(experiment)[:24])})"
        values = difficulty[experiment].transpose("layer", "head").values
        values = np.where(np.isposinf(values), np.finfo(float).max, values)
        look = palette.look_of(fit.attrs["data"], data)
        for rank, place in enumerate(heads_by(values, n // len(fits))):
            layer, head = int(fit["layer"][place[0]]), int(fit["head"][place[1]])
            label = f"{name}, {head_words(fit, place)}"
            marks = palette.marks(look, filled=rank == 0)
            found.append(HeadMarks(experiment, layer, head, label, marks))
    return found


def rows_of(heads: list[HeadMarks], table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table from `frame` that belong to any of these heads, in their order."""
    return pd.concat([table.iloc[:0], *(head.rows(table) for head in heads)], ignore_index=True)


def rows_of_heads(
    axis: Axes, table: pd.DataFrame, x: str, y: str, names: dict[str, str], heads: list[HeadMarks]
) -> None:
    """Estimates x of heads with intervals: a row for each name of column y, from the top, and in it
    a line for each head in their order. names: what rows are called, by values of y.
    """
    rows = {name: place for place, name in enumerate(names)}
    for place, head in enumerate(heads):
        own = head.rows(table)
        own = own[own[y].isin(rows)]
        shift = 0.84 * ((place + 0.5) / len(heads) - 0.5)
        own = own.assign(row=own[y].map(rows).astype(float) + shift)
        estimates(x, "row", data=own, axis=axis, across=True, label=head.label, **head.look)
    for border in range(1, len(rows)):
        axis.axhline(border - 0.5, color=palette.SHADE, linewidth=0.6, zorder=0)
    axis.set_yticks(range(len(rows)), [*names.values()])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def legend_of_heads(
    figure: Figure, heads: list[HeadMarks], of: int, extra: Iterable[Any] = ()
) -> Legend | None:
    """The legend of `rows_of_heads`; says how many of all heads are shown, if not all."""
    letters = max((len(head.label) for head in heads), default=0)
    extra = [*extra]
    ncols = 1 if letters > 60 else 2 if letters > 36 else 3 + bool(extra and letters <= 26)
    title = f"{len(heads)} of {of} heads, easy to hard" if len(heads) < of else None
    return legend(figure, extra, ncols=ncols, title=title)


def row_note(axis: Axes, y: float, words: str) -> None:
    """Words at the right of a row."""
    axis.annotate(
        words,
        (1, y),
        xycoords=axis.get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=6.5,
        annotation_clip=False,
    )


# Figures, legends and letters.


def grid(
    n_panels: int,
    n_columns: int,
    row_mm: float,
    around_mm: float = 12.0,
    width: float = palette.PAGE,
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure with n_panels axes in n_columns, and these axes; each row is row_mm high.

    around_mm: height of what stands above and below all rows; options: of pyplot.subplots.
    """
    n_rows = -(-n_panels // n_columns)
    height = min(palette.MAX_HEIGHT, (n_rows * row_mm + around_mm) * MM)
    figure, axes = plt.subplots(
        n_rows, n_columns, squeeze=False, figsize=(width, height), **options
    )
    for axis in axes.flat[n_panels:]:
        axis.set_axis_off()
    return figure, axes.flat[:n_panels]


def line(label: str, **look: Any) -> Line2D:
    """An entry of a legend, for a line."""
    return Line2D([], [], label=label, **look)


def mark(label: str, marker: str = "o", **look: Any) -> Line2D:
    """An entry of a legend, for marks without a line."""
    return line(label, marker=marker, linestyle="", **look)


def legend(
    figure: Figure | SubFigure,
    extra: Iterable[Any] = (),
    where: str = "lower center",
    **options: Any,
) -> Legend | None:
    """One legend outside of all panels: every label of their marks once, then `extra` entries."""
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    entries |= {handle.get_label(): handle for handle in extra}
    if not entries:
        return None
    look: dict[str, Any] = {"handles": [*entries.values()], "labels": [*entries]}
    look |= {"loc": f"outside {where}", "ncols": min(len(entries), 4), "borderaxespad": 0.2}
    return figure.legend(**look | options)


def finish(figure: Figure) -> None:
    """Give panels their letters, and say in empty ones why they are empty."""
    panels = [*lettered(figure)]
    if len(panels) > 1:
        for letter, axis in zip("abcdefghijklmnopqrstuvwxyz", panels):
            texts = (text for text in axis.texts if isinstance(text, Annotation))
            titles = [text for text in texts if text.get_gid() == "title"]
            plain = axis.get_title(loc="left").strip()
            lines = plain.count("\n") + 1 if plain else 0
            height = titles[0].xyann[1] if titles else 6 + 9.8 * max(lines - 1, 0)
            axis.annotate(
                letter,
                (0, 1),
                xytext=(-4, height),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                weight="bold",
                fontsize=9,
                annotation_clip=False,
                gid="letter",
            )
    mark_empty(figure)


def lettered(figure: Figure) -> Iterator[Axes]:
    """The panels of a figure: axes that are shown and not parts of others, such as colour bars."""
    for axis in figure.axes:
        if axis.axison and axis.get_visible() and axis.get_label() not in (PART, "<colorbar>"):
            yield axis


def mark_empty(figure: Figure) -> None:
    """Write into every panel that shows no number why it is empty."""
    for axis in figure.axes:
        shown = axis.axison and axis.get_visible() and axis.get_label() != "<colorbar>"
        if not shown or axis.images:
            continue
        axis.get_xlim()  # computes the limits, which matplotlib defers
        points = np.concatenate([np.empty((0, 2)), *_points(axis)])
        points = points[np.isfinite(points).all(1)]
        if _has_words(axis):
            continue
        words = "nothing to show: no finite number\n(the file's notes say why)"
        if len(points):
            with np.errstate(all="ignore"):
                pixels = axis.transData.transform(points)
            if np.isfinite(pixels).all(1).any():
                box = axis.get_window_extent()
                low, high = np.array([box.min, box.max]) + [[-1], [1]]
                if ((pixels >= low) & (pixels <= high)).all(1).any():
                    continue
                words = "all values are beyond the axes"
        axis.annotate(
            words,
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=palette.KEY,
            fontsize=6,
            annotation_clip=False,
        ).set_in_layout(False)


def _points(axis: Axes) -> Iterator[np.ndarray]:
    """Points [n, 2] of all marks in coordinates of the data, without lines across the axes."""
    for line in axis.lines:
        if line.get_transform() is axis.transData:
            yield np.ma.filled(np.ma.asarray(line.get_xydata(), dtype=float), np.nan)
    for marks in axis.collections:
        if isinstance(marks, QuadMesh):
            values = np.ma.asarray(marks.get_array(), dtype=float)
            if np.isfinite(np.ma.filled(values, np.nan)).any():
                yield np.asarray(marks.get_coordinates()).reshape(-1, 2)
        elif marks.get_transform() is axis.transData:
            yield from (np.asarray(path.vertices) for path in marks.get_paths())
        elif marks.get_offset_transform() is axis.transData:
            yield np.ma.filled(np.ma.asarray(marks.get_offsets(), dtype=float), np.nan)
    for patch in axis.patches:
        if patch.get_data_transform() is axis.transData:
            yield patch.get_patch_transform().transform(patch.get_path().vertices)


def _has_words(axis: Axes) -> bool:
    """Whether there is a text inside the panel; titles are above it."""
    box = axis.get_window_extent()
    boxes = [text.get_window_extent() for text in axis.texts if text.get_text().strip()]
    return any(box.contains((x.x0 + x.x1) / 2, (x.y0 + x.y1) / 2) for x in boxes)


# Rows with names.


def name_rows(axis: Axes, names: Sequence[str], named: bool = True) -> None:
    """Rows of a panel, at 0, 1, 2 ... from above, with their names or (not named) without."""
    axis.set_yticks(range(len(names)), names if named else [])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def say_left_out(figure: Figure, n: int, of: int, what: str = "experiments") -> None:
    """Say above all panels how many things are shown; nothing if all are."""
    if n < of:
        words = f"{n} of {of} {what} shown"
        figure.suptitle(words, x=0.01, ha="left", fontsize=6.5, color=palette.KEY)
