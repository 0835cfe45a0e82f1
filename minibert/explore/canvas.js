// What is drawn on a canvas: its colours, how it is painted, and how a reader points at it;
// page.js says what.
"use strict";

// ---- colours: from paper to the full tone, in one hue
const STEPS = 255;
let tones; // name -> [r, g, b]
let ramps; // name -> STEPS + 1 of them, from paper to that tone
function readTones() {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => style.getPropertyValue(name).match(/[0-9a-f]{2}/gi).map((x) => parseInt(x, 16));
  tones = Object.fromEntries(["paper", "full", "off", "ink"].map((name) => [name, rgb("--" + name)]));
  const between = (tone, t) => tones.paper.map((p, i) => Math.round(p + (tone[i] - p) * t));
  const ramp = (name) => range(STEPS + 1).map((k) => between(tones[name], k / STEPS));
  ramps = { full: ramp("full"), off: ramp("off") };
}
const mix = (t, tone = "full") => ramps[tone][Math.round(t * STEPS)];
const css = (rgb) => `rgb(${rgb.join(" ")})`;
const onTop = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#111" : "#fff");

// ---- painting
function drawSmall(canvas, p, T) { // of a long text a dot is the largest of a block
  const M = Math.min(T, 32), place = range(T).map((i) => Math.floor((i * M) / T)), dots = new Float32Array(M * M);
  for (let i = 0; i < T; i++) for (let j = 0; j < T; j++) {
    const dot = place[i] * M + place[j];
    dots[dot] = Math.max(dots[dot], p[i * T + j]);
  }
  canvas.width = canvas.height = M;
  const context = canvas.getContext("2d"), image = context.createImageData(M, M);
  dots.forEach((value, dot) => image.data.set([...mix(Math.sqrt(value)), 255], 4 * dot));
  context.putImageData(image, 0, 0);
}

function paintMatrix(canvas, rows, columns, shade, [row, column]) {
  const width = canvas.clientWidth, context = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
  const font = (size) => `${size}px system-ui, sans-serif`;
  context.font = font(12);
  const widest = (names) => Math.min(92, Math.max(...names.map((name) => context.measureText(name).width)) + 8);
  const left = Math.round(widest(rows)), top = Math.round(widest(columns));
  const step = Math.max(2, Math.min(56, Math.floor((width - left - 2) / columns.length * 4) / 4));
  canvas.geometry = { left, top, step };
  canvas.width = width * ratio;
  canvas.height = (top + rows.length * step + 2) * ratio;
  canvas.style.height = `${canvas.height / ratio}px`;
  context.scale(ratio, ratio);
  rows.forEach((_, i) => columns.forEach((_, j) => {
    const [t, negative] = shade(i, j);
    context.fillStyle = css(mix(t, negative ? "off" : "full"));
    context.fillRect(left + j * step, top + i * step, step - (step > 6), step - (step > 6));
    if (negative && step > 6) {
      context.fillStyle = css(tones.ink);
      context.fillRect(left + (j + 0.25) * step, top + (i + 0.5) * step - 1, step / 2, 1.5);
    }
  }));
  const size = Math.min(12, step + 1), crowded = step < 8; // then only the chosen names fit
  const label = (name, chosen, x, y, turn) => {
    if (crowded && !chosen) return;
    context.save();
    context.translate(x, y);
    context.rotate(turn);
    context.font = (chosen ? "600 " : "") + font(crowded ? 12 : size);
    context.fillStyle = css(tones.ink);
    context.textAlign = turn ? "left" : "right";
    context.textBaseline = "middle";
    context.fillText(name, 0, 0, 88);
    context.restore();
  };
  rows.forEach((name, i) => label(name, i === row, left - 5, top + (i + 0.5) * step, 0));
  columns.forEach((name, j) => label(name, j === column, left + (j + 0.5) * step, top - 5, -Math.PI / 2));
  const frame = (x, width, tone, line) => {
    context.strokeStyle = css(tones[tone]);
    context.lineWidth = line;
    context.strokeRect(left + x * step - 0.5, top + row * step - 0.5, width * step, step);
  };
  frame(0, columns.length, "ink", 1);
  frame(column, 1, "paper", 5); // so that the frame shows on every shade
  frame(column, 1, "ink", 2.5);
}

function paintBars(canvas, rows, chosen) {
  const context = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, high = 44, step = width / rows[0].length;
  canvas.width = width * ratio;
  canvas.height = rows.length * (high + 6) * ratio;
  canvas.style.height = `${canvas.height / ratio}px`;
  context.scale(ratio, ratio);
  rows.forEach((row, k) => {
    const most = Math.max(...row.map(Math.abs)) || 1;
    row.forEach((x, h) => { // up is positive, down negative
      context.fillStyle = css(mix(0.35 + 0.65 * Math.abs(x) / most, x < 0 ? "off" : "full"));
      context.fillRect(h * step, (k + 0.5) * (high + 6), Math.max(step - (step > 6 ? 1 : 0.3), 0.7), (-x / most) * (high / 2));
    });
  });
  context.strokeStyle = css(tones.ink);
  context.strokeRect(chosen * step - 1, 0.5, step + 2, canvas.height / ratio - 1);
}

// ---- pointing
const clamp = (i, n) => Math.max(0, Math.min(n - 1, i));
const arrows = (event) => ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] })[event.key];

// A map whose cells can be pointed at, tapped, and walked over with the arrow keys.
function grid(canvas, size, cursor, choose, paint) {
  const cell = (event) => {
    const { left, top, step } = canvas.geometry, [rows, columns] = size();
    const i = Math.floor((event.offsetY - top) / step), j = Math.floor((event.offsetX - left) / step);
    return i >= 0 && j >= 0 && i < rows && j < columns ? [i, j] : null;
  };
  canvas.onpointermove = (event) => { if (event.pointerType === "mouse") paint(cell(event) ?? cursor()); };
  canvas.onpointerleave = () => paint(cursor());
  canvas.onclick = (event) => { const found = cell(event); if (found) choose(...found); };
  canvas.onkeydown = (event) => {
    const step = arrows(event), [rows, columns] = size(), [i, j] = cursor();
    if (!step) return;
    choose(clamp(i + step[0], rows), clamp(j + step[1], columns));
    event.preventDefault();
  };
}

// Bars side by side, the same way.
function bars(canvas, size, cursor, choose, paint) {
  const bar = (event) => clamp(Math.floor((event.offsetX / canvas.clientWidth) * size()), size());
  canvas.onpointermove = (event) => { if (event.pointerType === "mouse") paint(bar(event)); };
  canvas.onpointerleave = () => paint(cursor());
  canvas.onclick = (event) => choose(bar(event));
  canvas.onkeydown = (event) => {
    const step = arrows(event)?.[1];
    if (!step) return;
    choose(clamp(cursor() + step, size()));
    event.preventDefault();
  };
}
