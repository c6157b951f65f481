"""Networks trained from scratch: arms by explicit loops, streaming, resuming, divergence."""

import math
import re
import string

import numpy as np
import pytest
import torch

from tripartite import declarations, job
from tripartite.contracts import UserError, check, describe
from tripartite.kinds.trained import arms, tasks, training
from tripartite.kinds.trained.checks import faults
from tripartite.kinds.trained.train import Settings, results
from tripartite.streams import stream

NAMES = (*arms.ATTENTION, "gru")
LINEAR = ("random", "learned", "leak", "astromorphic")
CAUSAL = arms.Shape(11, 11, 12, True, False, 16, 2, 2)
WHOLE = arms.Shape(0, 5, 12, False, True, 16, 2, 2)  # numbers, one target, no order
LETTERS = " " + string.ascii_lowercase
TEXT = "a quick brown fox jumps over a lazy dog and then sleeps " * 4


def made(arm, shape, m=6, dtype=torch.float64, seed=0):
    network = arms.network(arm, shape, m, arms.width(arm, shape, m)).to_empty(device="cpu")
    arms.initialise(network, lambda name: stream(3, "x", seed, name))
    for block in getattr(network, "blocks", []):
        torch.nn.init.constant_(block.of_last, 0.5)
    if arm == "astromorphic":  # where alpha is not 1 and differs between heads
        with torch.no_grad():
            for block in network.blocks:
                block.attention.alpha += torch.tensor([-0.2, 0.1])
    return network.to(dtype)


def inputs_of(shape, n=3, tokens=None):
    rng = np.random.default_rng(1)
    size = n, tokens or shape.n_tokens
    if shape.n_symbols:
        return torch.from_numpy(rng.integers(shape.n_symbols, size=size))
    return torch.from_numpy(rng.standard_normal(size))


def text_task(context=8, text=TEXT):
    """The next letter of a text, which is all that is trained on and tested."""
    places = np.array([LETTERS.index(letter) for letter in text])

    def draw(rng, n):
        starts = rng.integers(len(text) - context, size=n)
        windows = torch.from_numpy(places[starts[:, None] + np.arange(context + 1)])
        return windows[:, :-1], windows[:, 1:]

    held = draw(np.random.default_rng(0), 16)
    return tasks.Task(
        title="a fox",
        n_symbols=27,
        n_outputs=27,
        n_tokens=context,
        causal=True,
        draw=draw,
        validation=held,
        test=held,
        unit="bits per character",
        baselines={"order 0": 4.0},
        letters=LETTERS,
        training_text=text,
    )


def settings(**changes):
    known = declarations.kinds()["trained"].settings["properties"]
    given = {key: part["default"] for key, part in known.items() if "default" in part}
    small = {"n_features": [4, 6], "d_model": 8, "n_heads": 2, "n_layers": 1, "n_seeds": 2}
    small |= {"steps": 10, "batch": 4, "learning_rates": [0.01, 0.03], "sample_length": 9}
    return Settings(**given | small | {"prompts": ["a fox", "the"]} | changes)


def run(task, checkpoint=None, workers=1, **changes):
    checkpoint = {} if checkpoint is None else checkpoint
    return results(task, 5, "x", settings(**changes), "cpu", workers, checkpoint)


def assert_same(a, b):
    for name in b.variables:
        x, y = a[name].values, b[name].values
        assert x.tolist() == y.tolist() if x.dtype == object else x.tobytes() == y.tobytes(), name


@pytest.fixture(scope="module")
def trained():
    return run(text_task())


# What the arms compute.


def rates(attention, x, head, of_keys):
    """phi of one vector of one head, by its formula."""
    if isinstance(attention, arms.Random):
        u = attention.omega[head] @ x
        return torch.exp(u - x @ x / 2) / math.sqrt(len(u))
    if isinstance(attention, arms.Learned):
        u = (attention.of_keys if of_keys else attention.of_queries)[head] @ x
        return torch.cat([u.exp() / u.exp().sum(), (-u).exp() / (-u).exp().sum()])
    u = attention.hidden[head] @ x
    return torch.where(u > 0, 1 + u, u.exp()) + 1e-6


def by_loops(arm, attention, q, k, v):
    """The network as it stands in the paper: H and g are written, then read, query by query."""
    output, log_p = torch.zeros_like(v), torch.zeros(v.shape[:-1], dtype=v.dtype)
    for b, head, t in np.ndindex(q.shape[:3]):
        n = t + 1 if attention.causal else q.shape[2]
        if arm == "softmax":
            kernel = torch.stack([torch.exp(q[b, head, t] @ k[b, head, i]) for i in range(n)])
            output[b, head, t], log_p[b, head, t] = (
                kernel @ v[b, head, :n] / kernel.sum(),
                (kernel.sum().log()),
            )
            continue
        memory, g = 0, 0
        for i in range(n):
            phi = rates(attention, k[b, head, i], head, True)
            if arm == "leak":
                kept = torch.exp(-attention.log_leak[head].exp())
                memory, g = kept * memory, kept * g
            place = 0
            if arm == "astromorphic":
                near = torch.exp(-attention.log_nearness.exp())
                r = sum(near ** abs(i - j) * x for j, x in enumerate(attention.places))
                place = rates(attention, r, head, True)
            memory, g = memory + torch.outer(phi + place, v[b, head, i]), g + phi
        phi = rates(attention, q[b, head, t], head, False)
        p = phi @ (g ** attention.alpha[head] if arm == "astromorphic" else g)
        output[b, head, t], log_p[b, head, t] = phi @ memory / p, p.log()
    return output, log_p


@pytest.mark.parametrize("shape", [CAUSAL, WHOLE])
@pytest.mark.parametrize("arm", arms.ATTENTION)
def test_all_tokens_at_once_are_the_loop_and_token_by_token(arm, shape):
    shape = shape._replace(n_tokens=5, n_layers=1)
    attention = made(arm, shape).blocks[0].attention
    q, k, v = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 2, 5, 8)))
    with torch.no_grad():
        got, log_p, values = attention(q, k, v)
        wanted = by_loops(arm, attention, q, k, v)
        torch.testing.assert_close((got, log_p), wanted, rtol=1e-9, atol=1e-9)
        assert values is v
        memory, outputs = attention.empty(v[:, :, 0]), []
        for t in range(5):
            memory = attention.write(memory, k[:, :, t], v[:, :, t])
            if shape.causal:
                outputs.append(attention.read(memory, q[:, :, t])[:2])
        if not shape.causal:
            outputs = [attention.read(memory, q[:, :, t])[:2] for t in range(5)]
        streamed = tuple(torch.stack(parts, 2) for parts in zip(*outputs))
    torch.testing.assert_close(streamed, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arm", NAMES)
def test_streaming_is_the_parallel_form(arm):
    """Logits of a whole network, token by token; the context may be longer than in training."""
    network, inputs = made(arm, CAUSAL), inputs_of(CAUSAL, tokens=20)
    past, streamed = network.empty(len(inputs)), []
    with torch.no_grad():
        for symbols in inputs.T:
            logits, past = network.step(past, symbols)
            streamed.append(logits)
        torch.testing.assert_close(torch.stack(streamed, 1), network(inputs), rtol=1e-9, atol=1e-9)


def kept(past):
    """How many numbers are kept of the past."""
    if isinstance(past, torch.Tensor):
        return past.numel()
    return sum(map(kept, past)) if isinstance(past, list | tuple) else 0


@pytest.mark.parametrize("arm", NAMES)
def test_what_is_kept_of_the_past_stays_flat(arm):
    """It has the declared size, but for a counter; of softmax attention alone it grows."""
    network = made(arm, CAUSAL)
    past, sizes = network.empty(1), []
    with torch.no_grad():
        for _ in range(200):
            past = network.step(past, torch.zeros(1, dtype=torch.int64))[1]
            sizes.append(kept(past))
    declared = arms.state_size(network, CAUSAL, 6)
    if arm == "softmax":
        last = 3 * CAUSAL.d_model * CAUSAL.n_layers
        assert sizes[11] == declared and sizes[199] - last == (declared - last) * 200 / 12
    else:
        counters = CAUSAL.n_layers if arm == "astromorphic" else 0
        assert set(sizes) == {declared + counters}


def test_leaks_from_none_to_all():
    """Without leak it is `learned`; with a leak beyond all others a token reads itself alone."""
    network, inputs = made("leak", CAUSAL), inputs_of(CAUSAL)
    same = made("learned", CAUSAL)
    same.load_state_dict(network.state_dict(), strict=False)
    q, k, v = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 2, 5, 8)))
    with torch.no_grad():
        assert not torch.allclose(network(inputs), same(inputs))
        for block in network.blocks:
            block.attention.log_leak.fill_(-torch.inf)
        torch.testing.assert_close(network(inputs), same(inputs))
        network.blocks[0].attention.log_leak.fill_(4)
        torch.testing.assert_close(network.blocks[0].attention(q, k, v).output, v)


def test_many_random_neurons_are_softmax_attention():
    shape = CAUSAL._replace(n_layers=1)
    q, k, v = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 2, 12, 8))) / 4
    wanted = made("softmax", shape).blocks[0].attention(q, k, v)
    errors = []
    for m in (100, 10000):
        network = arms.network("random", shape, m, 1).to_empty(device="cpu").double()
        arms.initialise(network, lambda name: stream(3, "x", name))
        found = network.blocks[0].attention(q, k, v)
        errors.append(float((found.log_p - wanted.log_p).square().mean().sqrt()))
    assert errors[1] < 0.03 and 5 < errors[0] / errors[1] < 20


@pytest.mark.parametrize("arm", LINEAR)
def test_large_queries_and_keys_stay_in_range(arm):
    """float32 of norms at which products of firing rates leave its range, beside float64."""
    shape = CAUSAL._replace(n_layers=1)
    q, k, v = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 2, 12, 8)))
    q, k = 4 * q, 4 * k
    fine, coarse = (made(arm, shape, dtype=x).blocks[0].attention for x in (torch.float64, None))
    coarse = coarse.float()
    small = [x.float().requires_grad_() for x in (q, k, v)]
    found = coarse(*small)
    torch.testing.assert_close(found.output.double(), fine(q, k, v).output, rtol=1e-3, atol=1e-3)
    found.output.sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in (*small, *coarse.parameters()))


@pytest.mark.parametrize(
    ("shape", "m"),
    [(CAUSAL._replace(d_model=64, n_symbols=68), 64), (WHOLE._replace(d_model=32), 16)],
)
def test_arms_have_as_many_parameters(shape, m):
    n = {
        arm: arms.n_parameters(arms.network(arm, shape, m, arms.width(arm, shape, m)))
        for arm in NAMES
    }
    assert all(abs(one / n["softmax"] - 1) < 0.02 for one in n.values()), n
    assert n["random"] == n["softmax"]  # random hidden weights are not trained
    with pytest.raises(ValueError, match="got 4096, with which learned has"):
        arms.width("learned", shape, 4096)


def test_arms_begin_alike():
    """Parameters that arms share have the same first numbers; norms begin at 1, biases at 0."""
    a, b = (made(arm, CAUSAL) for arm in ("softmax", "leak"))
    assert torch.equal(a.blocks[1].qkv.weight, b.blocks[1].qkv.weight)
    assert (b.norm.weight == 1).all() and (b.leave.bias == 0).all()
    torch.testing.assert_close(
        b.blocks[0].attention.log_leak.exp(), torch.tensor([0.1, 0.01]).to(b.norm.weight)
    )


# What a run gives.


def test_what_it_returns(trained):
    check(describe(trained, "trained"), "trained", "here")
    assert trained.sizes["n_features"] == 2 and list(trained["step"].values) == list(range(11))
    whole = trained.sel(arm=["random", "learned", "leak", "astromorphic"])
    assert whole["test_score"].notnull().all() and (whole["note"] == "").all()
    once = trained.sel(arm=["softmax", "gru"])
    assert once["test_score"].sel(n_features=4).notnull().all()
    assert once["test_score"].sel(n_features=6).isnull().all()
    assert (once["note"].sel(n_features=6) == "not run: does not depend on n_features").all()
    loss = trained["validation_loss"].sel(n_features=4)
    assert (loss.min("step") < loss.isel(step=0) - 0.3).all()  # all learn
    np.testing.assert_array_equal(
        loss["step"][loss.argmin("step")], trained["best_step"].sel(n_features=4)
    )
    bits = loss.min("step") / math.log(2)
    np.testing.assert_allclose(trained["validation_score"].sel(n_features=4), bits, rtol=1e-6)
    np.testing.assert_allclose(
        trained["mean_test_score"], trained["test_score"].mean("seed", skipna=False)
    )
    change = trained["knockout_score"] - trained["test_score"]
    np.testing.assert_allclose(
        trained["knockout_change"], change.mean("seed", skipna=False).transpose("knockout", ...)
    )
    assert trained["knockout_score"].sel(arm="gru").isnull().all()
    best = trained["tuning_loss"].sel(n_features=4).fillna(np.inf).argmin("learning_rate")
    np.testing.assert_array_equal(
        trained["learning_rate"][best], trained["best_learning_rate"].sel(n_features=4)
    )


def test_texts_are_of_the_trained_network(trained):
    texts = trained["text"].sel(n_features=4).values
    assert all(len(text) == 9 and set(text) <= set(LETTERS) for text in texts.ravel())
    for text, n in zip(texts.ravel(), trained["longest_copy"].sel(n_features=4).values.ravel()):
        parts = [text[i:j] for i in range(9) for j in range(i + 1, 10) if text[i:j] in TEXT]
        assert n == max(map(len, parts))


class CutOff(dict):
    """A checkpoint that is there until it was written to a number of times."""

    def __init__(self, writes):
        self.left = writes

    def __setitem__(self, name, arrays):
        super().__setitem__(name, {key: x.copy() for key, x in arrays.items()})
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("writes", [6, 12, 19])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(writes, tmp_path):
    """In a tuning, in a training, and between two; through files as well, with two workers."""
    one = {"arms": ["leak"], "n_features": [4]}
    whole = run(text_task(), **one)
    store = CutOff(writes)
    with pytest.raises(KeyboardInterrupt):
        run(text_task(), store, **one)
    again = job.Checkpoint(tmp_path / "trained.nc", {"seed": 1})
    again.update(store)
    assert_same(run(text_task(), again, workers=2, **one), whole)


def test_a_checkpoint_of_another_network_is_named_and_stays():
    one = {"arms": ["softmax"], "n_features": [4]}
    store = CutOff(1)
    with pytest.raises(KeyboardInterrupt):
        run(text_task(), store, **one)
    before = {name: dict(part) for name, part in store.items()}
    words = (
        "softmax-4-rate-0-running was made with width 32, wanted 64: it belongs to another study"
    )
    with pytest.raises(UserError, match=words):
        run(text_task(), store, **one, d_model=16)
    assert store.keys() == before.keys()
    assert all(
        x.tobytes() == store[n][key].tobytes()
        for n, part in before.items()
        for key, x in part.items()
    )


def test_one_learning_rate_diverges_and_the_others_go_on():
    found = run(text_task(), arms=["softmax"], n_features=[4], learning_rates=[0.01, 1e30])
    note = found["tuning_note"].squeeze().values
    assert note[0] == "" and note[1].startswith("diverged: the loss was nan at step ")
    assert found["tuning_loss"].squeeze().isnull().values.tolist() == [False, True]
    assert (found["best_learning_rate"] == 0.01).all() and found["test_score"].notnull().all()


def test_if_all_learning_rates_diverge_the_file_says_so():
    found = run(text_task(), arms=["softmax"], n_features=[4], learning_rates=[1e30])
    check(describe(found, "trained"), "trained", "here")
    assert (found["note"] == "not run: every learning rate diverged").all()
    assert found["mean_test_score"].isnull().all() and found["best_learning_rate"].isnull().all()


def test_a_training_that_diverges_keeps_the_last_good_weights():
    network = made("softmax", WHOLE, dtype=torch.float32)
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((8, 12)).astype(np.float32))
    data = inputs, torch.from_numpy(rng.integers(5, size=8))
    seen = []

    def batch(step):
        return (inputs * math.nan if step == 7 else inputs), data[1]

    def advance(steps):
        seen.append(steps)

    at, store = training.evaluation_steps(20), {}
    assert at == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    found = training.train(network, batch, data, at, 0.01, store, "a", {"arm": "x"}, advance)
    assert found.note == "diverged: the loss was nan at step 7" and found.best_step == 6
    assert sum(seen) == 20 and np.isnan(found.validation_loss[4:]).all()
    assert training.loss(network, data) == found.validation_loss[3]


def test_the_step_size_rises_and_falls():
    sizes = np.array([training.step_size(step, 100) for step in range(100)])
    np.testing.assert_allclose(sizes[:10], np.arange(1, 11) / 10)
    assert sizes.max() == 1 and (np.diff(sizes[10:]) < 0).all() and 0 < sizes[-1] < 0.02


@pytest.mark.parametrize("unit", ["bits per character", "accuracy"])
def test_scores_are_of_the_targets_that_are_asked(unit):
    """By a loop over single targets."""
    network, inputs = made("softmax", CAUSAL), inputs_of(CAUSAL, n=4)
    targets = torch.from_numpy(np.random.default_rng(2).integers(11, size=(4, 12)))
    targets[:, :5] = -100
    values = []
    with torch.no_grad():
        for row, wanted in zip(network(inputs).log_softmax(-1), targets):
            for logs, target in zip(row[5:], wanted[5:]):
                bits = -float(logs[target]) / math.log(2)
                values.append(float(logs.argmax() == target) if unit == "accuracy" else bits)
    assert training.score(network, (inputs, targets), unit) == pytest.approx(np.mean(values))
    same = training.score(network, (inputs, targets), unit, lambda layer, read: read.output)
    assert same == pytest.approx(np.mean(values))


def test_texts_by_hand():
    """The likeliest letters at a temperature near 0; prompts side by side are those alone."""
    network = made("learned", CAUSAL)
    prompts, uniform = [[1, 2, 3], [4]], np.full((9, 2), 0.5)
    written = training.write(network, prompts, 6, 1e-6, uniform)
    for prompt, text in zip(prompts, written):
        assert training.write(network, [prompt], 6, 1e-6, uniform[:, :1]) == [text]
        whole = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                whole.append(int(network(torch.tensor([whole]))[0, -1].argmax()))
        assert whole[len(prompt) :] == text


def test_letters_are_drawn_with_their_probabilities():
    network = made("gru", CAUSAL)
    n, temperature = 4000, 0.7
    uniform = np.random.default_rng(0).random((1, n))
    written = np.ravel(training.write(network, [[3]] * n, 1, temperature, uniform))
    with torch.no_grad():
        logits = network(torch.tensor([[3]]))[0, 0]
    wanted = torch.softmax(logits / temperature, -1).numpy()
    share = np.bincount(written, minlength=11) / n
    assert (np.abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / n)).all()


# What is refused.


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"n_features": [4, 7]}, "n_features", "7 is odd"),
        ({"d_model": 20, "n_heads": 4}, "d_model", "20 is no multiple of 8, .*; use 24"),
        ({"learning_rates": [0.1, 0.01]}, "learning_rates", "0.01 comes after 0.1"),
    ],
)
def test_settings_that_do_not_fit(changes, key, words):
    given = vars(settings()) | changes
    (fault,) = faults(("a",), given, given, None, {})
    assert fault[0] == ("a", key) and re.match(words, fault[1])
    assert not [*faults(("a",), vars(settings()), {}, None, {})]


def test_a_prompt_with_letters_that_the_task_lacks():
    with pytest.raises(UserError, match="prompts: 'Ä fox': got 'Ä', wanted only the 27 letters"):
        run(text_task(), prompts=["Ä fox"])


def test_hidden_layers_too_large_for_the_parameters():
    with pytest.raises(
        UserError, match="n_features: got 512, with which learned .*or raise d_model"
    ):
        run(text_task(), n_features=[512], arms=["learned"])
