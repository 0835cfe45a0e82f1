// Ways through the page; page.js shows the figures.
"use strict";

// ---- the link: what is chosen stands behind the # of the address, and comes back with it
let writing;
function writeLink() {
  clearTimeout(writing);
  writing = setTimeout(() => { // not at every key: a browser stops pages that do this often
    const { layer, head, text, token, to, masked, pair, dimension, part } = at;
    const link = new URLSearchParams({
      head: `${layer}-${head}`, token: `${text}-${token}-${to}`, pair: pair.join("-"), dimension, part,
    });
    if (masked) link.set("mask", Object.values(masked).join("-")); // head-2-8 or token-0-3
    for (const id of ["text-1", "text-2"]) if ($(id).oninput) link.set(id, $(id).value); // a live page
    history.replaceState(null, "", `#${link}`);
  }, 300);
}
function followLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const retyped = ["text-1", "text-2"].filter((id) => link.has(id) && $(id).oninput);
  for (const id of retyped) $(id).value = link.get(id);
  if (retyped.length) $("text-1").oninput();
  const T = (text) => texts[text].tokens.length;
  const read = (name, ...sizes) => { // numbers such as 2-8, each below its size; missing ones are 0
    const found = link.get(name)?.match(/\d+/g) ?? [];
    return sizes.map((n, k) => clamp(Number(found[k] ?? 0), n));
  };
  if (link.has("head")) [at.layer, at.head] = read("head", L, N);
  if (link.has("token")) {
    [at.text] = read("token", texts.length);
    [, at.token, at.to] = read("token", texts.length, T(at.text), T(at.text));
  }
  if (link.has("dimension")) [at.dimension] = read("dimension", figures.vectors[0].length);
  if (link.has("part")) [at.part] = read("part", figures.vectors[0].length / N);
  at.masked = null;
  const mask = link.get("mask") ?? "";
  if (mask.startsWith("head")) {
    const [layer, head] = read("mask", L, N);
    at.masked = { kind: "head", layer, head };
  } else if (mask.startsWith("token")) {
    const [text] = read("mask", texts.length), [, token] = read("mask", texts.length, T(text));
    at.masked = { kind: "token", text, token };
  }
  at.hover = null;
  masking();
  if (two && link.has("pair")) at.pair = read("pair", T(0), T(1));
  redraw();
}

// ---- the map of the model, from the texts to the cosine: every stop leads to the part that shows it
function fillStops() {
  const T = texts.map((text) => text.tokens.length).join(" + "), H = figures.vectors[0].length;
  const stops = [
    { name: "Tokens", says: T, part: "tokens" },
    { name: "Embeddings", says: `${T} rows of ${H}`, part: "way" },
    ...range(L).map((layer) => ({ name: `Layer ${layer}`, says: `${N} heads`, part: "large", layer })),
    { name: "Pooling", says: "mean of the rows", part: "mean" },
    { name: two ? "Vectors" : "Vector", says: two ? `2 of ${H}` : `${H} numbers`, part: "mean" },
    { name: "Cosine", says: digits(shown()), part: two ? "carry" : "without" },
  ];
  $("stops").replaceChildren(...stops.map(({ name, says, part, layer }) => {
    const button = element("button", { value: layer ?? "" }, name, element("small", { className: "number", textContent: says }));
    button.onclick = () => {
      if (layer !== undefined) choose({ layer });
      go(part);
    };
    return element("li", {}, button);
  }));
}
function go(part) { // to its heading, from where Tab goes on
  $(part).tabIndex = -1;
  $(part).focus({ preventScroll: true });
  $(part).closest("section").scrollIntoView();
}

// ---- the guided tour: two sentences on each part, with the numbers of these texts
let step = null; // of the tour, null when it is closed
function tourSteps() {
  const { text, token } = at, T = texts[text].tokens.length, H = figures.vectors[0].length;
  const p = (i) => probability(text, at.layer, at.head, token, i), [most] = sorted(range(T), p);
  const [attention, forward] = texts[text].added[token][at.layer];
  const effect = ([thing], list) => !thing ? $(list).textContent : `Without ${nameOf(thing)} the cosine is ${digits(without(thing))} instead of ${digits(figures.cosine)}.`;
  const steps = [
    ["tokens", `WordPiece made ${texts.map((t) => t.tokens.length).join(" and ")} tokens of the text${two ? "s" : ""}, with [CLS] `
      + `and [SEP] around them. From here on the model knows each token as ${H} numbers, which every layer changes.`],
    ["large", `This is one of the ${L * N} heads in ${L} layers, with a row for each token that attends. Here “${called(text, token)}” `
      + `takes most from “${called(text, most)}”: ${digits(p(most))} of 1.`],
    ["way", `Every layer adds something to what it knows of a token, and keeps the rest. In layer ${at.layer}, attention is `
      + `${digits(attention)} of the new sum for “${called(text, token)}”, and then the feed-forward network ${digits(forward)}.`],
    ["without", `${effect(heads, "top-heads")} ${effect(tokens, "top-tokens")}`],
    ["mean", `The vector of a text is the mean of its tokens' last rows, ${H} numbers scaled to length 1. `
      + (two ? `Two such vectors, multiplied number by number and added up, give the cosine ${digits(shown())}.`
        : "Texts that mean nearly the same have vectors that point nearly the same way.")],
  ];
  if (two) {
    const [i, j] = pairsInOrder()[0];
    steps.push(["carry", `The cosine is also a sum over all ${contributions.length * contributions[0].length} pairs of tokens. `
      + `The largest part of it, ${digits(contributions[i][j])}, is “${called(0, i)}” with “${called(1, j)}”.`]);
  }
  return steps;
}
function tour(next) { // to a step; beyond the last one, and at null, it ends
  const steps = tourSteps();
  step = next === null || next >= steps.length ? null : Math.max(0, next);
  for (const part of all(".pointed")) part.classList.remove("pointed");
  $("tour").hidden = step === null;
  if (step === null) { $("start-tour").focus(); return; }
  go(steps[step][0]);
  $(steps[step][0]).closest("section").classList.add("pointed");
  $("tour-next").textContent = step + 1 < steps.length ? "Next" : "End";
  $("tour-back").disabled = step === 0;
  $("tour-next").focus({ preventScroll: true });
  tellStep();
}
function tellStep() {
  if (step === null) return;
  const steps = tourSteps();
  $("tour-step").textContent = `Step ${step + 1} of ${steps.length}`;
  $("tour-says").textContent = steps[step][1];
}
function buildWalk() {
  $("start-tour").onclick = () => tour(0);
  $("tour-next").onclick = () => tour(step + 1);
  $("tour-back").onclick = () => tour(step - 1);
  $("tour-end").onclick = () => tour(null);
  addEventListener("keydown", (event) => { if (event.key === "Escape" && step !== null) tour(null); });
}
