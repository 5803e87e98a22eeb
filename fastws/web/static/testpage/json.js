// JSON as text: laid out anew without a digit changed, which JSON.parse and JSON.stringify cannot promise (1.50,
// integers beyond 2⁵³). All of this takes text that JSON.parse has accepted.

const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g;

/** The value of `text`, or undefined where it is no JSON. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** `text` on one line, without spaces. */
export function compact(text) {
  return text.match(TOKENS).join("");
}

/** `text` with a line for each member and element. */
export function pretty(text) {
  const tokens = text.match(TOKENS);
  let out = "";
  let depth = 0;
  const newLine = () => `\n${"  ".repeat(depth)}`;
  tokens.forEach((token, i) => {
    if (token === "{" || token === "[") {
      depth += 1;
      out += isEnd(tokens[i + 1]) ? token : token + newLine();
    } else if (isEnd(token)) {
      depth -= 1;
      out += isBegin(tokens[i - 1]) ? token : newLine() + token;
    } else if (token === ",") {
      out += token + newLine();
    } else {
      out += token === ":" ? ": " : token;
    }
  });
  return out;
}

/** The texts of the elements of the array that is the member `name` of the object `text`; none where there is none. */
export function elements(text, name) {
  const found = [];
  let depth = 0;
  let key = null;
  let last = null;
  let start = -1;
  for (const { 0: token, index } of text.matchAll(TOKENS)) {
    const isInside = depth === 2 && key === name;
    if (depth === 1 && token === ":") key = parse(last);
    if (isInside && start < 0 && token !== "]") start = index;
    if (isInside && start >= 0 && (token === "," || token === "]")) {
      found.push(text.slice(start, index).trimEnd());
      start = -1;
    }
    if (isBegin(token)) {
      depth += 1;
      // Of an object by this name there are no elements.
      if (depth === 2 && token === "{") key = null;
    } else if (isEnd(token)) {
      depth -= 1;
      if (depth === 1) key = null;
    }
    last = token;
  }
  return found;
}

function isBegin(token) {
  return token === "{" || token === "[";
}

function isEnd(token) {
  return token === "}" || token === "]";
}
