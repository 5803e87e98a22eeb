// What the server says about its messages: the AsyncAPI document that it publishes, read for what this page needs.

import { httpUrl } from "../common/paths.js";

/**
 * Both dialects by name, each with the `path` of its endpoint, `templates` ({ type, about, message }: every example of
 * what clients may send), `replies` (type of the answer by type of request), `closeCodes` (meanings by number),
 * `errors` (meanings by code) and `hasSessions`.
 */
export async function loadContract() {
  const response = await fetch(httpUrl("v1/asyncapi.json"));
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return readContract(await response.json());
}

export function readContract(document) {
  const dialects = {};
  for (const [name, channel] of Object.entries(document.channels)) {
    const templates = [];
    const replies = new Map();
    for (const operation of Object.values(document.operations)) {
      if (operation.action !== "receive" || last(operation.channel) !== name) continue;
      for (const reference of operation.messages) {
        const described = document.components.messages[last(channel.messages[last(reference)])];
        replies.set(described.name, last(operation.reply.messages[0]));
        for (const { payload } of described.examples) {
          templates.push({ type: described.name, about: described.summary, message: payload });
        }
      }
    }
    dialects[name] = {
      path: channel.address,
      templates,
      replies,
      closeCodes: new Map(channel["x-close-codes"].map(({ code, meaning }) => [code, meaning])),
      errors: new Map(channel["x-error-codes"].map(({ code, meaning }) => [code, meaning])),
      hasSessions: "session_id" in channel.bindings.ws.query.properties,
    };
  }
  return dialects;
}

/** The name at the end of a reference. */
function last({ $ref }) {
  return $ref.slice($ref.lastIndexOf("/") + 1);
}
