// Light and dark: the system's choice until the reader makes one.

import { el } from "./dom.js";
import { recall, remember } from "./storage.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

/** `light` or `dark`, as shown now. */
export function theme() {
  return document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
}

/** Call `listener(theme)` after every change, the system's included; returns what takes it away again. */
export function onThemeChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Show `name`, and remember it. */
export function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  remember("theme", name);
  tell();
}

/**
 * A button that changes to the other theme. `texts` (see i18n.js) has `theme_dark` and `theme_light`, what it is called
 * when it leads there.
 */
export function themeButton(texts) {
  const button = el("button", {
    type: "button",
    class: "quiet",
    on: { click: () => chooseTheme(theme() === "dark" ? "light" : "dark") },
  });
  const show = () => {
    button.textContent = texts.t(theme() === "dark" ? "theme_light" : "theme_dark");
  };
  show();
  onThemeChange(show);
  texts.onchange(show);
  return button;
}

/** What a custom property of theme.css is now, as `rgb(…)`: for a canvas, which knows no properties. */
export function color(name) {
  const probe = el("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function tell() {
  for (const listener of listeners) listener(theme());
}

system.addEventListener("change", () => {
  if (recall("theme") === null) tell();
});
