"""The documentation builds without a warning, and its programs run as they stand there."""

import argparse
import html
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import exporter
import signatures
from exporter.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"


def python_blocks(page: Path) -> int:
    return len(re.findall(r"^```python", page.read_text(encoding="utf-8"), re.MULTILINE))


WITH_PROGRAMS = sorted(
    str(page.relative_to(PAGES)) for page in PAGES.rglob("*.md") if python_blocks(page)
)

# What is compiled here runs for microseconds, and compiling it well takes most of the time.
QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.mark.parametrize("page", WITH_PROGRAMS)
def test_the_programs_of_a_page_run_as_they_stand(page: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "run_page.py", PAGES / page],
        cwd=tmp_path,
        env=os.environ | QUICKLY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= python_blocks(PAGES / page)


def test_every_public_name_has_its_place_in_the_reference():
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES.rglob("*.md"))
    told = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    public = {f"exporter.{name}" for name in exporter.__all__}
    public |= {
        f"exporter.stages.{name}"
        for name, value in vars(exporter.stages).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    for name, value in vars(signatures).items():
        is_ours = not name.startswith("_") and not inspect.ismodule(value)
        if is_ours and name not in exporter.__all__:
            public.add(f"signatures.{name}")
    assert sorted(told) == sorted(public)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as they are published."""
    if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))):
        pytest.skip("the pages were not built and their links not checked: install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    options = ["--strict", "--config-file", ROOT / "docs" / "mkdocs.yml", "--site-dir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_without_a_warning(site: Path):
    built = {page.relative_to(site).with_suffix(".md") for page in site.rglob("*.html")}
    assert built - {Path("404.md")} == {page.relative_to(PAGES) for page in PAGES.rglob("*.md")}


def test_the_pages_fetch_nothing_from_elsewhere(site: Path):
    tag = re.compile(r"<(?:script|link|img)\b[^>]*\b(?:src|href)=\"?(https?://[^\">\s]+)")
    styles = re.compile(r"(?:@import|url\()[\s\"']*(https?://[^\"')\s]+)")
    text = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.*ml")}
    text |= {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    found = [tag.findall(one) + styles.findall(one) for one in text.values()]
    assert [address for addresses in found for address in addresses] == []


def test_the_page_of_the_commands_has_all_options_of_each(site: Path):
    page = html.unescape((site / "reference" / "cli.html").read_text(encoding="utf-8"))
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert f'id="{command.name}"' in page
        options = {option for action in parser._actions for option in action.option_strings}
        assert [option for option in options if option not in page] == []


def test_the_page_of_the_format_is_the_format_itself(site: Path):
    page = (site / "reference" / "format.html").read_text(encoding="utf-8")
    text = (ROOT / "exporter" / "artifact" / "FORMAT.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = re.sub(r"<[^>]*>", "", page)
    assert len(headings) > 10
    assert [one for one in headings if one.replace("`", "") not in plain] == []
