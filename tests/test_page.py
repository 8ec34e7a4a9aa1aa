"""The page of an artifact: what it says, what it never does, and how it is used in a browser."""

import base64
import contextlib
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

import exporter
from exporter import Dim, SaveOptions, TensorSpec, Variable
from exporter.artifact import records
from exporter.artifact.glimpses import BLOCKS, glimpses
from exporter.artifact.manifest import read
from exporter.cli import main
from exporter.distribution import BARS, Distribution
from exporter.runtime.page.document import page
from exporter.runtime.page.programs import Inside

ROOT = Path(__file__).parents[1]
EVIL = "</script><img src=x onerror=\"document.title='caught'\">"


class Inner:
    def __init__(self):
        self.kernel = jnp.linspace(-1, 1, 4096).reshape(64, 64)
        self.broken = jnp.array([jnp.nan, jnp.inf, 0, 2])
        self.sizes = (3, 3)


class Model:
    """Signatures of every sort that a call can be made up for."""

    def __init__(self):
        self.layers = [Inner(), Inner()]
        self.calls = Variable(jnp.zeros((), jnp.int32), trainable=False)
        self.again = self.layers[0]

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", min=2, max=8, multiple_of=4), 64), "float32", name="image"),
            TensorSpec((), "float32"),
        ]
    )
    def classify(self, image, scale=1.0):
        """Logits of images."""
        self.calls.value += 1
        return {"logits": image @ self.layers[0].kernel * scale}

    @exporter.function(
        input_signature=[
            TensorSpec(("2*n", "n - 1"), "bfloat16", name="class"),
            TensorSpec(("n",), "bool", name="it's a <mask>"),
        ]
    )
    def odd(self, x, mask):
        return x.sum(), mask

    @exporter.function(
        input_signature=[
            TensorSpec((), jax.random.key(0).dtype, name="rng"),
            TensorSpec(None, "int32", name="any", max_rank=2),
        ]
    )
    def draw(self, rng, x):
        return jax.random.normal(rng, (2,)), x

    @exporter.function(input_signature=[TensorSpec((1, 40, 40), "uint8", name="large")])
    def large(self, x):
        return x


class Evil:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = Model()
    names = ("classify", "odd", "draw", "large")
    path = tmp_path_factory.mktemp("page") / "model" / "1"
    signatures = {f"{name} it": getattr(model, name) for name in names}
    exporter.save(model, path, signatures, platforms=("cpu",))
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    evil = Evil()
    vars(evil)[EVIL] = jnp.ones(3)
    evil.texts = {EVIL: jnp.ones(2), "\u202eabc\x1b[31m\n": jnp.zeros((0, 2))}
    spec = TensorSpec(("n",), "float32", name=EVIL)
    evil.call = exporter.function(lambda x: {EVIL: x}, input_signature=[spec])
    path = tmp_path_factory.mktemp("hostile") / "a&b'<i>"
    options = SaveOptions(metadata={EVIL: EVIL}, tags=[EVIL])
    exporter.save(
        evil, path, {f"'; echo x #{EVIL}": evil.call}, platforms=("cpu",), options=options
    )
    return path


class _Parsed(HTMLParser):
    """The elements of a page, and the text of each figure by its title."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.figures, self.text = [], [], ""
        self._inside = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("figcaption", "pre"):
            self._inside.append(tag)
            self.figures.append("")

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        self.text += data
        if self._inside:
            self.figures[-1] += data

    def examples(self, title):
        pairs = zip(self.figures, self.figures[1:], strict=False)
        return [code for caption, code in pairs if caption == f"{title}Copy"]


@pytest.fixture(scope="module")
def parsed(folder):
    return _Parsed(page(read(folder), folder))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1000).astype(np.float32),
        np.array([np.nan, np.inf, -np.inf, 0, 1, 2.5]),
        np.array([-1.5e308, 0, 1.5e308]),
        np.array([1.0, np.nextafter(1.0, 2)]),
        np.arange(-5, 100, dtype=np.int8),
        np.array([True, False, True]),
        np.array([0, 1, -2], ml_dtypes.bfloat16),
        np.array([3 + 4j, 0], np.complex64),
        np.array([7, 7, 7], np.uint32),
    ],
)
def test_a_distribution_is_what_numpy_says(values):
    found = Distribution.of(values)
    exact = np.abs(values) if values.dtype.kind == "c" else values
    exact = exact.astype(np.longdouble if exact.dtype == np.float64 else np.float64)
    finite = exact[np.isfinite(exact)]
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    assert found.zeros == np.mean(exact == 0)
    assert found.nans == np.mean(np.isnan(exact))
    assert found.infinities == np.mean(np.isinf(exact))
    assert found.mean == pytest.approx(float(finite.mean()), rel=1e-12, abs=1e-12)
    assert len(found.counts) == BARS
    assert sum(found.counts) == finite.size
    if 1e-9 < finite.max() - finite.min() < 1e300:
        assert found.counts == tuple(np.histogram(finite.astype(np.float64), BARS)[0])
        assert found.std == pytest.approx(float(finite.std()), rel=1e-12)


def test_nothing_finite_is_said_to_be_that():
    assert Distribution.of(np.full(4, np.nan)).minimum is None
    assert Distribution.of(np.zeros(0)).counts == ()


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("name", ["format_1_jax_0_10", "format_2_jax_0_12"])
def test_whole_arrays_are_seen_as_orbax_restores_them(name):
    golden = ROOT / "tests" / "golden" / name
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(golden / "variables")
    variables = dict(enumerate(read(golden).variables))
    seen = dict(glimpses(golden, variables, 2**20))
    unseen = [variables[number] for number in variables.keys() - seen.keys()]
    assert all(one.storage == "empty" or one.dtype.startswith("key<") for one in unseen)
    assert len(seen) >= 5
    for number, found in seen.items():
        value = restored
        for key in variables[number].key:
            value = value[key]
        assert found.elements.dtype.name == variables[number].dtype
        assert found.elements.tobytes() == np.asarray(value).tobytes()


def test_a_large_array_is_seen_in_blocks_spread_over_it(tmp_path):
    whole = np.arange(2**16, dtype=np.float32)
    exporter.save(
        (lambda p, x: x + p["w"][0], {"w": jnp.asarray(whole)}),
        tmp_path / "m",
        input_signature=[TensorSpec((), "float32")],
        platforms=("cpu",),
    )
    records_of = dict(enumerate(read(tmp_path / "m").variables))
    ((_, seen),) = glimpses(tmp_path / "m", records_of, 2**10)
    assert (seen.elements.size, seen.blocks) == (2**10, BLOCKS)
    assert (seen.elements[0], seen.elements[-1]) == (0, 2**16 - 1)
    assert np.array_equal(np.unique(seen.elements), seen.elements)  # each once, in order


def test_the_call_in_python_runs_as_it_stands(parsed, folder):
    calls = parsed.examples("Python")
    shown = []
    for call in calls:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(call, {})
        shown.append(out.getvalue().splitlines())
    assert shown == [
        ["logits (4, 64) float32"],
        ["output_0 () bfloat16", "output_1 (2,) bool"],
        ["output_0 (2,) float32", "output_1 (2,) int32"],
        ["output_0 (1, 40, 40) uint8"],
    ]
    assert all(str(folder) in call for call in calls)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash: the calls of curl were not run")
def test_the_body_for_curl_is_a_request_of_the_protocol(parsed, folder):
    # The shell runs the line as it is, with a curl that prints what it would send, and where to.
    fake = 'curl() { echo "$2"; if [ "${@: -1}" = @- ]; then cat; else echo "${@: -1}"; fi; }\n'
    signatures = exporter.load(folder).signatures
    bodies = {}
    for name, call in zip(signatures, parsed.examples("curl"), strict=True):
        done = subprocess.run(
            ["bash", "-c", fake + call], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        address, _, body = done.stdout.partition("\n")
        if call.startswith("#"):
            bodies[name] = call
            continue
        assert address == "http://localhost:8000/v2/models/model/infer"
        bodies[name] = json.loads(body)["inputs"]
    datatypes = {"float32": "FP32", "bfloat16": "BF16", "bool": "BOOL", "uint8": "UINT8"}
    assert bodies.pop("draw it") == (
        "# There is no request in JSON: the protocol has no datatype for key<fry>."
    )
    for name, inputs in bodies.items():
        arrays = {}
        for one in inputs:
            spec = signatures[name].signature.inputs[one["name"]]
            assert one["datatype"] == datatypes[spec.dtype.name]
            arrays[one["name"]] = np.array(one["data"], spec.dtype).reshape(one["shape"])
        assert signatures[name](**arrays)  # which refuses what does not fit


class Staged:
    @exporter.function(
        input_signature=[
            TensorSpec((2, 8, 8), "float32", name="pixels"),
            TensorSpec((2, Dim("n", min=3)), "int32", name="ids"),
            TensorSpec((2,), "float32", name="weight"),
        ]
    )
    def score(self, pixels, ids, weight):
        return {"scores": pixels[:, 0, :2] + ids.sum(1)[:, None] * weight[:, None]}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged") / "m"
    around = [
        exporter.stages.Image(input="photo", output="pixels"),
        exporter.stages.Vocabulary(["a", EVIL], input="class", output="ids", unknown=EVIL),
        exporter.stages.Labels(["x", "y"]),
    ]
    exporter.save(Staged(), folder, stages={"serving_default": around}, platforms=("cpu",))
    return folder


def test_a_signature_with_stages_is_called_by_them(staged, monkeypatch):
    pillow = pytest.importorskip("PIL.Image", reason="no Pillow: calls with pictures were not run")
    parsed = _Parsed(page(read(staged), staged))
    monkeypatch.chdir(staged.parent)
    pillow.new("L", (3, 3)).save("picture.png")
    (call,) = parsed.examples("Python")
    assert 'model.pipelines["serving_default"](' in call
    assert '"photo": [pathlib.Path("picture.png")] * 2,' in call
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(call, {})
    assert out.getvalue().splitlines() == ["label (2,) <U1", "label_score (2,) float32"]
    for stage in ("stage image: input photo, output pixels", "stage labels: output scores"):
        assert stage in parsed.text

    (call,) = parsed.examples("curl")
    inputs = json.loads(shlex.split(call.replace("\\\n", " "))[-1])["inputs"]
    values = {}
    for one in inputs:
        array = np.array(one["data"]).reshape(one["shape"])
        assert one["datatype"] == ("FP32" if one["name"] == "weight" else "BYTES")
        values[one["name"]] = array
        if one.get("parameters") == {"content_type": "base64"}:
            values[one["name"]] = [{"b64": text} for text in array.tolist()]
    assert values["class"].tolist() == [[EVIL] * 3] * 2
    found = exporter.load(staged).pipelines["serving_default"](
        **values | {"weight": np.zeros(2, np.float32)}
    )
    assert found["label"].tolist() == ["x", "x"]


def test_the_page_says_what_the_artifact_holds(parsed, folder):
    manifest = read(folder)
    digests = [record.blake3 for record in manifest.files]
    for text in (
        "Model",
        "batch at least 2, at most 8 and a multiple of 4",
        "Logits of images.",
        manifest.content.programs,
        *digests,
        "NaN 25%",
        "infinite 25%",
        "tuple of 3, 3",
        "the same as again",
        "changes calls",
    ):
        assert text in parsed.text


def test_the_page_asks_for_nothing_and_allows_only_its_own_script(parsed):
    names = [name for name, _ in parsed.elements]
    assert names.count("script") == names.count("style") == names.count("h1") == 1
    assert {"header", "main", "nav", "footer"} <= set(names)
    policies = [a["content"] for n, a in parsed.elements if n == "meta" and "http-equiv" in a]
    files = resources.files("exporter.runtime.page")
    for kind, name in (("style", "page.css"), ("script", "page.js")):
        digest = hashlib.sha256(files.joinpath(name).read_bytes()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policies[0]
    assert policies[0].startswith("default-src 'none';")
    for _, attributes in parsed.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        address = attributes.get("src") or attributes.get("href") or "#"
        assert address.startswith(("#", "data:"))


def test_colours_have_the_contrast_that_text_needs():
    style = resources.files("exporter.runtime.page").joinpath("page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for text in ("ink", "soft", "accent", "alarm"):
            for ground in ("paper", "raised"):
                assert _contrast(colours[text], colours[ground]) >= 4.5  # WCAG 2.2, 1.4.3 (AA)


def _contrast(one, other):
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_page_is_never_overwritten_unasked_and_is_whole_or_not_there(folder, tmp_path, capsys):
    target = tmp_path / "out.html"
    unread = ["--no-programs"]
    assert main(["show", str(folder), "--html", str(target), "--no-values", *unread]) == 0
    assert "Their values were not read." in target.read_text("utf-8")
    target.write_text("mine")
    assert main(["show", str(folder), "--html", str(target)]) == 1
    assert f"'{target}' exists. Give --html another name" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["show", str(folder), "--html", str(target), "--overwrite", *unread]) == 0
    assert target.read_text("utf-8").endswith("</html>\n")
    assert main(["show", str(folder), "--html", str(tmp_path), "--overwrite"]) == 1
    assert "is a folder" in capsys.readouterr().err
    assert main(["show", str(folder), "--html", str(tmp_path / "no" / "out.html"), *unread]) == 1
    assert capsys.readouterr().err.endswith("out.html: No such file or directory\n")
    assert list(tmp_path.iterdir()) == [target]
    for words in (["--overwrite"], ["--html", str(target), "--json"]):
        with pytest.raises(SystemExit):
            main(["show", str(folder), *words])


def test_the_page_is_made_without_jax_and_lists_operations(folder, tmp_path):
    code = "import sys; from exporter.cli import main; assert main(sys.argv[1:]) == 0\n"
    code += "assert not {'jax', 'jaxlib', 'orbax'} & set(sys.modules)"
    arguments = ["show", str(folder), "--html", str(tmp_path / "out.html"), "--size", "batch=8"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found = _Parsed((tmp_path / "out.html").read_text("utf-8"))
    assert "histogram" in [attributes.get("class") for _, attributes in found.elements]
    # Two for each pair that the matrix product multiplies, one for each element scaled or counted.
    assert f"{(2 * 8 * 64 * 64 + 8 * 64 + 1) / 1000:.1f} kFLOP" in found.text
    listed = [text for text in found.figures if "stablehlo.dot_general" in text]
    line = next(one for one in listed[0].splitlines() if one.startswith("stablehlo.dot_general"))
    assert line.startswith("stablehlo.dot_general(f32[?, 64], f32[64, 64]) -> f32[?, 64]")


def test_a_damaged_variable_is_said_to_be_unread(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for path in (copy / "variables").glob("ocdbt.process_0/d/*"):
        path.write_bytes(b"")
    text = page(read(copy), copy)
    assert "not read: " in text
    assert text.endswith("</html>\n")


def _many(folder, count, *, deep=False):
    """A manifest of many variables, in one list or each in a list in a list."""
    manifest = read(folder)
    variable = manifest.variables[0]
    leaves = [records.NodeRecord("variable", index=number) for number in range(count)]
    root = records.NodeRecord("object", "Many", [records.ScalarRecord("str", "all")], [1])
    if deep:
        above = [records.NodeRecord("list", children=[number]) for number in range(2, 150)]
        above.append(records.NodeRecord("list", children=list(range(150, 150 + count))))
        nodes = [root, *above, *leaves]
    else:
        nodes = [root, records.NodeRecord("list", children=list(range(2, count + 2))), *leaves]
    return records.replace(manifest, nodes=nodes, variables=[variable] * count)


def test_many_variables_and_operations_are_folded_and_counted(folder):
    lines = [(number % 3, f"op {number}") for number in range(30_000)]
    inside = Inside({f"op.{number}": 300 - number for number in range(300)}, lines, {})
    text = page(_many(folder, 10_500), folder, with_values=False, inside={0: inside})
    assert text.count('class="row variable"') == 10_000
    assert "500 more parts left out of this page." in text
    assert "10,000 more operations left out" in text
    assert "200 more kinds of operations left out" in text
    assert len(text) < 5 * 2**20
    assert "20 more parts left out" in page(_many(folder, 20, deep=True), folder, with_values=False)


def test_texts_of_megabytes_are_cut(folder):
    manifest = read(folder)
    text = "x" * 2**20
    root = records.replace(manifest.nodes[0], name=text)
    long = records.replace(
        manifest, signatures={text: 0}, tags=[text], nodes=[root, *manifest.nodes[1:]]
    )
    assert len(page(long, folder, with_values=False)) < 2**17


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: the page was not used in a browser"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)}: the page was not used in a browser")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open the page of an artifact in a window. What it asks for and complains of is told."""
    contexts = []

    def visit(folder, width, **options):
        target = tmp_path / f"{width}.html"
        target.write_text(page(read(folder), folder), "utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        window = context.new_page()
        told = []
        window.on("console", lambda message: told.append(message.text))
        window.on("pageerror", lambda error: told.append(str(error)))
        window.on("dialog", lambda dialog: told.append(dialog.message))
        window.on(
            "request",
            lambda one: (
                told.append(one.url)
                if one.url != target.as_uri() and not one.url.startswith("data:")
                else None
            ),
        )
        window.goto(target.as_uri())
        return window, told

    yield visit
    for context in contexts:
        context.close()


def test_the_page_is_used_in_a_browser(visit, folder, parsed):
    window, told = visit(folder, 1280, permissions=["clipboard-read", "clipboard-write"])
    assert window.evaluate("document.styleSheets[0].cssRules.length") > 50  # the policy lets it
    row = window.locator("li.variable", has_text="kernel").first
    assert not row.is_visible()
    window.locator("summary", has_text="[1]").press("Enter")  # opened from the keyboard
    assert row.is_visible()
    assert row.locator("svg.histogram").bounding_box()["width"] > 50

    window.get_by_label("Find variables").fill("layers[1] kernel")
    window.get_by_text("1 shown", exact=True).wait_for()
    visible = window.locator("li.variable:visible")
    assert visible.count() == 1
    assert "kernel" in visible.inner_text()
    window.get_by_label("Find variables").press("Escape")
    window.get_by_text("5 shown", exact=True).wait_for()

    for title in ("Python", "curl"):
        button = window.get_by_role("button", name=f"Copy the call in {title}").first
        button.click()
        is_done = "button => button.textContent === 'Copied'"
        window.wait_for_function(is_done, arg=button.element_handle())
        copied = window.evaluate("navigator.clipboard.readText()")
        assert copied == parsed.examples(title)[0]
    assert told == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(visit, folder, scheme):
    window, told = visit(folder, 390, color_scheme=scheme)
    window.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert window.evaluate("document.documentElement.scrollWidth") == 390
    ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 3 * 128) == (scheme == "light")
    assert told == []


def test_hostile_names_are_text(visit, hostile):
    window, told = visit(hostile, 390)
    window.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert window.title() != "caught"
    assert window.locator("img, b img, script[src]").count() == 0
    assert window.locator("script").count() == 1
    assert window.get_by_text(EVIL).count() > 5
    assert "\u202e" not in window.content()
    assert "\x1b" not in window.content()
    assert window.evaluate("document.documentElement.scrollWidth") == 390
    assert told == []
    example = _Parsed(window.content()).examples("Python")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(example[0], {})
    assert out.getvalue() == f"{EVIL} (1,) float32\n"
