// What the explorer knows: the scene, where its point is, what that decodes to, and data as pictures or tables.
// The files of the page follow one another: program.js, scene.js, plane.js, explorer.js.

const scene = JSON.parse(document.getElementById("scene").textContent);
const $ = (id) => document.getElementById(id);
const NEAR = 14; // pixels within which a dot is meant
const FEW = 8; // sliders that are shown at once

const size = scene.shape.reduce((a, b) => a * b, 1);
const isImage = scene.shape.length === 3;
const dim = scene.dim;
const order = scene.order;
const dimName = (d) => `${scene.site}_${d}`; // counted from 0, as in posterior.nc
const spreadText = (d) => `${scene.is_kl ? "KL" : "variance"} ${scene.spread[d].toFixed(2)}${scene.is_kl ? " nats" : ""}`;
const round = (value) => value.toFixed(2).replace("-", "−");
const seen = scene.sites.map((site, i) => ({ ...site, i })).filter((site) => site.decoded);

const state = {
  z: new Float32Array(dim),
  y: scene.labels ? [...scene.labels[0]] : [],
  from: 0, // the datum whose covariates are given
  axes: scene.grid ? [...scene.grid.axes] : order.slice(0, 2),
  hovered: null,
  attribute: 0,
  chosen: null, // a class that is brought out
};
let arrays, run, image, codes;

/** An element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A labelled <select>. */
function choice(text, options, value, change) {
  const select = element("select", { "aria-label": text, onchange: (event) => change(Number(event.target.value)) });
  options.forEach(([number, name]) => select.append(element("option", { value: number, textContent: name })));
  select.value = value;
  return element("label", {}, `${text} `, select);
}

const className = (names, k) => (k < 0 ? "unknown" : names[k] ?? String(k));

// ------------------------------------------------------------------------------------------------------- decoding

/** E[x | z, y, given] with the covariates of a datum: by the decoder, or the nearest point of the grid. */
function decode(z, y = state.y, from = state.from) {
  if (!scene.program) return nearest(z, y);
  const hot = scene.sites.flatMap((site, i) => Array.from({ length: site.classes }, (_, k) => (y[i] === k ? 1 : 0)));
  const width = scene.given_width ?? 0;
  const given = width ? arrays[scene.given].subarray(from * width, (from + 1) * width) : [];
  return pasted(run({ z, y: Float32Array.from(hot), given }), from);
}

function nearest(z, y) {
  const { axes, side, labels_chosen: byLabel } = scene.grid;
  let cell = 0;
  if (byLabel) for (const site of seen) cell = cell * site.classes + y[site.i];
  for (const d of axes) {
    const place = ((z[d] - scene.low[d]) / (scene.high[d] - scene.low[d])) * (side - 1);
    cell = cell * side + Math.round(Math.min(Math.max(place, 0), side - 1));
  }
  return pasted(unscaled(arrays[scene.grid.decoded].subarray(cell * size, (cell + 1) * size)), 0);
}

/** Numbers in the data's own units, of what is stored as bytes. */
function unscaled(stored) {
  const [low, high] = scene.range;
  return isImage ? Float32Array.from(stored, (byte) => low + ((high - low) * byte) / 255) : Float32Array.from(stored);
}

const datum = (n) => unscaled(arrays[scene.x].subarray(n * size, (n + 1) * size));

/** Entries that are given are shown as they are in that datum. */
function pasted(x, from) {
  if (scene.pasted === undefined) return x;
  const known = arrays[scene.pasted], own = datum(from);
  return x.map((value, i) => (known[i] ? own[i] : value));
}

const code = (n) => codes.subarray(n * dim, (n + 1) * dim);

function reconstruction(n) {
  if (scene.program) return decode(code(n), scene.labels ? scene.labels[n] : [], n);
  return pasted(unscaled(arrays[scene.grid.own].subarray(n * size, (n + 1) * size)), n);
}

// ------------------------------------------------------------------------------------------------ pictures, tables

/** Show x as a picture, with what is missing hatched, or as a table of columns. */
function show(place, parts) {
  if (!isImage) return showTable(place, parts);
  const [channels, rows, columns] = scene.shape;
  parts.forEach(({ x, mask, name }, i) => {
    let canvas = place.querySelectorAll("canvas")[i];
    if (!canvas) {
      canvas = element("canvas", { width: columns, height: rows, className: "pixels", role: "img" });
      place.querySelectorAll(".frame")[i].prepend(canvas);
    }
    canvas.setAttribute("aria-label", name);
    const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
    const [low, high] = scene.range;
    for (let p = 0; p < rows * columns; p++) {
      for (let c = 0; c < 3; c++) {
        const entry = (channels === 3 ? c : 0) * rows * columns + p;
        const missing = mask && !mask[entry];
        const hatch = (p + Math.floor(p / columns)) % 2 ? 0.55 : 0.4;
        pixels.data[4 * p + c] = 255 * (missing ? hatch : (x[entry] - low) / (high - low));
      }
      pixels.data[4 * p + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  });
}

function showTable(place, parts) {
  let cells = place.querySelectorAll("td");
  if (cells.length !== size * parts.length) {
    const head = element("tr", {}, element("th", { scope: "col", textContent: "column" }),
      ...parts.map(({ name }) => element("th", { scope: "col", textContent: name })));
    const lines = Array.from({ length: size }, (_, i) => element("tr", {},
      element("th", { scope: "row", textContent: scene.columns[i] ?? `x_${i}` }), ...parts.map(() => element("td"))));
    const table = element("table", { className: "numbers" }, element("thead", {}, head), element("tbody", {}, ...lines));
    place.querySelector(".numbers")?.remove();
    place.querySelector(".frame").prepend(table);
    place.querySelector(".frame").tabIndex = 0; // it scrolls, by keys too
    cells = place.querySelectorAll("td");
  }
  parts.forEach(({ x, mask }, j) => {
    for (let i = 0; i < size; i++) {
      cells[i * parts.length + j].textContent = mask && !mask[i] ? "missing" : Number(x[i].toPrecision(4));
    }
  });
}

/** What the datum is, in words. */
function about(n) {
  const known = scene.attributes.map(({ name, names, values }) => `${name} ${className(names, values[n])}`);
  const used = seen.filter((site) => scene.attributes.find(({ name }) => name === site.name)?.values[n] !== scene.labels[n][site.i]);
  const decoded = used.map((site) => `decoded as ${site.name} ${className(site.names, scene.labels[n][site.i])}`);
  return [`datum ${n}`, ...known, ...decoded].join(", ");
}

function showDatum() {
  const n = state.hovered;
  if (n === null) return;
  const mask = scene.mask === undefined ? null : arrays[scene.mask].subarray(n * size, (n + 1) * size);
  const place = $("datum");
  if (!place.firstChild) {
    const frame = (text) => element("figure", { className: "frame" }, element("figcaption", { textContent: text }));
    place.append(...(isImage ? [frame("x"), frame("E[x | z]")] : [frame("")]), element("p"));
  }
  show(place, [{ x: datum(n), mask, name: isImage ? `datum ${n}` : "x" },
    { x: reconstruction(n), name: isImage ? `reconstruction of datum ${n}` : "E[x | z]" }]);
  place.querySelector("p").textContent = `${about(n)}: x and E[x | z] at z = E[z | x].`;
  $("number").value = n;
}
