// Who the user is. The token is in this tab's sessionStorage and in the requests, and nowhere else.

import { byId } from "../common/dom.js";
import { timeText } from "./format.js";
import { ask } from "./http.js";
import { t, texts } from "./texts.js";

const STORED = "fastws.token";
const JWT = /^[\w-]+\.[\w-]+\.[\w-]*$/;

/** Handlers of `onChange` are called when another user, or none, is to be connected. */
export class Account {
  #token = stored();
  #link = null;
  #notices;
  #changed = [];
  #button = byId("account");
  #user = byId("account-user");
  #dialog = byId("sign-in");
  #form = byId("sign-in-form");
  #input = byId("token");
  #problem = byId("token-problem");
  #required = byId("auth-required");

  constructor({ notices }) {
    this.#notices = notices;
    this.#button.addEventListener("click", () => (this.isSignedIn ? this.signOut() : this.open()));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn(this.#input.value.trim());
    });
    byId("sign-in-close").addEventListener("click", () => this.#dialog.close());
    byId("auth-required-button").addEventListener("click", () => this.open());
    // What was typed and not used is not to be left in the page.
    this.#dialog.addEventListener("close", () => this.#form.reset());
    texts.onchange(() => this.#show());
  }

  /** Follow what the connection says of the user. */
  follow(link) {
    this.#link = link;
    link.on("error", ({ code, message }) => this.#onError(code, message));
    link.on("connection", () => {
      // The greeting comes also to those who are asked for a token right after it.
      if (this.isSignedIn) this.#required.hidden = true;
      this.#show();
    });
    this.#show();
  }

  /** The user's token, or null. */
  get token() {
    return this.#token;
  }

  /** Whether the server knows the user: by a token, or by the session of its application. */
  get isSignedIn() {
    return this.#link !== null && this.#link.user !== null;
  }

  onChange(handler) {
    this.#changed.push(handler);
  }

  /** Ask for a token, where it is for want of one that something could not be had. */
  noticeProblem({ code }) {
    if (code === "AUTH_REQUIRED") this.#required.hidden = false;
  }

  open() {
    this.#problem.textContent = "";
    this.#dialog.showModal();
    this.#input.focus();
  }

  signOut() {
    this.#adopt(null);
  }

  async #signIn(token) {
    if (!JWT.test(token)) {
      this.#refuse(t("token_malformed"));
      return;
    }
    try {
      const { user_id, expires_at } = await ask("api/v1/users/me", { token });
      this.#dialog.close();
      const until = expires_at === null ? "" : ` ${t("token_expires", { time: timeText(expires_at) })}`;
      this.#notices.say(t("account_as", { user: user_id }) + until);
      this.#adopt(token);
    } catch (error) {
      this.#refuse(t("token_refused", { reason: error.message }));
    }
  }

  #refuse(text) {
    this.#problem.textContent = text;
    this.#input.setAttribute("aria-invalid", "true");
    this.#input.focus();
  }

  #onError(code, message) {
    if (code === "INVALID_TOKEN" && this.#token !== null) {
      // The client asks for a token before it comes back, and gets none.
      this.#keep(null);
      this.#notices.show(t("token_ended", { reason: message }));
    } else {
      this.noticeProblem({ code });
    }
  }

  #adopt(token) {
    this.#keep(token);
    this.#input.removeAttribute("aria-invalid");
    for (const handler of this.#changed) handler();
  }

  #keep(token) {
    this.#token = token;
    try {
      if (token === null) sessionStorage.removeItem(STORED);
      else sessionStorage.setItem(STORED, token);
    } catch {
      // Storage is switched off: the token lasts as long as the page.
    }
  }

  #show() {
    this.#button.textContent = t(this.isSignedIn ? "sign_out" : "sign_in");
    this.#user.textContent = this.isSignedIn ? String(this.#link.user) : "";
    this.#user.title = this.isSignedIn ? t("account_as", { user: this.#link.user }) : "";
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}
