// The controls: built once for a model, refreshed for every state.

/** A slider with a number field beside it; both have names. It is filled on the side of the values that
 * it lets through: those up to it, or, of a threshold, those `above`. */
function makeSlider({name, min = 0, max = 1, step = 0.005, whole = false, above = false, onInput, extra}) {
  const range = element("input", {type: "range", min, max, step: whole ? 1 : step, "aria-label": name});
  const number = element("input", {
    type: "number", min, max, step: whole ? 1 : "any", "aria-label": `${name}, number`,
  });
  const apply = (field) => {
    const value = Number(field.value);
    const fits = field.value !== "" && value >= min && value <= Number(range.max)
      && (!whole || Number.isInteger(value));
    number.setAttribute("aria-invalid", String(!fits));
    if (fits) onInput(value);
  };
  range.addEventListener("input", () => apply(range));
  number.addEventListener("input", () => apply(number));
  const note = element("span", {className: "note"});
  const root = element("div", {className: above ? "slider above" : "slider"},
    element("span", {className: "name"}, name), note, number, ...(extra ? [extra] : []), range);
  const show = (value, text, limit = max) => {
    range.max = limit;
    number.max = limit;
    range.value = value;
    range.style.setProperty("--at", (value - min) / Math.max(limit - min, 1e-9));
    range.setAttribute("aria-valuetext", `${value}, ${text}`);
    if (document.activeElement !== number || Number(number.value) !== value) number.value = value;
    note.textContent = text;
  };
  return {root, show};
}

function makeHistogram() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 50 12");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("histogram");
  const below = document.createElementNS(svg.namespaceURI, "path");
  const above = document.createElementNS(svg.namespaceURI, "path");
  above.classList.add("above");
  svg.append(below, above);
  return {svg, below, above};
}

/** Bars on a root scale; those above the threshold in the second colour. */
function showHistogram({below, above}, values, threshold) {
  const bins = new Float64Array(50);
  for (const value of values) bins[Math.min(49, Math.floor(value * 50))]++;
  const highest = Math.max(1, ...bins);
  const bars = ["", ""];
  bins.forEach((count, bin) => {
    if (!count) return;
    const height = Math.max(1, 12 * Math.sqrt(count / highest));
    bars[bin + 0.5 > threshold * 50 ? 1 : 0] += `M${bin},12v${-height}h0.8v${height}z`;
  });
  below.setAttribute("d", bars[0]);
  above.setAttribute("d", bars[1]);
}

function buildMerging(page) {
  const {common, change} = page;
  const find = (id) => document.getElementById(id);
  find("merging").hidden = !common.windows.length;
  find("merge-on").addEventListener("change", (event) => change({merge: event.target.checked}));
  find("merge-mode").addEventListener("change", (event) => change({mode: event.target.value}));
  const sliders = (key, options) => common.windows.map((window, index) => {
    const histogram = makeHistogram();
    const slider = makeSlider({
      name: `${window} × ${window} patches`,
      ...options,
      extra: histogram.svg,
      onInput: (value) => change({merge: true, [key]: page.state[key].with(index, value)}),
    });
    return {...slider, histogram};
  });
  page.thresholds = sliders("thresholds", {above: true});
  page.counts = sliders("counts", {whole: true, max: 1});
  find("thresholds").append(...page.thresholds.map((slider) => slider.root));
  find("counts").append(...page.counts.map((slider) => slider.root));
}

function buildExits(page) {
  const {common, change} = page;
  const find = (id) => document.getElementById(id);
  find("exits").hidden = !common.heads.length;
  find("exits-on").addEventListener("change", (event) => change({exits: event.target.checked}));
  page.exit = makeSlider({
    name: "Exit threshold", above: true, onInput: (value) => change({exits: true, exit: value}),
  });
  page.keep = makeSlider({
    name: "Kept per class", max: 30, whole: true, onInput: (value) => change({keep: value}),
  });
  page.heads = common.heads.map((block, index) => {
    const input = element("input", {type: "checkbox", id: `head-${block}`});
    input.addEventListener("change", () => change({
      exits: true,
      blocks: common.heads.filter((other) =>
        other === block ? input.checked : page.state.blocks.includes(other)),
    }));
    const histogram = makeHistogram(), note = element("span", {className: "note"});
    const label = element("label", {htmlFor: input.id}, input, ` after block ${block}`);
    return {
      index, block, input, histogram, note,
      root: element("div", {className: "head"}, label, note, histogram.svg),
    };
  });
  find("exit-sliders").append(
    page.exit.root, ...page.heads.map((head) => head.root), page.keep.root);
}

function refreshMerging(page) {
  const {state, common, view} = page;
  if (!common.windows.length) return;
  const {image, result} = view;
  document.getElementById("merge-on").checked = state.merge;
  document.getElementById("merge-mode").value = state.mode;
  document.getElementById("thresholds").hidden = state.mode !== "thresholds";
  document.getElementById("counts").hidden = state.mode !== "counts";
  document.getElementById("count-note").textContent = state.cells
    ? `Numbers are for ${whole(state.cells)} cells and scaled to this image's ${whole(image.rows * image.columns)}.`
    : "Numbers are for this image, whatever its size.";
  const tokens = common.windows.map((window) =>
    result.layout.anchors.reduce((count, cell) => count + (result.layout.side[cell] === window), 0));
  const fits = state.cells || image.rows * image.columns;
  common.windows.forEach((window, index) => {
    const scores = image.policy.scores[index];
    const text = scores.length ? `${whole(tokens[index])} of ${whole(scores.length)} merged` : "larger than the image";
    const slider = page[state.mode][index];
    slider.show(state[state.mode][index], text,
      state.mode === "counts" ? Math.max(1, Math.floor(fits / window ** 2)) : 1);
    const limit = state.mode === "thresholds" && state.merge ? state.thresholds[index] : 2;
    showHistogram(slider.histogram, scores, limit);
  });
}

function refreshExits(page) {
  const {state, common, view: {result}} = page;
  if (!common.heads.length) return;
  document.getElementById("exits-on").checked = state.exits;
  const share = 1 - result.tokens.at(-1) / result.layout.count;
  page.exit.show(state.exit, state.exits ? `${percent(share)} leave` : "off");
  page.keep.show(state.keep, "stay at each exit", Math.max(30, state.keep));
  for (const head of page.heads) {
    const place = result.active.indexOf(head.index);
    head.input.checked = state.blocks.includes(head.block);
    const left = place >= 0 ? result.tokens[place] - result.tokens[place + 1] : 0;
    head.note.textContent = place < 0 ? "off"
      : `${whole(left)} of ${whole(result.tokens[place])} leave`;
    const said = result.said.heads[head.index].confidence;
    const there = place < 0 ? said : said.filter((_, token) => result.exit[token] >= place);
    showHistogram(head.histogram, there, place < 0 ? 2 : state.exit);
  }
}
