"use strict";
// What report/arrays.py packs and report/program.py translates: arrays out of text, and a decoder that runs on them.

/** Undo Packer.text: arrays of the kinds and sizes in `table`. */
async function unpack(text, table) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const words = table.reduce((sum, [kind, size]) => sum + (kind === "uint8" ? 0 : size), 0);
  const ordered = new Uint8Array(4 * words);
  for (let plane = 0; plane < 4; plane++) {
    for (let i = 0; i < words; i++) ordered[4 * i + plane] = bytes[plane * words + i];
  }
  let word = 0, byte = 4 * words;
  return table.map(([kind, size]) => {
    if (kind === "uint8") return bytes.subarray(byte, (byte += size));
    const start = 4 * word;
    word += size;
    if (kind === "float32") return new Float32Array(ordered.buffer, start, size);
    const places = new Int32Array(ordered.buffer, start, size);
    for (let i = 1; i < size; i++) places[i] += places[i - 1]; // stored as differences
    return places;
  });
}

/** erf(x) to 1.2e-7: Numerical Recipes, section 6.2. */
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const terms = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277];
  const tail = t * Math.exp(-x * x + terms.reduceRight((sum, term) => sum * t + term, 0));
  return x >= 0 ? 1 - tail : tail - 1;
}

const ENTRYWISE = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  pow: (a, b) => a ** b,
  maximum: (a, b) => Math.max(a, b),
  minimum: (a, b) => Math.min(a, b),
  gt: (a, b) => (a > b ? 1 : 0),
  lt: (a, b) => (a < b ? 1 : 0),
  ge: (a, b) => (a >= b ? 1 : 0),
  le: (a, b) => (a <= b ? 1 : 0),
  eq: (a, b) => (a === b ? 1 : 0),
  ne: (a, b) => (a === b ? 0 : 1),
  logical_and: (a, b) => (a && b ? 1 : 0),
  logical_or: (a, b) => (a || b ? 1 : 0),
  logical_not: (a) => (a ? 0 : 1),
  where: (a, b, c) => (a ? b : c),
  clamp: (a, low, high) => Math.min(Math.max(a, low), high),
  copy: (a) => a,
  relu: (a) => (a > 0 ? a : 0),
  leaky_relu: (a, slope) => (a > 0 ? a : slope * a),
  elu: (a, alpha, scale, inner) => scale * (a > 0 ? a : alpha * Math.expm1(inner * a)),
  gelu: (a) => 0.5 * a * (1 + erf(a * Math.SQRT1_2)),
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  tanh: Math.tanh,
  erf,
  exp: Math.exp,
  expm1: Math.expm1,
  log: Math.log,
  log1p: Math.log1p,
  sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a),
  reciprocal: (a) => 1 / a,
  abs: Math.abs,
  neg: (a) => -a,
  sin: Math.sin,
  cos: Math.cos,
};

/** Fill `out` with a function of each entry; a single number is that for all entries. */
function entrywise(f, out, [a, b, c, d]) {
  const steps = [a, b, c, d].map((array) => (array && array.length > 1 ? 1 : 0));
  if (!b) {
    for (let i = 0; i < out.length; i++) out[i] = f(a[i]);
  } else if (!c) {
    for (let i = 0; i < out.length; i++) out[i] = f(a[i * steps[0]], b[i * steps[1]]);
  } else {
    d = d || [0];
    for (let i = 0; i < out.length; i++) {
      out[i] = f(a[i * steps[0]], b[i * steps[1]], c[i * steps[2]], d[i * steps[3]]);
    }
  }
}

function spread(sums, to, step, x, from, num, w) {
  for (let k = 0; k < num; k++) sums[to + k * step] += w * x[from + k];
}

function collect(sums, to, x, from, step, num, w) {
  for (let k = 0; k < num; k++) sums[to + k] += w * x[from + k * step];
}

/** Sums of products over the taps of a kernel, in double precision; `up` scatters where `down` gathers. */
function convolve(up, out, [x, weight, bias], numbers) {
  const [source, rows, columns, maps, high, wide, tall, width, down, right, top, left] = numbers;
  const sums = new Float64Array(high * wide);
  const lines = up ? rows : high, across = up ? columns : wide; // of the smaller of both images
  const most = up ? high : rows, long = up ? wide : columns; // of the larger
  for (let map = 0; map < maps; map++) {
    sums.fill(bias ? bias[map] : 0);
    for (let from = 0; from < source; from++) {
      const start = from * rows * columns;
      for (let i = 0; i < tall; i++) {
        for (let j = 0; j < width; j++) {
          const w = weight[((map * source + from) * tall + i) * width + j];
          const first = Math.max(0, Math.ceil((left - j) / right));
          const end = Math.min(across, Math.floor((long - 1 + left - j) / right) + 1);
          for (let row = 0; row < lines; row++) {
            const there = row * down + i - top;
            if (there < 0 || there >= most) continue;
            const near = row * across, far = there * long + j - left;
            if (up) spread(sums, far + first * right, right, x, start + near + first, end - first, w);
            else collect(sums, near + first, x, start + far + first * right, right, end - first, w);
          }
        }
      }
    }
    out.set(sums, map * high * wide);
  }
}

const OPERATIONS = {
  take(out, [x, places]) {
    for (let i = 0; i < out.length; i++) out[i] = x[places[i]];
  },
  cat(out, parts) {
    let start = 0;
    for (const part of parts) {
      out.set(part, start);
      start += part.length;
    }
  },
  linear(out, [x, weight, bias], [rows, inputs, outputs]) {
    for (let row = 0; row < rows; row++) {
      for (let o = 0; o < outputs; o++) {
        let sum = bias ? bias[o] : 0;
        for (let i = 0, w = o * inputs, at = row * inputs; i < inputs; i++) sum += weight[w + i] * x[at + i];
        out[row * outputs + o] = sum;
      }
    }
  },
  down: (out, inputs, numbers) => convolve(false, out, inputs, numbers),
  up: (out, inputs, numbers) => convolve(true, out, inputs, numbers),
  scale(out, [x, weight, shift], [inner]) {
    for (let i = 0; i < out.length; i++) {
      const which = Math.floor(i / inner) % weight.length;
      out[i] = x[i] * weight[which] + shift[which];
    }
  },
  norm(out, [x], [groups, eps]) {
    const size = x.length / groups;
    for (let start = 0; start < x.length; start += size) {
      let mean = 0, variance = 0;
      for (let i = start; i < start + size; i++) mean += x[i] / size;
      for (let i = start; i < start + size; i++) variance += (x[i] - mean) ** 2 / size;
      const factor = 1 / Math.sqrt(variance + eps);
      for (let i = start; i < start + size; i++) out[i] = (x[i] - mean) * factor;
    }
  },
  sum: (out, [x], [size]) => reduce(out, x, size, (part) => part.reduce((sum, a) => sum + a, 0)),
  mean: (out, [x], [size]) => reduce(out, x, size, (part) => part.reduce((sum, a) => sum + a, 0) / size),
  amax: (out, [x], [size]) => reduce(out, x, size, (part) => part.reduce((most, a) => Math.max(most, a), -Infinity)),
  softmax(out, [x], [size]) {
    for (let start = 0; start < x.length; start += size) {
      const part = x.subarray(start, start + size), most = part.reduce((a, b) => Math.max(a, b), -Infinity);
      const total = part.reduce((sum, a) => sum + Math.exp(a - most), 0);
      for (let i = 0; i < size; i++) out[start + i] = Math.exp(part[i] - most) / total;
    }
  },
};

/** One number for each run of `size` entries. */
function reduce(out, x, size, f) {
  for (let i = 0; i < out.length; i++) out[i] = f(x.subarray(i * size, (i + 1) * size));
}

/** A function from {z, y, given}, arrays each, to E[x | z, y, given], a new Float32Array.
 *
 * What is in between is kept in double precision: the mean of a continuous Bernoulli is a difference of large numbers.
 */
function prepare(program, arrays) {
  const slots = [];
  for (const [slot, number] of program.constants) slots[slot] = arrays[number];
  for (const [, out, size] of program.operations) slots[out] = new Float64Array(size);
  return (inputs) => {
    for (const [name, slot] of Object.entries(program.inputs)) slots[slot] = inputs[name];
    for (const [name, out, , from, ...numbers] of program.operations) {
      const values = from.map((slot) => slots[slot]);
      if (name in ENTRYWISE) entrywise(ENTRYWISE[name], slots[out], values);
      else OPERATIONS[name](slots[out], values, numbers);
    }
    return Float32Array.from(slots[program.output]);
  };
}

if (typeof module !== "undefined") module.exports = { unpack, prepare };
