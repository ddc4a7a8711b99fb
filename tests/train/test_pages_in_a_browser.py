"""Pages as a browser shows them, on a screen and on a phone, light and dark: nothing is cut, all can be read."""

import re
import shutil

import pytest

from concord.train import compare, report
from concord.train.command import run_command
from concord.train.data.tasks import Example
from tests.train.made_up_runs import TASKS, answers_of, evaluation, step, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="pages are looked at by playwright: the extra test has it"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="pages are looked at in chromium: apt-get install chromium"),
]
SST, PARAPHRASE, STS = TASKS
TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0  # what WCAG 2.1 asks for, levels AA of 1.4.3 and 1.4.11
LOOKS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]

# What a page tells of itself: how wide it is, texts that are cut, and contrasts that are too low.
LOOK = """([text, graphic]) => {
  const seen = element => { const box = element.getBoundingClientRect(); return box.width && box.height ? box : null; };
  const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const colour = value => {
    const parts = value.match(/[\\d.]+/g).map(Number);
    return parts.length > 3 ? parts : [...parts, 1];
  };
  const behind = element => {
    for (let place = element; place; place = place.parentElement) {
      const found = colour(getComputedStyle(place).backgroundColor);
      if (found[3] === 1) { return found; }
    }
    return [255, 255, 255, 1];
  };
  const light = ([r, g, b]) => {
    const linear = part => { part /= 255; return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const cut = [], pale = [], elements = [...document.body.querySelectorAll("*")];
  for (const element of elements) {
    const box = seen(element), style = getComputedStyle(element);
    if (!box || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) { continue; }
    const drawn = element.ownerSVGElement;
    if (own(element)) {
      const called = element.textContent.trim().slice(0, 40);
      const frame = drawn ? drawn.getBoundingClientRect() : element.closest(".scrolled") ? null :
        { left: 0, right: document.documentElement.clientWidth };
      if (frame && (box.left < frame.left - 1 || box.right > frame.right + 1)) { cut.push(called); }
      if (drawn && (box.top < frame.top - 1 || box.bottom > frame.bottom + 1)) { cut.push(called); }
      const hides = !drawn && style.overflowX !== "visible";
      if (hides && element.scrollWidth > element.clientWidth + 1) { cut.push(called); }
      const ratio = contrast(colour(drawn ? style.fill : style.color), behind(element.closest("figure") || element));
      if (!(ratio >= text)) { pale.push(called + " " + ratio.toFixed(2)); }
    }
    if (drawn && element.matches("polyline:not(.faint), .bar")) {
      const ratio = contrast(colour(style.color), behind(drawn.closest("figure")));
      if (!(ratio >= graphic)) { pale.push(element.getAttribute("class") + " " + ratio.toFixed(2)); }
    }
  }
  const texts = elements.filter(own).length;
  return { width: document.documentElement.scrollWidth, cut, pale, texts, dark: light(behind(document.body)) < 0.2 };
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


def entries():
    steps = [step(number, loss=2.0 / number, cosine=-0.25 if number % 3 else 0.5) for number in range(1, 101)]
    return [*steps[:50], evaluation(50, 0.25), *steps[50:], evaluation(100)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run with everything that a page has, and that of a comparison of two."""
    folder = tmp_path_factory.mktemp("runs")
    answers = {
        "sst": answers_of(SST, [0, 1, 2, 3, 4, 4], [0, 1, 1, 3, 4, 0], [0.95, 0.9, 0.35, 0.9, 0.55, 0.3]),
        "paraphrase": answers_of(PARAPHRASE, [0, 1, 1, 0], [0, 1, 1, 1], [0.1, 0.9, 0.82, 0.72]),
        "sts": answers_of(STS, [0.0, 2.5, 5.0], [0.5, 2.5, 4.0]),
    }
    text = "a long text of many words " * 9 + "w" * 90
    examples = {
        "sst": [Example(f"sst-{row}", text, None, float(own)) for row, own in enumerate([0, 1, 2, 3, 4, 4])],
        "paraphrase": [Example(f"paraphrase-{row}", text, text, float(row in (1, 2))) for row in range(4)],
    }
    name = "a-folder-with-a-long-name-" * 3
    runs = [
        write_run(folder / name, entries(), answers, examples, surgery="pcgrad", data="/a/long/path" * 9),
        write_run(folder / "other", entries(), answers, examples, seed=7, heads=("linear", "sts=cosine")),
    ]
    assert run_command(report.main, [str(runs[0])]) == 0
    assert run_command(compare.main, [*map(str, runs), "--html", str(folder / "all.html")]) == 0
    return {"run": runs[0] / "report.html", "comparison": folder / "all.html"}


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_page_is_whole_and_can_be_read(browser, pages, tmp_path, name, width, scheme):
    wrong, asked = [], []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    found = page.evaluate(LOOK, [TEXT_CONTRAST, GRAPHIC_CONTRAST])
    assert found["texts"] > 100
    assert found["dark"] == (scheme == "dark")
    assert found["width"] <= width, "nothing has to be scrolled sideways"
    assert (found["cut"], found["pale"]) == ([], [])
    picture = tmp_path / f"{name}-{width}-{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 20_000
    assert wrong == []
    assert asked == [pages[name].as_uri()], "a page needs nothing from elsewhere"
    context.close()


def test_curves_tell_their_numbers_and_are_zoomed(browser, pages):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(pages["run"].as_uri())
    plot = page.locator("figure:has(figcaption:text-is('training loss')) svg.plot")
    readout = page.locator("figure:has(figcaption:text-is('training loss')) .readout")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    assert re.match(r"5[01]: sst 0\.04", readout.inner_text())
    axis = page.locator("figure:has(figcaption:text-is('training loss')) text.x")
    assert axis.all_text_contents()[0::4] == ["1", "100"]
    page.mouse.down()
    page.mouse.move(x + box["width"] / 4, y)
    page.mouse.up()
    assert [int(text) // 10 for text in axis.all_text_contents()[0::4]] == [5, 7]
    page.mouse.dblclick(x, y)
    assert axis.all_text_contents()[0::4] == ["1", "100"]
    cells = page.locator("svg.map").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert "cosine" in page.locator("figure:has(svg.map) .readout").first.inner_text()
    page.close()
