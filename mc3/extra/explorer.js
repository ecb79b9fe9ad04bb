// The explorer's front end: one or two linked maps of points, drawn by WebGL2, and a panel with the clip that was clicked.
// It asks Python for maps, colours, pictures and clips (`Explorer.answer`); explore.js answers from data in a page.

const COLOURS = [
  "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7570B3", "#1B9E9E", "#B2182B",
  "#F4A582", "#92C5DE", "#66A61E", "#D6B4FC", "#A6761D", "#41AB5D", "#E7298A", "#6A51A3", "#C7A76C", "#9A9A9A",
];
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const REACH = 10; // a pointer this close to a point (pixels) is at it
const PATHS = 2000; // moves that are drawn at most
const KEPT = 300; // clips and pictures that are kept
const HINT = "Hover for the narration, click to play. Drag moves, the wheel zooms, shift-drag selects.";
const SCORES = { av: "audio–video similarity", al: "audio–text similarity", vl: "video–text similarity" };
const VERTEX = `#version 300 es
in vec2 place; in vec4 rgba; uniform vec3 view; uniform vec2 middle; uniform float size; out vec4 colour;
void main() { gl_Position = vec4((place - view.xy) * view.z / middle, 0, 1); gl_PointSize = size; colour = rgba; }`;
const FRAGMENT = `#version 300 es
precision highp float; in vec4 colour; uniform int shape; uniform float size; out vec4 ink;
void main() {
  vec2 p = abs(2.0 * gl_PointCoord - 1.0);
  float r = shape == 0 ? length(p) : shape == 1 ? max(p.x, p.y) * 1.15 : p.x + p.y;
  float a = colour.a * clamp((1.0 - r) * 0.5 * size + 0.5, 0.0, 1.0);
  ink = vec4(colour.rgb * a, a);
}`; // a circle, a square, a diamond: the first, second and third modality
const SHAPES = ["●", "■", "◆"];

function element(parent, tag, name = "", text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text; // never innerHTML: narrations are untrusted text
  parent.append(made);
  return made;
}

function button(parent, text, label, act) {
  const made = element(parent, "button", "", text);
  made.type = "button";
  made.title = label;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const array = (Kind, view) => new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const ordinal = (n) => `${n.toLocaleString("en")}${n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th"}`;

function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((value, c) => Math.round(value + (at - low) * (RAMP[low + 1][c] - value)));
}

// Points by cells of a grid, so that the nearest one is found among a few, whatever their number.
function grid(xy) {
  const n = xy.length / 2;
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < n; i++) {
    if (Number.isNaN(xy[2 * i])) continue;
    for (const c of [0, 1]) {
      box[c] = Math.min(box[c], xy[2 * i + c]);
      box[2 + c] = Math.max(box[2 + c], xy[2 * i + c]);
    }
  }
  const side = Math.max(1, Math.ceil(Math.sqrt(n / 4)));
  const step = [0, 1].map((c) => (box[2 + c] - box[c]) / side || 1);
  const cell = (value, c) => Math.min(side - 1, Math.max(0, Math.floor((value - box[c]) / step[c])));
  const start = new Uint32Array(side * side + 1);
  const cells = new Int32Array(n).fill(-1);
  for (let i = 0; i < n; i++) {
    if (Number.isNaN(xy[2 * i])) continue;
    cells[i] = cell(xy[2 * i + 1], 1) * side + cell(xy[2 * i], 0);
    start[cells[i] + 1]++;
  }
  for (let k = 0; k < side * side; k++) start[k + 1] += start[k];
  const next = start.slice();
  const items = new Uint32Array(start[side * side]);
  for (let i = 0; i < n; i++) if (cells[i] >= 0) items[next[cells[i]]++] = i;
  function* inside(x0, y0, x1, y1) {
    for (let row = cell(y0, 1); row <= cell(y1, 1); row++) {
      const first = row * side;
      yield* items.subarray(start[first + cell(x0, 0)], start[first + cell(x1, 0) + 1]);
    }
  }
  return { box, inside };
}

// One map: a canvas of points below a canvas of marks, which takes pointer and keys. `events` are called with points.
function plot(parent, events) {
  const frame = element(parent, "figure", "mc3-map");
  const caption = element(frame, "figcaption");
  const stage = element(frame, "div", "mc3-stage");
  const canvas = element(stage, "canvas");
  const marks = element(stage, "canvas", "mc3-marks");
  const tip = element(stage, "div", "mc3-tip");
  tip.hidden = true;
  marks.tabIndex = 0;
  marks.setAttribute("role", "application");
  const gl = canvas.getContext("webgl2", { antialias: false });
  if (!gl) element(stage, "p", "mc3-error", "This map needs WebGL2, which this browser does not offer.");
  const pen = marks.getContext("2d");
  const map = { frame, caption, stage, marks, tip, xy: new Float32Array(), modalities: [], n: 0, visible: [] };
  let look = { x: 0, y: 0, zoom: 1 };
  let [cells, fit, asked, uniform] = [null, 1, 0, {}];
  let [moving, coarse, last] = [0, 1, 0]; // while a map moves, slow graphics draw every second, fourth, ... point
  if (gl) {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    map.buffers = ["place", "rgba"].map((name) => {
      const buffer = gl.createBuffer();
      gl.bindAttribLocation(program, ["place", "rgba"].indexOf(name), name);
      gl.enableVertexAttribArray(["place", "rgba"].indexOf(name));
      return buffer;
    });
    gl.linkProgram(program);
    gl.useProgram(program);
    for (const name of ["view", "middle", "size", "shape"]) uniform[name] = gl.getUniformLocation(program, name);
  }
  const upload = (k, data) => {
    if (!gl) return;
    gl.bindBuffer(gl.ARRAY_BUFFER, map.buffers[k]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  };
  const scale = () => fit * look.zoom;
  const data = (x, y) => [look.x + (x - marks.clientWidth / 2) / scale(), look.y - (y - marks.clientHeight / 2) / scale()];
  map.position = (p, xy = map.xy) => [
    marks.clientWidth / 2 + (xy[2 * p] - look.x) * scale(), marks.clientHeight / 2 - (xy[2 * p + 1] - look.y) * scale(),
  ];
  map.point = (clip, modality) => {
    const k = map.modalities.length === 1 ? 0 : map.modalities.indexOf(modality);
    return k < 0 || Number.isNaN(map.xy[2 * (k * map.n + clip)]) ? -1 : k * map.n + clip;
  };
  map.points = (clip) => map.modalities.map((m) => map.point(clip, m)).filter((p) => p >= 0);
  map.set = (found, n) => {
    Object.assign(map, found, { n });
    cells = grid(map.xy);
    upload(0, map.xy.map((value) => (Number.isNaN(value) ? 1e9 : value)));
    map.reset();
  };
  map.reset = () => {
    const [x0, y0, x1, y1] = cells ? cells.box : [0, 0, 1, 1];
    look = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, zoom: 1 };
    map.draw();
  };
  map.paint = (colours, visible) => { map.visible = visible; upload(1, colours); map.draw(); };
  map.draw = () => (asked ||= requestAnimationFrame(now));
  const move = () => {
    clearTimeout(moving);
    moving = setTimeout(() => {
      moving = last = 0;
      map.draw();
    }, 200);
    map.draw();
  };
  map.pan = (dx, dy) => { look = { ...look, x: look.x - dx / scale(), y: look.y + dy / scale() }; move(); };
  map.zoom = (factor, x = marks.clientWidth / 2, y = marks.clientHeight / 2) => {
    const [before, kept] = [data(x, y), look.zoom];
    look.zoom = Math.min(200, Math.max(0.5, kept * factor));
    const after = data(x, y);
    look = { ...look, x: look.x + before[0] - after[0], y: look.y + before[1] - after[1] };
    move();
  };
  map.nearest = (x, y) => {
    if (!cells) return -1;
    let [best, least] = [-1, (REACH / scale()) ** 2];
    const [cx, cy] = data(x, y);
    const reach = REACH / scale();
    for (const p of cells.inside(cx - reach, cy - reach, cx + reach, cy + reach)) {
      const far = (map.xy[2 * p] - cx) ** 2 + (map.xy[2 * p + 1] - cy) ** 2;
      if (far < least && map.visible[p]) [least, best] = [far, p];
    }
    return best;
  };
  map.within = (outline) => {
    const shape = outline.map(([x, y]) => data(x, y));
    const [xs, ys] = [shape.map((p) => p[0]), shape.map((p) => p[1])];
    const found = new Set();
    for (const p of cells.inside(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys))) {
      const [x, y] = [map.xy[2 * p], map.xy[2 * p + 1]];
      let odd = false;
      for (let i = 0, j = shape.length - 1; i < shape.length; j = i++) {
        const crosses = ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i];
        odd = odd !== crosses;
      }
      if (odd && map.visible[p]) found.add(p % map.n);
    }
    return [...found].sort((a, b) => a - b);
  };
  function now(time) {
    asked = 0;
    if (moving && last && time - last > 40 && map.xy.length > 20000) coarse = Math.min(8, 2 * coarse);
    last = time;
    const [width, height, density] = [stage.clientWidth, stage.clientHeight, window.devicePixelRatio || 1];
    if (!width || !cells) return;
    for (const layer of [canvas, marks]) {
      if (layer.width === Math.round(width * density) && layer.height === Math.round(height * density)) continue;
      [layer.width, layer.height] = [Math.round(width * density), Math.round(height * density)];
    }
    const [x0, y0, x1, y1] = cells.box;
    fit = 0.92 * Math.min(width / (x1 - x0 || 1), height / (y1 - y0 || 1));
    if (gl) {
      const size = Math.min(7, Math.max(2, 420 / Math.sqrt(map.xy.length / 2))) * Math.min(2, look.zoom ** 0.3);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform3f(uniform.view, look.x, look.y, scale() * density);
      gl.uniform2f(uniform.middle, canvas.width / 2, canvas.height / 2);
      gl.uniform1f(uniform.size, size * density);
      const step = moving ? coarse : 1;
      map.modalities.forEach((_, k) => {
        gl.uniform1i(uniform.shape, map.modalities.length > 1 ? k : 0);
        gl.bindBuffer(gl.ARRAY_BUFFER, map.buffers[0]);
        gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 8 * step, 8 * k * map.n);
        gl.bindBuffer(gl.ARRAY_BUFFER, map.buffers[1]);
        gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, true, 4 * step, 4 * k * map.n);
        gl.drawArrays(gl.POINTS, 0, Math.floor(map.n / step));
      });
    }
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = pen.fillStyle = getComputedStyle(frame).color;
    events.mark(map, pen);
    if (outline.length) line(outline, [4, 3]);
  }
  function line(places, dash = []) {
    pen.setLineDash(dash);
    pen.beginPath();
    for (const [x, y] of places) pen.lineTo(x, y);
    pen.stroke();
    pen.setLineDash([]);
  }
  map.line = (places, dash) => line(places, dash);
  map.ring = (p, radius) => { pen.beginPath(); pen.arc(...map.position(p), radius, 0, 7); pen.stroke(); };

  let outline = [];
  let moved = false;
  const held = new Map(); // pointers that are down
  const at = (event) => {
    const box = marks.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  marks.addEventListener("pointerdown", (event) => {
    try {
      marks.setPointerCapture(event.pointerId);
    } catch {} // a pointer that a script made
    held.set(event.pointerId, at(event));
    moved = held.size > 1;
    outline = held.size === 1 && (event.shiftKey || events.lassoing()) ? [at(event)] : [];
  });
  marks.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = held.get(event.pointerId);
    if (!before) return events.hover(map, map.nearest(x, y));
    const [dx, dy] = [x - before[0], y - before[1]];
    if (!moved && Math.hypot(dx, dy) < 3) return;
    moved = true;
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    if (outline.length) outline.push([x, y]);
    else if (other) {
      const apart = ([a, b]) => Math.hypot(a - other[0], b - other[1]) || 1;
      map.zoom(apart([x, y]) / apart(before), (x + other[0]) / 2, (y + other[1]) / 2);
    } else map.pan(dx, dy);
    held.set(event.pointerId, [x, y]);
    map.draw();
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    const drawn = outline;
    if (!held.size) outline = [];
    if (event.type === "pointerup" && drawn.length > 2) events.select(map.within(drawn));
    else if (event.type === "pointerup" && !moved) events.open(map, map.nearest(...at(event)));
    map.draw();
  };
  marks.addEventListener("pointerup", release);
  marks.addEventListener("pointercancel", release);
  marks.addEventListener("pointerleave", () => held.size || events.hover(map, -1));
  marks.addEventListener("dblclick", map.reset);
  marks.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), ...at(event));
  }, { passive: false });
  marks.addEventListener("keydown", (event) => {
    const act = {
      "+": () => map.zoom(1.4), "=": () => map.zoom(1.4), "-": () => map.zoom(1 / 1.4), 0: map.reset,
      ArrowRight: () => events.step(1), ArrowDown: () => events.step(1),
      ArrowLeft: () => events.step(-1), ArrowUp: () => events.step(-1), Enter: events.enter, Escape: () => events.select([]),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // Jupyter has keys of its own
    act();
  });
  return map;
}

// `ask(question)` is a promise of its answer: {content, buffers}. Answers are kept, those about clips for a while.
function asker(model) {
  const pending = new Map();
  const kept = new Map();
  const hear = (content, buffers) => {
    const key = JSON.stringify(content.ask);
    const waiting = pending.get(key);
    if (!waiting) return;
    pending.delete(key);
    if (content.error) waiting.fail(new Error(content.error));
    else waiting.take({ content, buffers: buffers || [], urls: {} });
  };
  model.on("msg:custom", hear);
  const ask = (question) => {
    const key = JSON.stringify(question);
    if (kept.has(key)) return kept.get(key);
    const answer = new Promise((take, fail) => pending.set(key, { take, fail }));
    kept.set(key, answer);
    answer.catch(() => kept.delete(key));
    const clips = [...kept.keys()].filter((k) => k.includes('"row"'));
    if (clips.length > KEPT) kept.delete(clips[0]);
    model.send(question);
    return answer;
  };
  return { ask, stop: () => model.off("msg:custom", hear) };
}

// The address of a medium: it is in the answer, or made of the buffer that the answer names.
function source(answer, name, type) {
  const place = answer.content.media[name];
  if (typeof place !== "number") return place;
  return (answer.urls[name] ||= URL.createObjectURL(new Blob([answer.buffers[place]], { type })));
}

function render({ model, el }) {
  const setup = model.get("setup");
  const n = setup.text.length;
  const lower = setup.text.map((text) => text.toLowerCase());
  const known = Object.fromEntries(setup.checkpoints.map((c) => [c.name, c]));
  const { ask, stop } = asker(model);
  const root = element(el, "div", "mc3-explorer");
  const left = element(root, "div", "mc3-left");
  const bar = element(left, "div", "mc3-bar");
  let view = { ...model.get("view") };
  let field = null; // {names, codes} or {scores}
  let [turn, shown, focus, active, lines, timer, lasso, paths] = [0, -1, { row: -1 }, new Set(), [], 0, false, false];

  function choice(name, label, options) {
    const box = element(bar, "label", "", `${label} `);
    const select = element(box, "select");
    select.dataset.name = name;
    const fill = (values) => {
      select.replaceChildren();
      for (const [value, text] of values) element(select, "option", "", text).value = value;
      select.value = view[name];
    };
    fill(options);
    select.addEventListener("change", () => change({ [name]: name === "seed" ? Number(select.value) : select.value }));
    return { select, fill };
  }
  const rows = setup.checkpoints.map((c) => [c.name, c.label]);
  const controls = {
    method: choice("method", "checkpoint", rows), compare: choice("compare", "beside", [["", "none"], ...rows]),
    seed: choice("seed", "seed", []), modality: choice("modality", "modality", []),
    projection: choice("projection", "projection", setup.projections.map((p) => [p, { pca: "PCA", tsne: "t-SNE", umap: "UMAP" }[p]])),
    colour: choice("colour", "colour", []),
  };
  const search = element(bar, "input");
  search.type = "search";
  search.placeholder = "find in narrations";
  search.setAttribute("aria-label", "find in narrations");
  const pressed = (node, on) => node.setAttribute("aria-pressed", on);
  const lassoButton = button(bar, "lasso", "draw around points to select their clips (or hold shift)", () => pressed(lassoButton, (lasso = !lasso)));
  const pathButton = button(bar, "paths", "show how selected clips move from the first map to the second", () => {
    pressed(pathButton, (paths = !paths));
    redraw();
  });
  button(bar, "reset", "show all points: no zoom, filter or selection", () => {
    search.value = "";
    active.clear();
    choose([]);
    paint();
    for (const map of maps) map.reset();
  });
  pressed(lassoButton, false);
  pressed(pathButton, false);
  const status = element(left, "p", "mc3-status", HINT);
  status.setAttribute("role", "status");
  const area = element(left, "div", "mc3-maps");
  const legend = element(left, "div", "mc3-legend");
  legend.setAttribute("role", "group");
  const live = element(left, "div", "mc3-live"); // for screen readers
  live.setAttribute("aria-live", "polite");
  const panel = element(root, "div", "mc3-panel");
  panel.setAttribute("aria-label", "the clip");
  element(panel, "p", "mc3-hint", "The clip that you click is played here.");

  const selection = () => model.get("selection") || [];
  const shownMaps = () => maps.filter((map) => !map.frame.hidden);
  const redraw = () => shownMaps().forEach((map) => map.draw());
  const narration = (row) => setup.text[row] || "(no narration)";

  function choose(found) {
    model.set("selection", found);
    model.save_changes();
  }
  function change(what) {
    view = { ...view, ...what };
    model.set("view", view);
    model.save_changes();
    load();
  }
  function fill() {
    const sides = [view.method, view.compare].filter(Boolean).map((name) => known[name]);
    const shared = (list) => list(sides[0]).filter((value) => sides.every((side) => list(side).includes(value)));
    const seeds = shared((side) => side.seeds);
    const modalities = [...shared((side) => side.modalities), "together"];
    if (!seeds.includes(view.seed)) view.seed = seeds[0] ?? sides[0].seeds[0];
    if (!modalities.includes(view.modality)) view.modality = modalities[0];
    const scores = Object.entries({ av: "video", al: "text", vl: "text" }).filter(
      ([key, other]) => [other, key === "vl" ? "video" : "audio"].every((m) => sides[0].modalities.includes(m)));
    const colours = [...setup.fields, "modality", "cluster"].map((name) => [name, name]);
    controls.seed.fill(seeds.map((seed) => [seed, seed]));
    controls.modality.fill(modalities.map((m) => [m, m]));
    controls.colour.fill([...colours, ...scores.map(([key]) => [key, SCORES[key]])]);
    if (!controls.colour.select.value) controls.colour.select.value = view.colour = "verb";
    for (const name of ["method", "compare", "projection"]) controls[name].select.value = view[name];
    pathButton.disabled = !view.compare;
  }

  // Fetch what `view` shows; the maps stay as they are until all of it is there.
  async function load() {
    const mine = ++turn;
    fill();
    const { method, compare, seed, modality, projection, colour } = view;
    const fixed = setup.fields.includes(colour);
    status.textContent = "computing …";
    root.classList.add("mc3-busy");
    try {
      const sides = compare ? [method, compare] : [method];
      const found = await Promise.all(sides.map((name, k) =>
        ask({ kind: "map", method: name, seed, modality, projection, onto: k ? method : "" })));
      const chosen = colour === "modality" ? null : await ask(fixed
        ? { kind: "field", field: colour, method: "", seed: 0, modality: "" }
        : { kind: "field", field: colour, method, seed, modality: colour === "cluster" ? modality : "together" });
      if (mine !== turn) return;
      const names = chosen && chosen.content.names;
      field = !chosen ? { name: colour, names: found[0].content.modalities }
        : names ? { name: colour, names, codes: array(Uint8Array, chosen.buffers[0]) }
        : { name: colour, scores: array(Float32Array, chosen.buffers[0]) };
      if (field.scores) {
        const sorted = field.scores.filter((value) => !Number.isNaN(value)).sort();
        field.low = sorted[Math.floor(0.02 * sorted.length)];
        field.high = sorted[Math.floor(0.98 * (sorted.length - 1))];
      }
      active.clear();
      maps[1].frame.hidden = !compare;
      found.forEach(({ content, buffers }, k) => {
        if (maps[k].origin !== buffers[0]) maps[k].set({ xy: array(Float32Array, buffers[0]), modalities: content.modalities }, n);
        maps[k].origin = buffers[0];
        maps[k].caption.textContent = content.label;
        if (content.modalities.length > 1) maps[k].caption.textContent += `: ${content.modalities.map((m, s) => `${SHAPES[s]} ${m}`).join("  ")}`;
        maps[k].marks.setAttribute("aria-label", `map of ${content.label}, ${modality}; arrow keys step through the selection or the neighbours, Enter plays, plus and minus zoom`);
      });
      paint();
      if (shown >= 0) about(shown);
    } catch (error) { if (mine !== turn) return; status.textContent = error.message; }
    root.classList.remove("mc3-busy");
  }

  function codeOf(map, p) {
    if (field.scores) return Number.isNaN(field.scores[p % n]) ? -1 : 0;
    return field.codes ? field.codes[p % n] : field.names.indexOf(map.modalities[Math.floor(p / n)]);
  }
  // Colours and visibility of all points, from the field, the search and the legend's filter.
  function paint() {
    if (!field) return;
    const words = search.value.trim().toLowerCase();
    const hit = words ? Uint8Array.from(lower, (text) => text.includes(words)) : new Uint8Array(n).fill(1);
    const picked = new Set(selection());
    const inks = COLOURS.map(rgb);
    const seen = new Set();
    for (const map of shownMaps()) {
      const size = map.xy.length / 2;
      const [colours, visible] = [new Uint8Array(4 * size), new Uint8Array(size)];
      for (let p = 0; p < size; p++) {
        const [clip, code] = [p % n, codeOf(map, p)];
        visible[p] = hit[clip] && (!active.size || active.has(code)) ? 1 : 0;
        if (visible[p]) seen.add(clip);
        const ink = field.scores && code >= 0 ? ramp((field.scores[clip] - field.low) / (field.high - field.low || 1)) : inks[code] || inks[19];
        colours.set(ink, 4 * p);
        colours[4 * p + 3] = !visible[p] ? 14 : picked.size && !picked.has(clip) ? 45 : 215;
      }
      map.paint(colours, visible);
    }
    explain();
    const part = n < setup.of ? ` (a sample of ${setup.of.toLocaleString("en")})` : "";
    const count = words || active.size ? `${seen.size.toLocaleString("en")} of ${n.toLocaleString("en")} clips` : `${n.toLocaleString("en")} clips`;
    status.textContent = `${count}${part}${picked.size ? `, ${picked.size.toLocaleString("en")} selected` : ""}. ${HINT}`;
  }

  function explain() {
    legend.replaceChildren();
    if (["cluster", "av", "al", "vl"].includes(field.name)) element(legend, "span", "mc3-facts", `${SCORES[field.name] || "clusters"} of ${known[view.method].label}:`);
    if (field.scores) {
      element(legend, "span", "", field.low.toFixed(2));
      element(legend, "span", "mc3-ramp").style.background = `linear-gradient(to right, ${RAMP.map((c) => `rgb(${c})`).join(",")})`;
      element(legend, "span", "", field.high.toFixed(2));
      return;
    }
    field.names.forEach((name, k) => {
      const entry = button(legend, "", `show only ${name}`, () => {
        if (!active.delete(k)) active.add(k);
        paint();
        legend.querySelectorAll("button")[k].focus();
      });
      entry.className = "mc3-key";
      pressed(entry, active.has(k));
      element(entry, "i").style.background = COLOURS[Math.min(k, 19)];
      element(entry, "span", "", name);
    });
  }

  // What lies over the points: the clip in the panel and its neighbours, the clip under the pointer, moves.
  function mark(map, pen) {
    const second = maps[1];
    if (paths && view.compare && map === maps[0]) {
      pen.globalAlpha = 0.55;
      const moving = selection().length ? selection().slice(0, PATHS) : [shown, focus.row].filter((row) => row >= 0);
      for (const row of moving) {
        for (const m of map.modalities) {
          const [from, to] = [map.point(row, m), second.point(row, m)];
          if (from < 0 || to < 0) continue;
          const end = map.position(to, second.xy);
          map.line([map.position(from), end]);
          pen.fillRect(end[0] - 2, end[1] - 2, 4, 4);
        }
      }
      pen.globalAlpha = 1;
    }
    for (const { from, to, row } of lines) {
      if (map.modalities.length === 1 && map.modalities[0] !== from) continue;
      const [a, b] = [map.point(shown, from), map.point(row, to)];
      if (a >= 0 && b >= 0) map.line([map.position(a), map.position(b)], [3, 3]);
    }
    pen.lineWidth = 2;
    for (const [row, radius] of [[shown, 8], [focus.row, 6]]) {
      if (row < 0) continue;
      const own = map.points(row);
      map.line(own.map((p) => map.position(p)));
      for (const p of own) map.ring(p, radius);
    }
    pen.lineWidth = 1;
  }

  // The clip under the pointer: its narration now, its picture as soon as the pointer rests there.
  function hover(map, p) {
    const row = p < 0 ? -1 : p % n;
    map.marks.style.cursor = lasso ? "crosshair" : row < 0 ? "grab" : "pointer";
    if (row === focus.row) return;
    focus = { row };
    for (const each of maps) each.tip.hidden = true;
    redraw();
    clearTimeout(timer);
    if (row < 0) return;
    const { tip, stage } = map;
    const [x, y] = map.position(p);
    tip.replaceChildren();
    const picture = element(tip, "img");
    picture.alt = "";
    picture.hidden = true;
    element(tip, "span", "", narration(row));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(x + 14, stage.clientWidth - 215))}px`;
    tip.style.top = y > stage.clientHeight - 110 ? `${y - 100}px` : `${y + 14}px`;
    timer = setTimeout(async () => {
      const answer = await ask({ kind: "frame", row }).catch(() => null);
      if (!answer || focus.row !== row) return;
      picture.src = source(answer, "frame", "image/jpeg");
      picture.hidden = false;
    }, 60);
  }
  function step(way) {
    const near = [...new Set(lines.all || [])];
    const order = selection().length ? selection() : shown >= 0 ? [shown, ...near] : [...Array(n).keys()];
    const at = order.indexOf(focus.row);
    const row = order[at < 0 ? (way > 0 ? (order[0] === shown && order.length > 1 ? 1 : 0) : order.length - 1) : (at + way + order.length) % order.length];
    const p = maps[0].points(row)[0];
    if (p !== undefined) hover(maps[0], p);
    live.textContent = narration(row);
  }

  async function open(row) {
    shown = row;
    [lines, focus] = [[], { row: -1 }];
    for (const each of maps) each.tip.hidden = true;
    panel.replaceChildren();
    element(panel, "p", "mc3-text", narration(row));
    const screen = element(panel, "div", "mc3-screen", "loading …");
    const facts = element(panel, "p", "mc3-facts");
    element(panel, "div", "mc3-about");
    live.textContent = narration(row);
    redraw();
    about(row);
    try {
      const answer = await ask({ kind: "clip", row });
      if (shown !== row) return;
      facts.textContent = answer.content.facts;
      screen.textContent = "";
      play(screen, answer);
    } catch (error) { if (shown === row) screen.textContent = error.message; }
  }

  function play(screen, answer) {
    const { content } = answer;
    const media = element(screen, content.media.video !== undefined ? "video" : "audio");
    media.controls = true;
    if (content.media.video !== undefined) {
      [media.loop, media.playsInline] = [false, true];
      media.src = source(answer, "video", "video/mp4");
    } else { // stored pictures below each other, in step with the sound
      const strip = element(screen, "div", "mc3-strip");
      strip.style.backgroundImage = `url("${source(answer, "strip", "image/jpeg")}")`;
      strip.style.backgroundSize = `100% ${100 * content.frames}%`;
      const showPicture = (share) => {
        const k = Math.min(content.frames - 1, Math.floor(share * content.frames));
        strip.style.backgroundPositionY = `${content.frames > 1 ? (100 * k) / (content.frames - 1) : 0}%`;
      };
      const began = performance.now();
      const tick = () => {
        if (!strip.isConnected) return;
        showPicture(content.media.sound === undefined ? Math.min(1, (performance.now() - began) / 1000 / content.seconds) : media.currentTime / content.seconds);
        requestAnimationFrame(tick);
      };
      tick();
      screen.prepend(strip);
      if (content.media.sound === undefined) return media.replaceWith("no sound");
      media.src = source(answer, "sound", "audio/wav");
    }
    media.play().catch(() => {}); // a browser may forbid it before the first click
  }

  // Similarities and neighbours of the clip in each checkpoint that is shown.
  async function about(row) {
    const names = [view.method, view.compare].filter(Boolean);
    const { seed } = view;
    const found = await Promise.all(names.map((method) => ask({ kind: "about", row, method, seed }).catch((error) => ({ content: { label: error.message, scores: [], neighbours: [] } }))));
    const place = panel.querySelector(".mc3-about");
    if (shown !== row || !place || seed !== view.seed || names.join() !== [view.method, view.compare].filter(Boolean).join()) return;
    place.replaceChildren();
    const sides = found.map((answer) => answer.content);
    const table = element(place, "table");
    element(table, "caption", "", "Similarity within the clip: higher than in this share of all clips (cosine)");
    const head = element(table, "tr");
    for (const text of ["", ...sides.map((side) => side.label)]) element(head, "th", "", text);
    for (const pair of new Set(sides.flatMap((side) => side.scores.map((score) => score.pair)))) {
      const line = element(table, "tr");
      element(line, "th", "", pair);
      for (const side of sides) {
        const score = side.scores.find((one) => one.pair === pair);
        const cell = element(line, "td", "", score ? `${Math.floor(score.percent)} % ` : "–");
        if (score) element(cell, "span", "mc3-facts", `(${score.cosine.toFixed(2)})`);
        if (score) cell.style.setProperty("--share", `${score.percent}%`);
      }
    }
    for (const side of sides) {
      element(place, "h4", "", `Nearest clips${sides.length > 1 ? ` in ${side.label}` : ""}`);
      for (const { pair, own, rows: near, cosines, same } of side.neighbours) {
        const list = element(place, "div", "mc3-near");
        element(list, "b", "", pair);
        element(list, "span", "mc3-facts", ` its own is ${ordinal(own)} of ${n.toLocaleString("en")}`);
        near.forEach((other, k) => {
          const link = button(list, narration(other), `${narration(other)}: ${same[k] ? "same action" : "another action"}, cosine ${cosines[k].toFixed(2)}`, () => open(other));
          link.className = same[k] ? "mc3-link mc3-same" : "mc3-link";
        });
      }
    }
    lines = (sides[0].neighbours || []).map(({ pair, rows: near }) => ({ from: pair.split(" → ")[0], to: pair.split(" → ")[1], row: near[0] })).filter((l) => l.row !== undefined);
    lines.all = sides[0].neighbours.flatMap((part) => part.rows);
    redraw();
  }

  const events = {
    hover, mark, step, select: choose, lassoing: () => lasso,
    open: (map, p) => p >= 0 && open(p % n), enter: () => focus.row >= 0 && open(focus.row),
  };
  const maps = [plot(area, events), plot(area, events)];
  maps[1].frame.hidden = true;
  const selected = () => paint();
  const viewed = () => {
    if (JSON.stringify(model.get("view")) === JSON.stringify(view)) return;
    view = { ...model.get("view") };
    load();
  };
  model.on("change:selection", selected);
  model.on("change:view", viewed);
  search.addEventListener("input", paint);
  for (const kind of ["keydown", "keyup", "keypress"]) search.addEventListener(kind, (event) => event.stopPropagation());
  const watcher = new ResizeObserver(redraw);
  for (const map of maps) watcher.observe(map.stage);
  load();
  el.explorer = { maps, open, paint, model }; // for scripts and tests
  return () => {
    clearTimeout(timer);
    watcher.disconnect();
    stop();
    model.off("change:selection", selected);
    model.off("change:view", viewed);
  };
}

export default { render };
