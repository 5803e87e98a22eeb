// Values over time in memory that does not grow: each is made as large as it will ever be.

/**
 * The last value of each `bucketMs`, of the last `capacity` buckets that had one. `cut` marks that nothing is known
 * from there on, until the next value.
 */
export class TickRing {
  #times;
  #values;
  #bucketMs;
  #first = 0;
  #last = -1;
  size = 0;

  constructor(capacity, bucketMs) {
    this.#times = new Float64Array(capacity);
    this.#values = new Float64Array(capacity);
    this.#bucketMs = bucketMs;
  }

  /** Take a value of the moment `ms`; what is older than the last one is left out. */
  push(ms, value) {
    if (this.size > 0) {
      const lastMs = this.#times[this.#last];
      if (ms < lastMs) return;
      const isSame = Math.floor(ms / this.#bucketMs) === Math.floor(lastMs / this.#bucketMs);
      if (isSame && !Number.isNaN(this.#values[this.#last])) {
        this.#times[this.#last] = ms;
        this.#values[this.#last] = value;
        return;
      }
    }
    this.#append(ms, value);
  }

  cut() {
    if (this.size > 0 && !Number.isNaN(this.#values[this.#last])) {
      this.#append(this.#times[this.#last], NaN);
    }
  }

  #append(ms, value) {
    const capacity = this.#times.length;
    this.#last = (this.#last + 1) % capacity;
    this.#times[this.#last] = ms;
    this.#values[this.#last] = value;
    if (this.size < capacity) this.size += 1;
    else this.#first = (this.#first + 1) % capacity;
  }

  /**
   * Write what is from `fromMs` on into `seconds` and `values`, arrays that are reused: times in s, null for a cut.
   * The value before is included, so that a line comes in from the left.
   */
  read(fromMs, seconds, values) {
    const capacity = this.#times.length;
    let begin = this.size;
    while (begin > 0 && this.#times[(this.#first + begin - 1) % capacity] >= fromMs) begin -= 1;
    if (begin > 0) begin -= 1;
    const n = this.size - begin;
    seconds.length = values.length = n;
    for (let i = 0; i < n; i += 1) {
      const place = (this.#first + begin + i) % capacity;
      seconds[i] = this.#times[place] / 1000;
      values[i] = Number.isNaN(this.#values[place]) ? null : this.#values[place];
    }
    return n;
  }
}

/** Open, high, low and close of each `barMs` of the last `capacity` that had a value. */
export class BarRing {
  #capacity;
  #barMs;
  #columns;
  #first = 0;
  #last = -1;
  size = 0;

  constructor(capacity, barMs) {
    this.#capacity = capacity;
    this.#barMs = barMs;
    this.#columns = Array.from({ length: 5 }, () => new Float64Array(capacity));
  }

  push(ms, value) {
    const beginMs = Math.floor(ms / this.#barMs) * this.#barMs;
    const [times, opens, highs, lows, closes] = this.#columns;
    if (this.size > 0) {
      const last = this.#last;
      if (beginMs < times[last]) return;
      if (beginMs === times[last]) {
        highs[last] = Math.max(highs[last], value);
        lows[last] = Math.min(lows[last], value);
        closes[last] = value;
        return;
      }
    }
    this.#last = (this.#last + 1) % this.#capacity;
    times[this.#last] = beginMs;
    opens[this.#last] = highs[this.#last] = lows[this.#last] = closes[this.#last] = value;
    if (this.size < this.#capacity) this.size += 1;
    else this.#first = (this.#first + 1) % this.#capacity;
  }

  /** Write all bars into five arrays that are reused: seconds, opens, highs, lows, closes. */
  read(columns) {
    for (const [c, column] of columns.entries()) {
      const own = this.#columns[c];
      column.length = this.size;
      for (let i = 0; i < this.size; i += 1) {
        const value = own[(this.#first + i) % this.#capacity];
        column[i] = c === 0 ? value / 1000 : value;
      }
    }
    return this.size;
  }
}

/**
 * The course of a value since the beginning, in `capacity` points at most: when they are full, every other one goes,
 * and from then on a point stands for twice the time.
 */
export class Course {
  #values;
  #stepMs;
  #step = -1;
  size = 0;

  constructor(capacity, stepMs) {
    this.#values = new Float64Array(capacity);
    this.#stepMs = stepMs;
  }

  push(ms, value) {
    const step = Math.floor(ms / this.#stepMs);
    if (this.size > 0 && step <= this.#step) {
      this.#values[this.size - 1] = value;
      return;
    }
    if (this.size === this.#values.length) this.#thin();
    this.#step = Math.floor(ms / this.#stepMs);
    this.#values[this.size] = value;
    this.size += 1;
  }

  #thin() {
    this.size = Math.ceil(this.size / 2);
    for (let i = 0; i < this.size; i += 1) {
      this.#values[i] = this.#values[2 * i];
    }
    this.#stepMs *= 2;
  }

  at(i) {
    return this.#values[i];
  }
}
