"""The documentation: a strict site that needs no network, links and paths that exist."""

import html.parser
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from tripartite import declarations

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)
# Paths of the repository, as pages name them in place of a link.
PATH = re.compile(r"`((?:benchmarks|config|docs|envs|tests|workflow)/[\w./-]*|test_\w+\.py)`")
OF_USERS = {"config/studies/mine.yaml"}  # paths of files that users make
RESOURCES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


def text_of(page):
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def anchors(page):
    """The anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", text_of(page), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """In the repository as GitHub shows it: files beside the page, headings in them."""
    for link in LINK.findall(text_of(page)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}: there is no such file"
        if anchor:
            other = target.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(other), f"{page}: {link}: {other} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_pages_exist(page):
    for path in {*PATH.findall(text_of(page))} - OF_USERS:
        assert (ROOT / path).exists() or (ROOT / "tests" / path).exists(), f"{page}: no {path}"


class Resources(html.parser.HTMLParser):
    """What a page of the site fetches when it is opened."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name == RESOURCES.get(tag)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built where a dead link, also one to an anchor, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    for kind in declarations.kinds():
        assert (site / f"kinds/{kind}.html").is_file()


def test_the_site_fetches_nothing_from_a_network(site):
    """Scripts, styles, fonts and pictures are files of the site, and are there."""
    for page in site.rglob("*.html"):
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.found, page
        for resource in resources.found:
            assert not re.match(r"\w+:|//", resource), f"{page}: {resource}"
            folder = site if resource.startswith("/") else page.parent  # 404.html is at any depth
            assert (folder / resource.lstrip("/")).is_file(), f"{page}: {resource}"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(['\"]?([^'\")]+)", style.read_text(encoding="utf-8")):
            assert address.startswith("data:") or not re.match(r"\w+:|//", address), address


@pytest.mark.parametrize("kind", declarations.kinds().values(), ids=lambda kind: kind.name)
def test_every_kind_says_its_equation_cost_and_limits(kind):
    if kind.role in ("experiment", "data", "claims"):
        for key in ("equation", "cost", "limits"):
            assert len(getattr(kind, key)) > 40, f"kinds/{kind.name}/kind.yaml: {key}: is missing"
