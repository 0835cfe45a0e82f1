"use strict";
const $ = (id) => document.getElementById(id);
const all = (selector) => document.querySelectorAll(selector);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const block = (id) => JSON.parse($(id).textContent); // the numbers in a script element of this page

// ---- the figures, and what follows from them
let figures, L, N, texts, contributions, two, everyHead, everyToken;
let heads = [], tokens = [], mostMoved = 1; // those that change the cosine, the biggest change first
function take(found) {
  figures = found;
  ({ layers: L, heads: N, texts, contributions } = found);
  two = texts.length === 2;
  everyHead = range(L * N).map((k) => ({ kind: "head", layer: Math.floor(k / N), head: k % N }));
  everyToken = texts.flatMap((t, text) => t.tokens.map((_, token) => ({ kind: "token", text, token })));
}
const probability = (text, layer, head, from, to) => {
  const T = texts[text].tokens.length; // attention: L times (N, T, T), row after row
  return texts[text].attention[layer][(head * T + from) * T + to];
};
// Numbers in a page: all first bytes, then all second ones, and so on (like bytes side by side
// compress well), deflated, in base64. Float32, or whole numbers of two bytes.
async function numbers(text, kind = Float32Array) {
  const packed = atob(text.trim()), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const width = kind.BYTES_PER_ELEMENT, count = planes.length / width, together = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++)
    for (let i = 0; i < count; i++) together[width * i + plane] = planes[plane * count + i];
  return new kind(together.buffer);
}
// The cosine without a head or a token; a live page computes it when it is asked for.
let without = (thing) =>
  thing.kind === "head" ? figures.without_head[thing.layer][thing.head] : figures.without_token[thing.text][thing.token];
// The words nearest to a token at each stage; a live page computes them when they are looked at.
let nearest = (text, token) => texts[text].nearest?.[token] ?? [];
const guesses = (text, token) => texts[text].guesses?.[token] ?? []; // of a masked-LM head; a live page has none
let drawScore = () => {}; // a live page knows queries and keys, and takes the score of a pair apart
const change = (thing) => without(thing) - figures.cosine;
// The cosine that the maps, vectors and pairs are those of: in a live page that under the mask.
let shown = () => figures.cosine;
// The biggest first, by a measure.
const sorted = (things, by) => things.map((t) => [by(t), t]).sort((a, b) => b[0] - a[0]).map((p) => p[1]);
const NOISE = 5e-6; // what the five digits shown do not show is rounding, or might as well be
function rank() {
  const size = (thing) => Math.abs(change(thing));
  [heads, tokens] = [everyHead, everyToken].map((things) => sorted(things.filter((thing) => size(thing) >= NOISE), size));
  mostMoved = heads.length ? size(heads[0]) : 1;
}

// ---- what is chosen: `dimension` of the vectors, `part` of a head's query; `hover` is a token looked at in passing, `masked` one of the things above
const at = { layer: 0, head: 0, text: 0, token: 0, to: 0, hover: null, masked: null, pair: [0, 0], dimension: 0, part: 0 };
const current = () => at.hover ?? { text: at.text, token: at.token };

// ---- words and numbers
const digits = (x) => (x <= -NOISE ? "−" : "") + Math.abs(x).toFixed(5);
const signed = (x) => (x >= NOISE ? "+" : "") + digits(x);
function called(text, token) { // [UNK] hides the word it stands for
  const { tokens, words } = texts[text];
  const word = words[token].length > 20 ? words[token].slice(0, 20) + "…" : words[token];
  return tokens[token] === figures.unknown && word !== tokens[token] ? `${tokens[token]} (${word})` : tokens[token];
}
const nameOf = (thing) => thing.kind === "head" ? `layer ${thing.layer}, head ${thing.head}`
  : `“${called(thing.text, thing.token)}”` + (two ? ` of text ${thing.text + 1}` : "");
const same = (a, b) => a && b && JSON.stringify(a) === JSON.stringify(b);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- the parts, made once
function build() {
  buildWalk();
  document.title = `Looking inside ${figures.model}`;
  $("model").textContent = figures.model.split(/[\\/]/).pop();
  if (!two) for (const part of all(".pair")) part.hidden = true;
  for (const part of all(".guess")) part.hidden = !texts[0].guesses;
  for (const [id, count, first] of [["layer", L, 0], ["head", N, 0], ["text", texts.length, 1]]) {
    $(id).append(...range(count).map((i) => element("option", { value: i, textContent: i + first })));
    $(id).onchange = () => id === "text" ? pick(Number($(id).value), 1) : choose({ [id]: Number($(id).value) });
  }
  $("heads").style.gridTemplateColumns = `1.1rem repeat(${N}, minmax(0, 1fr))`;
  $("heads").append(element("span"), ...range(N).map((n) => element("span", { textContent: n })));
  for (const thing of everyHead) {
    if (thing.head === 0) $("heads").append(element("span", { textContent: thing.layer }));
    const button = element("button", {}, element("canvas"), element("i"));
    button.onclick = () => choose({ layer: thing.layer, head: thing.head });
    $("heads").append(button);
  }
  $("heads").onkeydown = (event) => {
    const step = arrows(event);
    if (step) choose({ layer: clamp(at.layer + step[0], L), head: clamp(at.head + step[1], N) });
    else if (event.key === "m") mask({ kind: "head", layer: at.layer, head: at.head });
    else return;
    event.preventDefault();
    smallMaps()[at.layer * N + at.head].focus();
  };
  $("mask-head").onclick = () => mask({ kind: "head", layer: at.layer, head: at.head });
  $("mask-token").onclick = () => mask({ kind: "token", text: at.text, token: at.token });
  $("unmask").onclick = () => mask(null);
  grid($("map"), () => [texts[at.text].tokens.length, texts[at.text].tokens.length],
    () => [at.token, at.to], (i, j) => choose({ token: i, to: j }), drawMap);
  addEventListener("resize", redraw);
  addEventListener("hashchange", followLink);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  bars($("vectors"), () => figures.vectors[0].length, () => at.dimension, (dimension) => choose({ dimension }), drawVectors);
  grid($("pairs"), () => texts.map((text) => text.tokens.length), () => at.pair, (i, j) => choose({ pair: [i, j] }), drawPairs);
}

// ---- the parts that the texts change
function fill() {
  const warnings = texts.flatMap(faults);
  $("warnings").replaceChildren(...warnings.map((said) => element("li", { textContent: said })));
  $("warnings").hidden = !warnings.length;
  $("lines").replaceChildren(...texts.flatMap((text, number) => [
    element("p", { className: "raw" },
      element("small", { textContent: two ? `Text ${number + 1}: ` : "Text: " }), text.text),
    chipsFor(text, number),
  ]));
  if (two) fillPairs();
  fillStops();
  $("measure").textContent = (two
    ? `The cosine says how similar the two texts are to the model: 1 is the same direction, 0 a right angle. Here it is ${digits(figures.cosine)}. `
    : "Here the cosine compares the vector of the text with and without the mask: 1 means that nothing has changed. ")
    + "Mask the chosen head or token with the buttons in the bar, or choose from these lists.";
}

// What a reader has to know before looking at the numbers.
function faults({ tokens, words, length }, number) {
  const which = two ? `Text ${number + 1}` : "The text", T = tokens.length, said = [];
  const unknown = words.filter((word, i) => tokens[i] === figures.unknown && word !== tokens[i]);
  if (length > T) said.push(`${which} has ${length} tokens and was cut to ${T}: the model has not seen the rest.`);
  if (unknown.length)
    said.push(`${which}: ${figures.unknown} stands for what the vocabulary cannot spell, and the model does not know `
      + `what was there: ${[...new Set(unknown)].slice(0, 9).map((word) => `“${word.slice(0, 20)}”`).join(", ")}.`);
  return said;
}

function chipsFor(text, number) {
  const chips = element("div", { className: "chips", role: "group", ariaLabel: `Tokens of text ${number + 1}` });
  text.tokens.forEach((token, i) => {
    const chip = element("button", { className: "chip" },
      element("span", { textContent: called(number, i) }), element("data"));
    if (text.words[i]) chip.title = `from “${text.words[i]}”`;
    chip.onclick = () => pick(number, i);
    chip.onpointerenter = (event) => { if (event.pointerType === "mouse") hover({ text: number, token: i }); };
    chips.append(chip);
  });
  chips.onpointerleave = () => hover(null);
  chips.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const over = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) pick(at.text, clamp(at.token + step, text.tokens.length));
    else if (over) pick(clamp(number + over, texts.length), at.token);
    else if (event.key === "m") mask({ kind: "token", text: at.text, token: at.token });
    else return;
    event.preventDefault();
    chipsOf(at.text)[at.token].focus();
  };
  return chips;
}

// Which heads and tokens matter: bars under the small maps, and the two lists.
function fillEffects(instead) {
  everyHead.forEach((thing, k) => {
    const button = smallMaps()[k], moved = heads.includes(thing) ? change(thing) : 0;
    button.lastChild.style.width = `${(100 * Math.abs(moved)) / mostMoved}%`;
    button.title = button.ariaLabel = `Layer ${thing.layer}, head ${thing.head}; masked, the cosine changes by ${signed(moved)}`;
  });
  for (const [id, things, name] of [["top-heads", heads, "head"], ["top-tokens", tokens, "token"]]) {
    list(id, things.slice(0, 6), nameOf, (thing) => signed(change(thing)), show);
    if (!things.length) $(id).append(element("li", { textContent: instead ?? `No ${name} changes the cosine by 0.00001 or more.` }));
  }
  tellStep();
}

const pairsInOrder = () => // [i, j], what the tokens i and j contribute most first
  sorted(contributions.flatMap((row, i) => row.map((_, j) => [i, j])), ([i, j]) => contributions[i][j]);
function fillPairs() {
  const order = pairsInOrder(), value = ([i, j]) => contributions[i][j];
  const total = order.reduce((sum, pair) => sum + value(pair), 0);
  [at.pair] = order;
  $("sum").textContent = `${contributions.length} × ${contributions[0].length} = ${order.length} pairs add up to ${digits(total)}; the cosine is ${digits(shown())}.`;
  const name = ([i, j]) => `${called(0, i)} · ${called(1, j)}`;
  const show = (things, id) => list(id, things, name, (pair) => digits(value(pair)), (pair) => choose({ pair }));
  show(order.slice(0, 8), "top-pairs");
  show(order.slice(-3).reverse(), "low-pairs");
}

function list(id, things, name, value, go) {
  $(id).replaceChildren(...things.map((thing) => {
    const button = element("button", {}, element("span", { textContent: name(thing) }),
      element("span", { className: "number", textContent: value(thing) }));
    button.onclick = () => go(thing);
    return element("li", {}, button);
  }));
}

// ---- what the reader does
let masking = () => {}; // what happens when something is masked, beside the drawing
const smallMaps = () => $("heads").querySelectorAll("button");
const chipsOf = (text) => all(".chips")[text].children;
function choose(changes) {
  Object.assign(at, changes);
  at.hover = null;
  if ("masked" in changes) masking();
  if ("pair" in changes) drawPairs(); else draw();
  writeLink();
}
function pick(text, token) {
  const n = texts[text].tokens.length;
  choose({ text, token: clamp(token, n), to: clamp(at.to, n) });
}
function hover(token) { if (!same(token, at.hover)) { at.hover = token; drawTokens(); } }
function mask(thing) { choose({ masked: same(thing, at.masked) ? null : thing }); }
function show(thing) { // from a list: go there and mask it
  const { kind, ...place } = thing;
  choose({ ...place, to: kind === "token" ? 0 : at.to, masked: thing });
}

// ---- drawing
function draw() { drawTokens(); drawHeads(); drawMap(); drawMask(); drawVectors(); drawStages(); tellStep(); }

function drawTokens() {
  const { text, token } = current();
  texts.forEach((one, number) => {
    all(".chips")[number].classList.toggle("idle", number !== text);
    one.tokens.forEach((_, i) => {
      const chip = chipsOf(number)[i], value = chip.lastChild, chosen = number === text && i === token;
      const p = number === text ? probability(text, at.layer, at.head, token, i) : null;
      const colour = mix(Math.sqrt(p ?? 0));
      chip.style.background = css(colour);
      chip.style.color = onTop(colour);
      value.value = p ?? "";
      value.textContent = p === null ? "\u00a0" : p.toFixed(3);
      chip.classList.toggle("picked", chosen);
      chip.classList.toggle("masked", same(at.masked, { kind: "token", text: number, token: i }));
      chip.ariaPressed = number === at.text && i === at.token;
      chip.tabIndex = number === at.text && i === at.token ? 0 : -1;
      chip.ariaLabel = called(number, i) + (p === null ? "" : `, attended to with ${p.toFixed(3)}`);
    });
  });
  const p = (i) => probability(text, at.layer, at.head, token, i);
  const most = sorted(range(texts[text].tokens.length), p).slice(0, 5);
  $("says").textContent = `In layer ${at.layer}, head ${at.head}, “${called(text, token)}” attends most to: `
    + most.map((i) => `“${called(text, i)}” ${digits(p(i))}`).join(", ") + ".";
}

let drawn = null; // the text whose small maps are drawn: they change with the text only
function drawHeads() {
  const T = texts[at.text].tokens.length, buttons = smallMaps();
  everyHead.forEach(({ layer, head }, k) => {
    const chosen = layer === at.layer && head === at.head;
    buttons[k].classList.toggle("picked", chosen);
    buttons[k].ariaPressed = chosen;
    buttons[k].tabIndex = chosen ? 0 : -1;
    if (drawn === at.text) return;
    drawSmall(buttons[k].firstChild, texts[at.text].attention[layer].subarray(head * T * T, (head + 1) * T * T), T);
  });
  drawn = at.text;
  for (const stop of all("#stops button")) stop.ariaPressed = stop.value === String(at.layer);
  for (const id of ["layer", "head", "text"]) $(id).value = at[id];
  for (const name of ["layer", "head"]) for (const place of all("." + name)) place.textContent = at[name];
  for (const place of all(".which")) place.textContent = two ? at.text + 1 : "";
}

function drawMap([from, to] = [at.token, at.to]) {
  const names = texts[at.text].tokens;
  const p = (i, j) => probability(at.text, at.layer, at.head, i, j);
  paintMatrix($("map"), names, names, (i, j) => [Math.sqrt(p(i, j)), false], [from, to]);
  const says = `“${called(at.text, from)}” attends to “${called(at.text, to)}” with probability ${digits(p(from, to))}.`;
  $("map-value").textContent = says;
  $("map").ariaLabel = `Attention map of layer ${at.layer}, head ${at.head}. ${says} Arrow keys move.`;
  drawScore(from, to);
}

function drawPairs([i, j] = at.pair) {
  const most = Math.max(...contributions.flat().map(Math.abs));
  paintMatrix($("pairs"), texts[0].tokens, texts[1].tokens,
    (i, j) => [Math.sqrt(Math.abs(contributions[i][j]) / most), contributions[i][j] < 0], [i, j]);
  const sum = contributions[i].reduce((a, b) => a + b, 0);
  const says = `“${called(0, i)}” with “${called(1, j)}”: ${digits(contributions[i][j])}. “${called(0, i)}” with all of text 2: ${digits(sum)}.`;
  $("pair-value").textContent = says;
  $("pairs").ariaLabel = `Contributions of pairs of tokens. ${says} Arrow keys move.`;
}

// The vectors of the texts and their product, dimension by dimension.
function drawVectors(chosen = at.dimension) {
  const [u, v] = figures.vectors, canvas = $("vectors");
  paintBars(canvas, two ? [u, v, u.map((x, h) => x * v[h])] : [u], chosen);
  $("vector-value").textContent = `Dimension ${chosen}: ` + (two
    ? `${digits(u[chosen])} · ${digits(v[chosen])} = ${digits(u[chosen] * v[chosen])}; all ${u.length} products add up to ${digits(u.reduce((sum, x, h) => sum + x * v[h], 0))}.`
    : `${digits(u[chosen])} of ${u.length} numbers.`);
  canvas.ariaLabel = `The vectors. ${$("vector-value").textContent} Arrow keys move.`;
}

// The chosen token, stage by stage.
function drawStages() {
  const number = (value, shown) => element("data", { value, textContent: shown });
  $("traveller").textContent = `“${called(at.text, at.token)}”` + (two ? ` of text ${at.text + 1}` : "");
  const words = nearest(at.text, at.token), guessed = guesses(at.text, at.token);
  const list = (className, found = []) => element("td", {}, ...found.map(([word, value]) => element("span", { className }, `${word} `, number(value, value.toFixed(3)))));
  $("stages").replaceChildren(...range(L + 1).map((stage) => {
    const shares = stage ? [...texts[at.text].added[at.token][stage - 1]] : [null, null];
    return element("tr", { className: stage === at.layer + 1 ? "picked" : "" },
      element("th", { scope: "row", textContent: stage ? `Layer ${stage - 1}` : "Embed\u00addings" }),
      ...shares.map((share) => element("td", {}, ...share === null ? [] : [element("span", { className: "share" },
        number(share, `${(100 * share).toFixed(0)} %`), Object.assign(element("i"), { style: `width: ${100 * share}%` }))])),
      list("nearest", words[stage]), ...guessed.length ? [list("guessed", guessed[stage])] : []);
  }));
}

function drawMask() {
  const head = { kind: "head", layer: at.layer, head: at.head };
  const token = { kind: "token", text: at.text, token: at.token };
  for (const [id, thing] of [["mask-head", head], ["mask-token", token]]) {
    $(id).title = `Mask ${nameOf(thing)}`;
    $(id).ariaPressed = same(thing, at.masked) ?? false;
  }
  $("unmask").hidden = !at.masked;
  const before = figures.cosine, moved = at.masked ? change(at.masked) : 0;
  $("effect").textContent = at.masked
    ? `Cosine ${digits(before)} → ${digits(before + moved)} (${signed(moved)}) without ${nameOf(at.masked)}`
    : `Cosine ${digits(before)}, nothing masked`;
  $("score").textContent = `cosine ${digits(before + moved)}` + (at.masked ? ` (${signed(moved)})` : "");
  for (const [id, things] of [["top-heads", heads], ["top-tokens", tokens]])
    [...$(id).querySelectorAll("button")].forEach((item, k) => item.classList.toggle("picked", same(things[k], at.masked) ?? false));
}

function redraw() {
  readTones();
  drawn = null;
  draw();
  if (two) drawPairs();
}

// ---- a page with the figures in it; a live one begins in live_page.js
async function openPage() {
  const found = block("figures");
  for (const text of found.texts) {
    const all = found.steps
      ? Float32Array.from(await numbers(text.attention, Uint16Array), (whole) => whole / found.steps)
      : await numbers(text.attention);
    const size = all.length / found.layers;
    text.attention = range(found.layers).map((i) => all.subarray(i * size, (i + 1) * size));
    const shares = await numbers(text.added);
    text.added = text.tokens.map((_, t) => range(found.layers).map((i) => shares.subarray(2 * (t * found.layers + i)).slice(0, 2)));
  }
  if (found.contributions) {
    const all = await numbers(found.contributions), T = found.texts[1].tokens.length;
    found.contributions = range(all.length / T).map((i) => Array.from(all.subarray(i * T, (i + 1) * T)));
  }
  take(found);
  rank();
  if (heads.length) Object.assign(at, { layer: heads[0].layer, head: heads[0].head });
  at.token = texts[0].tokens.indexOf(figures.mask); // the word to be guessed; or that matters most, but no [CLS]
  if (at.token < 0) at.token = tokens.find((thing) => thing.text === 0 && texts[0].words[thing.token])?.token ?? 0;
  build();
  fill();
  fillEffects();
  redraw();
  if (location.hash) followLink();
}
function failed(error) {
  $("warnings").hidden = false;
  $("warnings").textContent = `This page could not be opened; it needs a browser of 2023 or later. (${error.message})`;
  throw error;
}
if ($("figures")) openPage().catch(failed);
