// What the reader has chosen, across visits. Storage may be switched off or full: then it lasts as long as the page.

const remembered = new Map();

export function recall(name) {
  try {
    return localStorage.getItem(`fastws.${name}`) ?? remembered.get(name) ?? null;
  } catch {
    return remembered.get(name) ?? null;
  }
}

/** Remember `value`, a text; null forgets it. */
export function remember(name, value) {
  if (value === null) remembered.delete(name);
  else remembered.set(name, value);
  try {
    if (value === null) localStorage.removeItem(`fastws.${name}`);
    else localStorage.setItem(`fastws.${name}`, value);
  } catch {
    // As said above.
  }
}
