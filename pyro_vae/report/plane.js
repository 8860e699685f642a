// The latent plane: where data and the point are in it, and how it is drawn.

const plane = $("plane");
const flat = dim === 1; // a line
let box = { left: 44, top: 12, width: 0, height: 0 };

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const toX = (value, d = state.axes[0]) => box.left + ((value - scene.low[d]) / (scene.high[d] - scene.low[d])) * box.width;
function toY(value, d = state.axes[1]) {
  if (flat) return box.top + box.height / 2;
  return box.top + box.height - ((value - scene.low[d]) / (scene.high[d] - scene.low[d])) * box.height;
}

/** Round numbers along an axis. */
function ticks(low, high) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step), found = [];
  for (let i = first; i * step <= high; i++) found.push(i * step);
  return found;
}

/** What stands for a class: its name where that is short, else a letter; dots where nothing is known. */
function mark(k) {
  const attribute = scene.attributes[state.attribute];
  if (!attribute || k < 0) return "•";
  const most = Math.max(...attribute.values) + 1;
  const names = Array.from({ length: most }, (_, i) => className(attribute.names, i));
  if (names.every((name) => name.length === 1)) return names[k];
  return most <= 26 ? String.fromCharCode(97 + k) : "•";
}

/** A class's colour, darker on light ground and lighter on dark, so that it stands out from either. */
function tint(k) {
  if (k < 0) return colour("--quiet");
  return `color-mix(in srgb, ${scene.colours[k % scene.colours.length]} 78%, ${colour("--text")})`;
}

function drawPlane() {
  const width = plane.clientWidth, height = flat ? 120 : width, ratio = window.devicePixelRatio || 1;
  if (plane.width !== Math.round(width * ratio) || plane.height !== Math.round(height * ratio)) {
    plane.width = Math.round(width * ratio);
    plane.height = Math.round(height * ratio);
    plane.style.height = `${height}px`;
  }
  box = { left: flat ? 14 : 44, top: 12, width: width - (flat ? 28 : 56), height: height - 54 };
  const pen = plane.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  drawAxes(pen, height);
  drawData(pen);
  const [x, y] = handle();
  pen.beginPath();
  pen.arc(x, y, 9, 0, 7);
  pen.lineWidth = 5;
  pen.strokeStyle = colour("--ground");
  pen.stroke();
  pen.lineWidth = 3;
  pen.strokeStyle = colour("--accent");
  pen.stroke();
}

const handle = () => [toX(state.z[state.axes[0]]), toY(flat ? 0 : state.z[state.axes[1]])];

function drawAxes(pen, height) {
  const [a, b] = state.axes;
  pen.strokeStyle = colour("--line");
  pen.fillStyle = colour("--quiet");
  pen.lineWidth = 1;
  pen.font = "12px system-ui, sans-serif";
  pen.strokeRect(box.left, box.top, box.width, box.height);
  pen.textAlign = "center";
  const number = (value) => String(Number(value.toPrecision(6))).replace("-", "−");
  for (const value of ticks(scene.low[a], scene.high[a])) pen.fillText(number(value), toX(value), box.top + box.height + 16);
  pen.fillText(`E[${dimName(a)} | x], ${spreadText(a)}`, box.left + box.width / 2, height - 6);
  if (flat) return;
  pen.textAlign = "right";
  for (const value of ticks(scene.low[b], scene.high[b])) pen.fillText(number(value), box.left - 6, toY(value) + 4);
  pen.save();
  pen.translate(11, box.top + box.height / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText(`E[${dimName(b)} | x], ${spreadText(b)}`, 0, 0);
  pen.restore();
  if (!scene.standard_normal) return;
  pen.save();
  pen.beginPath();
  pen.rect(box.left, box.top, box.width, box.height);
  pen.clip();
  pen.setLineDash([4, 4]);
  for (const sd of [1, 2]) {
    pen.beginPath();
    pen.ellipse(toX(0), toY(0), toX(sd) - toX(0), toY(0) - toY(sd), 0, 0, 7);
    pen.stroke();
    pen.fillText(`${sd} sd`, toX(sd * Math.SQRT1_2) + 14, toY(sd * Math.SQRT1_2) - 2);
  }
  pen.restore();
}

function drawData(pen) {
  const values = scene.attributes[state.attribute]?.values;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = "600 11px system-ui, sans-serif";
  const tints = new Map();
  for (let n = 0; n < scene.num; n++) {
    const k = values ? values[n] : 0;
    if (!tints.has(k)) tints.set(k, [tint(values ? k : 0), values ? mark(k) : "•"]);
    const [ink, sign] = tints.get(k);
    pen.fillStyle = ink;
    pen.globalAlpha = state.chosen === null ? 0.75 : state.chosen === k ? 1 : 0.12;
    pen.fillText(sign, ...place(n));
  }
  pen.globalAlpha = 1;
  pen.textBaseline = "alphabetic";
  if (state.hovered === null) return;
  pen.strokeStyle = colour("--text");
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.arc(...place(state.hovered), 9, 0, 7);
  pen.stroke();
}

/** Where a datum is in the plane; on a line they are spread so that they do not hide each other. */
function place(n) {
  const [a, b] = state.axes, z = code(n);
  return [toX(z[a]), flat ? box.top + box.height * (0.15 + 0.7 * ((n * 0.618034) % 1)) : toY(z[b])];
}

/** The datum whose dot lies next to a pixel, within some distance. */
function nearDatum(x, y, within) {
  let best = null, least = within ** 2;
  for (let n = 0; n < scene.num; n++) {
    const [px, py] = place(n), distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [n, distance];
  }
  return best;
}
