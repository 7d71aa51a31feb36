"""The dashboards as a person meets them: Chromium, a real JupyterLab (and Voila), a real kernel, keyboard and mouse.
Pictures of it all are kept in _artifacts/."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import forked
import forked_kernel
import nbformat
import pytest
from made_up_runs import MadeUpRun, made_up_run, made_up_sweep, random_snapshot
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from semgan_nb.micrographs import embedded
from semgan_nb.preparation import prepare

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
pytest.importorskip("jupyterlab")

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "_artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = 60_000  # ms; a busy machine is given time

PICTURE = """name => {                 // a hash of the pixels of a dashboard's picture, and how many are dark
  const image = document.querySelector('.semgan-dashboard img.semgan-' + name);
  if (!image || !image.complete || !image.naturalWidth) return null;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let hash = 0, ink = 0;
  for (let i = 0; i < data.length; i += 4) { hash = (hash * 31 + data[i] + 7 * data[i+1] + 13 * data[i+2]) >>> 0; if (data[i] < 200) ink++; }
  return {hash, ink, alt: image.alt, width: image.getBoundingClientRect().width};
}"""


def find_browser():
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    with sync_api.sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser: install chromium, or run `playwright install chromium`"
)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def server(root, arguments, port, answers):
    """A Jupyter program with folders of its own, until the block ends; it has answered when it is handed over."""
    folders = {
        name: str(root / f".{name.lower()}")
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    if forked.POSSIBLE:
        forked_kernel.kernelspec(root / ".jupyter_path")
        folders["JUPYTER_PATH"] = str(root / ".jupyter_path")
    quiet = Path(folders["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with open(root / "server.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=root,
            env={**os.environ, **folders, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(240):
                assert process.poll() is None, (root / "server.log").read_text()[-3000:]
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{answers}", timeout=1).read()
                    break
                time.sleep(0.25)
            else:
                raise RuntimeError("the server did not answer within a minute")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs, a sweep, a snapshot and one notebook for each dashboard."""
    root = tmp_path_factory.mktemp("lab")
    made_up_run(root / "runs" / "broken", state="failed", message="OSError: no space left on device", seed=1)
    made_up_sweep(root / "sweep")
    random_snapshot(root / "snapshot-000000.safetensors")
    setup = (
        "import threading\nimport ipywidgets\nfrom semgan_nb.dashboards.data import data_steps; from"
        " semgan_nb.dashboards.live import live_run; from semgan_nb.dashboards.study import target_sweep; from"
        " semgan_nb.dashboards.explorer import latent_walk; from semgan_nb.dashboards.augmentation import"
        " augment_gallery, controller_panel; from semgan_nb.dashboards.compare import material_panel\nfrom"
        " semgan_nb.micrographs import embedded"
    )
    prepare(embedded(), root / "data.zip", 32, window=128, stride=128, progress=False)
    live = 'live_run("runs/{}", "runs/broken", every=0.3)'
    calls = {
        "live": live.format("first"),
        "voila-live": live.format("other"),
        "sweep": 'target_sweep("sweep", every=0.5)',
        "data": 'data_steps("data.zip", embedded())',
        "augment": "augment_gallery()",
        "controller": "controller_panel()",
        "steel": 'material_panel("data.zip", "snapshot-000000.safetensors", count=40)',
        "walk": 'latent_walk("snapshot-000000.safetensors", frames=121)',
    }
    for name, call in calls.items():
        cells = [new_markdown_cell(f"# {name}"), new_code_cell(setup), new_code_cell(f"box, controls = {call}\nbox")]
        kernel = dict(display_name="Python 3 (ipykernel)", language="python", name="python3")
        nbformat.write(new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), root / f"{name}.ipynb")
    return root


@pytest.fixture(scope="module")
def lab(place):
    port = free_port()
    arguments = [
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=test",
        f"--ServerApp.root_dir={place}",
        "--expose-app-in-browser",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    with server(place, arguments, port, "/api/status?token=test") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield chromium.new_context()  # one for all pages: what JupyterLab is made of is loaded and compiled once
        chromium.close()


class Seat:
    """Someone at a page with a dashboard on it."""

    def __init__(self, page, name, foreign=()):
        self.page, self.name, self.errors = page, name, []
        page.set_default_timeout(SLOW)
        page.on(
            "console",
            lambda message: (
                message.type == "error" and not message.text.startswith(foreign) and self.errors.append(message.text)
            ),
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def run_all(self):
        self.page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext")
        self.page.evaluate("""async () => {
            const app = window.jupyterapp, panel = app.shell.currentWidget;
            await panel.context.ready; await panel.sessionContext.ready;
            await app.commands.execute('notebook:run-all-cells');
        }""")
        wrong = self.page.locator(
            "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        ).all_inner_texts()
        assert not wrong, wrong

    def ask(self, expression):
        """What an expression is in the kernel."""
        return self.page.evaluate(
            """async code => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const reply = await kernel.requestExecute({code: '', user_expressions: {v: code}, store_history: false}).done;
            const v = reply.content.user_expressions.v;
            return v.status === 'ok' ? v.data['text/plain'] : v.evalue;
        }""",
            expression,
        )

    def kernel_has(self, expression, value):
        """Wait until the kernel agrees with the page: sliders and lists tell it a moment later."""
        for _ in range(100):
            if (found := self.ask(expression)) == value:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{expression} is {found}, not {value}")

    def picture(self, name):
        self.page.wait_for_function(f"name => (({PICTURE})(name) || {{}}).ink > 50", arg=name)
        return self.page.evaluate(PICTURE, name)

    def changed(self, name, before):
        """Wait until a picture is another one than before."""
        self.page.wait_for_function(
            f"([name, hash]) => {{ const now = ({PICTURE})(name); return now && now.hash !== hash; }}",
            arg=[name, before["hash"]],
        )
        return self.page.evaluate(PICTURE, name)

    def says(self, text):
        """Wait until the dashboard says something."""
        words = "document.querySelector('.semgan-dashboard')?.innerText.replace(/\\s+/g, ' ')"
        try:
            self.page.wait_for_function(f"text => {words}?.includes(text)", arg=text)
        except sync_api.TimeoutError:
            raise AssertionError(f"the dashboard does not say {text!r}, but {self.page.evaluate(words)!r}") from None

    def labelled(self, label):
        """A control, by the name that a screen reader says."""
        return self.page.locator(".semgan-dashboard").get_by_label(label, exact=True)

    def drag(self, label, share):
        """Take a slider by the mouse and drag it along a share of its length, in many small steps."""
        handle = self.labelled(label)
        handle.scroll_into_view_if_needed()
        box, track = (
            handle.bounding_box(),
            handle.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]").bounding_box(),
        )
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * track["width"], y, steps=25)
        self.page.mouse.up()

    def shoot(self, what):
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.locator(".semgan-dashboard").first.scroll_into_view_if_needed()
        self.page.wait_for_timeout(200)
        self.page.screenshot(path=ARTIFACTS / f"{self.name}-{what}.png")

    def accessible(self):
        """axe-core finds nothing serious in the dashboard."""
        axe = pytest.importorskip(
            "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
        )
        found = axe.Axe().run(self.page, context=".semgan-dashboard").response
        assert len(found["passes"]) > 5
        serious = [
            f"{v['id']}: {node['html']}"
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]
        assert not serious, serious


@pytest.fixture(scope="module")
def desk(lab, browser):
    """JupyterLab in a page, for all tests: what it is made of is run once."""
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{lab}/lab?token=test&reset", timeout=SLOW)
    page.wait_for_function("async () => { await window.jupyterapp?.restored; return window.jupyterapp; }", timeout=SLOW)
    yield page
    page.close()


@pytest.fixture
def seat(desk):
    """A function that opens a notebook in JupyterLab; at the end no error may stand in the console."""

    def sit(name):
        seat.here = Seat(desk, name)
        desk.evaluate(
            "async path => { await window.jupyterapp.commands.execute('docmanager:open', {path}); }", f"{name}.ipynb"
        )
        desk.wait_for_selector(".jp-NotebookPanel .jp-Notebook", timeout=SLOW)
        return seat.here

    yield sit
    errors = seat.here.errors
    desk.evaluate("""async () => {
        const panel = window.jupyterapp.shell.currentWidget, id = panel?.sessionContext?.session?.id;
        document.activeElement?.blur();  // a field that was left half filled says its value now
        await panel?.sessionContext?.session?.kernel?.requestExecute({code: '', silent: true}).done;
        panel?.dispose();
        if (id) await window.jupyterapp.serviceManager.sessions.shutdown(id);
    }""")
    assert not errors, errors


def test_data(seat, place):
    at = seat("data")
    at.run_all()
    at.says("data.zip: ")
    at.says("standard deviation of")
    sheet, levels = at.picture("sheet"), at.picture("levels")
    assert sheet["width"] > 300
    at.accessible()
    at.shoot("all")
    at.labelled("step").select_option("median")
    sheet, levels = at.changed("sheet", sheet), at.changed("levels", levels)
    at.says("spot1_0d_0.png")
    at.labelled("page").focus()
    at.page.keyboard.press("ArrowRight")
    at.says("spot3_0d_3.png")
    at.changed("sheet", sheet)
    at.kernel_has("(controls['step'].value, controls['page'].value, controls['notice'].value)", "('median', 2, '')")
    at.shoot("median")


def test_augmentation(seat, place):
    at = seat("augment")
    at.run_all()
    at.says("xflip. Meaningful")
    effect = at.picture("effect")
    at.accessible()
    at.labelled("transform").select_option("lumaflip")
    at.says("Not meaningful: it turns light martensite dark")
    effect = at.changed("effect", effect)
    at.labelled("p").focus()
    at.page.keyboard.press("Home")
    effect = at.changed("effect", effect)  # p = 0: as it is
    at.labelled("seed").fill("3")
    at.shoot("lumaflip")


def test_controller(seat, place):
    at = seat("controller")
    at.run_all()
    at.says("p would be")
    figure = at.picture("figure")
    at.labelled("target").focus()
    at.page.keyboard.press("ArrowRight")
    at.changed("figure", figure)
    at.accessible()
    at.shoot("target")


def test_steel(seat, place):
    at = seat("steel")
    at.run_all()
    at.says(
        "Is it the same material? phase fraction: cannot be read, for the grey levels of the micrographs were matched"
    )
    pictures = {name: at.picture(name) for name in ("distributions", "extremes", "overview")}
    assert pictures["extremes"]["width"] > 300
    at.accessible()
    at.shoot("fraction")
    at.labelled("descriptor").select_option("chord length of the phase along rows")
    at.says("chord length of the phase along rows: different. Real")
    for name in ("distributions", "extremes"):
        pictures[name] = at.changed(name, pictures[name])
    at.labelled("phase").select_option("dark")
    for name in ("distributions", "extremes", "overview"):
        pictures[name] = at.changed(name, pictures[name])
    at.labelled("floor").select_option("whole groups")
    at.changed("overview", pictures["overview"])
    at.kernel_has(
        "(controls['descriptor'].value, controls['phase'].value, controls['notice'].value)",
        "('chord_phase_rows', 'dark', '')",
    )
    at.page.get_by_text("all descriptors in words").click()
    at.says("phase boundary per area: ")
    at.shoot("chords")


def test_live_run(seat, place):
    run = MadeUpRun(place / "runs" / "first")
    run.tick(0)
    at = seat("live")
    at.run_all()
    at.says("first running · 0 of 96 kimg")
    at.says("broken failed")
    at.says("OSError: no space left on device; more in log.txt")
    curves, samples = at.picture("curves"), at.picture("samples")
    assert "ladder" in curves["alt"] and curves["width"] > 300

    for kimg in (8, 16):
        run.tick(kimg)
    at.says("16 of 96 kimg · 40 images/s · 33 min 20 s left")
    curves, samples = at.changed("curves", curves), at.changed("samples", samples)

    at.page.evaluate(
        """() => { window.busy = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute(
        {code: 'import time; time.sleep(4)', store_history: false}).done.then(() => { window.busy = null; }); }"""
    )
    run.tick(20, snapshot=False)
    at.says("20 of 96 kimg")  # a cell is running, and the dashboard goes on
    assert at.page.evaluate("window.busy !== null")
    curves = at.changed("curves", curves)
    at.page.wait_for_function("() => window.busy === null")

    at.labelled("samples at").focus()
    for _ in range(2):
        at.page.keyboard.press("ArrowDown")  # from the newest to 48 and 32 kimg, which the other run has
    at.kernel_has("controls['kimg'].value", "32.0")
    at.changed("samples", samples)
    at.accessible()
    at.shoot("running")

    at.page.get_by_role("button", name="Stop").first.focus()
    at.page.keyboard.press("Enter")
    at.says("it finishes what it is at")
    assert run.writer.stop_file.exists()
    run.end("stopped", "asked to stop")
    at.says("asked to stop; the same command goes on from here")
    at.shoot("stopped")

    at.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.restartKernel(); }")
    at.run_all()  # after a restart the files say the same
    at.says("asked to stop; the same command goes on from here")
    at.picture("curves")


def test_sweep(seat, place):
    at = seat("sweep")
    at.run_all()
    at.says("9 runs: 9 done")
    bands, best, samples = (at.picture(name) for name in ("bands", "best", "samples"))
    at.accessible()
    at.shoot("all")

    at.labelled("samples at").focus()
    at.page.keyboard.press("ArrowLeft")  # from 48 to 32 kimg
    at.says("32 kimg")
    samples, bands = at.changed("samples", samples), at.changed("bands", bands)
    at.drag("samples at", -0.9)
    at.says("0 kimg")
    samples = at.changed("samples", samples)

    at.labelled("0.5").focus()
    at.page.keyboard.press("Space")  # its check box
    best, bands, samples = (
        at.changed(name, before) for name, before in (("best", best), ("bands", bands), ("samples", samples))
    )
    at.labelled("logarithmic axis").focus()
    at.page.keyboard.press("Space")
    best = at.changed("best", best)
    at.labelled("seed").focus()
    at.page.keyboard.press("End")
    samples = at.changed("samples", samples)
    at.kernel_has(
        "(controls['settings'].value, controls['log'].value, controls['seed'].value, controls['notice'].value)",
        "((0.3, 'noaug'), False, 2, '')",
    )

    bands = at.picture("bands")
    run = MadeUpRun(place / "sweep" / "ada_target=0.7-seed0", ada_target=0.7)
    run.tick(16)
    at.says("1 running")
    at.changed("bands", bands)
    at.says("ada_target 0.7, seed 0 running · 16 of 96 kimg")
    run.end("failed", "FloatingPointError: the generator's loss is nan")
    at.says("the generator's loss is nan")
    at.shoot("chosen")


def test_walk(seat, place):
    at = seat("walk")
    at.run_all()
    at.says("t = 0.000 · frame 0 of 120 · phase fraction 0.")
    image, curve = at.picture("image"), at.picture("curve")
    assert image["width"] > 300
    at.accessible()

    at.labelled("position").focus()
    for _ in range(3):
        at.page.keyboard.press("ArrowRight")
    at.says("frame 3 of 120")
    image, curve = at.changed("image", image), at.changed("curve", curve)
    at.drag("position", 0.5)
    at.page.wait_for_function(
        "() => /frame (5|6|7)\\d of 120/.test(document.querySelector('.semgan-dashboard').innerText)"
    )
    image = at.changed("image", image)
    shown = int(at.labelled("position, as a number").inner_text())
    at.says(f"frame {shown} of 120")
    at.kernel_has("controls['position'].value", str(shown))

    at.labelled("from seed").fill("7")
    at.page.keyboard.press("Tab")
    image = at.changed("image", image)
    at.labelled("truncation ψ").focus()
    at.page.keyboard.press("ArrowLeft")
    image = at.changed("image", image)
    at.labelled("noise").select_option("off")
    image = at.changed("image", image)

    at.page.get_by_role("button", name="Play").click()
    at.page.wait_for_function(
        "from => Number(/frame (\\d+) of/.exec(document.querySelector('.semgan-dashboard').innerText)[1]) > from + 5",
        arg=shown,
    )
    at.shoot("playing")
    at.page.get_by_role("button", name="Pause").click()
    at.page.get_by_role("button", name="Play").wait_for()

    for button, ending in (("Save image", ".png"), ("Save film", ".mp4, 121 frames")):
        at.page.get_by_role("button", name=button).focus()
        at.page.keyboard.press("Enter")
        at.says("written: walk-7-1")
        at.page.wait_for_function(
            "text => document.querySelector('.semgan-dashboard').innerText.includes(text)", arg=ending
        )
    assert (place / "walk-7-1.mp4").stat().st_size > 1000 and list(place.glob("walk-7-1-*.png"))
    at.shoot("saved")

    leaves = (
        "(len(ipywidgets.widgets.widget._instances), sum(t.name.startswith('semgan') for t in threading.enumerate()))"
    )
    before = at.ask(leaves)
    at.run_all()  # the cell runs again: the former dashboard is gone, in the kernel and on the page
    at.says("frame 0 of 120")
    at.picture("image")
    assert at.ask(leaves) == before and at.page.locator(".semgan-dashboard").count() == 1


def test_voila(place, browser):
    pytest.importorskip("voila", reason="voila is not installed (pip install voila)")
    run, port = MadeUpRun(place / "runs" / "other"), free_port()
    run.tick(0)
    with server(
        place, ["voila", ".", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"], port, "/voila/static/voila.js"
    ) as url:

        def visit(name):
            page = browser.new_page()
            page.set_viewport_size({"width": 420, "height": 900})
            at = Seat(
                page, f"voila-{name}", foreign=("Failed to load resource: net::",)
            )  # Voila's own page asks the web for MathJax
            page.goto(f"{url}/voila/render/{name}.ipynb", timeout=SLOW)
            return at

        def leave(at):
            outside = at.page.evaluate(
                """() => [...document.querySelectorAll('.semgan-dashboard *')].filter(e => !e.parentElement.closest('.semgan-scroll') && e.getBoundingClientRect().right > window.innerWidth + 1)
                .map(e => e.className + ' ' + e.getBoundingClientRect().right)"""
            )
            assert not outside, outside
            at.accessible()
            at.shoot("narrow")
            at.page.close()
            assert not at.errors, at.errors

        at = visit("walk")
        at.says("frame 0 of 120")
        image = at.picture("image")
        at.labelled("position").focus()
        at.page.keyboard.press("ArrowRight")
        at.says("frame 1 of 120")
        at.changed("image", image)
        leave(at)

        at = visit("voila-live")
        at.says("other running · 0 of 96 kimg")
        at.says("OSError: no space left on device; more in log.txt")
        curves, samples = at.picture("curves"), at.picture("samples")
        run.tick(8)
        at.says("8 of 96 kimg")
        at.changed("curves", curves), at.changed("samples", samples)
        at.page.get_by_role("button", name="Stop").first.click()
        at.says("it finishes what it is at")
        assert run.writer.stop_file.exists()
        run.end("stopped", "asked to stop")
        at.says("asked to stop; the same command goes on from here")
        leave(at)

        at = visit("data")
        at.says("standard deviation of")
        sheet = at.picture("sheet")
        at.labelled("step").select_option("crop")
        at.changed("sheet", sheet)
        leave(at)

        at = visit("sweep")
        at.says("9 done")
        bands, samples = at.picture("bands"), at.picture("samples")
        at.labelled("0.5").focus()
        at.page.keyboard.press("Space")  # its check box
        at.changed("bands", bands), at.changed("samples", samples)
        leave(at)
