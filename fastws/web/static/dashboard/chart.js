// The price of the chosen instrument over time: a line of what came, or candles of a minute.

import { byId } from "../common/dom.js";
import { fixed } from "./format.js";
import { painter, setText } from "./painter.js";
import { onPaletteChange, palette } from "./palette.js";
import { recall, remember } from "../common/storage.js";
import { t, texts } from "./texts.js";

const { uPlot } = globalThis; // a classic script of the page

const RANGES = { 1: 60, 5: 300, 15: 900, candles: 0 };
const FRAME_MS = 100;
const LABEL_MS = 5_000;
const MIN_CANDLES = 30;
const BAR_S = 60;
// Room above and below what is drawn: of its span, of the price where that rests, and at least so many of the smallest
// steps that a price is written with.
const ROOM = { span: 0.08, price: 0.0002, steps: 2 };
const LEFT_PX = 8;
const CLOCK_PX = 56;
const AXIS_PX = { least: 56, character: 7, around: 16 };

/** Draws ten times a second at most, also while nothing comes: time goes on. */
export class Chart {
  #link;
  #quote = null;
  #range;
  #plot;
  #line = [[], []];
  #bars = [[], [], [], [], []];
  #drawnAt = -Infinity;
  #labelledAt = -Infinity;
  #host = byId("chart");
  #buttons = [...document.querySelectorAll("#chart-ranges button")];

  constructor({ quotes, link }) {
    this.#link = link;
    const chosen = recall("range");
    this.#range = chosen in RANGES ? chosen : "5";
    this.#plot = new uPlot(this.#options(), [[], [], [], [], []], this.#host);
    for (const button of this.#buttons) {
      button.addEventListener("click", () => this.choose(button.dataset.range));
    }
    quotes.on("price", (quote) => quote === this.#quote && painter.schedule(this));
    quotes.on("facts", (quote) => quote === this.#quote && painter.schedule(this));
    link.onChange(() => painter.schedule(this));
    onPaletteChange(() => this.#redraw());
    texts.onchange(() => {
      this.#redraw();
      this.#showCursor();
    });
    new ResizeObserver(() => this.#resize()).observe(this.#host);
    this.#showRange();
    this.#showCursor();
  }

  show(quote) {
    this.#quote = quote;
    this.#redraw();
  }

  /** Show the last 1, 5 or 15 minutes, or candles. */
  choose(range) {
    this.#range = range;
    remember("range", range);
    this.#showRange();
    this.#redraw();
  }

  get ranges() {
    return this.#buttons.map((button) => button.dataset.range);
  }

  #showRange() {
    for (const button of this.#buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.range === this.#range));
    }
  }

  get #hasCandles() {
    return this.#range === "candles";
  }

  #redraw() {
    this.#drawnAt = this.#labelledAt = -Infinity;
    painter.schedule(this);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#host;
    if (width > 0 && height > 0 && (width !== this.#plot.width || height !== this.#plot.height)) {
      this.#plot.setSize({ width, height });
    }
  }

  paint(time) {
    if (time - this.#drawnAt < FRAME_MS) {
      painter.schedule(this);
      return;
    }
    this.#drawnAt = time;
    this.#read();
    const [seconds, values] = this.#line;
    // Of a line the candles' columns are not drawn, and of candles all but one.
    this.#plot.setData(this.#hasCandles ? this.#bars : [seconds, values, values, values, values]);
    if (time - this.#labelledAt >= LABEL_MS) {
      this.#labelledAt = time;
      this.#label();
    }
  }

  #read() {
    if (this.#quote === null) {
      for (const column of [...this.#line, ...this.#bars]) column.length = 0;
    } else if (this.#hasCandles) {
      this.#quote.bars.read(this.#bars);
    } else {
      this.#quote.ticks.read(this.#now() * 1000 - 1000 * RANGES[this.#range], ...this.#line);
      this.#extend();
    }
  }

  /** A price holds until the next one, as long as it is known that there was none. */
  #extend() {
    const [seconds, values] = this.#line;
    const last = values.at(-1);
    if (last != null && this.#link.isCurrent && this.#quote.priceTurn === this.#link.turn) {
      const now = this.#now();
      if (now > seconds.at(-1)) {
        seconds.push(now);
        values.push(last);
      }
    }
  }

  #now() {
    return this.#link.now() / 1000;
  }

  #label() {
    const name = this.#quote?.name ?? "";
    const range = t(`range_${this.#range}`);
    const values = (this.#hasCandles ? this.#bars[4] : this.#line[1]).filter((value) => value !== null);
    const text = (value) => fixed(value, this.#quote.decimals);
    this.#host.setAttribute(
      "aria-label",
      values.length === 0
        ? t("chart_empty", { name, range })
        : t("chart_label", {
            name,
            range,
            last: text(values.at(-1)),
            low: text(values.reduce((a, b) => Math.min(a, b))),
            high: text(values.reduce((a, b) => Math.max(a, b))),
          }),
    );
  }

  // How uPlot is to do it.

  #options() {
    const axis = {
      stroke: () => palette.muted,
      grid: { stroke: () => palette.line, width: 1 },
      ticks: { stroke: () => palette.line, width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
    };
    const price = (value) => (value == null ? "–" : fixed(value, this.#quote?.decimals ?? 0));
    return {
      width: this.#host.clientWidth || 300,
      height: this.#host.clientHeight || 200,
      padding: [8, 0, 0, LEFT_PX],
      legend: { show: false },
      cursor: { drag: { x: false, y: false, setScale: false }, points: { show: () => !this.#hasCandles } },
      scales: { x: { time: true, range: () => this.#xRange() }, y: { range: (_, low, high) => this.#yRange(low, high) } },
      axes: [
        { ...axis, space: 70, size: 26, values: (plot, splits) => splits.map((at) => clockWithin(plot, at)) },
        {
          ...axis,
          side: 1,
          // Distances of labels: none is finer than prices are written, or several would say the same.
          incrs: () => this.#increments(),
          // A scale of nothing would be one of prices that nobody has paid.
          values: (_, splits) => (this.#isEmpty ? splits.map(() => "") : splits.map(price)),
          size: (_, labels) => axisWidth(labels),
        },
      ],
      series: [
        {},
        {
          stroke: () => palette.accent,
          width: 1.5,
          points: { show: false },
          paths: (...args) => (this.#hasCandles ? null : uPlot.paths.stepped({ align: 1 })(...args)),
        },
        ...["high", "low", "close"].map(() => ({ paths: () => null, points: { show: false } })),
      ],
      hooks: { draw: [() => this.#drawCandles(), () => this.#drawLast()], setCursor: [() => this.#showCursor()] },
    };
  }

  #xRange() {
    if (this.#hasCandles) {
      const n = this.#bars[0].length;
      const end = (n > 0 ? this.#bars[0][n - 1] : this.#now()) + BAR_S;
      const begin = n > MIN_CANDLES ? this.#bars[0][0] - BAR_S : end - MIN_CANDLES * BAR_S;
      return [begin, end];
    }
    const now = this.#now();
    return [now - RANGES[this.#range], now];
  }

  /** Never a flat nothing, also for a price of 0 or a single one. */
  #yRange(low, high) {
    if (low === null || high === null) return [0, 1];
    const room = Math.max((high - low) * ROOM.span, Math.abs(high) * ROOM.price, this.#step * ROOM.steps);
    return [low - room, high + room];
  }

  #increments() {
    const exponent = -(this.#quote?.decimals ?? 0);
    return Array.from({ length: 16 }, (_, i) => [1, 2, 5].map((n) => Number(`${n}e${exponent + i}`))).flat();
  }

  /** The least difference that two labels of prices can show. */
  get #step() {
    return 10 ** -(this.#quote?.decimals ?? 0);
  }

  get #isEmpty() {
    return (this.#hasCandles ? this.#bars[4] : this.#line[1]).every((value) => value === null);
  }

  #drawCandles() {
    if (!this.#hasCandles) return;
    const plot = this.#plot;
    const { ctx: context } = plot;
    const [seconds, opens, highs, lows, closes] = this.#bars;
    const ratio = devicePixelRatio || 1;
    const step = plot.valToPos(BAR_S, "x", true) - plot.valToPos(0, "x", true);
    const width = Math.max(ratio, Math.min(14 * ratio, Math.floor(step * 0.7)));
    const y = (value) => Math.round(plot.valToPos(value, "y", true));
    context.save();
    context.beginPath();
    context.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    context.clip();
    for (let i = 0; i < seconds.length; i += 1) {
      const x = Math.round(plot.valToPos(seconds[i] + BAR_S / 2, "x", true));
      const isUp = closes[i] >= opens[i];
      context.fillStyle = isUp ? palette.up : palette.down;
      context.fillRect(x - ratio / 2, y(highs[i]), ratio, Math.max(1, y(lows[i]) - y(highs[i])));
      const top = y(Math.max(opens[i], closes[i]));
      context.fillRect(x - width / 2, top, width, Math.max(ratio, y(Math.min(opens[i], closes[i])) - top));
    }
    context.restore();
  }

  /** A dotted line at the last price, over the whole width. */
  #drawLast() {
    const last = (this.#hasCandles ? this.#bars[4] : this.#line[1]).findLast((value) => value !== null);
    if (last === undefined) return;
    const { ctx: context, bbox } = this.#plot;
    const y = Math.round(this.#plot.valToPos(last, "y", true)) + 0.5;
    context.save();
    context.strokeStyle = palette.muted;
    context.lineWidth = devicePixelRatio || 1;
    context.setLineDash([2, 4]);
    context.beginPath();
    context.moveTo(bbox.left, y);
    context.lineTo(bbox.left + bbox.width, y);
    context.stroke();
    context.restore();
  }

  /** What is under the pointer. */
  #showCursor() {
    const { idx } = this.#plot.cursor;
    const [seconds, ...columns] = this.#hasCandles ? this.#bars : this.#line;
    const read = byId("chart-cursor");
    if (idx == null || seconds[idx] === undefined || columns[0][idx] === null) {
      setText(read, t("chart_note"));
      return;
    }
    const decimals = this.#quote?.decimals ?? 0;
    const values = columns.map((column) => fixed(column[idx], decimals));
    const names = ["O", "H", "L", "C"];
    const text = this.#hasCandles ? values.map((value, i) => `${names[i]} ${value}`).join("  ") : values[0];
    setText(read, `${clock(seconds[idx])}  ${text}`);
  }
}

/** As wide as the longest label, so that none is cut off. */
function axisWidth(labels) {
  const longest = Math.max(0, ...(labels ?? []).map((label) => label.length));
  return Math.max(AXIS_PX.least, AXIS_PX.around + AXIS_PX.character * longest);
}

/** The time of a label, unless that would begin left of the canvas. */
function clockWithin(plot, seconds) {
  return plot.valToPos(seconds, "x") < CLOCK_PX / 2 - LEFT_PX ? "" : clock(seconds);
}

function clock(seconds) {
  const text = new Date(seconds * 1000).toTimeString();
  return seconds % 60 === 0 ? text.slice(0, 5) : text.slice(0, 8);
}
