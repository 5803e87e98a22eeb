// Questions to the server over HTTP.

import { httpUrl } from "../common/paths.js";
import { t } from "./texts.js";

const TIMEOUT_MS = 10_000;

/** What the server answered instead, or that it did not. `status` is 0 without an answer. */
export class HttpProblem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Send a request and return the JSON of its answer, null where that is empty.
 *
 * `token` goes as Authorization, never in the address; `signal` gives the question up. Throws HttpProblem, and an
 * AbortError when it was given up.
 */
export async function ask(path, { method = "GET", body, token = null, signal } = {}) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const late = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  let text;
  try {
    response = await fetch(httpUrl(path), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, late]) : late,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new HttpProblem(0, "UNREACHABLE", t("no_answer"));
  }
  const found = parsed(text);
  if (!response.ok) {
    const { code = "", message } = found?.error ?? {};
    throw new HttpProblem(response.status, code, message ?? t("http_status", { status: response.status }));
  }
  return found;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, or nothing
  }
}
