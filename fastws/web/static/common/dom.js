// Elements made by hand. What comes from a server or a user gets into the page as text only: nothing here parses HTML.

const BOOLEANS = new Set(["checked", "disabled", "hidden", "selected"]);

/**
 * Make an element: `el("button", { class: "quiet", "aria-pressed": "true", on: { click } }, "Stop")`.
 *
 * `attributes` are set as attributes, except `on` (listeners by event), `data` (members of `dataset`), `value` (the
 * property) and booleans; null and undefined leave one out. `children` are nodes, or texts, which become text nodes;
 * null and undefined are left out. Attributes in which text would become code are refused with a TypeError.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else if (name === "value") {
      element.value = value;
    } else if (BOOLEANS.has(name)) {
      element[name] = Boolean(value);
    } else if (/^(on.*|style|srcdoc|href|src|action|formaction)$/i.test(name)) {
      throw new TypeError(`${name} is not set from a script`);
    } else {
      element.setAttribute(name, value);
    }
  }
  append(element, ...children);
  return element;
}

/** Append `children` as `el` does. */
export function append(element, ...children) {
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child);
  }
}

/** Replace what `element` holds by `children`. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, ...children);
}

/** The element of the page with this id; the page is broken without it, so that is an error. */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}
