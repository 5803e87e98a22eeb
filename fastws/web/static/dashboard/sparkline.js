// The small picture of how a price went since the page was opened.

import { palette } from "./palette.js";

const PADDING = 2;

/** Give a canvas as many pixels as it has on the screen. Not while drawing: to ask for a size is to lay out the page. */
export function fitCanvas(canvas) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.round(size * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}

/** Draw a `Course` into a canvas; `base`, e.g. the previous close, is a dotted line where it lies in between. */
export function drawSparkline(canvas, course, direction, base) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.width / ratio;
  const height = canvas.height / ratio;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  if (course.size < 2) return;
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < course.size; i += 1) {
    low = Math.min(low, course.at(i));
    high = Math.max(high, course.at(i));
  }
  const span = high - low || 1;
  const y = (value) => PADDING + (1 - (value - low) / span) * (height - 2 * PADDING);
  if (base !== null && base > low && base < high) {
    context.strokeStyle = palette.muted;
    context.setLineDash([1, 3]);
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0, y(base));
    context.lineTo(width, y(base));
    context.stroke();
    context.setLineDash([]);
  }
  context.strokeStyle = direction === "same" ? palette.muted : palette[direction];
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  for (let i = 0; i < course.size; i += 1) {
    const x = PADDING + (i / (course.size - 1)) * (width - 2 * PADDING);
    if (i === 0) context.moveTo(x, y(course.at(i)));
    else context.lineTo(x, y(course.at(i)));
  }
  context.stroke();
}
