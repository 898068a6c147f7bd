// Merging, coarse to fine, as stepseg.dcts.merge does it. Scores are 32-bit floats; whatever Python
// computes or compares in 32 bits is rounded by Math.fround here, so that the same windows merge.
//
// A rule is null (no merging), {thresholds: [...]} or {counts: [...], cells}, by window size.
// `policy` holds windows, scores and, for content-aware thresholds, edges and edgeWeight.

/** Side of the window that covers each cell, 1 where nothing is merged. */
function mergeWindows(rule, policy, rows, columns) {
  const side = new Uint8Array(rows * columns).fill(1);
  if (!rule) return side;
  for (let index = policy.windows.length - 1; index >= 0; index--) {
    const window = policy.windows[index];
    const height = Math.floor(rows / window), width = Math.floor(columns / window);
    if (!height || !width) continue;
    const free = new Uint8Array(height * width);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        free[y * width + x] = side[y * window * columns + x * window] === 1;
    const merged = rule.thresholds
      ? aboveThreshold(rule.thresholds[index], policy, index, free)
      : highestScores(countOnGrid(rule, index, rows, columns), policy.scores[index], free);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        if (!merged[y * width + x]) continue;
        for (let row = y * window; row < (y + 1) * window; row++)
          side.fill(window, row * columns + x * window, row * columns + (x + 1) * window);
      }
  }
  return side;
}

function aboveThreshold(threshold, policy, index, free) {
  const scores = policy.scores[index], edges = policy.edges && policy.edges[index];
  const moves = edges && policy.edgeWeight && threshold < 1;
  const weight = Math.fround(policy.edgeWeight), base = Math.fround(threshold);
  const merged = new Uint8Array(free.length);
  for (let i = 0; i < free.length; i++) {
    let limit = base;
    if (moves) {
      const shift = Math.fround(weight * Math.fround(edges[i] - 0.5));
      limit = Math.min(1, Math.max(0, Math.fround(shift + base)));
    }
    merged[i] = free[i] && scores[i] > limit;
  }
  return merged;
}

/** The rank rule of CTS: ties go to the earlier window. */
function highestScores(count, scores, free) {
  const order = [];
  for (let i = 0; i < free.length; i++) if (free[i]) order.push(i);
  order.sort((a, b) => scores[b] - scores[a] || a - b);
  const merged = new Uint8Array(free.length);
  for (const i of order.slice(0, count)) merged[i] = 1;
  return merged;
}

function countOnGrid(rule, index, rows, columns) {
  if (!rule.cells) return rule.counts[index];
  return roundHalfEven(rule.counts[index] * ((rows * columns) / rule.cells));
}

/** Python's round(). */
function roundHalfEven(value) {
  const below = Math.floor(value), rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/** The tokens of a window map, in raster order of their top-left cells. */
function tokensOf(side, rows, columns) {
  const anchors = [], ofCell = new Int32Array(rows * columns);
  for (let y = 0, cell = 0; y < rows; y++)
    for (let x = 0; x < columns; x++, cell++) {
      const s = side[cell], top = y % s, left = x % s;
      if (top || left) ofCell[cell] = ofCell[cell - top * columns - left];
      else ofCell[cell] = anchors.push(cell) - 1;
    }
  return {side, anchors, ofCell, count: anchors.length};
}
