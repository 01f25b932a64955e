"use strict";
const $ = id => document.getElementById(id);
const scene = JSON.parse($("scene").textContent);
const bytes = Uint8Array.from(atob($("points").textContent), character => character.charCodeAt(0));
const frames = scene.frames, count = bytes.length / 12, canvas = $("view");
const gl = canvas.getContext("webgl2", { antialias: true });
if (!gl) { $("error").hidden = false; $("panel").hidden = true; throw new Error("no WebGL 2"); }

// Vectors, and 4 x 4 matrices in column order as WebGL has them.
const add = (a, b, s = 1) => a.map((value, i) => value + s * b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = a => a.map(value => value / Math.hypot(...a));
const multiply = (a, b) => Float32Array.from({ length: 16 }, (_, i) => {
  let sum = 0;
  for (let k = 0; k < 4; k++) sum += a[4 * k + i % 4] * b[4 * (i >> 2) + k];
  return sum;
});
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const centre = frame => frame.pose.map(row => row[3]);
const axis = (frame, k) => frame.pose.map(row => row[k]);

// State. The world is the first camera's frame: +y is down, so "up" is -y. Yaw and pitch are 0 along +z.
let yaw, pitch, distance, target, opening;
let mode = "all", flying = false, playing = false, now = 0, dirty = true, moment = 0;
const held = new Set(), pointers = new Map();

const forward = () => [Math.cos(pitch) * Math.sin(yaw), Math.sin(pitch), Math.cos(pitch) * Math.cos(yaw)];
const right = () => [Math.cos(yaw), 0, -Math.sin(yaw)];
const down = () => cross(forward(), right());
const eye = () => add(target, forward(), -distance);
const aspect = () => canvas.width / Math.max(canvas.height, 1);

function look(from, direction, length) {
  yaw = Math.atan2(direction[0], direction[2]);
  pitch = Math.asin(clamp(direction[1], -0.997, 0.997));
  distance = length;
  target = add(from, forward(), length);
  dirty = true;
}
// The vertical field of view that shows a frame whole: x and y slopes of its corners, whatever the window's shape.
function openingOf(frame) {
  const [x, y] = [0, 1].map(k => Math.max(...frame.corners.map(corner => Math.abs(corner[k]))));
  return 2 * Math.atan(Math.max(y, x / aspect()));
}
function reset() {
  const first = frames[0], start = centre(first), ahead = axis(first, 2);
  const behind = Math.max(...frames.map(frame => dot(add(start, centre(frame), -1), ahead)));
  const back = 0.45 * scene.depth + Math.min(behind, 3 * scene.depth);
  const wide = openingOf(first);
  opening = Math.min(wide, 1.2);
  const fit = Math.tan(wide / 2) / Math.tan(opening / 2);  // in a narrow window the view steps back instead
  const from = add(add(start, ahead, -back * fit), axis(first, 1), -0.3 * scene.depth);
  const towards = add(add(start, ahead, scene.depth), from, -1);
  look(from, unit(towards), Math.hypot(...towards));
}
function lookThrough() {
  const frame = frames[now];
  opening = openingOf(frame);
  look(centre(frame), axis(frame, 2), scene.depth);
}

function program(name) {
  const made = gl.createProgram();
  for (const [type, kind] of [[gl.VERTEX_SHADER, "vertex"], [gl.FRAGMENT_SHADER, "fragment"]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + $(`${name}-${kind}`).textContent);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  const uniforms = new Proxy({}, { get: (cache, name) => cache[name] ??= gl.getUniformLocation(made, name) });
  return { made, uniforms };
}
const pointProgram = program("point"), lineProgram = program("line");
const pointArray = gl.createVertexArray();
gl.bindVertexArray(pointArray);
gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
gl.bufferData(gl.ARRAY_BUFFER, bytes, gl.STATIC_DRAW);
for (const [location, size, type, normalised, offset] of [
  [0, 3, gl.SHORT, false, 0], [1, 3, gl.UNSIGNED_BYTE, true, 6], [2, 1, gl.UNSIGNED_BYTE, true, 9],
  [3, 1, gl.UNSIGNED_SHORT, false, 10]]) {
  gl.enableVertexAttribArray(location);
  gl.vertexAttribPointer(location, size, type, normalised, 12, offset);
}
gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, frames.length, 1, 0, gl.RGBA, gl.FLOAT,
  new Float32Array(frames.flatMap(frame => [...centre(frame), frame.pixel])));
for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);

const lineArray = gl.createVertexArray();
gl.bindVertexArray(lineArray);
const lineBuffer = gl.createBuffer();
gl.bindBuffer(gl.ARRAY_BUFFER, lineBuffer);
for (const k of [0, 1]) gl.enableVertexAttribArray(k), gl.vertexAttribPointer(k, 3 + k, gl.FLOAT, false, 28, 12 * k);

// Frusta as lines, the path between them, and the image plane of the current camera as two triangles.
function cameraGeometry() {
  const length = 0.06 * scene.depth * Number($("frustum").value), lines = [], faces = [];
  const visible = index => mode === "all" || index === now || (mode === "cumulative" && index < now);
  frames.forEach((frame, index) => {
    const share = frames.length > 1 ? index / (frames.length - 1) : 0, start = centre(frame);
    if (!visible(index) || Math.hypot(...add(start, eye(), -1)) < 0.5 * length) return;  // not the one looked through
    const colour = index === now ? [1, 0.95, 0.75, 1] : [0.35 + 0.65 * share, 0.65, 1 - 0.7 * share, 0.9];
    const at = (x, y) => [x, y, 1].reduce((sum, value, k) => add(sum, axis(frame, k), value * length), start);
    const corners = frame.corners.map(c => at(...c)), [a, b] = frame.corners;
    const line = (p, q) => lines.push(...p, ...colour, ...q, ...colour);
    corners.forEach((corner, k) => { line(start, corner); line(corner, corners[(k + 1) % 4]); });
    const peak = at((a[0] + b[0]) / 2, 1.35 * a[1]);  // a roof above the upper edge: the way up of the image
    line(at(0.7 * a[0] + 0.3 * b[0], a[1]), peak); line(peak, at(0.3 * a[0] + 0.7 * b[0], a[1]));
    if (index > 0 && visible(index - 1)) line(centre(frames[index - 1]), start);
    if (index === now) for (const k of [0, 1, 2, 0, 2, 3]) faces.push(...corners[k], 1, 0.7, 0.33, 0.22);
  });
  return [new Float32Array([...lines, ...faces]), lines.length / 7, faces.length / 7];
}

function use(program, matrix) {
  gl.useProgram(program.made);
  gl.uniformMatrix4fv(program.uniforms.clipFromWorld, false, matrix);
  return program.uniforms;
}
function draw() {
  const near = 0.01 * Math.min(distance, scene.depth), far = 1000 * Math.max(distance, scene.depth);
  const f = 1 / Math.tan(opening / 2), [r, d, z, e] = [right(), down(), forward(), eye()];
  const squeeze = (far + near) / (near - far), drop = 2 * far * near / (near - far);
  const clipFromView = [f / aspect(), 0, 0, 0, 0, f, 0, 0, 0, 0, squeeze, -1, 0, 0, drop, 0];
  const viewFromWorld = [0, 1, 2].flatMap(k => [r[k], -d[k], -z[k], 0]).concat(-dot(r, e), dot(d, e), dot(z, e), 1);
  const matrix = multiply(clipFromView, viewFromWorld);
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(0.055, 0.075, 0.098, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  const uniforms = use(pointProgram, matrix);
  gl.uniform3fv(uniforms.origin, scene.origin);
  const size = Number($("size").value) * canvas.height * f / 2;
  const values = { scale: scene.unit, size, threshold: threshold(), now };
  for (const name in values) gl.uniform1f(uniforms[name], values[name]);
  gl.uniform1i(uniforms.mode, ["all", "cumulative", "frame"].indexOf(mode));
  gl.bindVertexArray(pointArray);
  gl.drawArrays(gl.POINTS, 0, count);
  if (Number($("frustum").value) > 0) {
    const [data, lines, faces] = cameraGeometry();
    use(lineProgram, matrix);
    gl.bindVertexArray(lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, lineBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.drawArrays(gl.LINES, 0, lines);
    gl.drawArrays(gl.TRIANGLES, lines, faces);
    gl.disable(gl.BLEND);
  }
  drawGizmo(r, d);
}
function drawGizmo(r, d) {
  const lines = $("gizmo").querySelectorAll("line"), texts = $("gizmo").querySelectorAll("text");
  for (let k = 0; k < 3; k++) {
    lines[k].setAttribute("x2", 30 * r[k]); lines[k].setAttribute("y2", 30 * d[k]);
    texts[k].setAttribute("x", 40 * r[k]); texts[k].setAttribute("y", 40 * d[k]);
  }
}

// The confidence slider hides a share of the points; its byte threshold comes from the histogram. Ties stay together.
const below = new Uint32Array(257);
for (let k = 0; k < count; k++) below[bytes[12 * k + 9] + 1]++;
for (let k = 1; k < 257; k++) below[k] += below[k - 1];
function threshold() {
  const hidden = Number($("confidence").value) / 100 * count;
  let byte = 0;
  while (byte < 255 && below[byte + 1] <= hidden) byte++;
  return byte;
}

function refresh() {
  const frame = frames[now], hidden = below[threshold()], number = value => value.toLocaleString("en");
  $("time").value = now;
  const clock = frame.time === null ? "" : ` · ${frame.time.toFixed(2)} s`;
  $("clock").textContent = `Frame ${now + 1} of ${frames.length}${clock}`;
  $("name").textContent = $("name").title = frame.name;
  $("confidence-text").textContent = `≥ ${(threshold() / 255).toFixed(2)}, hides ${Math.round(100 * hidden / count)} %`;
  for (const id of ["size", "frustum"]) $(id + "-text").textContent = "× " + Number($(id).value).toFixed(1);
  const rest = scene.left_out ? `, ${number(scene.left_out)} not in this file` : "";
  $("count").textContent = `${number(count - hidden)} points${rest}`;
  for (const button of $("modes").children) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  const pressed = { orbit: !flying, fly: flying, play: playing };
  for (const id in pressed) $(id).setAttribute("aria-pressed", pressed[id]);
  $("play").textContent = playing ? "Pause" : "Play";
  dirty = true;
}
const setFlying = value => { flying = value; refresh(); };
const setPlaying = value => {
  playing = value && frames.length > 1;
  if (playing && mode === "all") mode = "cumulative";
  refresh();
};
const setFrame = value => {
  now = (value + frames.length) % frames.length;
  if (mode === "all") mode = "frame";
  refresh();
};
const fold = () => $("fold").setAttribute("aria-expanded", !$("panel").classList.toggle("folded"));

for (const button of $("modes").children) button.onclick = () => { mode = button.dataset.mode; refresh(); };
for (const id of ["confidence", "size", "frustum"]) $(id).oninput = refresh;
$("time").oninput = () => setFrame(Number($("time").value));
const help = () => $("help").showModal(), orbit = () => setFlying(false), fly = () => setFlying(true);
const clicks = { play: () => setPlaying(!playing), orbit, fly, through: lookThrough, reset, fold, keys: help };
for (const id in clicks) $(id).onclick = clicks[id];
const actions = { f: () => setFlying(!flying), c: lookThrough, r: reset, h: fold, "?": help };
addEventListener("keydown", event => {
  const key = event.key.toLowerCase(), onControl = event.target.matches("button, input");
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (key === "shift" || "wasdqe".includes(key)) held.add(key);
  else if (key in actions) actions[key]();
  else if (key === " " && !event.target.matches("button")) setPlaying(!playing);
  else if (key.startsWith("arrow") && !onControl) setFrame(now + (key === "arrowleft" || key === "arrowup" ? -1 : 1));
  else return;
  event.preventDefault();
});
addEventListener("keyup", event => held.delete(event.key.toLowerCase()));
addEventListener("blur", () => held.clear());

function turn(dx, dy) {
  const from = eye(), sign = flying ? -1 : 1;  // either way the scene follows the pointer
  [yaw, pitch] = [yaw + sign * dx, clamp(pitch + sign * dy, -1.5, 1.5)];
  if (flying) target = add(from, forward(), distance);
  dirty = true;
}
function shift(dx, dy) {
  const step = 2 * distance * Math.tan(opening / 2) / canvas.clientHeight;
  target = add(add(target, right(), -step * dx), down(), -step * dy);
  dirty = true;
}
function zoom(factor) {
  if (flying) target = add(target, forward(), (1 - factor) * distance);
  else distance = clamp(distance * factor, 1e-3 * scene.depth, 1e3 * scene.depth);
  dirty = true;
}
canvas.onpointerdown = event => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  canvas.classList.add("dragging");
};
canvas.onpointerup = canvas.onpointercancel = event => {
  pointers.delete(event.pointerId);
  canvas.classList.toggle("dragging", pointers.size > 0);
};
canvas.onpointermove = event => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const dx = event.clientX - last[0], dy = event.clientY - last[1];
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (other) {
    const span = point => Math.max(Math.hypot(point[0] - other[0], point[1] - other[1]), 1);
    zoom(span(last) / span([event.clientX, event.clientY]));
    shift(dx / 2, dy / 2);
  } else if (event.buttons & 6 || event.shiftKey) shift(dx, dy);
  else turn(0.006 * dx, 0.006 * dy);
};
canvas.oncontextmenu = event => event.preventDefault();
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  zoom(Math.exp(0.0012 * clamp(event.deltaY, -200, 200)));
}, { passive: false });

function tick(time) {
  const seconds = Math.min((time - moment) / 1000, 0.1) || 0;
  moment = time;
  if (held.size) {
    const step = seconds * scene.depth * (held.has("shift") ? 2 : 0.5);
    const go = (towards, plus, minus) => { target = add(target, towards, step * (held.has(plus) - held.has(minus))); };
    go(forward(), "w", "s"), go(right(), "d", "a"), go(down(), "q", "e");
    dirty = true;
  }
  if (playing && Math.floor(time / 200) > Math.floor((time - 1000 * seconds) / 200)) setFrame(now + 1);
  if (dirty) { dirty = false; draw(); }
  requestAnimationFrame(tick);
}
function resize() {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  [canvas.width, canvas.height] = [canvas.clientWidth, canvas.clientHeight].map(side => Math.round(side * ratio));
  dirty = true;
}

// A view can be linked to: viewer.html#mode=frame&frame=3&hide=50&view=camera (frames from 1).
const wanted = new URLSearchParams(location.hash.slice(1));
for (const id of ["title", "units"]) $(id).textContent = scene[id];
$("time").max = frames.length - 1;
now = clamp(Number(wanted.get("frame")) - 1 || 0, 0, frames.length - 1);
if (["cumulative", "frame"].includes(wanted.get("mode"))) mode = wanted.get("mode");
$("confidence").value = Number(wanted.get("hide")) || 0;
if (innerWidth <= 640 || innerHeight <= 420) fold();
new ResizeObserver(resize).observe(canvas);
resize();
(wanted.get("view") === "camera" ? lookThrough : reset)();
refresh();
tick(0);
