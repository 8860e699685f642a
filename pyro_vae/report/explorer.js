// The explorer: what changes when, and what pointers, keys and controls do.

let pending = false, later = 0;
/** Draw at the next frame, however often something changed until then. */
function changed() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    draw();
    clearTimeout(later); // a screen reader says where the point is once it rests
    later = setTimeout(() => ($("spoken").textContent = $("position").textContent), 500);
  });
}

function draw() {
  image = decode(state.z);
  show($("decoded"), [{ x: image, name: "E[x | z]" }]);
  const shown = flat ? state.axes : [...new Set([...state.axes, ...order])].slice(0, 4);
  const at = shown.map((d) => `${dimName(d)} = ${round(state.z[d])}`).join(", ");
  const labels = seen.map((site) => `, ${site.name} ${className(site.names, state.y[site.i])}`).join("");
  $("position").textContent = `at ${at}${dim > shown.length ? ", …" : ""}${labels}${scene.grid ? ", nearest grid point" : ""}`;
  document.querySelectorAll("#sliders input").forEach((input) => {
    input.value = state.z[input.dataset.dim];
    input.nextElementSibling.textContent = round(state.z[input.dataset.dim]);
  });
  seen.forEach((site) => document.querySelectorAll(`#labels select`).forEach((select) => {
    if (select.dataset.site === String(site.i)) select.value = state.y[site.i];
  }));
  drawPlane();
}

/** Move the point along the axes of the plane, within its bounds. */
function move(values) {
  values.forEach((value, i) => {
    const d = state.axes[i];
    state.z[d] = Math.min(Math.max(value, scene.low[d]), scene.high[d]);
  });
  changed();
}

/** Go to a datum's code, with its labels and covariates. */
function goTo(n) {
  state.z.set(code(n));
  if (scene.labels) state.y = [...scene.labels[n]];
  if (scene.program) state.from = n;
  hover(n);
  changed();
}

function hover(n) {
  if (n === state.hovered || n === null) return;
  state.hovered = n;
  showDatum();
  changed();
}

function reset() {
  state.z.fill(0);
  if (!scene.standard_normal) for (let d = 0; d < dim; d++) state.z[d] = codes.reduce((sum, value, i) => sum + (i % dim === d ? value / scene.num : 0), 0);
  changed();
}

/** A draw from the prior: made here where it is N(0, I), else one of those that came with the page. */
function drawPrior() {
  if (scene.standard_normal) {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    for (let d = 0; d < dim; d++) state.z[d] = normal();
  } else {
    const i = Math.floor(Math.random() * scene.pool.num);
    state.z.set(arrays[scene.pool.z].subarray(i * dim, (i + 1) * dim));
    scene.pool.labels.forEach((values, site) => (state.y[site] = values[i]));
    if (scene.program) state.from = scene.pool.turn[i];
  }
  changed();
}

// -------------------------------------------------------------------------------------------------- pointers and keys

function listen() {
  let start = null, dragging = false;
  const at = (event) => {
    const edge = plane.getBoundingClientRect();
    return [event.clientX - edge.left, event.clientY - edge.top];
  };
  const follow = ([x, y]) => {
    const [a, b] = state.axes, along = (x - box.left) / box.width, up = 1 - (y - box.top) / box.height;
    const values = [scene.low[a] + along * (scene.high[a] - scene.low[a])];
    if (!flat) values.push(scene.low[b] + up * (scene.high[b] - scene.low[b]));
    move(values);
  };
  plane.addEventListener("pointerdown", (event) => {
    start = at(event);
    plane.setPointerCapture(event.pointerId);
    const [x, y] = handle(), grabbed = Math.hypot(start[0] - x, start[1] - y) < 16;
    dragging = grabbed || nearDatum(...start, NEAR / 2) === null;
    if (dragging && !grabbed) follow(start);
  });
  plane.addEventListener("pointermove", (event) => {
    const now = at(event);
    if (!start) return hover(nearDatum(...now, NEAR));
    dragging = dragging || Math.hypot(now[0] - start[0], now[1] - start[1]) > 4;
    if (dragging) follow(now);
  });
  plane.addEventListener("pointerup", () => {
    if (start && !dragging) goTo(nearDatum(...start, NEAR / 2));
    start = null;
  });
  plane.addEventListener("pointercancel", () => (start = null));
  const keys = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] };
  plane.addEventListener("keydown", (event) => {
    if (event.key === "Home") reset();
    else if (event.key in keys && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const [i, sign] = keys[event.key];
      if (i < state.axes.length) {
        const values = state.axes.map((d) => state.z[d]), d = state.axes[i];
        values[i] += (sign * (event.shiftKey ? 10 : 1) * (scene.high[d] - scene.low[d])) / 100;
        move(values);
      }
    } else return;
    event.preventDefault();
  });
  new ResizeObserver(changed).observe(plane);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (legend(), changed()));
}

// ----------------------------------------------------------------------------------------------------------- controls

function controls() {
  if (dim > 2 && !scene.grid) {
    const options = order.map((d) => [d, `${dimName(d)} (${spreadText(d)})`]);
    [["across", 0], ["up", 1]].forEach(([text, i]) => $("axes").append(choice(text, options, state.axes[i], (d) => {
      if (state.axes[1 - i] === d) state.axes[1 - i] = state.axes[i];
      state.axes[i] = d;
      $("axes").querySelectorAll("select").forEach((select, j) => (select.value = state.axes[j]));
      changed();
    })));
  }
  if (!scene.grid || scene.grid.labels_chosen) seen.forEach((site) => {
    const options = Array.from({ length: site.classes }, (_, k) => [k, className(site.names, k)]);
    const label = choice(site.name, options, state.y[site.i], (k) => ((state.y[site.i] = k), changed()));
    label.querySelector("select").dataset.site = site.i;
    $("labels").append(label);
  });
  $("buttons").append(
    element("button", { type: "button", textContent: scene.standard_normal ? "reset to 0" : "reset to the mean", onclick: reset }),
    element("button", { type: "button", textContent: "random draw from the prior", onclick: drawPrior }));
  if (dim > 1 && !scene.grid) sliders();
  const number = element("input", { type: "number", id: "number", min: 0, max: scene.num - 1, value: 0,
    oninput: (event) => hover(Math.min(Math.max(Math.round(Number(event.target.value)) || 0, 0), scene.num - 1)) });
  $("chooser").append(element("label", {}, `datum, 0 to ${scene.num - 1} `, number),
    element("button", { type: "button", textContent: "go to its z", onclick: () => goTo(state.hovered ?? 0) }));
  if (scene.attributes.length > 1) {
    const options = scene.attributes.map(({ name }, i) => [i, name]);
    $("marks").append(choice("marks show", options, 0, (i) => {
      [state.attribute, state.chosen] = [i, null];
      legend();
      changed();
    }));
  }
}

function sliders() {
  const slider = (d) => {
    const input = element("input", { type: "range", min: scene.low[d], max: scene.high[d], step: "any",
      oninput: (event) => ((state.z[d] = Number(event.target.value)), changed()) });
    input.dataset.dim = d;
    const text = element("span", { textContent: dimName(d) }, element("small", { textContent: ` ${spreadText(d)}` }));
    return element("label", {}, text, input, element("output"));
  };
  $("sliders").append(...order.slice(0, FEW).map(slider));
  if (dim > FEW) {
    const rest = element("div", { className: "sliders" }, ...order.slice(FEW).map(slider));
    $("sliders").append(element("details", {}, element("summary", { textContent: `${dim - FEW} more dimensions` }), rest));
  }
}

/** The classes; one of them is brought out by its button. */
function legend() {
  const attribute = scene.attributes[state.attribute];
  if (!attribute) return;
  const known = [...new Set(attribute.values)].sort((a, b) => a - b);
  $("legend").replaceChildren(element("span", { textContent: `${attribute.name}:` }), ...known.slice(0, 40).map((k) => {
    const sign = element("b", { textContent: mark(k), style: `color:${tint(k)}` });
    const name = className(attribute.names, k), words = name === mark(k) ? [sign] : [sign, ` ${name}`];
    return element("button", { type: "button", "aria-pressed": String(state.chosen === k), title: `bring out ${name}`,
      onclick: () => ((state.chosen = state.chosen === k ? null : k), legend(), changed()) }, ...words);
  }));
}

async function begin() {
  arrays = await unpack($("blob").textContent.trim(), scene.arrays);
  codes = arrays[scene.codes];
  if (scene.program) run = prepare(scene.program, arrays);
  if (!isImage) $("decoded").classList.add("wide");
  $("decoded").prepend(element("div", { className: "frame" }));
  controls();
  legend();
  listen();
  reset();
  draw();
  hover(0);
  window.explorer = { scene, state, decode, datum, reconstruction, image: () => image, handle, place,
    get z() { return state.z; }, get y() { return state.y; } };
}

begin();
