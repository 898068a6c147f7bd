// Legends of the layers that are shown, and the class colours.

function refreshLegend(page) {
  const {state, common, view} = page, {result, image} = view;
  const shown = [state.layer, state.swipe];
  const items = [];
  if (shown.includes("superpatches"))
    common.windows.forEach((window) =>
      items.push(swatch(windowColour(window, common), `${window} × ${window} merged`)));
  if (shown.includes("exits")) {
    result.active.forEach((head, index) => items.push(
      swatch(exitColour(index), `left for good after block ${common.costs.heads[head].block}`)));
    items.push(swatch("none", "stays to the end"));
  }
  if (shown.includes("difference"))
    items.push(swatch(`rgb(${common.differenceColour})`, "STEP map has another class than the dense map"));
  if (shown.includes("step") || shown.includes("dense")) {
    const runs = [...(shown.includes("step") ? [result.nearest] : []),
      ...(shown.includes("dense") ? [image.runs[0]] : [])];
    for (const [klass, share] of classShares(runs))
      items.push(swatch(`rgb(${common.palette[klass]})`, `${common.classes[klass]} ${share < 0.005 ? "< 1 %" : percent(share)}`));
  }
  fill("legend", ...items);
  const captions = [];
  if (shown.includes("step") || shown.includes("difference"))
    captions.push(result.run ? "STEP map: exact." : `STEP map: of the nearest exact run (${runName(result.nearest, common)}).`);
  if (shown.includes("exits") && result.active.length)
    captions.push(result.exactStages === result.stages.length ? "Exits: exact." : "Exits: estimated.");
  if (state.swipe !== "none")
    captions.push(`Left ${LAYERS[state.layer].name}, right ${LAYERS[state.swipe].name}.`);
  document.getElementById("caption").textContent = captions.join(" ");
}

function swatch(colour, text) {
  const box = element("i", {});
  box.style.background = colour;
  return element("li", {}, box, text);
}

/** Classes in the maps of some runs with their mean share of the pixels, largest first. */
function classShares(runs) {
  const totals = new Map();
  for (const run of runs) {
    run.shares ||= run.map.reduce((counts, klass) => counts.set(klass, (counts.get(klass) || 0) + 1), new Map());
    for (const [klass, count] of run.shares)
      totals.set(klass, (totals.get(klass) || 0) + count / run.map.length / runs.length);
  }
  return [...totals].sort((a, b) => b[1] - a[1]);
}

function buildClasses(common) {
  fill("all-classes", ...common.classes.map((name, index) =>
    swatch(`rgb(${common.palette[index]})`, name)));
}
