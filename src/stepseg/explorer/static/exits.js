// Who leaves at which exit, as stepseg.heads.exit.ConfidenceExit decides it.

const LEFT = 0, DOUBTFUL = 1, KEPT = 2;

/**
 * Walk the exits.
 *
 * confidence and klass hold one array over all tokens per active exit head. Returns the tokens by
 * stage, the index of the exit at which each token left (their number if it never did) and, per
 * exit, why each token that came there left or stayed.
 */
function walkExits(confidence, klass, threshold, keepPerClass, count) {
  const limit = Math.fround(threshold);
  let alive = Array.from({length: count}, (_, token) => token);
  const exit = new Uint8Array(count).fill(confidence.length);
  const tokens = [count], reasons = [];
  confidence.forEach((values, index) => {
    const reason = new Uint8Array(count).fill(255), classes = klass[index];
    const confident = new Map();
    for (const token of alive) {
      if (!(values[token] > limit)) { reason[token] = DOUBTFUL; continue; }
      const members = confident.get(classes[token]) || [];
      members.push(token);
      confident.set(classes[token], members);
    }
    for (const members of confident.values()) {
      members.sort((a, b) => values[b] - values[a] || a - b);  // ties: the earlier token stays
      members.forEach((token, rank) => { reason[token] = rank < keepPerClass ? KEPT : LEFT; });
    }
    for (const token of alive) if (reason[token] === LEFT) exit[token] = index;
    alive = alive.filter((token) => reason[token] !== LEFT);
    tokens.push(alive.length);
    reasons.push(reason);
  });
  return {tokens, exit, reasons};
}
