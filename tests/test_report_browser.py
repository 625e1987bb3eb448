"""The page of the report in a real browser: what a reader sees, clicks, prints and saves."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from browser import CHROME, Page, browser_page
from helpers import TINY
from made_up import make_up_study

import sweeper
from studies.loader import load_study, parse_study, with_changes
from sweeper.report import style
from sweeper.report.files import write_files
from sweeper.report.snapshot import Snapshot, take

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROME is None, reason="no Chrome or Chromium here: what the report looks like in a browser is not tested"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Path]:
    """A study that was trained, with an awkward description, and its page."""
    folder = tmp_path_factory.mktemp("real")
    spec = with_changes(parse_study(TINY, "tiny"), description="</script><script>window.broken = true</script>", trials=40)
    result = sweeper.run_study(spec, storage=f"sqlite:///{folder}/s.db", runs=folder, in_process=True)
    return take(result.results), result.folder / "report.html"


def on_page(path: Path, test: Callable[[Page], Awaitable[Any]], **options: Any) -> tuple[Any, Page]:
    """Open a page in a browser, do something with it, and return what that gave."""

    async def go() -> tuple[Any, Page]:
        async with browser_page() as page:
            await page.open(path, **options)
            return await test(page), page

    return asyncio.run(go())


COUNTS = """[...document.querySelectorAll('.plot')].map((plot) => {
  const { xaxis, yaxis } = plot._fullLayout;
  const within = (axis, value) => value !== undefined && axis.c2p(value) >= 0 && axis.c2p(value) <= axis._length;
  const places = plot.calcdata.filter((c) => c[0].trace.type === 'scatter' && c[0].trace.mode === 'markers');
  const figure = JSON.parse(document.getElementById('data-' + plot.id).textContent);
  const box = plot.querySelector('.main-svg').getBoundingClientRect();
  return {
    id: plot.id, traces: figure.data.length, drawn: plot.data.length, width: box.width, height: box.height,
    markers: plot.querySelectorAll('.xy .scatterlayer path.point').length,
    expected: places.filter((c) => c[0].trace.xaxis === 'x' && c[0].trace.yaxis === 'y')
      .flat().filter((p) => within(xaxis, p.x) && within(yaxis, p.y)).length,
    lines: [...plot.querySelectorAll('.scatterlayer path.js-line')].filter((l) => (l.getAttribute('d') || '').length > 3).length,
    bars: plot.querySelectorAll('.barlayer .point').length,
    broken: plot.innerHTML.includes('NaN'),
  };
})"""


def test_every_figure_of_a_real_study_is_drawn_without_errors_or_network(real: tuple[Snapshot, Path]) -> None:
    study, path = real
    plots, page = on_page(path, lambda page: page.run(COUNTS))
    assert page.complaints == []
    assert page.requests == [path.as_uri()]
    names = {plot["id"] for plot in plots}
    assert {"plot-accuracy-l1", "plot-losses", "plot-curves", "plot-importances", "plot-pruning", "plot-timeline"} <= names
    assert any(name.startswith("plot-surface-") for name in names)
    for plot in plots:
        assert plot["drawn"] == plot["traces"], plot
        assert plot["width"] > 300, plot
        assert plot["height"] > 150, plot
        assert not plot["broken"], plot
        assert plot["markers"] + plot["lines"] + plot["bars"] > 0, plot
        assert plot["markers"] == plot["expected"], plot
    losses = next(plot for plot in plots if plot["id"] == "plot-losses")
    assert losses["markers"] > (study.trials["state"] == "complete").sum() / 2


def test_what_users_named_is_text_on_the_page(real: tuple[Snapshot, Path]) -> None:
    async def look(page: Page) -> Any:
        return await page.run(
            "[window.broken === undefined, document.body.innerText.includes('<script>window.broken = true</script>')]"
        )

    assert on_page(real[1], look)[0] == [True, True]


def test_a_pointer_over_a_trial_tells_its_number_and_accuracy(real: tuple[Snapshot, Path]) -> None:
    study, path = real

    async def hover(page: Page) -> str:
        plot = "document.getElementById('plot-history-epochs')"
        await page.run(f"{plot}.scrollIntoView({{block: 'center'}})")
        box = await page.run(
            f"(() => {{ const b = [...{plot}.querySelectorAll('path.point')].at(-1).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for shift in (3, 0):
            await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + shift, y=box[1])
        await page.wait_for(f"{plot}.querySelector('.hoverlayer .hovertext') !== null", 20)
        return str(await page.run(f"{plot}.querySelector('.hoverlayer').textContent"))

    said = on_page(path, hover)[0]
    found = re.search(r"trial (\d+): (\d+\.\d\d) %", said)
    assert found, said
    assert float(found[2]) == pytest.approx(100 * study.trials.loc[int(found[1]), "accuracy"], abs=0.006)


def test_the_table_sorts_filters_and_is_saved(real: tuple[Snapshot, Path]) -> None:
    study, path = real
    column = "[...document.querySelectorAll('tbody tr')].map((tr) => tr.cells[{}].textContent)"
    choose = (
        "(() => {{ const field = document.querySelector('{}'); field.value = '{}'; field.dispatchEvent(new Event('input')); }})()"
    )
    click = "[...document.querySelectorAll('th button')].find((b) => b.textContent === '{}').click()"

    async def use(page: Page) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for turn in ("down", "up"):
            await page.run(click.format("accuracy"))
            found[turn] = await page.run(column.format(3))
        found["sorted"] = await page.run("document.querySelector('th[aria-sort=ascending]').textContent")
        await page.run(choose.format("select", "complete"))
        found["states"] = await page.run(column.format(1))
        await page.run(choose.format("input", "hinge"))
        found["hinge"] = await page.run("[...document.querySelectorAll('tbody tr')].map((tr) => tr.innerText)")
        await page.run(choose.format("input", ""))
        await page.run(choose.format("select", ""))
        await page.run("URL.createObjectURL = (blob) => { window.saved = blob; return 'blob:none'; }")
        await page.run("HTMLAnchorElement.prototype.click = () => {}")
        await page.run("document.querySelector('.csv').click()")
        found["csv"] = await page.run("window.saved.text()")
        return found

    found = on_page(path, use)[0]
    shown = [float(text.removesuffix(" %")) for text in found["down"]]
    assert shown == sorted(shown, reverse=True)
    assert [float(text.removesuffix(" %")) for text in found["up"]] == sorted(shown)
    assert found["sorted"] == "accuracy"
    assert set(found["states"]) == {"complete"}
    complete = study.trials[study.trials["state"] == "complete"]
    assert len(found["hinge"]) == (complete["loss"] == "hinge").sum() > 0
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    assert sorted(int(row["trial"]) for row in rows) == list(study.trials.index)
    for row in rows:
        trial = study.trials.loc[int(row["trial"])]
        assert float(row["l2"]) == trial["l2"]
        assert float(row["accuracy"]) == trial["accuracy"]


def test_the_page_follows_the_dark_and_prints_light_and_whole(real: tuple[Snapshot, Path], tmp_path: Path) -> None:
    title = "p.querySelector('.xtitle, .ytitle, .annotation text')"
    inks = f"[...document.querySelectorAll('.plot')].map((p) => getComputedStyle({title}).fill)"

    async def look(page: Page) -> dict[str, Any]:
        seen = {"dark": await page.run(inks), "ground": await page.run("getComputedStyle(document.body).backgroundColor")}
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        await page.send("Emulation.setEmulatedMedia", features=light)
        await page.wait_for("[...document.querySelectorAll('.plot')].every((p) => p.dataset.drawn === 'light')")
        seen["light"] = await page.run(inks)
        await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        await page.wait_for("[...document.querySelectorAll('.plot')].every((p) => p.dataset.drawn === 'dark')")
        await page.pdf(tmp_path / "report.pdf")
        await page.run("dispatchEvent(new Event('beforeprint'))")
        seen["printed"] = await page.run(inks)
        seen["widths"] = await page.run(
            "[...document.querySelectorAll('.plot .main-svg')].map((s) => s.getBoundingClientRect().width)"
        )
        return seen

    seen, page = on_page(real[1], look, dark=True)
    assert set(seen["dark"]) == {_rgb(style.DARK[style.INK])}
    assert seen["ground"] == _rgb(style.DARK[style.BACKGROUND])
    assert set(seen["light"]) == set(seen["printed"]) == {_rgb(style.INK)}
    assert max(seen["widths"]) <= 680
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.complaints == []


def test_nothing_is_wider_than_a_phone(real: tuple[Snapshot, Path]) -> None:
    async def look(page: Page) -> Any:
        return await page.run(
            "[document.documentElement.scrollWidth, Math.max(...[...document.querySelectorAll('.plot .main-svg')]"
            ".map((s) => s.getBoundingClientRect().right)), document.querySelectorAll('.modebar-btn').length]"
        )

    (page_width, right, buttons), page = on_page(real[1], look, width=390, height=844)
    assert page_width <= 390
    assert right <= 390
    assert buttons == 0
    assert page.complaints == []


def test_two_thousand_trials_are_few_things_to_draw(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    make_up_study(with_changes(load_study("digits"), trials=2000), f"sqlite:///{tmp_path}/s.db")
    study = take(sweeper.open_results("digits", f"sqlite:///{tmp_path}/s.db"))
    (path,) = write_files([study], tmp_path, ["html"])
    assert path.stat().st_size < 8e6

    async def look(page: Page) -> Any:
        return await page.run(
            "[document.querySelectorAll('*').length, document.querySelectorAll('tbody tr').length,"
            " document.querySelector('output').textContent, performance.now()]"
        )

    (elements, rows, said, milliseconds), page = on_page(path, look)
    record_property("milliseconds until all is drawn", milliseconds)
    assert elements < 15_000
    assert rows == 50
    assert said == "50 of 2,000 shown"
    assert page.complaints == []


def test_several_studies_on_one_page_are_drawn_when_they_are_opened(real: tuple[Snapshot, Path], tmp_path: Path) -> None:
    make_up_study(with_changes(load_study("digits"), trials=60), f"sqlite:///{tmp_path}/s.db")
    other = take(sweeper.open_results("digits", f"sqlite:///{tmp_path}/s.db"))
    (path,) = write_files([real[0], other], tmp_path, ["html"])
    drawn = "[...document.querySelectorAll('.plot')].filter((p) => p.dataset.drawn).length"

    async def look(page: Page) -> Any:
        first = await page.run(drawn)
        await page.run("document.querySelectorAll('details')[0].open = true")
        await page.wait_for(f"{drawn} > {first} + 8")
        return first, await page.run(drawn), await page.run("document.querySelectorAll('table')[0].innerText")

    (first, then, table), page = on_page(path, look)
    assert first == 5
    assert then > 13
    assert "tiny" in table
    assert "digits" in table
    assert page.complaints == []


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_written_as_image_files(real: tuple[Snapshot, Path], tmp_path: Path, kind: str) -> None:
    written = write_files([real[0]], tmp_path, [kind])
    assert {"accuracy-l2", "losses", "curves"} <= {path.stem for path in written}
    for path in written:
        begins = path.read_bytes()[:8]
        assert begins.startswith(b"\x89PNG" if kind == "png" else b"<svg")


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
