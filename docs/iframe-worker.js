// Browsers start no worker for a page that was opened from the disk, and searching these pages is the work of one. It is
// done in a hidden frame then, which gets the two functions that it has of a worker.
if (location.protocol === "file:") {
  globalThis.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #isReady;

    constructor(address) {
      super();
      this.#frame.hidden = true;
      document.body.append(this.#frame);
      const inner = this.#frame.contentWindow;
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inner.document.createElement("script");
      script.src = address;
      this.#isReady = new Promise((resolve) => script.addEventListener("load", resolve));
      inner.document.body.append(script);
    }

    postMessage(data) {
      this.#isReady.then(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
