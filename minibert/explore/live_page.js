// The live page: what is typed goes through live.js, and page.js shows what came out.
"use strict";
let model; // what live.js needs
let known = new Map(); // text → its pieces and its trace, of the texts on the page

function read(text) {
  if (!known.has(text)) {
    const { pieces, length } = model.tokenizer(model.prompt + text, model.maxLength);
    const trace = BertModel(model, pieces.map((piece) => piece.id));
    known.set(text, { text, pieces, length, trace, vector: meanPooling(trace.last_hidden_state, model.config.hidden_size) });
  }
  return known.get(text);
}

// A text as it is under a mask: a head in every text, a token in its own.
function readMasked(text, number, masked) {
  const whole = read(text);
  if (!masked || (masked.kind === "token" && masked.text !== number)) return whole;
  const trace = BertModel(model, whole.pieces.map((piece) => piece.id), masked, whole.trace, masked.layer ?? 0);
  return { ...whole, trace, vector: meanPooling(trace.last_hidden_state, model.config.hidden_size, masked) };
}

const isMasked = (masked, text, token) => masked?.kind === "token" && masked.text === text && masked.token === token;

// Row t of (T, H), how long it is, and what goes into layer i, or out of the last.
const row = (tensor, t, H = model.config.hidden_size) => tensor.subarray(t * H, (t + 1) * H);
const size = (vector) => Math.sqrt(dot(vector, vector));
const stage = (trace, i) => trace[i ? `layers.${i - 1}.feed_forward_norm` : "embeddings"];

// The share of what is new in the two sums of a layer.
function added(trace, i, t) {
  const name = `layers.${i}`, sums = [[stage(trace, i), trace[`${name}.attention.output`]],
    [trace[`${name}.attention_norm`], trace[`${name}.feed_forward.contract`]]];
  return sums.map((parts) => parts.map((part) => size(row(part, t)))).map(([kept, fresh]) => fresh / (kept + fresh));
}

// What `figures` in explore.py computes, under the same names; what is masked is missing in it.
function compute(typed, masked) {
  const { num_hidden_layers: L, num_attention_heads: N, hidden_size: H } = model.config;
  const whole = typed.map(read), shown = typed.map((text, number) => readMasked(text, number, masked));
  const lengths = shown.map(({ vector }) => Math.sqrt(dot(vector, vector)));
  const kept = shown.map(({ pieces }, number) => pieces.filter((_, i) => !isMasked(masked, number, i)).length);
  const state = ({ trace }, i) => trace.last_hidden_state.subarray(i * H, (i + 1) * H);
  const pair = (i, j) => isMasked(masked, 0, i) || isMasked(masked, 1, j) ? 0
    : dot(state(shown[0], i), state(shown[1], j)) / (kept[0] * kept[1] * lengths[0] * lengths[1]);
  return {
    model: model.name, unknown: model.unknown, layers: L, heads: N,
    texts: shown.map(({ text, pieces, length, trace }) => ({
      text, length, trace, tokens: pieces.map((piece) => piece.token), words: pieces.map((piece) => piece.word),
      attention: range(L).map((i) => trace[`layers.${i}.attention.probabilities`]),
      added: range(pieces.length).map((t) => range(L).map((i) => added(trace, i, t))),
    })),
    cosine: cosineSimilarity(...whole.map((text) => text.vector)),
    vectors: shown.map(({ vector }, number) => Array.from(vector, (x) => x / lengths[number])),
    contributions: range(shown[0].pieces.length).map((i) => range(shown[1].pieces.length).map((j) => pair(i, j))),
  };
}

// ---- typing
const typed = () => ["text-1", "text-2"].map((id) => $(id).value);
let changes = new Map(); // what is masked → the cosine then
without = (masked) => {
  const name = JSON.stringify(masked);
  if (!changes.has(name))
    changes.set(name, cosineSimilarity(...typed().map((text, number) => readMasked(text, number, masked).vector)));
  return changes.get(name);
};
shown = () => (at.masked ? without(at.masked) : figures.cosine);
masking = () => { // the maps, vectors and pairs are those under the mask
  neighbours = new Map();
  take(compute(typed(), at.masked));
  drawn = null;
  fill();
  drawPairs();
};

let neighbours = new Map(), looking; // text and token → the nearest words, looked for when there is time
nearest = (text, t) => {
  const name = `${text} ${t}`;
  clearTimeout(looking);
  if (!neighbours.has(name)) looking = setTimeout(() => { neighbours.set(name, nearestWords(texts[text].trace, t)); drawStages(); }, 100);
  return neighbours.get(name) ?? [];
};
function nearestWords(trace, t) { // the products with all words are those of a Linear without bias
  const { tokens, sizes, weights } = model, V = tokens.length;
  const table = { weights: { "words.weight": weights["embeddings.word.weight"].subarray(0, V * model.config.hidden_size), "words.bias": new Float32Array(V) } };
  return range(L + 1).map((i) => {
    const hidden = row(stage(trace, i), t), length = size(hidden);
    const cosines = Linear(table, "words", hidden, {}).map((x, id) => x / (length * sizes[id]));
    return range(model.nearest).map(() => {
      const best = cosines.reduce((best, x, id) => (x > cosines[best] ? id : best), 0), cosine = cosines[best];
      cosines[best] = -2; // so that the next one is the largest now
      return [tokens[best], cosine];
    });
  });
}

// The score of a pair of tokens, a sum over the dimensions of the head: q, k and q k / √D.
drawScore = (from, to, chosen = at.part) => {
  const { trace } = texts[at.text], D = model.config.hidden_size / N;
  const part = (name, t) => Array.from(row(trace[`layers.${at.layer}.attention.${name}`], t).subarray(at.head * D, (at.head + 1) * D));
  const q = part("query", from), k = part("key", to), products = q.map((x, d) => (x * k[d]) / Math.sqrt(D));
  paintBars($("score-parts"), [q, k, products], chosen);
  $("score-value").textContent = isMasked(at.masked, at.text, to) ? `“${called(at.text, to)}” is masked: its score is −∞.`
    : `Dimension ${chosen} of the head: ${digits(q[chosen])} · ${digits(k[chosen])} / √${D} = ${digits(products[chosen])}; `
      + `all ${D} add up to the score ${digits(products.reduce((a, b) => a + b))}.`;
  $("score-parts").ariaLabel = `Query, key and their product. ${$("score-value").textContent} Arrow keys move.`;
};

let waiting; // one thing after the other, so that typing is never held up for long
function update() {
  clearTimeout(waiting);
  const start = performance.now();
  at.masked = at.hover = null;
  changes = new Map();
  neighbours = new Map();
  known = new Map([...known].filter(([text]) => typed().includes(text)));
  take(compute(typed(), null));
  for (const name of ["token", "to"]) at[name] = clamp(at[name], texts[at.text].tokens.length);
  [heads, tokens] = [[], []];
  fill();
  fillEffects("…");
  redraw();
  writeLink();
  $("took").textContent = `computed in ${(performance.now() - start).toFixed(0)} ms`;
  const things = [...everyHead, ...everyToken];
  const next = () => {
    if (!things.length) { rank(); fillEffects(); return; }
    without(things.pop());
    waiting = setTimeout(next);
  };
  waiting = setTimeout(next, 400);
}

async function openLive() {
  $("says").textContent = "Reading the weights …";
  const found = block("live"), values = await numbers($("weights").textContent), weights = {};
  $("weights").remove();
  let start = 0;
  for (const [name, shape] of found.shapes) {
    weights[name] = values.subarray(start, start += shape.reduce((a, b) => a * b, 1));
  }
  const { tokens, unk } = found.tokenizer;
  model = { ...found, weights, tokens, tokenizer: BertTokenizer(found.tokenizer), unknown: unk };
  model.sizes = tokens.map((_, id) => size(row(weights["embeddings.word.weight"], id)));
  for (const part of all(".live")) part.hidden = false;
  for (const part of all(".still")) part.hidden = true;
  ["text-1", "text-2"].forEach((id, number) => {
    $(id).value = found.texts[number];
    $(id).oninput = update;
  });
  take(compute(typed(), null));
  at.token = Math.min(1, texts[0].tokens.length - 1);
  build();
  bars($("score-parts"), () => model.config.hidden_size / N, () => at.part, (part) => choose({ part }),
    (part) => drawScore(at.token, at.to, part));
  update();
  if (location.hash) followLink();
}
openLive().catch(failed);
