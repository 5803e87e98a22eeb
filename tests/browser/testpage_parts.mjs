// Runs the parts of the test page that know no page: node testpage_parts.mjs < {"texts": […], "sessions": […]}
// Prints {"texts": [{"pretty", "compact", "elements"}, …], "sessions": [[ms | null, …], …]}.
import { text as readAll } from "node:stream/consumers";

import { compact, elements, pretty } from "../../fastws/web/static/testpage/json.js";
import { Replies } from "../../fastws/web/static/testpage/replies.js";

const { texts, types, sessions } = JSON.parse(await readAll(process.stdin));
const outcome = {
  texts: texts.map((text) => ({
    pretty: pretty(text),
    compact: compact(text),
    elements: elements(text, "messages"),
  })),
  sessions: sessions.map((steps) => {
    const replies = new Replies(new Map(Object.entries(types)));
    return steps.map(([way, message], at) => (way === "sent" ? replies.sent(message, at) : replies.received(message, at)));
  }),
};
process.stdout.write(JSON.stringify(outcome), () => process.exit());
