// What a setting does: merging is exact, later stages come from recorded runs.
//
// A token takes what the heads said about it in the recorded run with the nearest number of tokens
// among those where the very same window was a token. A window that none had takes, over its cells
// in the nearest run, the class with the largest sum of confidences, and that sum per cell.

/** Everything the page shows about a setting of one image. */
function evaluate(setting, image, common) {
  const {rows, columns} = image;
  const side = mergeWindows(ruleOf(setting), image.policy, rows, columns);
  const layout = tokensOf(side, rows, columns);
  const match = image.listening.findIndex((recorded) => sameArray(recorded.layout.side, side));
  const said = gather(layout, image, match);
  const active = setting.exits ? setting.blocks.map((block) => common.heads.indexOf(block)) : [];
  const confidence = active.map((head) => said.heads[head].confidence);
  const klass = active.map((head) => said.heads[head].klass);
  const walked = walkExits(confidence, klass, setting.exit, setting.keep, layout.count);
  const run = image.runs.find((candidate) => candidate.level === match
    && sameExits(setting, candidate, common));
  if (run) Object.assign(walked, {tokens: run.tokens, exit: run.exit});
  const stages = [...active, common.costs.heads.length - 1].map((head, index) => ({
    head, tokens: walked.tokens[index],
  }));
  return {
    layout, said, active, stages, run,
    ...walked,
    exactStages: run ? stages.length : Math.min(stages.length, match >= 0 ? 2 : 1),
    macs: countMacs(common.costs, stages, setting.merge ? image.policyMacs : 0),
    nearest: run || nearestRun(setting, layout, image, common),
  };
}

function ruleOf(setting) {
  if (!setting.merge) return null;
  if (setting.mode === "thresholds") return {thresholds: setting.thresholds};
  return {counts: setting.counts, cells: setting.cells};
}


function sameExits(setting, run, common) {
  if (run.threshold === null) return !setting.exits || !setting.blocks.length;
  return setting.exits && Math.fround(run.threshold) === Math.fround(setting.exit)
    && setting.keep === common.own.keep && sameArray(setting.blocks, common.exitBlocks);
}

function sameArray(a, b) {
  return a.length === b.length && a.every((value, index) => value === b[index]);
}

/** The recorded run that is closest in tokens after merging and in the exit threshold. */
function nearestRun(setting, layout, image, common) {
  const exits = setting.exits && setting.blocks.length > 0;
  const distance = (run) => {
    const merging = Math.abs(run.layout.count - layout.count) / layout.side.length;
    if (exits !== (run.threshold !== null)) return merging + 10;
    return merging + (exits ? 2 * Math.abs(run.threshold - setting.exit) : 0);
  };
  return image.runs.reduce((best, run) => (distance(run) < distance(best) ? run : best));
}

/** Confidence and class of every token at every head, and the run they are from (-1: combined). */
function gather(layout, image, match) {
  const order = match >= 0 ? [image.listening[match]] : [...image.listening].sort((a, b) =>
    Math.abs(a.layout.count - layout.count) - Math.abs(b.layout.count - layout.count));
  const source = new Int16Array(layout.count), row = new Int32Array(layout.count);
  layout.anchors.forEach((cell, token) => {
    const found = order.find((recorded) => recorded.layout.side[cell] === layout.side[cell]);
    source[token] = found ? found.level : -1;
    row[token] = found ? found.layout.ofCell[cell] : -1;
  });
  const heads = order[0].heads.map((_, head) => {
    const confidence = new Float32Array(layout.count), klass = new Uint8Array(layout.count);
    for (let token = 0; token < layout.count; token++) {
      const record = source[token] >= 0
        ? single(image.listening[source[token]].heads[head], row[token])
        : combined(order[0], head, layout, token, image.columns);
      confidence[token] = record.confidence;
      klass[token] = record.klass;
    }
    return {confidence, klass};
  });
  return {heads, source, row, nearest: order[0].level};
}

function single(head, row) {
  return {confidence: head.confidence[row], klass: head.classes[row * head.top]};
}

function combined(recorded, head, layout, token, columns) {
  const anchor = layout.anchors[token], window = layout.side[anchor];
  const sums = new Map();
  for (let y = 0; y < window; y++)
    for (let x = 0; x < window; x++) {
      const row = recorded.layout.ofCell[anchor + y * columns + x];
      const {confidence, klass} = single(recorded.heads[head], row);
      sums.set(klass, (sums.get(klass) || 0) + confidence);
    }
  const [klass, total] = [...sums].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
  return {confidence: total / window ** 2, klass};
}
