// The explorer's front end: a canvas of points, and a panel with the clip that was clicked.
// It holds points and narrations; it requests frames, sound and neighbours from Python by message, clip by clip.

const COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7570B3", "#1B9E9E", "#A0A0A0"];
const MARGIN = 14;
const HINT = "hover over a dot for its narration; click it to see and hear the clip";
const REACH = 10; // a click this close to a point (pixels) selects it

function element(parent, tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text; // never innerHTML: narrations are untrusted text
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const points = model.get("points");
  const n = points.x.length;
  const root = element(el, "div", "mc3-explorer");
  const left = element(root, "div", "mc3-map");
  const bar = element(left, "div", "mc3-bar");
  const label = element(bar, "label", "", "colour ");
  const choice = element(label, "select");
  for (const name of Object.keys(points.groups)) element(choice, "option", "", name);
  const search = element(bar, "input");
  search.type = "search";
  search.placeholder = "find in narrations";
  search.setAttribute("aria-label", "find in narrations");
  const found = element(bar, "span", "mc3-found");
  const canvas = element(left, "canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${points.title}; arrow keys step from clip to clip, Enter plays`);
  const hover = element(left, "div", "mc3-hover", HINT);
  const legend = element(left, "div", "mc3-legend");
  const panel = element(root, "div", "mc3-panel");
  element(panel, "p", "mc3-hint", points.title);

  let here = -1; // the point under the pointer
  let shown = -1; // the clip in the panel
  let lines = []; // rows of its neighbours
  let frame = 0; // timer of the running film strip

  const position = (i) => [
    MARGIN + points.x[i] * (canvas.clientWidth - 2 * MARGIN),
    MARGIN + (1 - points.y[i]) * (canvas.clientHeight - 2 * MARGIN),
  ];

  function draw() {
    const scale = window.devicePixelRatio || 1;
    if (!canvas.clientWidth) return;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(root).color;
    const codes = points.groups[choice.value].codes;
    const words = search.value.trim().toLowerCase();
    let hits = 0;
    for (let i = 0; i < n; i++) {
      const hit = !words || points.text[i].toLowerCase().includes(words);
      hits += hit;
      const [x, y] = position(i);
      pen.globalAlpha = hit ? 0.8 : 0.08;
      pen.fillStyle = COLOURS[codes[i] % COLOURS.length];
      pen.beginPath();
      pen.arc(x, y, words && hit ? 4.5 : 3, 0, 7);
      pen.fill();
    }
    found.textContent = words ? `${hits} of ${n}` : `${n} clips`;
    pen.globalAlpha = 1;
    pen.strokeStyle = ink;
    for (const row of lines) {
      pen.beginPath();
      pen.setLineDash([3, 3]);
      pen.moveTo(...position(shown));
      pen.lineTo(...position(row));
      pen.stroke();
    }
    pen.setLineDash([]);
    for (const [row, radius] of [[shown, 7], [here, 5]]) {
      if (row < 0) continue;
      pen.lineWidth = 1.8;
      pen.beginPath();
      pen.arc(...position(row), radius, 0, 7);
      pen.stroke();
    }
  }

  function explain() {
    legend.replaceChildren();
    points.groups[choice.value].names.forEach((name, k) => {
      const item = element(legend, "span", "mc3-key");
      element(item, "i").style.background = COLOURS[k % COLOURS.length];
      element(item, "span", "", name);
    });
    draw();
  }

  function point(row) {
    here = row;
    hover.textContent = row < 0 ? HINT : points.text[row] || "(no narration)";
    canvas.style.cursor = row < 0 ? "default" : "pointer";
    draw();
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    let best = -1;
    let least = REACH * REACH;
    for (let i = 0; i < n; i++) {
      const [x, y] = position(i);
      const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (far < least) [least, best] = [far, i];
    }
    return best;
  }

  function request(row) {
    shown = row;
    lines = [];
    draw();
    model.send({ kind: "clip", row });
  }

  function show(clip) {
    if (clip.row !== shown) return; // a later click has superseded this answer
    clearInterval(frame);
    panel.replaceChildren();
    element(panel, "p", "mc3-text", clip.text || "(no narration)");
    element(panel, "p", "mc3-facts", clip.facts);
    const screen = element(panel, "div", "mc3-screen");
    screen.style.backgroundImage = `url(${clip.strip})`;
    screen.style.backgroundSize = `100% ${100 * clip.frames}%`;
    const turn = (k) => (screen.style.backgroundPositionY = `${clip.frames > 1 ? (100 * k) / (clip.frames - 1) : 0}%`);
    const audio = clip.sound ? element(panel, "audio") : null;
    if (audio) {
      audio.controls = true;
      audio.src = clip.sound;
    } else element(panel, "p", "mc3-facts", "no sound");
    const play = () => {
      const started = performance.now();
      clearInterval(frame);
      frame = setInterval(() => {
        const part = (performance.now() - started) / 1000 / clip.seconds;
        turn(Math.min(clip.frames - 1, Math.floor(part * clip.frames)));
        if (part >= 1) clearInterval(frame);
      }, 40);
    };
    screen.title = "play again";
    screen.addEventListener("click", () => (audio ? ((audio.currentTime = 0), audio.play()) : play()));
    if (audio) {
      audio.addEventListener("play", play);
      audio.play().catch(play); // a browser that blocks autoplay still shows the frames
    } else play();
    const table = element(panel, "table");
    const head = element(table, "tr");
    for (const name of ["nearest", "cosine", "narration"]) element(head, "th", "", name);
    for (const other of clip.neighbours) {
      const line = element(table, "tr");
      element(line, "td", "", other.rank === 1 ? other.pair : "");
      element(line, "td", "", other.similarity.toFixed(2));
      const link = element(element(line, "td"), "button", other.same_group ? "mc3-same" : "", other.text || "(no narration)");
      link.title = other.same_group ? "same action group" : "another action group";
      link.addEventListener("click", () => request(other.row));
    }
    lines = clip.neighbours.filter((other) => other.rank === 1).map((other) => other.row);
    draw();
  }

  const answer = (message) => {
    if (message.kind === "clip") show(message);
    else if (message.kind === "error") {
      panel.replaceChildren();
      element(panel, "p", "mc3-text", message.message);
    }
  };
  model.on("msg:custom", answer);
  choice.addEventListener("change", explain);
  search.addEventListener("input", draw);
  canvas.addEventListener("mousemove", (event) => point(nearest(event)));
  canvas.addEventListener("mouseleave", () => point(-1));
  canvas.addEventListener("click", (event) => {
    const row = nearest(event);
    if (row >= 0) request(row);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) point((here + step + n) % n);
    else if (event.key === "Enter" && here >= 0) request(here);
    else return;
    event.preventDefault();
  });
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);
  explain();
  return () => {
    clearInterval(frame);
    watcher.disconnect();
    model.off("msg:custom", answer);
  };
}

export default { render };
