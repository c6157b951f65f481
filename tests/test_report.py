"""The report in a real browser."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from conftest import ROOT, snakemake
from tripartite import declarations, job
from tripartite.about import usage

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
pytestmark = pytest.mark.skipif(
    not os.path.exists(DRIVER) and not (shutil.which("apt-get") and os.getuid() == 0),
    reason="without Chromium, and without apt-get and root to install it",
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1400,1000"
)
MINI = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5, 2], "n_inputs": 3, "n_tokens": 8, "d_head": 4}
            },
            "network": {"n_features": [10, 100], "n_seeds": 2},
        },
        "trained": {
            "data": {"same_as": "small"},
            "learned": {
                "n_features": [4],
                "n_seeds": 2,
                "max_steps": 20,
                "trained_on": ["draw-0"],
                "validated_on": ["draw-1"],
            },
        },
    },
    "claims": {
        "hundred": {
            "part": 'Quotes " and *stars*',
            "sentence": 'One hundred "neurons" err by {error:[.2f]}, not by `0`.',
            "rests_on": {
                "error": {
                    "experiment": "small",
                    "variable": "output_error_all",
                    "at": {"n_features": 100},
                }
            },
            "test": {"at_most": 0},
        }
    },
    "figures": {
        "network": {},
        "overview": {"experiments": ["small"]},
        "claims": {},
        "trace": {"experiments": ["small"]},
        "learned_features": {"experiments": ["trained"]},
    },
}
AXE = Path(str(importlib.util.find_spec("axe_core_python").origin)).with_name("axe.min.js")


@pytest.fixture(scope="module", params=["mini", "default"])
def study(request, tmp_path_factory):
    """A study that was run, as (folder of the project, name, folder of its reports)."""
    made = tmp_path_factory.mktemp("report")
    name, folder = request.param, ROOT
    if name == "mini":
        folder = made
        (folder / "config/studies").mkdir(parents=True)
        (folder / "config/studies/mini.yaml").write_text(yaml.safe_dump(MINI))
        done = snakemake(folder, "-s", str(ROOT / "Snakefile"), "--config", "study=mini")
        assert done.returncode == 0, done.stdout
    elif not (ROOT / "results/default/index.html").is_file():
        pytest.skip("the results of the study default are not here; run it first")
    for form in ("html", "zip"):
        report = ("--report", str(made / f"report.{form}"), "--config", f"study={name}")
        done = snakemake(folder, "-s", str(ROOT / "Snakefile"), *report)
        assert done.returncode == 0, done.stdout
    return folder, name, made


@pytest.fixture
def browser(tmp_path):
    if not os.path.exists(DRIVER):
        for command in ("update", "install --yes --no-install-recommends chromium chromium-driver"):
            subprocess.run(["apt-get", "-qq", *command.split()], check=True, capture_output=True)
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def click(browser, css, word=""):
    def found(driver):
        return [x for x in driver.find_elements(By.CSS_SELECTOR, css) if word in x.text]

    WebDriverWait(browser, 20).until(found)[0].click()


def figures_of(study) -> list[str]:
    """The figures of a study in the order of the story."""
    folder, name, _ = study
    given = yaml.safe_load((folder / f"config/studies/{name}.yaml").read_text())
    return declarations.in_order(given["figures"])


def caption_of(study, figure: str) -> str:
    folder, name, _ = study
    return (folder / f"results/{name}/figures/{figure}.txt").read_text()


def errors_of(browser) -> list:
    return [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.parametrize("form", ["html", "zip"])
def test_a_report_is_read_offline(form, study, browser, tmp_path):
    """Overview and findings first, then how it was made; each figure with caption and settings."""
    _, name, made = study
    page = made / f"report.{form}"
    assert page.stat().st_size < 15e6
    if form == "zip":
        shutil.unpack_archive(page, tmp_path / "unpacked")
        (page,) = tmp_path.glob("unpacked/**/report.html")
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(
        lambda x: "divides" in x.find_element(By.TAG_NAME, "body").text
    )
    front = browser.find_element(By.TAG_NAME, "body").text
    places = [
        front.index(words)
        for words in (
            *["Claims."] * (name == "mini"),
            "What was found.",
            "Software.",
            "Run times and memory",
            "Settings of the study",
        )
    ]
    assert places == sorted(places)
    asks = declarations.figures()["overview"].question
    overview = browser.find_element(By.CSS_SELECTOR, f'img[alt="{asks}"]')
    assert browser.execute_script("return arguments[0].naturalWidth", overview) > 300
    answer = " ".join(caption_of(study, "trace").split("\n\n")[0].split())
    assert answer in " ".join(front.split())
    for words in (
        f"study: {name}",
        f"torch {torch.__version__.split('+')[0]}",
        f"Computed on cpu ({job.processor()})" if name == "mini" else "Computed on cpu",
        "sigma_squared:",
    ):
        assert words in front
    if name == "mini":
        rows = [row.text for row in browser.find_elements(By.TAG_NAME, "tr")]
        wanted = r"simulate 1 \d+ \d+ \(small\) \d{3} \(small\)"
        assert any(re.fullmatch(wanted, row) for row in rows), rows
        assert 'Quotes " and *stars*' in [row.strip() for row in rows]
        wanted = r'Contradicted \w+ One hundred "neurons" err by 0\.\d\d \[.+\], not by `0`\.'
        assert any(re.fullmatch(wanted, row) for row in rows), rows
    parts = list(dict.fromkeys(map(declarations.category, figures_of(study))))
    shown = [x.text for x in browser.find_elements(By.TAG_NAME, "a")]
    assert [text for text in shown if text in parts] == parts  # in the order of the story
    click(browser, "a", "1 Attention from neurons")
    question = declarations.figures()["trace"].question
    rows = browser.find_elements(By.TAG_NAME, "tr")
    (row,) = [row for row in rows if question in row.text]
    row.find_element(By.CSS_SELECTOR, "a[iconname=eye]").click()
    images = "return [...document.images].map(x => x.naturalWidth)"
    WebDriverWait(browser, 20).until(lambda x: max(x.execute_script(images), default=0) > 300)
    click(browser, "a[iconname=information-circle]")
    WebDriverWait(browser, 20).until(
        lambda x: "Settings of its experiments" in x.find_element(By.TAG_NAME, "body").text
    )
    body = " ".join(browser.find_element(By.TAG_NAME, "body").text.split())
    for paragraph in caption_of(study, "trace").split("\n\n"):
        assert " ".join(paragraph.split()) in body
    assert "n_seeds:" in body and errors_of(browser) == []


def test_the_gallery_has_every_figure(study, browser):
    """Picture, alternative text, caption, table and settings of each; also on a phone."""
    folder, name, _ = study
    page = folder / f"results/{name}/index.html"
    assert (
        page.stat().st_size + sum(x.stat().st_size for x in page.parent.glob("figures/*.svg"))
        < 15e6
    )
    browser.get(page.as_uri())
    figures = figures_of(study)
    sections = browser.find_elements(By.TAG_NAME, "section")
    assert [section.get_attribute("id") for section in sections] == figures
    for figure, section in zip(figures, sections):
        image = section.find_element(By.TAG_NAME, "img")
        browser.execute_script("arguments[0].scrollIntoView()", image)
        loaded = "return arguments[0].complete && arguments[0].naturalWidth"
        WebDriverWait(browser, 20).until(lambda x, i=image, s=loaded: x.execute_script(s, i) > 200)
        first, *paragraphs = caption_of(study, figure).strip().split("\n\n")
        assert image.get_attribute("alt") == first
        assert all(" ".join(paragraph.split()) in section.text for paragraph in paragraphs)
        links = {x.get_attribute("href") for x in section.find_elements(By.TAG_NAME, "a")}
        assert (page.parent / f"figures/{figure}.csv").as_uri() in links
        assert all(Path(link.removeprefix("file://")).is_file() for link in links)
    width = "return [document.documentElement.scrollWidth, window.innerWidth]"
    browser.set_window_size(420, 800)
    inner, outer = browser.execute_script(width)
    assert inner <= outer + 1
    if name == "mini":
        (claims,) = browser.find_elements(By.CSS_SELECTOR, "table")
        assert re.search(r"Contradicted \w+ One hundred", claims.text)
    assert errors_of(browser) == []


def test_our_own_pages_are_accessible(study, browser):
    """axe-core finds nothing critical or serious in the gallery and in pages beside figures."""
    folder, name, _ = study
    pages = [folder / f"results/{name}/index.html", *folder.glob(f"results/{name}/figures/*.html")]
    for page in pages:
        browser.get(page.as_uri())
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
        )
        faults = [
            f"{page.name}: {fault['id']}: {fault['nodes'][0]['html'][:120]}"
            for fault in found["violations"]
            if fault["impact"] in ("critical", "serious")
        ]
        assert faults == []


def test_there_is_no_report_before_a_run(tmp_path):
    said = snakemake(
        tmp_path,
        "-s",
        str(ROOT / "Snakefile"),
        "--report",
        "report.html",
        "--config",
        "study=quick",
    )
    assert said.returncode == 1 and "Traceback" not in said.stdout
    assert "There is no report of the study quick: run it first, " in said.stdout


def test_the_last_run_counts_and_only_folders_of_the_study(tmp_path):
    for name, text in (
        (
            "a/simulate-1.log",
            "simulate: 9.0 s, at most 1 MB of memory\nsimulate: 2.5 s, at most 300 MB of memory\n",
        ),
        ("a/simulate-2.log", "simulate: 1.0 s, at most 700 MB of memory\n"),
        ("a/fit.log", "error: it failed\n"),
        ("b/fit.log", "fit: 1.0 s, at most 300 MB of memory\n"),
        ("figures/trace.log", "draw: 1.0 s, at most 200 MB of memory\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = usage([Path("results/x/a"), Path("results/x/figures")], tmp_path)
    assert found == {"simulate": [(2.5, 300, "a"), (1.0, 700, "a")], "draw": [(1.0, 200, "trace")]}
