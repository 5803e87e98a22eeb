"""Whether a page can be read and used by everybody, measured as WCAG 2.2 has it, level AA."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.browser.devtools import Page

# Text has 4.5 to what is painted below it, or 3 where it is large (1.4.3); edges of fields and the outline of what has
# the focus have 3 (1.4.11). Controls that are disabled need none.
_LIBRARY = """
(() => {
  if (window.access) return;
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const above = (element) => {
    const found = [];
    for (let up = element; up; up = up.parentElement) found.unshift(getComputedStyle(up));
    return found;
  };
  /** Of a color that is painted on `element`, or around it, to what is below; see-through where its ancestors are. */
  const contrast = (element, color, isAround = false) => {
    const styles = above(element);
    const back = paint(["white", ...styles.slice(0, isAround ? -1 : undefined).map((style) => style.backgroundColor)]);
    const opacity = styles.reduce((product, style) => product * style.opacity, 1);
    const front = paint([`rgb(${back})`, color]);
    return ratio(back, front.map((c, i) => c * opacity + back[i] * (1 - opacity)));
  };
  const isSeen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const nameOf = (element) => element.id || element.className || element.tagName;

  const texts = () => {
    const found = [];
    let n = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || !isSeen(element)) continue;
      if (element.closest(".spoken, .skip, option, :disabled, noscript, script")) continue;
      const style = getComputedStyle(element);
      const size = parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const value = contrast(element, style.color);
      n += 1;
      if (value < (isLarge ? 3 : 4.5)) found.push(`${nameOf(element)} "${node.data.trim()}" ${value.toFixed(2)}`);
    }
    return [n, found];
  };
  const edges = () => {
    const found = [];
    const fields = [...document.querySelectorAll("input, select, textarea")]
      .filter((field) => isSeen(field) && !field.disabled && !["checkbox", "radio"].includes(field.type));
    for (const field of fields) {
      const value = contrast(field, getComputedStyle(field).borderTopColor, true);
      if (value < 3) found.push(`the edge of ${nameOf(field)} ${value.toFixed(2)}`);
    }
    return [fields.length, found];
  };
  const focused = () => {
    const element = document.activeElement;
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(element);
    const { top, bottom } = element.getBoundingClientRect();
    return {
      name: element.id || element.dataset.code || element.dataset.scheme || element.dataset.range
        || element.innerText.trim() || element.tagName,
      is_seen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 1 && bottom > 0 && top < innerHeight,
      contrast: contrast(element, outlineColor, true),
    };
  };
  window.access = { texts, edges, focused };
})()
"""

_ROLES = {"button", "checkbox", "radio", "textbox", "searchbox", "combobox", "link", "dialog", "grid", "listbox",
          "table", "img", "region"}  # fmt: skip


class Contrast(NamedTuple):
    """How many texts and edges were looked at, and which of them have too little contrast."""

    n_texts: int
    n_fields: int
    too_little: list[str]


async def contrast(page: Page) -> Contrast:
    """Measure everything that is seen now."""
    await page.run(_LIBRARY)
    n_texts, texts = await page.run("access.texts()")
    n_fields, edges = await page.run("access.edges()")
    return Contrast(n_texts, n_fields, texts + edges)


class Focus(NamedTuple):
    """What has the focus, whether that is to be seen, and how well its outline stands out."""

    name: str
    is_seen: bool
    contrast: float


async def focus(page: Page) -> Focus:
    await page.run(_LIBRARY)
    return Focus(**await page.run("access.focused()"))


async def unnamed(page: Page) -> tuple[int, list[dict[str, Any]]]:
    """How many controls a screen reader is told of, and those that have no name; a placeholder is none.

    What stands in an empty field is gone when something is typed.
    """
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in _ROLES]
    found = [node for node in controls if not node.get("name", {}).get("value", "").strip()]
    fields = await page.run(
        """[...document.querySelectorAll("input, select, textarea")]
          .filter((one) => one.labels.length === 0 && !one.ariaLabel && !one.hasAttribute("aria-labelledby"))
          .map((one) => one.id || one.outerHTML)"""
    )
    return len(controls), found + fields


async def check_that_it_is_found(page: Page) -> None:
    """Put onto the page what nobody could read or use, see that each of it is found, and take it away."""
    await page.run(
        """document.body.append(Object.assign(document.createElement("div"), { id: "bad" }));
        for (const [tag, style] of [
          ["p", { color: "rgb(120 120 120)", backgroundColor: "rgb(160 160 160)" }],
          ["strong", { opacity: "0.3" }],
          ["input", { border: "1px solid rgb(128 128 128 / 10%)" }],
          ["button", {}],
        ]) {
          const one = document.createElement(tag);
          one.className = `bad-${tag}`;
          Object.assign(one.style, style);
          if (!["input", "button"].includes(tag)) one.textContent = "hard to read";
          document.querySelector("#bad").append(one);
        }
        0"""
    )
    found = (await contrast(page)).too_little
    assert [one.partition(" ")[0] for one in found] == ["bad-p", "bad-strong", "the"], found
    assert found[-1].startswith("the edge of bad-input ")
    _, nameless = await unnamed(page)
    roles = [one["role"]["value"] for one in nameless if isinstance(one, dict)]
    assert sorted(roles) == ["button", "textbox"], json.dumps(nameless)
    await page.run("document.querySelector('#bad').remove()")
