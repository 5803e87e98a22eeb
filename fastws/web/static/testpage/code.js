// A connection and one message as programs. A token is never part of them: they read it from where secrets are.

import { compact, parse } from "./json.js";

export const LANGUAGES = {
  javascript: "JavaScript",
  python: "Python (websockets)",
  wscat: "wscat",
  websocat: "websocat",
};

/** The program that connects to `url`, with a token if `hasToken`, sends `text`, and prints what comes. */
export function asCode(language, { url, hasToken, text }) {
  const line = parse(text) === undefined ? text : compact(text);
  return { javascript, python, wscat, websocat }[language](url, hasToken, line);
}

function javascript(url, hasToken, text) {
  const protocols = hasToken ? ', ["fastws", `bearer.${TOKEN}`]' : "";
  return `${hasToken ? 'const TOKEN = "…";\n' : ""}const socket = new WebSocket(${JSON.stringify(url)}${protocols});
socket.onopen = () => socket.send(${JSON.stringify(text)});
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = ({ code, reason }) => console.log("closed", code, reason);
`;
}

function python(url, hasToken, text) {
  const headers = hasToken ? `headers = {"Authorization": "Bearer " + os.environ["FASTWS_TOKEN"]}\n` : "";
  const argument = hasToken ? ", additional_headers=headers" : "";
  return `import asyncio
${hasToken ? "import os\n" : ""}
from websockets.asyncio.client import connect

url = ${JSON.stringify(url)}
${headers}message = ${JSON.stringify(text)}


async def main():
    async with connect(url${argument}) as socket:
        await socket.send(message)
        async for text in socket:
            print(text, flush=True)


asyncio.run(main())
`;
}

function wscat(url, hasToken, text) {
  const header = hasToken ? ' --header "Authorization: Bearer $FASTWS_TOKEN"' : "";
  return `wscat --connect ${quoted(url)}${header} --execute ${quoted(text)} --wait 60\n`;
}

function websocat(url, hasToken, text) {
  const header = hasToken ? ' --header="Authorization: Bearer $FASTWS_TOKEN"' : "";
  return `printf '%s\\n' ${quoted(text)} | websocat --no-close ${quoted(url)}${header}\n`;
}

/** A word of a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
