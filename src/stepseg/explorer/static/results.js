// Tables: counts of this setting beside exact runs, the grid of exact runs, the chosen cell.

function refreshResults(page) {
  const {view, common} = page, {result, image} = view;
  const cells = image.rows * image.columns, dense = sum(image.runs[0].macs);
  const macs = sum(result.macs);
  const allExact = result.exactStages === result.stages.length;
  fill("headline",
    figure(whole(result.layout.count), `of ${whole(cells)} tokens after merging`, true),
    figure(whole(result.tokens.at(-1)), "tokens in the last blocks", allExact),
    figure(gmacs(macs), `GMACs, dense ${gmacs(dense)}`, allExact),
    figure(percent(macs / dense), "of the operations of dense", allExact));
  const near = result.nearest, run = image.runs[0];
  const rows = [];
  result.stages.forEach((stage, index) => rows.push([
    `Tokens in ${stageName(result.stages, index, common)}`,
    tag(whole(stage.tokens), index < result.exactStages),
    whole(tokensAt(near, stage.head, common)), whole(run.tokens[0]),
  ]));
  result.active.forEach((head, index) => {
    const left = result.tokens[index] - result.tokens[index + 1];
    const nearLeft = leftAt(near, head, common);
    rows.push([
      `Leave after block ${common.costs.heads[head].block}`,
      tag(percent(left / result.layout.count), index + 1 < result.exactStages),
      nearLeft === null ? "–" : percent(nearLeft / near.tokens[0]), "–",
    ]);
  });
  rows.push(["GMACs", tag(gmacs(macs), allExact), gmacs(sum(near.macs)), gmacs(dense)]);
  rows.push(["Same class as dense", result.run ? tag(percent(near.agreement, 1), true) : "not known",
    percent(near.agreement, 1), "–"]);
  fill("result-rows", ...rows.map(([name, ...values]) => element("tr", {},
    element("th", {scope: "row"}, name), ...values.map((value) => element("td", {}, value)))));
  document.getElementById("nearest-name").textContent = result.run
    ? `This setting is an exact run: ${runName(near, common)}.`
    : `Nearest exact run: ${runName(near, common)}${blocksNote(near, common)}.`;
  document.getElementById("go-nearest").hidden = Boolean(result.run);
  fill("parts", ...partBars(result.macs, dense));
}

function fill(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

function figure(value, text, exact) {
  return element("div", {className: "figure"},
    element("strong", {}, (exact ? "" : "≈ ") + value), element("span", {}, text));
}

function tag(text, exact) {
  return element("span", {className: exact ? "exact" : "estimate"},
    text, element("small", {}, exact ? " exact" : " estimate"));
}

function blocksNote(run, common) {
  return run.threshold === null ? ""
    : ` after block${common.exitBlocks.length > 1 ? "s" : ""} ${common.exitBlocks.join(", ")}, ${common.own.keep} kept per class`;
}

/** Tokens of an exact run in the blocks before a head. */
function tokensAt(run, head, common) {
  const block = common.costs.heads[head].block;
  const blocks = run.threshold === null ? [] : common.exitBlocks;
  return run.tokens[blocks.filter((exit) => exit < block).length];
}

function leftAt(run, head, common) {
  const index = run.threshold === null ? -1 : common.exitBlocks.indexOf(common.costs.heads[head].block);
  return index < 0 ? null : run.tokens[index] - run.tokens[index + 1];
}

function partBars(parts, dense) {
  return Object.entries(parts).filter(([, macs]) => macs > 0).map(([name, macs]) => {
    const bar = element("span", {className: "bar"});
    bar.style.width = `${Math.max(0.5, 100 * macs / dense)}%`;
    return element("tr", {},
      element("th", {scope: "row"}, name.replaceAll("_", " ").replace("-", "–")),
      element("td", {}, gmacs(macs)), element("td", {className: "wide"}, bar));
  });
}

function refreshRuns(page) {
  const {view: {image, result}, common} = page;
  const thresholds = [...new Set(image.runs.map((run) => run.threshold))];
  const head = element("tr", {}, element("td", {}), ...thresholds.map((threshold) =>
    element("th", {scope: "col"}, threshold === null ? "no exits" : `exits above ${threshold}`)));
  const rows = common.levels.map((level, index) => element("tr", {},
    element("th", {scope: "row"}, level.name),
    ...thresholds.map((threshold) => {
      const run = image.runs.find((r) => r.level === index && r.threshold === threshold);
      const button = element("button", {
        type: "button",
        "aria-pressed": String(run === result.run),
        "aria-label": `${runName(run, common)}: ${gmacs(sum(run.macs))} GMACs, ${percent(run.agreement, 1)} as dense`,
      }, element("b", {}, gmacs(sum(run.macs))), element("span", {}, percent(run.agreement, 1)));
      button.dataset.run = image.runs.indexOf(run);
      button.addEventListener("click", () => page.change(settingOf(run, page)));
      return element("td", {}, button);
    })));
  const pressed = document.activeElement?.dataset?.run;
  fill("run-head", head);
  fill("run-rows", ...rows);
  if (pressed !== undefined) document.querySelector(`[data-run="${pressed}"]`)?.focus();
}

function settingOf(run, {common}) {
  const exits = run.threshold === null ? {exits: false}
    : {exits: true, exit: run.threshold, keep: common.own.keep, blocks: [...common.exitBlocks]};
  return {...levelSettings(common.levels[run.level].rule), ...exits};
}

function refreshCell(page) {
  const {view, common, state} = page, {result, image} = view;
  const box = document.getElementById("cell");
  if (state.cell < 0) {
    box.replaceChildren(element("p", {className: "hint"},
      "Point at the image, or focus it and use the arrow keys, to see a cell's scores."));
    return;
  }
  const token = result.layout.ofCell[state.cell], window = result.layout.side[state.cell];
  const parts = [element("h3", {}, cellSentence(view))];
  if (common.windows.length) parts.push(scoreTable(page, window));
  parts.push(headTable(page, token));
  const {source, nearest} = result.said;
  parts.push(element("p", {className: "hint"}, source[token] >= 0
    ? `Head scores: recorded without exits, ${common.levels[source[token]].name}.`
    : `Head scores: no recorded run merged just this window; combined over its cells from ${common.levels[nearest].name}.`));
  box.replaceChildren(...parts);
}

function scoreTable({view: {image}, state, common}, covering) {
  const y = Math.floor(state.cell / image.columns), x = state.cell % image.columns;
  const rows = common.windows.map((window, index) => {
    const width = Math.floor(image.columns / window), height = Math.floor(image.rows / window);
    const row = Math.floor(y / window), column = Math.floor(x / window);
    const inside = row < height && column < width;
    const score = inside ? image.policy.scores[index][row * width + column] : null;
    const verdict = !state.merge ? "merging is off" : !inside ? "no whole window here"
      : covering === window ? "merged" : covering > window ? "inside a larger one" : "not merged";
    return element("tr", {}, element("th", {scope: "row"}, `${window} × ${window}`),
      element("td", {}, inside ? score.toFixed(4) : "–"),
      element("td", {}, state.mode === "thresholds" ? String(state.thresholds[index]) : "by rank"),
      element("td", {}, verdict));
  });
  return table(["Window", "Policy score", "Threshold", ""], rows);
}

function headTable({view, common, state}, token) {
  const {result} = view;
  const fate = fates(view, token);
  const rows = result.said.heads.map((_, head) => {
    const place = result.stages.findIndex((stage) => stage.head === head);
    const text = place < 0 ? (state.exits ? "this exit is off" : "exits are off") : fate[place] ?? "has left before";
    return element("tr", {className: place >= 0 && fate[place] === null ? "gone" : ""},
      element("th", {scope: "row"}, headName(head, common)),
      element("td", {}, topClasses(view, head, token, common)), element("td", {}, text));
  });
  return table(["Head", "Most probable classes", ""], rows);
}

function topClasses({image, result}, head, token, common) {
  const {source, row, heads} = result.said;
  const first = `${common.classes[heads[head].klass[token]]} ${percent(heads[head].confidence[token], 1)}`;
  if (source[token] < 0) return first;
  const recorded = image.listening[source[token]].heads[head], {top} = recorded;
  const rest = Array.from({length: top - 1}, (_, index) => {
    const klass = recorded.classes[row[token] * top + index + 1];
    const p = recorded.others[row[token] * (top - 1) + index] / 255;
    return `${common.classes[klass]} ${percent(p)}`;
  });
  return [first, ...rest].join(", ");
}

function table(headings, rows) {
  return element("div", {className: "scroll"}, element("table", {},
    element("thead", {}, element("tr", {}, ...headings.map((text) =>
      text ? element("th", {scope: "col"}, text) : element("td", {})))),
    element("tbody", {}, ...rows)));
}
