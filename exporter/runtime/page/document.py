"""The whole page: one file that asks for no other and can be read without scripts."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from exporter.artifact.glimpses import Glimpse, glimpses
from exporter.artifact.records import Manifest
from exporter.distribution import Distribution
from exporter.markup import Child, Markup, element, fragment
from exporter.runtime.describe import counted, size_text, totals
from exporter.runtime.page.calls import functions, signatures
from exporter.runtime.page.head import head
from exporter.runtime.page.objects import Values, objects
from exporter.runtime.page.parts import code, cut, definitions, left_out, section, table
from exporter.runtime.page.programs import Inside, programs
from exporter.runtime.summary import Summary, summarise

# Of an array with more elements as many are looked at, in blocks.
LOOKED_AT = 2**18

# So many variables, the largest first, are shown with their values.
MAX_WITH_VALUES = 1000

_MAX_FILES = 500
_MAX_TITLE = 200
_MAX_METADATA = 2000


def page(
    manifest: Manifest,
    folder: Path,
    *,
    with_values: bool = True,
    inside: Mapping[int, Inside] | str | None = None,
) -> str:
    """An artifact as one page of HTML.

    Args:
      manifest: of the artifact.
      folder: where it is. The calls to copy load it from there.
      with_values: whether the variables are read, to show how their values are distributed.
      inside: what is known of the operations of the programs, by their numbers, or why nothing is.
    """
    summary = summarise(manifest)
    values = distributions(manifest, folder) if with_values else {}
    path, model = str(folder), _model_name(folder)
    sections = [
        signatures(manifest, summary, path, model),
        functions(summary),
        objects(manifest, summary, values, _note(manifest, values, with_values=with_values)),
        programs(manifest, inside or "They were not read."),
        _files(manifest),
        _extras(summary),
    ]
    body = fragment(
        element("a", "Skip to the content", href="#content", class_="skip"),
        _header(summary, model),
        element(
            "div",
            _contents(sections),
            element("main", *sections, id="content"),
            class_="layout",
        ),
        element("footer", f"Written from {path}. Nothing of the artifact was run."),
    )
    title = f"{cut(summary['class_name'], _MAX_TITLE)} \N{MIDDLE DOT} saved model"
    top = head(title, _resource("page.css"), _resource("page.js"))
    root = element("html", top, element("body", body, _script()), lang="en")
    return f"<!doctype html>\n{root}\n"


def distributions(manifest: Manifest, folder: Path) -> Values:
    """How the values of the largest variables are distributed, by the numbers of the variables."""
    sized = sorted(
        enumerate(manifest.variables), key=lambda item: (-math.prod(item[1].shape), item[0])
    )
    wanted = dict(sized[:MAX_WITH_VALUES])
    return {
        number: Distribution.of(found.elements, found.blocks)
        if isinstance(found, Glimpse)
        else f"not read: {found}"
        for number, found in glimpses(folder, wanted, LOOKED_AT)
    }


def _note(manifest: Manifest, values: Values, *, with_values: bool) -> str:
    if not with_values:
        return "Their values were not read."
    hidden = len(manifest.variables) - MAX_WITH_VALUES
    if hidden > 0:
        return f"The values of the {MAX_WITH_VALUES:,} largest were read, of {hidden:,} others not."
    is_sampled = any(
        isinstance(found, Distribution) and found.looked_at < math.prod(manifest.variables[n].shape)
        for n, found in values.items()
    )
    return f"Of large ones {LOOKED_AT:,} values each were read." if is_sampled else ""


def _model_name(folder: Path) -> str:
    """What a server would call the model: its folder, or what holds its versions."""
    absolute = folder.absolute()
    is_version = absolute.name.isdigit() and absolute.parent.name
    return (absolute.parent.name if is_version else absolute.name) or "model"


@cache
def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _script() -> Markup:
    return element("script", Markup(_resource("page.js")))


def _header(summary: Summary, model: str) -> Markup:
    created = summary["created"].replace("T", " ").replace("+00:00", " UTC")
    size = sum(one["bytes"] for one in summary["variables"])
    lead = ", ".join(
        (
            counted(len(summary["signatures"]), "signature"),
            f"{counted(len(summary['variables']), 'array')} of {size_text(size)}"
            if summary["variables"]
            else "no arrays",
            counted(summary["programs"]["count"], "program"),
        )
    )
    return element(
        "header",
        element("p", "Saved model ", code(model), class_="kicker"),
        element("h1", cut(summary["class_name"], _MAX_TITLE)),
        element("p", lead, class_="lead"),
        definitions(_about(summary, created), "about"),
    )


def _about(summary: Summary, created: str) -> Iterator[tuple[str, Child]]:
    writers = [f"{name} {version}" for name, version in summary["written_by"].items()]
    programs = summary["programs"]
    yield "saved", element("time", created, datetime=summary["created"])
    yield "platforms", cut(", ".join(summary["platforms"])) or "none"
    yield "needs", f"StableHLO {summary['stablehlo_version']} or newer"
    if summary["x64"]:
        yield "", "64-bit arrays (JAX_ENABLE_X64=1)"
    yield "written by", f"{cut(', '.join(writers))}, in format {summary['format_version']}"
    yield "variables", totals(summary["variables"])
    yield "programs", f"{counted(programs['count'], 'file')}, {size_text(programs['bytes'])}"
    yield "content of programs", code(summary["content"]["programs"])
    yield "content of variables", code(summary["content"]["variables"])
    if summary["tags"]:
        yield "tags", cut(", ".join(summary["tags"]))


def _contents(sections: list[Markup | None]) -> Markup:
    titles = {
        "signatures": "Signatures",
        "functions": "Functions",
        "variables": "Object tree",
        "programs": "Programs",
        "files": "Files",
        "extras": "Extras",
    }
    links = [
        element("li", element("a", title, href=f"#{identity}"))
        for (identity, title), one in zip(titles.items(), sections, strict=True)
        if one is not None
    ]
    return element("nav", element("ul", *links), aria_label="Sections")


def _files(manifest: Manifest) -> Markup:
    records = sorted(manifest.files, key=lambda record: record.path)
    shown = records[:_MAX_FILES]
    rows = [
        (code(one.path), size_text(one.size), element("code", one.blake3, class_="digest"))
        for one in shown
    ]
    return section(
        "files",
        "Files",
        element("p", "As the manifest lists them. They were not compared with it.", class_="quiet"),
        table("Files of the artifact", ("File", "Size", "BLAKE3"), rows),
        left_out(len(records) - len(shown), "files"),
        count=f"{len(records):,}",
    )


def _extras(summary: Summary) -> Markup | None:
    """What most artifacts do not have."""
    parts: list[Markup] = []
    if summary["assets"]:
        rows = [
            (code(", ".join(one["paths"])), code(one["file"]), size_text(one["bytes"]))
            for one in summary["assets"][:_MAX_FILES]
        ]
        parts += [element("h3", "Assets"), table("Assets", ("Attribute", "File", "Size"), rows)]
    if summary["samples"]:
        counts = [
            (code(name), f"{count:,}")
            for name, count in list(summary["samples"].items())[:_MAX_FILES]
        ]
        parts += [element("h3", "Samples"), table("Samples", ("Of", "Calls"), counts)]
    if summary["function_aliases"]:
        names = [
            (code(one), code(of))
            for one, of in list(summary["function_aliases"].items())[:_MAX_FILES]
        ]
        parts += [element("h3", "Aliases"), table("Aliases", ("Alias", "Function"), names)]
    if summary["metadata"]:
        known = [
            (code(key), code(cut(json.dumps(value, ensure_ascii=False), _MAX_METADATA)))
            for key, value in list(summary["metadata"].items())[:_MAX_FILES]
        ]
        parts += [element("h3", "Metadata"), table("Metadata", ("Key", "Value"), known)]
    return section("extras", "Extras", *parts) if parts else None
