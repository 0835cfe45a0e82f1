// BERT once more, in JavaScript: from a text to its vector, without a library.
//
// Read it beside the Python: every function has the name and the order of operations of a class or
// function of minibert, and the file it stands in is named above it. A tensor is a Float32Array,
// row after row; its shape stands behind it, in the letters of config.py:
//
//     T tokens, H hidden, N heads, D = H / N one head, F feed-forward
//
// `model` holds the settings (config), the weights by their names in the Python model, and the
// tokenizer. `trace` collects every tensor on the way, under the names of trace.py.
"use strict";

// ====================================================================== tokenization/tokenizer.py

// unicode_tables.txt: the sets of characters as the official tokenizer knows them.
function readTables(text) {
  const tables = {};
  for (const part of text.replace(/^#.*$/gm, "").split("[").slice(1)) {
    const [name, ranges] = part.split("]");
    tables[name] = ranges.trim().split(/\s+/);
  }
  const set = (name) => tables[name].map((range) => range.replace(/[0-9A-F]+/g, "\\u{$&}")).join("");
  const capitals = new Map(); // "first-last>lower case of the first"
  for (const pair of tables.NEW_CAPITALS) {
    const [first, last, small] = pair.match(/^(\w+)(?:-(\w+))?>(\w+)$/).slice(1).map((x) => parseInt(x, 16));
    for (let code = first; code <= (last || first); code++)
      capitals.set(String.fromCodePoint(code), String.fromCodePoint(code - first + small));
  }
  return {
    space: new RegExp(`[${set("SPACE")}]`, "gu"),
    dropped: new RegExp(`[${set("DROPPED")}\\u{D800}-\\u{DFFF}]`, "gu"), // and halves of a character
    cjk: new RegExp(`[${set("CJK")}]`, "gu"),
    mark: new RegExp(`[${set("MARK")}]`, "gu"),
    punctuation: new RegExp(`[${set("PUNCTUATION")}]`, "gu"),
    newer: new RegExp(`([${set("NEWER_THAN_NFD")}])`, "u"),
    capitals,
  };
}

// Drop control characters; make a blank of every other kind of white space.
const clean = (text, is) => text.replace(is.dropped, "").replace(is.space, " ");

// Put blanks around every CJK ideograph, which makes it a word of its own.
const spaceCjk = (text, is) => text.replace(is.cjk, " $& ");

// Take characters apart (NFD), then drop the non-spacing marks: é → e, U+0301 → e.
const stripAccents = (text, is) =>
  text.split(is.newer).map((part, i) => (i % 2 ? part : part.normalize("NFD"))).join("").replace(is.mark, "");

// Lower-case each character by itself: Σ is always σ, never the final ς.
const lowerCase = (text, is) =>
  Array.from(text, (c) => is.capitals.get(c) ?? c.toLowerCase()).join("");

const RULES = { clean, space_cjk: spaceCjk, strip_accents: stripAccents, lower_case: lowerCase };

// Cut into words at blanks; every punctuation character is a word of its own.
const split = (text, is) => text.replace(is.punctuation, " $& ").split(" ").filter((word) => word);

// Cut a word into pieces of the vocabulary, the longest that fits each time (Wu 2016, §4.1). A piece
// that does not begin the word is written with ## before it. null where nothing fits, or the word
// has more than 100 characters: then all of it is [UNK].
function wordpiece(word, words) {
  const characters = Array.from(word), pieces = [];
  if (characters.length > 100) return null;
  for (let start = 0, end; start < characters.length; start = end) {
    let piece;
    for (end = characters.length; end > start; end--) {
      piece = (start ? "##" : "") + characters.slice(start, end).join("");
      if (words.has(piece)) break;
    }
    if (end === start) return null;
    pieces.push(piece);
  }
  return pieces;
}

// Text → tokens, each with its id and the characters it was made from, as the rules left them.
// A special token that is spelt out in the text stays what it is.
function BertTokenizer({ tokens, wordCount, rules, literals, unk, cls, sep, tables }) {
  const is = readTables(tables);
  const words = new Map(tokens.slice(0, wordCount).map((token, id) => [token, id]));
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const escaped = literals.map((literal) => literal.replace(/[^\p{L}\p{N}_]/gu, "\\$&"));
  const literal = new RegExp(`(${escaped.join("|")})`);
  const token = (name, word = name.replace(/^##/, "")) => ({ token: name, id: ids.get(name), word });
  function pieces(text) {
    return text.split(literal).flatMap((span, i) => {
      if (i % 2) return [token(span)];
      for (const rule of rules) span = RULES[rule](span, is);
      return split(span, is).flatMap((word) => wordpiece(word, words)?.map((name) => token(name)) ?? [token(unk, word)]);
    });
  }
  // [CLS] text [SEP], cut to the most that the model takes; `length` is that before cutting.
  return (text, most) => {
    const found = pieces(text);
    return { pieces: [token(cls, ""), ...found.slice(0, most - 2), token(sep, "")], length: found.length + 2 };
  };
}

// =================================================================== torch.nn, what is used of it

// The rows of a matrix. In a DataView a browser checks less for every number than in a Float32Array.
const rowsOf = (A, length) => Array.from({ length: A.length / length },
  (_, r) => new DataView(A.buffer, A.byteOffset + 4 * length * r, 4 * length));

// y = x Wᵀ + b for every row of x: (T, in) → (T, out); the weight is (out, in). Rows are contiguous
// in both, so the innermost loop runs through memory in order. It is nearly all the time there is, so
// it takes three rows of the weight and two tokens at once: every number read is used again, and the
// six sums (in float64) still find room in the registers of a processor.
function Linear(model, name, x, trace) {
  const W = model.weights[`${name}.weight`], b = model.weights[`${name}.bias`];
  const O = b.length, I = W.length / O, T = x.length / I, y = new Float32Array(T * O);
  const weights = rowsOf(W, I), tokens = rowsOf(x, I);
  for (let o = 0; o < O; o += 3) {
    // Beyond the last row or token the last one is computed again.
    const o1 = Math.min(o + 1, O - 1), o2 = Math.min(o + 2, O - 1);
    const w0 = weights[o], w1 = weights[o1], w2 = weights[o2];
    for (let t = 0; t < T; t += 2) {
      const u = Math.min(t + 1, T - 1), xt = tokens[t], xu = tokens[u];
      let t0 = b[o], t1 = b[o1], t2 = b[o2], u0 = t0, u1 = t1, u2 = t2;
      for (let i = 0; i < 4 * I; i += 4) { // in bytes; true: the first byte counts least
        const p = xt.getFloat32(i, true), q = xu.getFloat32(i, true);
        const a0 = w0.getFloat32(i, true), a1 = w1.getFloat32(i, true), a2 = w2.getFloat32(i, true);
        t0 += p * a0; t1 += p * a1; t2 += p * a2;
        u0 += q * a0; u1 += q * a1; u2 += q * a2;
      }
      y[t * O + o] = t0; y[t * O + o1] = t1; y[t * O + o2] = t2;
      y[u * O + o] = u0; y[u * O + o1] = u1; y[u * O + o2] = u2;
    }
  }
  return (trace[name] = y);
}

// Every row less its mean, divided by its standard deviation; then a learned scale and shift.
function LayerNorm(model, name, x, trace) {
  const scale = model.weights[`${name}.weight`], shift = model.weights[`${name}.bias`];
  const H = scale.length, y = new Float32Array(x.length);
  for (let row = 0; row < x.length; row += H) {
    let mean = 0, variance = 0;
    for (let h = 0; h < H; h++) mean += x[row + h] / H;
    for (let h = 0; h < H; h++) variance += (x[row + h] - mean) ** 2 / H;
    const deviation = Math.sqrt(variance + model.config.layer_norm_eps);
    for (let h = 0; h < H; h++) y[row + h] = ((x[row + h] - mean) / deviation) * scale[h] + shift[h];
  }
  return (trace[name] = y);
}

// Scores of one row → probabilities that add up to 1. Less the largest first, so that exp is finite.
function Softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b)), exps = scores.map((x) => Math.exp(x - largest));
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((x) => x / total);
}

const Embedding = (model, name, ids, trace) => { // the rows of a table with these numbers: (T, H)
  const H = model.config.hidden_size, table = model.weights[`${name}.weight`], rows = new Float32Array(ids.length * H);
  ids.forEach((id, t) => rows.set(table.subarray(id * H, (id + 1) * H), t * H));
  return (trace[name] = rows);
};

const add = (a, b) => a.map((x, i) => x + b[i]);

// The error function, to 1.5e-7 (Abramowitz & Stegun, formula 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}
const tanhGELU = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)), // x · Φ(x): Hendrycks & Gimpel 2016, §2
  gelu_new: tanhGELU,
  gelu_pytorch_tanh: tanhGELU,
  relu: (x) => Math.max(0, x),
};

// ================================================ embeddings.py: Devlin 2019, §3 and figure 2

function Embeddings(model, ids, trace) { // word + segment + position, then LayerNorm
  const word = Embedding(model, "embeddings.word", ids, trace);
  const segment = Embedding(model, "embeddings.segment", ids.map(() => 0), trace);
  const position = Embedding(model, "embeddings.position", ids.map((_, t) => t), trace);
  const sum = (trace["embeddings.sum"] = add(add(word, segment), position));
  return (trace.embeddings = LayerNorm(model, "embeddings.norm", sum, trace)); // (T, H)
}

// ===================================== attention.py: Vaswani 2017, §3.2.1 equation 1 and §3.2.2

// Every token asks all tokens of its text: softmax(Q Kᵀ / √D) V, in N heads of size D. Head n has
// the columns n·D to (n + 1)·D of query, key and value. `masked` may name a head of this layer that
// hands on zeros, and a token that no token attends to.
function MultiHeadSelfAttention(model, name, hidden, masked, trace) {
  const N = model.config.num_attention_heads, H = model.config.hidden_size, D = H / N, T = hidden.length / H;
  const query = Linear(model, `${name}.query`, hidden, trace); // (T, H)
  const key = Linear(model, `${name}.key`, hidden, trace); // (T, H)
  const value = Linear(model, `${name}.value`, hidden, trace); // (T, H)
  const scores = (trace[`${name}.scores`] = new Float32Array(N * T * T)); // (N, T, T)
  const probabilities = (trace[`${name}.probabilities`] = new Float32Array(N * T * T)); // (N, T, T)
  const context = (trace[`${name}.context`] = new Float32Array(T * H)); // the heads side by side
  for (let n = 0; n < N; n++) {
    for (let i = 0; i < T; i++) {
      const row = (n * T + i) * T, asks = i * H + n * D;
      for (let j = 0; j < T; j++) {
        let score = 0;
        for (let d = 0; d < D; d++) score += query[asks + d] * key[j * H + n * D + d];
        scores[row + j] = j === masked.token ? -3.4e38 : score / Math.sqrt(D);
      }
      const weights = Softmax(scores.subarray(row, row + T));
      probabilities.set(weights, row);
      if (n === masked.head) continue;
      for (let j = 0; j < T; j++)
        for (let d = 0; d < D; d++) context[asks + d] += weights[j] * value[j * H + n * D + d];
    }
  }
  return Linear(model, `${name}.output`, context, trace); // (T, H)
}

// =================================== encoder.py: Vaswani 2017, §3.1 and §3.3 equation 2

function FeedForward(model, name, hidden, trace) { // on every token by itself
  const expanded = Linear(model, `${name}.expand`, hidden, trace); // (T, F)
  const active = (trace[`${name}.activation`] = expanded.map(ACTIVATIONS[model.config.hidden_act]));
  return Linear(model, `${name}.contract`, active, trace); // (T, H)
}

function EncoderLayer(model, name, hidden, masked, trace) {
  const attended = MultiHeadSelfAttention(model, `${name}.attention`, hidden, masked, trace);
  const between = (trace[`${name}.attention_sum`] = add(attended, hidden));
  hidden = LayerNorm(model, `${name}.attention_norm`, between, trace);
  const sum = (trace[`${name}.feed_forward_sum`] = add(FeedForward(model, `${name}.feed_forward`, hidden, trace), hidden));
  return LayerNorm(model, `${name}.feed_forward_norm`, sum, trace); // (T, H)
}

// ============================================================== model.py: Devlin 2019, §3

// ids → the trace; its `last_hidden_state` is (T, H). `masked` may be { layer, head } or { token }.
// With the trace of the whole model, `from` a layer on, the layers below are not computed again.
function BertModel(model, ids, masked = {}, whole = null, from = 0) {
  const trace = { ...whole };
  let hidden = from ? trace[`layers.${from - 1}.feed_forward_norm`] : Embeddings(model, ids, trace);
  for (let i = from; i < model.config.num_hidden_layers; i++) {
    const here = { token: masked.token, head: masked.layer === i ? masked.head : undefined };
    hidden = EncoderLayer(model, `layers.${i}`, hidden, here, trace);
  }
  trace.last_hidden_state = hidden;
  return trace;
}

// ============================================== pooling.py, similarity.py: Reimers 2019, §3

function meanPooling(hidden, H, masked = {}) { // (T, H) → (H,), the masked token left out
  const T = hidden.length / H, vector = new Float64Array(H);
  const count = masked.token === undefined ? T : T - 1;
  for (let t = 0; t < T; t++)
    if (t !== masked.token) for (let h = 0; h < H; h++) vector[h] += hidden[t * H + h] / count;
  return vector;
}

function dot(a, b) { // no reduce, which calls a function for every number
  let sum = 0;
  for (let h = 0; h < a.length; h++) sum += a[h] * b[h];
  return sum;
}
const cosineSimilarity = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
