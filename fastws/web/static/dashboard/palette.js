// The colours of canvases, which know no custom properties: read from the style sheet, again when they change.

import { color, onThemeChange } from "../common/theme.js";
import { recall, remember } from "../common/storage.js";

const NAMES = ["text", "muted", "line", "accent", "up", "down", "panel"];
const SCHEMES = ["kr", "western"];
const listeners = new Set();

/** By name, as `rgb(…)`. */
export const palette = {};

function read() {
  for (const name of NAMES) palette[name] = color(`--${name}`);
  for (const listener of listeners) listener();
}

/** Call `listener()` when the colours are others. */
export function onPaletteChange(listener) {
  listeners.add(listener);
}

/** How rising and falling prices are coloured: `kr` or `western`. */
export function scheme() {
  return document.documentElement.dataset.colours;
}

export function chooseScheme(name) {
  document.documentElement.dataset.colours = name;
  remember("colours", name);
  read();
}

/** Before anything is drawn. */
export function beginPalette() {
  const chosen = recall("colours");
  document.documentElement.dataset.colours = SCHEMES.includes(chosen) ? chosen : "kr";
  onThemeChange(read);
  read();
}
