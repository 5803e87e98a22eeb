// Acts one transcript out on a socket with the interface of the browsers' WebSocket, and closes it.
// What is received is appended to `texts`, untouched.

const WAIT_MS = 15000;

export async function play(socket, steps, texts) {
  const waiting = [];
  let wake = () => {};
  let failure = null;
  const fail = (reason) => {
    failure ??= new Error(reason);
    wake();
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      fail("a binary message");
    }
    waiting.push(data);
    wake();
  };
  socket.onclose = ({ code, reason }) => fail(`closed with ${code} ${reason}`);

  const until = async (isSo, what) => {
    const deadline = setTimeout(() => fail(`${what} did not come within ${WAIT_MS} ms`), WAIT_MS);
    try {
      while (!isSo()) {
        if (failure) {
          throw failure;
        }
        await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      clearTimeout(deadline);
    }
  };

  socket.onopen = () => wake();
  await until(() => socket.readyState === 1, "the connection");
  for (const step of steps) {
    if (step.send !== undefined) {
      socket.send(step.send);
    } else {
      await until(() => waiting.length > 0, `message ${texts.length + 1}`);
      texts.push(waiting.shift());
    }
  }
  if (waiting.length > 0) {
    throw new Error(`a message too many: ${waiting[0]}`);
  }
  const closed = new Promise((resolve) => (socket.onclose = resolve));
  socket.close(1000, "done");
  const { code, wasClean } = await closed;
  if (code !== 1000 || !wasClean) {
    throw new Error(`closed with ${code}, cleanly: ${wasClean}`);
  }
}
