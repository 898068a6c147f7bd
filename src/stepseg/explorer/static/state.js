// The state of the page: what can be set, how it stands in the address, how a command says it.

function initialState(common) {
  const {own, paper} = common;
  const counts = common.windows.map((window) => (window === 2 ? 103 : 0));
  const state = {
    image: 0,
    merge: Boolean(own.merge),
    mode: own.merge && own.merge.counts ? "counts" : "thresholds",
    thresholds: own.merge && own.merge.thresholds ? own.merge.thresholds : paper.thresholds,
    counts: own.merge && own.merge.counts ? own.merge.counts : counts,
    cells: own.merge && own.merge.counts ? own.merge.cells : 1024,
    exits: common.ownExits,
    blocks: common.exitBlocks,
    exit: own.threshold,
    keep: own.keep,
    layer: common.windows.length ? "superpatches" : "step",
    swipe: "none",
    split: 50,
    opacity: 50,
    outlines: true,
    cell: -1,
  };
  return structuredClone(state);
}

function paperSettings(common) {
  return {
    merge: common.windows.length > 0, mode: "thresholds", thresholds: [...common.paper.thresholds],
    exits: common.heads.length > 0, blocks: [...common.exitBlocks],
    exit: common.paper.threshold, keep: 5,
  };
}

function ownSettings(common) {
  const {merge, mode, thresholds, counts, cells, exits, blocks, exit, keep} = initialState(common);
  return {merge, mode, thresholds, counts, cells, exits, blocks, exit, keep};
}

function levelSettings(rule) {
  if (!rule) return {merge: false};
  if (rule.thresholds) return {merge: true, mode: "thresholds", thresholds: [...rule.thresholds]};
  return {merge: true, mode: "counts", counts: [...rule.counts], cells: rule.cells};
}

const list = (text) => text.split(",").filter((item) => item !== "").map(Number);
const flag = (value) => (value ? "1" : "0");

function writeHash(state) {
  const fields = {
    image: state.image, merge: flag(state.merge), mode: state.mode,
    thresholds: state.thresholds.join(), counts: state.counts.join(), cells: state.cells ?? "",
    exits: flag(state.exits), blocks: state.blocks.join(), exit: state.exit, keep: state.keep,
    layer: state.layer, swipe: state.swipe, split: state.split, opacity: state.opacity,
    outlines: flag(state.outlines), cell: state.cell,
  };
  return "#" + Object.entries(fields).map(([key, value]) => `${key}=${value}`).join("&");
}

/** The state in an address over the initial one; whatever does not fit the page is left out. */
function readHash(hash, common) {
  const state = initialState(common);
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const within = (value, low, high) => Number.isFinite(value) && value >= low && value <= high;
  const number = (key, low, high, whole) => {
    const value = given.has(key) && given.get(key) !== "" ? Number(given.get(key)) : NaN;
    if (within(value, low, high) && (!whole || Number.isInteger(value))) state[key] = value;
  };
  const numbers = (key, fits) => {
    const values = given.has(key) ? list(given.get(key)) : [];
    if (values.length === common.windows.length && values.every(fits)) state[key] = values;
  };
  const choice = (key, choices) => {
    if (choices.includes(given.get(key))) state[key] = given.get(key);
  };
  const truth = (key) => { if (given.has(key)) state[key] = given.get(key) === "1"; };
  number("image", 0, common.images.length - 1, true);
  numbers("thresholds", (value) => within(value, 0, 1));
  numbers("counts", (value) => within(value, 0, 1e6) && Number.isInteger(value));
  number("exit", 0, 1);
  number("keep", 0, 1000, true);
  number("split", 0, 100);
  number("opacity", 0, 100);
  number("cell", 0, 1e7, true);
  choice("mode", ["thresholds", "counts"]);
  choice("layer", Object.keys(LAYERS));
  choice("swipe", ["none", ...Object.keys(LAYERS)]);
  truth("outlines");
  if (common.windows.length) truth("merge");
  if (common.heads.length) truth("exits");
  if (given.has("blocks"))
    state.blocks = common.heads.filter((block) => list(given.get("blocks")).includes(block));
  if (given.has("cells")) state.cells = Number(given.get("cells")) || null;
  return state;
}

/** The settings as overrides of a command, quoted for a shell, after those typed for the page. */
function overrides(state, common) {
  const adds = (state.merge && !common.own.merge) || (state.exits && !common.ownExits);
  const kept = (word) => /reduction\.(budget|input)\b/.test(word);  // reduction=step leaves them alone
  // what a reduction lacks cannot be changed, only chosen, and a group is chosen once
  const words = adds ? ["reduction=step", ...common.typed.filter(kept)] : [...common.typed];
  if (adds || common.windows.length)
    words.push(...(state.merge ? mergeOverrides(state, common, adds) : ["reduction.merge=null"]));
  if (adds || common.heads.length) {
    if (!state.exits || !state.blocks.length) words.push("reduction.exit=null");
    else {
      words.push(`'reduction.exit.blocks=[${state.blocks}]'`,
        `reduction.exit.threshold=${state.exit}`, `reduction.exit.keep_per_class=${state.keep}`);
      if (common.otherExits)  // tokens are refused beside any rule but that of budgets
        words.push("reduction.exit.rule=confidence", "'reduction.exit.tokens=[]'");
    }
  }
  return words.join(" ");
}

function mergeOverrides(state, common, adds) {
  const words = [`'reduction.merge.windows=[${common.windows}]'`];
  const byScore = state.mode === "thresholds";
  const plus = !adds && common.typed.length ? "++" : "";  // a typed file holds one criterion only
  if (byScore) {
    words.push(`'reduction.merge.thresholds=[${state.thresholds}]'`);
    // of two criteria the counts would win
    if (common.own.merge?.counts) words.push(`${plus}reduction.merge.top_k=null`);
  } else
    words.push(`'${plus}reduction.merge.top_k=[${state.counts}]'`,
      `${plus}reduction.merge.top_k_cells=${state.cells ?? "null"}`);
  // reduction=step has an edge weight and a way to resize of its own
  if (common.edgeWeight && (adds || !byScore))
    words.push(`reduction.merge.edge_weight=${byScore ? common.edgeWeight : 0}`);
  if (adds && common.resize !== "bilinear") words.push(`reduction.merge.resize=${common.resize}`);
  return words;
}
