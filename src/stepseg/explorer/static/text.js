// Numbers and sentences.

const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const gmacs = (macs) => (macs / 1e9).toPrecision(4);

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key in made && !key.startsWith("aria") && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function headName(index, common) {
  const head = common.costs.heads[index];
  return index === common.costs.heads.length - 1 ? "decoder" : `exit head ${head.block}`;
}

function stageName(stages, index, common) {
  const from = index ? common.costs.heads[stages[index - 1].head].block + 1 : 1;
  return `blocks ${from}–${common.costs.heads[stages[index].head].block}`;
}

function runName(run, common) {
  const exits = run.threshold === null
    ? (common.heads.length ? "no exits" : "")
    : `exits above ${run.threshold}`;
  return [common.levels[run.level].name, exits].filter(Boolean).join(", ");
}

function summaryOf(view) {
  const {result, image} = view;
  const cells = image.rows * image.columns;
  const words = [`${result.layout.count} of ${cells} tokens after merging`];
  result.active.forEach((head, index) => {
    const left = result.tokens[index] - result.tokens[index + 1];
    words.push(`${left} leave after block ${view.common.costs.heads[head].block}`);
  });
  const dense = sum(image.runs[0].macs);
  const certain = result.exactStages === result.stages.length ? "exact" : "partly estimated";
  words.push(`${gmacs(sum(result.macs))} GMACs, dense ${gmacs(dense)}`);
  return `${words.join("; ")} (${certain}).`;
}

/** The fate of a token at each head, in words. */
function fates(view, token) {
  const {result, common} = view;
  return result.stages.map(({head}, index) => {
    const block = common.costs.heads[head].block;
    if (result.exit[token] < index) return null;
    if (index === result.active.length) return `stays to the end, block ${block}`;
    if (result.exit[token] === index) return `leaves after block ${block}`;
    const reason = result.reasons[index][token];
    return reason === KEPT ? "stays: kept for its class" : "stays: not above the threshold";
  });
}

function cellSentence(view) {
  const {state, result, image, common} = view;
  if (state.cell < 0) return "";
  const token = result.layout.ofCell[state.cell];
  const window = result.layout.side[state.cell];
  const row = Math.floor(state.cell / image.columns) + 1, column = state.cell % image.columns + 1;
  const head = result.said.heads[result.stages[Math.min(result.exit[token], result.stages.length - 1)].head];
  const said = `${common.classes[head.klass[token]]} ${percent(head.confidence[token])}`;
  const fate = fates(view, token).filter(Boolean).at(-1);
  const size = window > 1 ? `${window} by ${window} window` : "single patch";
  return `Row ${row}, column ${column}: ${size}, ${said}, ${fate}.`;
}
