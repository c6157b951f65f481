"""The report in a real browser."""

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
from tripartite import job
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
STUDY = {
    "experiments": {
        "small": {
            "data": {
                "synthetic": {"sigma_squared": [0.5, 2], "n_inputs": 2, "n_tokens": 8, "d_head": 4}
            },
            "network": {"n_features": [10, 100], "n_seeds": 2},
        }
    },
    "figures": {"theory": {"experiments": ["small"]}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "config/studies").mkdir(parents=True)
    (folder / "config/studies/mini.yaml").write_text(yaml.safe_dump(STUDY))
    for more in ((), ("--report", "report.html"), ("--report", "report.zip")):
        done = snakemake(folder, "-s", str(ROOT / "Snakefile"), *more, "--config", "study=mini")
        assert done.returncode == 0, done.stdout
    return folder


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


@pytest.mark.parametrize("form", ["report.html", "report.zip"])
def test_figures_can_be_seen_offline(form, folder, browser, tmp_path):
    """Front page, figure and caption are shown, without errors in the console."""
    page = folder / form
    assert page.stat().st_size < 15e6
    if form.endswith(".zip"):
        shutil.unpack_archive(page, tmp_path / "unpacked")
        (page,) = tmp_path.glob("unpacked/**/report.html")
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(
        lambda x: "divides" in x.find_element(By.TAG_NAME, "body").text
    )
    front = browser.find_element(By.TAG_NAME, "body").text
    for words in (
        "study: mini",
        f"torch {torch.__version__.split('+')[0]}",
        f"Computed on cpu ({job.processor()})",
        "sigma_squared:",
    ):
        assert words in front
    rows = [row.text for row in browser.find_elements(By.TAG_NAME, "tr")]
    assert any(
        re.fullmatch(r"simulate 1 \d+ \d+ \(small\) \d{3} \(small\)", row) for row in rows
    ), rows
    click(browser, "a", "Results")
    click(browser, "a", "Random features")
    click(browser, "a[iconname=eye]")
    figures = "return [...document.images].map(x => x.naturalWidth)"
    WebDriverWait(browser, 20).until(lambda x: max(x.execute_script(figures), default=0) > 300)
    click(browser, "a[iconname=information-circle]")
    WebDriverWait(browser, 20).until(
        lambda x: "beside the closed form" in x.find_element(By.TAG_NAME, "body").text
    )
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


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
