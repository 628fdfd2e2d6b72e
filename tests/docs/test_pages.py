"""Every page of the site, opened as a file without a network, is whole: wide and narrow, light and dark."""

import shutil

import pytest
from playwright.sync_api import TimeoutError

from tests.browser import DESKTOP, PHONE, offline, watched
from tests.docs.outline import pages_of

SCHEMES = {"light": "default", "dark": "slate"}
BUTTON = ".md-clipboard, .md-code__button"  # to copy a block
UNCOPIED = f"""[...document.querySelectorAll("article pre > code")]
    .filter(code => !code.parentElement.closest(".highlight, pre").querySelector("{BUTTON}"))
    .map(code => code.textContent.slice(0, 60))"""
SEEN = r"""() => {
  // Contrast as WCAG 2 defines it, of an element's colour on the nearest background that is opaque.
  const numbers = css => css.match(/[\d.]+/g).map(Number);
  const luminance = channels => channels.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = element => {
    for (let at = element; at; at = at.parentElement) {
      const channels = numbers(getComputedStyle(at).backgroundColor);
      if (channels.length === 3 || channels[3] === 1) return channels;
    }
    return [255, 255, 255];
  };
  const contrast = element => {
    const behind = background(element), [r, g, b, alpha = 1] = numbers(getComputedStyle(element).color);
    const seen = [r, g, b].map((c, i) => alpha * c + (1 - alpha) * behind[i]);
    const [dark, light] = [luminance(seen), luminance(behind)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [], root = document.documentElement, article = document.querySelector("article");
  const beyond = root.scrollWidth - root.clientWidth;
  if (beyond > 0) found.push(`scrolls sideways by ${beyond} px`);
  const scheme = document.body.getAttribute("data-md-color-scheme");
  const shown = Object.fromEntries(["light", "dark"].map(name => [`#only-${name}`, name === "dark"]));
  for (const image of article.querySelectorAll("img")) {
    const [only] = Object.entries(shown).filter(([mark]) => image.src.endsWith(mark));
    if (image.naturalWidth === 0 && image.offsetParent) found.push(`broken image: ${image.alt}`);
    const expected = !only || only[1] === (scheme === "slate");
    if ((image.offsetParent !== null) !== expected && !image.closest("details"))
      found.push(`image hidden or shown: ${image.alt}`);
  }
  for (const formula of document.querySelectorAll(".arithmatex"))
    if (!formula.querySelector(".katex")) found.push(`formula as text: ${formula.textContent.slice(0, 60)}`);
  for (const error of document.querySelectorAll(".katex-error")) found.push(`wrong formula: ${error.title}`);
  const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.parentElement.closest("pre, code, script, .katex") && /\$\$|\\[([]|\$[^\s$][^$]*\$/.test(node.data))
      found.push(`formula as text: ${node.data.trim().slice(0, 60)}`);
  }
  for (const element of article.querySelectorAll("p, li, td, th, h1, h2, h3, pre > code"))
    if (element.offsetParent && element.textContent.trim() && contrast(element) < 3)
      found.push(`hard to read: ${element.textContent.trim().slice(0, 60)}`);
  return found;
}"""


def faults(browser, path, width):
    """What is wrong with a page in a window of that width, in either colour scheme."""
    with offline(browser, width) as page:
        found = watched(page)
        page.on("requestfailed", lambda request: found.append(f"missing: {request.url}"))
        page.goto(path.as_uri(), wait_until="load")
        if not _comes_true(page, f"() => {UNCOPIED}.length === 0"):  # the theme's script adds the buttons
            found += [f"no button to copy: {code}" for code in page.evaluate(UNCOPIED)]
        for scheme, name in SCHEMES.items():
            page.emulate_media(color_scheme=scheme)
            if not _comes_true(page, f"() => document.body.getAttribute('data-md-color-scheme') === '{name}'"):
                found.append(f"{scheme}: the page stays as it was")
            found += [f"{scheme}: {fault}" for fault in page.evaluate(SEEN)]
    return found


def _comes_true(page, condition):
    """Whether something that scripts do after loading is done in the end."""
    try:
        page.wait_for_function(condition, timeout=10_000)  # idle a second or two; 2 s were too few beside other work
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_page_is_whole_without_a_network(chromium, site, width):
    found = {path.relative_to(site).as_posix(): faults(chromium, path, width) for path in pages_of(site)}
    assert {name: of_page for name, of_page in found.items() if of_page} == {}


def test_search_finds_a_function_without_a_server(chromium, site):
    with offline(chromium, DESKTOP) as page:
        found = watched(page)
        page.goto((site / "index.html").as_uri(), wait_until="load")
        query = page.locator("[data-md-component=search-query]")
        query.press_sequentially("sharded_linear_cross_entropy")  # `fill` presses no key, and the theme waits for one
        page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
        assert "api/jaxsoftmax.html" in page.locator(".md-search-result").inner_html()
    assert found == []


def test_what_is_copied_of_a_doctest_is_its_code_alone(chromium, site):
    with offline(chromium, DESKTOP) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto((site / "quickstart.html").as_uri(), wait_until="load")
        block = page.locator(".highlight").filter(has_text=">>>").first
        block.hover()
        block.locator(BUTTON).click()
        copied = page.evaluate("navigator.clipboard.readText()")
    assert "import" in copied
    assert ">>>" not in copied
    compile(copied, "copied", "exec")


PLANTED = {
    "$$ x^2 $$": "formula as text",
    "$x^2$ in a line": "formula as text",
    '<div class="arithmatex">\\[ \\frac{1} \\]</div>': "wrong formula",
    '<img src="gone.png" alt="gone">': "gone.png",
    '<img src="https://example.org/a.png" alt="remote">': "request: https://example.org/a.png",
    '<p style="width: 2000px">wide</p>': "scrolls sideways",
    "<script>nothing.at.all</script>": "script",
    '<p style="background: #fff; color: #bbb">pale</p>': "hard to read: pale",
    '<figure style="display: none"><img src="assets/images/favicon.png" alt="unseen"></figure>': "image hidden",
}


@pytest.mark.parametrize(("defect", "fault"), PLANTED.items(), ids=PLANTED.values())
def test_planted_defect_is_found(chromium, site, tmp_path, defect, fault):
    shutil.copytree(site, tmp_path / "site")
    page = tmp_path / "site" / "changelog.html"
    assert faults(chromium, page, PHONE) == []
    page.write_text(page.read_text("utf-8").replace("</article>", f"{defect}</article>"), "utf-8")
    assert any(fault in found for found in faults(chromium, page, PHONE))


def test_planted_block_without_a_button_is_found(chromium, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    page = tmp_path / "site" / "quickstart.html"
    page.write_text(page.read_text("utf-8").replace("content.code.copy", "no.such.feature"), "utf-8")
    assert any("no button to copy" in found for found in faults(chromium, page, DESKTOP))
