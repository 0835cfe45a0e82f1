// Ways through the page; page.js shows the figures.
"use strict";

// ---- the link: what is chosen stands behind the # of the address, and comes back with it
let writing;
function writeLink() {
  clearTimeout(writing);
  writing = setTimeout(() => { // not at every key: a browser stops pages that do this often
    const { layer, head, text, token, to, masked, pair, dimension } = at;
    const link = new URLSearchParams({
      head: `${layer}-${head}`, token: `${text}-${token}-${to}`, pair: pair.join("-"), dimension,
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
