"""What trained networks wrote, as a page to be read: all seeds and all prompts, none chosen."""

import html
from collections.abc import Iterator

import xarray as xr

from tripartite.kinds.trained.looks import LOOKS, SIZELESS, arms_of, sizes

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What trained networks wrote</title>
<style>
body {font: 15px/1.4 sans-serif; margin: 1em; color: #222}
h1 {font-size: 1.3em} h2 {font-size: 1.1em} p {max-width: 60em}
table {border-collapse: collapse} td, th {padding: .3em .6em; text-align: left; vertical-align: top}
tr {border-top: 1px solid #ddd}
td.text {font-family: serif; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12em}
</style>
</head>
<body>
<main>
<h1>What trained networks wrote</h1>
<p>Every text of every training: none is chosen. All networks continue the same prompts with the
same random numbers at the same temperature, letter by letter, from what they keep of the past.
<b>Score</b>: that of this training on held-out data. <b>Longest copy</b>: letters of the longest
passage of the text that stands in the training text as well; as many as the whole text would mean
that it was learned by heart.</p>
"""


def page(fits: dict[str, xr.Dataset]) -> str:
    """A table of texts per experiment and prompt; a sentence for tasks without letters."""
    return (
        HEAD
        + "".join(_experiment(name, fit) for name, fit in fits.items())
        + "</main>\n</body>\n</html>\n"
    )


def _experiment(name: str, fit: xr.Dataset) -> str:
    title = f"<h2>{html.escape(name)}: {html.escape(fit.attrs['data'])}</h2>\n"
    if not (fit["text"] != "").any():
        return f"{title}<p>This task has no letters; nothing was written.</p>\n"
    temperature = f"<p>Temperature {float(fit['temperature']):g}.</p>\n"
    return title + temperature + "".join(_table(fit, prompt) for prompt in fit["prompt"].values)


def _table(fit: xr.Dataset, prompt: str) -> str:
    head = "<tr><th>attention<th>neurons<th>training<th>score<th>longest copy<th>text</tr>\n"
    rows = "".join(_rows(fit.sel(prompt=prompt), html.escape(prompt)))
    return f"<table>\n{head}{rows}</table>\n<p></p>\n"


def _rows(fit: xr.Dataset, prompt: str) -> Iterator[str]:
    for arm in arms_of(fit):
        for m in sizes(fit, arm):
            for seed in fit["seed"].values:
                one = fit.sel(arm=arm, n_features=m, seed=seed)
                neurons = "–" if arm in SIZELESS else m
                score, copied = float(one["test_score"]), int(one["longest_copy"])
                cells = LOOKS[arm].name, neurons, seed, f"{score:.3f}", copied
                written, note = (html.escape(str(one[name].values)) for name in ("text", "note"))
                text = f"<b>{prompt}</b>{written}" if written else f"<i>{note}</i>"
                yield (
                    "<tr>" + "".join(f"<td>{x}" for x in cells) + f'<td class="text">{text}</tr>\n'
                )
