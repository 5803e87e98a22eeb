// Renders the component that a sample brings, until it shows a price: `node render.mjs FILE`.
import { createElement } from "react";
import { act, create } from "react-test-renderer";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
// It says that it is deprecated; the renderers that are not need a document.
const complain = console.error;
console.error = (...args) => String(args[0]).includes("deprecated") || complain(...args);

const { Component } = await import(process.argv[2]);
let root = null;
await act(() => {
  root = create(createElement(Component, { code: "005930" }));
});
while (!root.toJSON()?.children) {
  await act(() => new Promise((resolve) => setTimeout(resolve, 10)));
}
console.log("shown", JSON.stringify(root.toJSON()));
await act(() => root.unmount());
